"""JSON of which every member counts: what one reader may overlook or read otherwise than another is refused."""

import base64
import binascii
import json
from collections.abc import Collection
from typing import Any

from dockyard.errors import InvalidParameter


def parse(text: bytes | str, what: str) -> Any:
    """The document `text`. Raises InvalidParameter, also where an object has a member twice."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("duplicate keys in an object")
        return found

    try:
        return json.loads(text, object_pairs_hook=members)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"{what}: {error}") from None


def exact(value: Any, keys: Collection[str], what: str, *, optional: Collection[str] = ()) -> dict[str, Any]:
    """`value` itself, an object with just these members. Raises InvalidParameter."""
    if not isinstance(value, dict):
        raise InvalidParameter(f"{what} is not an object")
    for key in keys:
        if key not in value:
            raise InvalidParameter(f'key "{key}" missing in {what}')
    for key in value:
        if key not in keys and key not in optional:
            raise InvalidParameter(f'unknown key "{key}" in {what}')
    return value


def string(value: Any, what: str) -> str:
    """`value` itself, a string. Raises InvalidParameter."""
    if not isinstance(value, str):
        raise InvalidParameter(f"{what} is not a string")
    return value


def binary(value: Any, what: str) -> bytes:
    """What `value`, base64, stands for. Raises InvalidParameter."""
    try:
        return base64.b64decode(string(value, what), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidParameter(f"{what} is not base64: {error}") from None
