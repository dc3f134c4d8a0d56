"""Patterns of `${name#pattern}` and its like: `*` and `?`, which a backslash takes their meaning from.

As with BuildKit brackets mean nothing, and neither wildcard stands for a line end. All states of a pattern are bits of
one number, so that no pattern takes more than a step for each character, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Sequence

from dockyard.errors import InvalidParameter


class Wildcards:
    """A pattern, read once. Raises InvalidParameter for an escape that is none."""

    def __init__(self, pattern: str) -> None:
        self._tokens, self._stars = _read(pattern)  # characters, "" for any; the places at which anything may come
        self._forward = _Machine(self._tokens, self._stars)

    def prefix(self, text: str, *, longest: bool) -> int | None:
        """The length of the shortest or longest beginning that matches; None when none does."""
        return self._forward.end(text, 0, longest=longest)

    def suffix(self, text: str, *, longest: bool) -> int | None:
        """The same of the end."""
        return self._backward().end(text[::-1], 0, longest=longest)

    def replaced(self, text: str, by: str, *, every: bool) -> str:
        """`text` with the first match, or all that do not overlap, replaced; each is the longest at its place."""
        begins = self._backward().ends(text[::-1])
        result, done, position = "", 0, 0
        after_match = False
        while position <= len(text):
            end = self._forward.end(text, position, longest=True) if begins[len(text) - position] else None
            if end is None or (end == 0 and after_match):  # nothing, right behind a match, is none
                position += 1
                after_match = False
                continue
            result += text[done:position] + by
            done = position + end
            if not every:
                break
            after_match = end > 0
            position = done if end else position + 1
        return result + text[done:]

    def _backward(self) -> _Machine:
        count = len(self._tokens)
        return _Machine(self._tokens[::-1], [count - place for place in self._stars])


class _Machine:
    """Which places of a pattern have been reached, as bits: bit N after N tokens."""

    def __init__(self, tokens: Sequence[str], stars: Sequence[int]) -> None:
        self._masks: dict[str, int] = {}
        self._any = sum(1 << place for place, token in enumerate(tokens) if not token)
        for place, token in enumerate(tokens):
            if token:
                self._masks[token] = self._masks.get(token, self._any) | 1 << place
        self._stay = 0
        for place in stars:
            self._stay |= 1 << place
        self._last = 1 << len(tokens)

    def _step(self, states: int, character: str) -> int:
        if character == "\n":  # which wildcards do not stand for
            return (states & self._masks.get(character, 0) & ~self._any) << 1
        return (states & self._masks.get(character, self._any)) << 1 | (states & self._stay)

    def end(self, text: str, start: int, *, longest: bool) -> int | None:
        """How much of `text` from `start` on matches; None for nothing."""
        states, found = 1, None
        for position in range(start, len(text) + 1):
            if states & self._last:
                found = position - start
                if not longest:
                    break
            if not states or position == len(text):
                break
            states = self._step(states, text[position])
        return found

    def ends(self, text: str) -> list[bool]:
        """For every place in `text` whether a match ends there, wherever it begins."""
        states, found = 1, [bool(1 & self._last)]
        for character in text:
            states = self._step(states, character) | 1
            found.append(bool(states & self._last))
        return found


def _read(pattern: str) -> tuple[list[str], list[int]]:
    tokens: list[str] = []
    stars: list[int] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*":
            stars.append(len(tokens))
            continue
        if character == "\\":
            following = pattern[position : position + 1]
            if following in ("}", "/"):  # it was escaped for the sake of the braces
                continue
            if following not in ("*", "?", "\\"):
                raise InvalidParameter(f"invalid pattern ({pattern}) in substitution: invalid escape '\\{following}'")
            tokens.append(following)
            position += 1
        else:
            tokens.append("" if character == "?" else character)
    return tokens, stars
