"""The cache inside an image (`--cache-to type=inline`): by which keys its layers are known, in its configuration.

Another engine that has the image, from a registry, then has its steps (`--cache-from IMAGE`). What is read there is no
more than a claim: it counts for the build that names the image, and never gets into the cache that all builds share.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from dockyard.builder.cache.config import ImportedStep
from dockyard.builder.cache.records import StepCache, StepRow
from dockyard.engine.images.layer_store import chains_of

FIELD = "dockyard.build.cache.v1"
MOST_STEPS = 2000


class CachedStep(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step: its key, how many layers are below it, and whether it has made the next one."""

    key: str
    below: int
    made: bool
    name: str = ""
    created: str = ""


class _Config(msgspec.Struct):
    steps: list[CachedStep] = msgspec.field(name=FIELD, default_factory=list)


def with_steps(raw: bytes, diff_ids: list[str], cache: StepCache) -> bytes:
    """An image's configuration with what is known of the steps that have made its layers."""
    heights: dict[str | None, int] = {None: 0}
    for height, chain_id in enumerate(chains_of(diff_ids), 1):
        heights[chain_id] = height
    steps = [
        CachedStep(key, heights[row.parent], bool(row.diff_id), row.name, row.created)
        for key, row in cache.rows()
        if row.parent in heights and row.chain_id in heights
    ]
    document: dict[str, Any] = msgspec.json.decode(raw)
    document[FIELD] = steps[:MOST_STEPS]
    return msgspec.json.encode(document)


def steps_in(raw: bytes, diff_ids: list[str]) -> dict[str, ImportedStep]:
    """The steps that an image's configuration tells of, by their keys."""
    try:
        steps = msgspec.json.decode(raw, type=_Config).steps[:MOST_STEPS]
    except msgspec.DecodeError:
        return {}
    chains, moment = chains_of(diff_ids), time.time()
    found = {}
    for step in steps:
        if 0 <= step.below <= len(chains) - step.made:
            parent = chains[step.below - 1] if step.below else None
            diff_id = diff_ids[step.below] if step.made else ""
            row = StepRow(parent, diff_id, step.name[:500], step.created[:40], moment, moment)
            found[step.key] = ImportedStep(row, tuple(diff_ids[: step.below + step.made]))
    return found
