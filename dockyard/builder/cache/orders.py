"""What of the cache is to go, as clients and daemon.json ask for it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dockyard.builder_settings import CacheCollection
from dockyard.config import bytes_of
from dockyard.errors import InvalidParameter
from dockyard.timestamps import duration

CONDITIONS = ("type", "description", "parent", "inuse", "shared", "private", "mutable", "immutable")


@dataclass(frozen=True, slots=True)
class PruneOrder:
    """What is to go: what has not been used for `unused_for` s, what filters mean, until the sizes (bytes) are kept.

    `all`: also what images share, whose space is not freed by that.
    """

    filters: Sequence[str] = ()
    unused_for: float = 0
    all: bool = False
    reserved: int = 0
    largest: int = 0
    least_free: int = 0


def conditions(filters: Mapping[str, Sequence[str]]) -> tuple[list[str], float]:
    """(filters as BuildKit's clients send them, for how many s unused) of the Engine API's. Raises InvalidParameter."""
    found: list[str] = []
    unused_for = 0.0
    for name, values in filters.items():
        if name in ("until", "unused-for"):
            if len(values) != 1:
                raise InvalidParameter("filters expect only one value")
            wanted = duration(values[0])
            if wanted is None:
                raise InvalidParameter(f"invalid filter 'until={values[0]}': it expects a duration (e.g., '24h')")
            unused_for = wanted / 1e9
        elif name == "id":
            found += [f"id~=^{re.escape(value)}" for value in values]
        elif name in CONDITIONS:
            found += [f"{name}=={value}" if value else name for value in values or [""]]
        else:
            raise InvalidParameter(f"invalid filter '{name}'")
    return [",".join(found)] if found else [], unused_for


def collection_orders(settings: CacheCollection, budget: int) -> list[PruneOrder]:
    """What is let go by itself, one order after the other; `budget` bytes where nothing is said.

    Raises InvalidParameter.
    """
    if not settings.enabled:
        return []
    if not settings.policy:
        reserved = bytes_of(settings.default_reserved_space or settings.default_keep_storage or 0)
        largest = bytes_of(settings.default_max_used_space or 0)
        least_free = bytes_of(settings.default_min_free_space or 0)
        return [PruneOrder((), 0, False, reserved, largest or reserved or budget, least_free)]
    orders = []
    for rule in settings.policy:
        values: dict[str, list[str]] = {}
        for text in rule.filter:
            name, _, value = text.partition("=")
            values.setdefault(name.strip(), []).append(value.lstrip("=").strip())
        filters, unused_for = conditions(values)
        reserved = bytes_of(rule.reserved_space or rule.keep_storage or 0)
        sizes = reserved, bytes_of(rule.max_used_space or 0), bytes_of(rule.min_free_space or 0)
        orders.append(PruneOrder(filters, unused_for, rule.all, *sizes))
    return orders
