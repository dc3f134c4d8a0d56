"""What somebody may have meant by a word that is not known (moby/buildkit, util/suggest)."""

from __future__ import annotations

from collections.abc import Iterable

FAR = 3  # letters that may not differ


def suggestion(word: str, known: Iterable[str], *, case: bool = True) -> str:
    """` (did you mean X?)` for the nearest of the `known` words, "" when none is near."""
    nearest, least = "", FAR
    for other in known:
        left, right = (word, other) if case else (word.lower(), other.lower())
        if left == right:
            return ""
        if abs(len(left) - len(right)) < least and (distance := _distance(left, right)) < least:
            nearest, least = other, distance
    if not case and word in (word.lower(), word.upper()):  # as it would have been written
        nearest = nearest.lower() if word == word.lower() else nearest.upper()
    return f" (did you mean {nearest}?)" if nearest else ""


def _distance(left: str, right: str) -> int:
    """Letters to be put in, taken out or changed (Levenshtein's)."""
    row = list(range(len(right) + 1))
    for number, letter in enumerate(left, 1):
        previous, row[0] = row[0], number
        for place, other in enumerate(right, 1):
            previous, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, previous + (letter != other))
    return row[-1]
