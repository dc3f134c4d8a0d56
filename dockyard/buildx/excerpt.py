"""The lines of a file that an error or a warning is about, as BuildKit's clients show them (solver/errdefs, Print)."""

from __future__ import annotations

import base64
from typing import Any

RULE = "--------------------"


def excerpt(source: dict[str, Any]) -> str:
    """`source`: {info: {filename, data in base64}, ranges: [{start: {line}, end: {line}}]}; "" for no lines."""
    info, ranges = source.get("info") or {}, source.get("ranges") or []
    places = [
        (int((one.get("start") or {}).get("line", 0)), int((one.get("end") or {}).get("line", 0))) for one in ranges
    ]
    data = base64.b64decode(info.get("data") or "").decode(errors="replace")
    return lines_around(str(info.get("filename", "")), data, places)


def lines_around(name: str, text: str, places: list[tuple[int, int]]) -> str:
    """The lines of `places`, (first, last), marked, with some before and after them."""
    lines = text.split("\n")
    if not places:
        return ""
    start, end = min(first for first, _ in places), min(max(max(place) for place in places), len(lines))
    if not 1 <= start <= len(lines):
        return ""
    pad = 4 if start == end else 2
    first, last, padded = start, end, 0
    while padded < pad:
        padded += 1 + (first > 1) + (last < len(lines))
        first, last = max(first - 1, 1), min(last + 1, len(lines))
    rows = [f"{name}:{start}", RULE]
    for number in range(first, last + 1):
        marked = any(low <= number <= max(low, high) for low, high in places)
        rows.append(f"{number:4} | {'>>>' if marked else '   '} {lines[number - 1]}")
    return "\n".join([*rows, RULE]) + "\n"
