"""Why a step was in the cache or not: what it is made of, beside what the step most like it was made of before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dockyard.builder.cache.records import StepRow
from dockyard.timestamps import timestamp

INSTRUCTION = "instruction"  # the fact by which steps are taken for the same, at different times
MOST_NAMED = 5  # changed things that are named one by one


def why_hit(row: StepRow) -> str:
    """The words for a step that was found."""
    return f"cache hit: made at {timestamp(int(row.made * 1e9))[:19]}Z of the same {_things(row.facts)}\n"


def why_missed(facts: Mapping[str, str], rows: Iterable[StepRow]) -> str:
    """The words for a step that was not."""
    like = [row for row in rows if row.facts.get(INSTRUCTION) == facts.get(INSTRUCTION)]
    if not like:
        return "cache miss: no step with this instruction is known\n"
    nearest = min(like, key=lambda row: (len(_changes(row.facts, facts)), -row.used))
    changes = _changes(nearest.facts, facts)
    if not changes:
        return "cache miss: what this step made before is no longer there\n"
    further = f" and {len(changes) - MOST_NAMED} more" if len(changes) > MOST_NAMED else ""
    return f"cache miss: {'; '.join(changes[:MOST_NAMED])}{further}\n"


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    changes = []
    for fact in dict.fromkeys((*now, *before)):
        old, new = before.get(fact), now.get(fact)
        if old == new:
            continue
        if fact.startswith("file "):
            word = "is new" if old is None else "is gone" if new is None else "has changed"
            changes.append(f"{fact} {word}")
        elif fact == "base":
            changes.append("the base has changed: a step above was made anew, or the image below is another one")
        elif old is None or new is None:
            changes.append(f"{fact} is {'new' if old is None else 'gone'}")
        elif len(old) + len(new) < 100:
            changes.append(f"{fact} was {old!r}, is {new!r}")
        else:
            changes.append(f"{fact} has changed")
    if any(change.startswith("file ") for change in changes):
        return [change for change in changes if not change.startswith("files ")]
    return changes


def _things(facts: Mapping[str, str]) -> str:
    kinds = list(dict.fromkeys("files" if fact.startswith("file") else fact.partition(" ")[0] for fact in facts))
    return ", ".join(kinds) or "instruction"
