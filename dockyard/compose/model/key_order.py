"""The order in which go-yaml writes a map's keys: numbers within them by value, other signs before letters."""

from __future__ import annotations

from functools import cmp_to_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


def in_order(names: Iterable[str]) -> list[str]:
    """`names`, sorted."""
    return sorted(names, key=_KEY)


def by_key(tree: dict[str, Any]) -> dict[str, Any]:
    """A map with its keys in order."""
    return {key: tree[key] for key in in_order(tree)}


def deep(value: Any) -> Any:
    """All maps in `value` with their keys in order."""
    if isinstance(value, dict):
        return {key: deep(item) for key, item in by_key(value).items()}
    return [deep(item) for item in value] if isinstance(value, list) else value


def _compare(one: str, other: str) -> int:
    digits = False
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left == right:
            digits = left.isdigit()
            continue
        letters = left.isalpha(), right.isalpha()
        if all(letters):
            return -1 if left < right else 1
        if any(letters):
            first = letters[0] if digits else letters[1]
            return -1 if first else 1
        return _compare_numbers(one, other, index)
    return len(one) - len(other)


def _compare_numbers(one: str, other: str, index: int) -> int:
    start = 0
    if "0" in (one[index], other[index]):
        for letter in reversed(one[:index]):
            if not letter.isdigit():
                break
            if letter != "0":
                start = 1
                break
    left, right = _number(one, index, start), _number(other, index, start)
    if left != right:
        return -1 if left < right else 1
    return -1 if one[index] < other[index] else 1


def _number(text: str, index: int, start: int) -> tuple[int, int]:
    """The number that begins at `index`, and where it ends."""
    end = index
    while end < len(text) and text[end].isdigit():
        start = start * 10 + (int(text[end]) if text[end].isascii() else 0)
        end += 1
    return start, end


_KEY = cmp_to_key(_compare)
