"""The cache inside an image (`--cache-to type=inline`): by which keys its layers are known, in its configuration.

Another engine then has the steps that led to it (`--cache-from IMAGE`), those of other stages without layers. What
is read there is no more than a claim: it counts for the build that names the image, and never gets into the cache that
all builds share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dockyard.builder.cache.config import ImportedStep, StepFacts, imported_step

FIELD = "dockyard.build.cache.v1"
MOST_STEPS = 2000


class CachedStep(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step: its key, how many layers are below it, and whether it has made the next one.

    `diff_ids`: all layers of its result, where those are not the image's.
    """

    key: str
    below: int
    made: bool
    name: str = ""
    created: str = ""
    diff_ids: list[str] = []


class _Config(msgspec.Struct):
    steps: list[CachedStep] = msgspec.field(name=FIELD, default_factory=list)


def with_steps(raw: bytes, diff_ids: Sequence[str], known: Mapping[str, StepFacts]) -> bytes:
    """An image's configuration with what is known of the steps that have led to it, by their keys."""
    steps = []
    for key, facts in sorted(known.items()):
        made = len(facts.diff_ids) > facts.below
        others = [] if facts.diff_ids == list(diff_ids[: len(facts.diff_ids)]) else facts.diff_ids
        steps.append(CachedStep(key, facts.below, made, facts.name, facts.created, others))
    document: dict[str, Any] = msgspec.json.decode(raw)
    document[FIELD] = steps[:MOST_STEPS]
    return msgspec.json.encode(document)


def steps_in(raw: bytes, diff_ids: Sequence[str]) -> dict[str, ImportedStep]:
    """The steps that an image's configuration tells of, by their keys."""
    try:
        steps = msgspec.json.decode(raw, type=_Config).steps[:MOST_STEPS]
    except msgspec.DecodeError:
        return {}
    found = {}
    for step in steps:
        layers = step.diff_ids or list(diff_ids[: step.below + step.made])
        facts = StepFacts(layers, step.below, step.name, step.created)
        if len(layers) == step.below + step.made and (imported := imported_step(facts)) is not None:
            found[step.key] = imported
    return found
