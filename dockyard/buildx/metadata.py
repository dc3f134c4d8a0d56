"""What exporters tell of a build, for programs: `--metadata-file`."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any


def decoded(told: Mapping[str, str]) -> dict[str, Any]:
    """The exporters' answers; what is an object in base64 on the wire is one here."""
    return {name: _decoded(value) for name, value in told.items()}


def _decoded(value: str) -> Any:
    try:
        found = json.loads(base64.b64decode(value, validate=True))
    except ValueError:
        return value
    return found if isinstance(found, dict | list) and found else value
