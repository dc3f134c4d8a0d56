"""A cache as it is kept elsewhere: BuildKit's format, an index or image manifest of layers and a description of steps.

The description (application/vnd.buildkit.cacheconfig.v0) lists layers, and records of steps by their keys. Keys are
made by rules of each builder's own, so that what one has written is of no use to the other, but neither minds it: what
only we need to know of a step stands in a field of the record that BuildKit passes by (cache/remotecache/v1/types).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from dockyard.builder.cache.records import StepRow
from dockyard.engine.images.layer_store import chains_of
from dockyard.errors import InvalidParameter
from dockyard.oci.descriptor import Descriptor
from dockyard.oci.digest import is_digest

MEDIA_TYPE = "application/vnd.buildkit.cacheconfig.v0"
DIFF_ID = "containerd.io/uncompressed"
CREATED = "buildkit/createdat"
MOST_RECORDS = 20_000
MOST_LAYERS = 1000  # of one step's result


class CacheLayer(msgspec.Struct, frozen=True):
    """A layer: its blob, and the layer below it by its place in the list, -1 for none."""

    blob: str = ""
    parent: int = -1


class CacheResult(msgspec.Struct, frozen=True, rename="camel"):
    """What came of a step: the topmost layer by its place in the list."""

    layer: int
    created_at: str = ""


class CacheLink(msgspec.Struct, frozen=True, omit_defaults=False):
    """An input of a step: its record by its place in the list."""

    link: int


class StepFacts(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What we need to know of a step: the layers of its result, `below` of which were there before it."""

    diff_ids: list[str] = []
    below: int = 0
    name: str = ""
    created: str = ""


class CacheRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A step."""

    layers: list[CacheResult] = []
    digest: str = ""
    inputs: list[list[CacheLink]] = []
    dockyard: StepFacts | None = None


class CacheConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """The description of a cache."""

    layers: list[CacheLayer] = []
    records: list[CacheRecord] = []


@dataclass(frozen=True, slots=True)
class ImportedStep:
    """What somebody claims has come of a step; `diff_ids`: all layers of the result, which need not be here."""

    row: StepRow
    diff_ids: tuple[str, ...]


def read_config(raw: bytes) -> CacheConfig:
    """A description. Raises InvalidParameter."""
    try:
        return msgspec.json.decode(raw, type=CacheConfig)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidParameter(f"invalid cache: {error}") from None


def steps_of(config: CacheConfig) -> dict[str, ImportedStep]:
    """The steps that a description tells of, as far as we can use them, by their keys."""
    found = {}
    for record in config.records[:MOST_RECORDS]:
        imported = imported_step(record.dockyard) if record.dockyard is not None else None
        if imported is not None:
            found[record.digest.removeprefix("sha256:")] = imported
    return found


def imported_step(facts: StepFacts) -> ImportedStep | None:
    """A step as it is taken up; None when it cannot be so."""
    if not _sound(facts):
        return None
    made, moment = len(facts.diff_ids) > facts.below, time.time()
    parent = chains_of(facts.diff_ids[: facts.below])[-1] if facts.below else None
    diff_id = facts.diff_ids[-1] if made else ""
    row = StepRow(parent, diff_id, facts.name[:500], facts.created[:40], moment, moment)
    return ImportedStep(row, tuple(facts.diff_ids))


def _sound(facts: StepFacts) -> bool:
    made = len(facts.diff_ids) - facts.below
    possible = facts.below >= 0 and 0 <= made <= 1 and len(facts.diff_ids) <= MOST_LAYERS
    return possible and all(is_digest(one) for one in facts.diff_ids)


def layers_of(descriptors: Sequence[Descriptor]) -> dict[str, Descriptor]:
    """The layers that a cache has, by their diff IDs."""
    return {one.annotations[DIFF_ID]: one for one in descriptors if is_digest(one.annotations.get(DIFF_ID, ""))}
