"""Which entries of the build cache a filter means: containerd's filters, as BuildKit's clients send them.

Each is a list of conditions joined by commas, all of which must hold; of several filters one must.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from dockyard.errors import InvalidParameter

_CONDITION = re.compile(r'\s*([\w.-]+)\s*(?:(==|!=|~=)\s*(?:"((?:[^"\\]|\\.)*)"|([^,]*)))?\s*')
LONGEST = 200  # characters of a pattern

Test = Callable[[Any], bool]


def matcher(filters: Sequence[str]) -> Test:
    """What says whether an entry, an object with these attributes, is meant. Raises InvalidParameter."""
    tests = [_all_of(text) for text in filters if text]
    return lambda entry: not tests or any(test(entry) for test in tests)


def _all_of(text: str) -> Test:
    tests: list[Test] = []
    position = 0
    while position < len(text):
        found = _CONDITION.match(text, position)
        if found is None or (found.end() < len(text) and text[found.end()] != ","):
            raise InvalidParameter(f"failed to parse prune filters {text}")
        tests.append(_condition(found[1], found[2] or "", found[3] if found[3] is not None else found[4] or ""))
        position = found.end() + 1
    return lambda entry: all(test(entry) for test in tests)


def _condition(field: str, operator: str, wanted: str) -> Test:
    def value(entry: Any) -> str:
        found = entry.fields().get(field.lower())
        if isinstance(found, bool):
            return str(found).lower()
        return "" if found is None else str(found)

    if operator == "==":
        return lambda entry: value(entry) == wanted
    if operator == "!=":
        return lambda entry: value(entry) != wanted
    if operator == "~=":
        if len(wanted) > LONGEST or re.search(r"[+*}?]\)*[+*{]|\)[+*{]", wanted):
            raise InvalidParameter(f"the pattern {wanted} is too complicated")
        try:
            pattern = re.compile(wanted)
        except re.error as error:
            raise InvalidParameter(f"failed to parse prune filters {wanted}: {error}") from None
        return lambda entry: pattern.search(value(entry)) is not None
    return lambda entry: value(entry) not in ("", "false")
