"""Filters, as lists and prunes take them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def filter_lists(filters: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Filters as the API wants them: lists of text; True and False are its "true" and "false"."""

    def text(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    return {
        name: [text(item) for item in value] if isinstance(value, (list, tuple, set)) else [text(value)]
        for name, value in (filters or {}).items()
    }
