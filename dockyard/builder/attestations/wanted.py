"""Which attestations a build is to have, from BuildKit's options for them (frontend/attestations)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dockyard.builder.attestations.statements import Attestation
from dockyard.builder.graph.request import Built

if TYPE_CHECKING:
    from dockyard.builder.doors.buildkit.build import Build


def attestations_of(build: Build, found: Mapping[str, Built]) -> dict[str, Sequence[Attestation]]:
    """The attestations about each platform's result. Raises InvalidParameter."""
    return {}
