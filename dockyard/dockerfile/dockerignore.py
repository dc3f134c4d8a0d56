""".dockerignore: which files of a context stay behind. Standard library only, for the client has it too.

The rules are those of the Dockerfile reference, ".dockerignore file": one pattern a line, the last one that matches
decides, `!` takes a file back in, `*` and `?` stay within one path component and `**` does not.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

MAX_INSIDE_NAMES = 4  # how many `**/` a pattern may have that follow no slash, as in `a**/b`


class BadPattern(ValueError):
    """A pattern that Go's filepath.Match takes for none."""


class IgnoreRules:
    """Decides about paths relative to the context's root."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._rules: list[tuple[bool, re.Pattern[str]]] = []
        for pattern in patterns:
            excludes = not pattern.startswith("!")
            cleaned = posixpath.normpath(pattern.removeprefix("!").strip()).lstrip("/")
            self._rules.append((excludes, re.compile(f"(?:{_translate(cleaned)})(?:/.*)?", re.DOTALL)))
        # When nothing is taken back in, an excluded directory need not be looked into.
        self.takes_back = any(not excludes for excludes, _ in self._rules)

    @classmethod
    def parse(cls, text: str) -> IgnoreRules:
        """The rules in a .dockerignore file. Raises BadPattern."""
        patterns = []
        for line in text.removeprefix("\ufeff").splitlines():
            line = line.strip()
            if line and not line.startswith("#") and line != "!":
                patterns.append(line)
        return cls(patterns)

    def excludes(self, path: str) -> bool:
        """Whether the file or directory `path` stays behind."""
        excluded = False
        for excludes, pattern in self._rules:
            if excludes != excluded and pattern.fullmatch(path):
                excluded = excludes
        return excluded


def _translate(pattern: str) -> str:
    """A regular expression for a pattern of Go's filepath.Match with `**` added. Raises BadPattern.

    It takes time that grows with a name's length and no faster, whoever wrote the pattern: see `_joined`.
    """
    pieces: list[tuple[str, list[str]]] = [("", [""])]  # a `**` ("" first), and what follows it, cut at every `*`
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        parts = pieces[-1][1]
        if character == "*" and pattern[position : position + 1] == "*":
            while pattern[position : position + 1] == "*":
                position += 1
            slash = pattern[position : position + 1] == "/"
            position += slash
            aligned = parts == [""] or parts[-1].endswith("/")
            pieces.append((".*?" if not slash else "(?:.*?/)??" if aligned else ".*?/", [""]))
        elif character == "*":
            parts.append("")
        elif character == "?":
            parts[-1] += "[^/]"
        elif character == "\\" and position < len(pattern):
            parts[-1] += re.escape(pattern[position])
            position += 1
        elif character == "[":
            found, position = _class(pattern, position)
            parts[-1] += found
        else:
            parts[-1] += re.escape(character)
    return "|".join(map(_joined, _readings(pieces)))


def _readings(pieces: list[tuple[str, list[str]]]) -> list[list[tuple[str, list[str]]]]:
    """`pieces` with every `**/` that stands in the middle of a name there, and left out."""
    if sum(wildcard == ".*?/" for wildcard, _ in pieces) > MAX_INSIDE_NAMES:
        raise BadPattern("too many ** in the middle of names")
    readings: list[list[tuple[str, list[str]]]] = [[]]
    for wildcard, parts in pieces:
        without = []
        if wildcard == ".*?/":
            for reading in readings:
                before, (kept, left) = reading[:-1], reading[-1]
                without.append([*before, (kept, [*left[:-1], left[-1] + parts[0], *parts[1:]])])
        readings = [[*reading, (wildcard, parts)] for reading in readings] + without
    return readings


def _joined(pieces: list[tuple[str, list[str]]]) -> str:
    """One expression of a wildcard and what follows it, several times.

    What stands between two wildcards is matched where it is found first and never looked for again (an atomic group):
    the second wildcard takes up whatever lies between.
    """
    result = ""
    for index, (wildcard, parts) in enumerate(pieces):
        piece = parts[0]
        for number, part in enumerate(parts[1:], 2):
            piece += f"[^/]*?{part}" if number == len(parts) or "/" in part else f"(?>[^/]*?{part})"
        last = index == len(pieces) - 1
        result += f"{wildcard}{piece}" if last or not wildcard else f"(?>{wildcard}{piece})"
    return result


def _class(pattern: str, position: int) -> tuple[str, int]:
    """The character class that begins at `position`, after its `[`, and where it ends. Raises BadPattern."""
    negated = pattern.startswith("^", position)
    position += negated
    ranges: list[str] = []
    while not ranges or not pattern.startswith("]", position):
        low, position = _in_class(pattern, position)
        high = low
        if pattern.startswith("-", position):
            high, position = _in_class(pattern, position + 1)
        if low <= high:  # (one that is the wrong way round holds nothing)
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            ranges.append("")
    inside = "".join(ranges)
    if not inside:
        return ("[^/]" if negated else "(?!)"), position + 1
    return f"(?!/)[{'^' if negated else ''}{inside}]", position + 1


def _in_class(pattern: str, position: int) -> tuple[str, int]:
    """A character of a class, perhaps behind a backslash, and what follows it (Go's path/filepath, getEsc)."""
    character = pattern[position : position + 1]
    if character == "\\":
        position += 1
        character = pattern[position : position + 1]
    elif character in ("-", "]"):
        character = ""
    if not character or position + 1 >= len(pattern):
        raise BadPattern("syntax error in pattern")
    return character, position + 1


def match(pattern: str, name: str) -> bool:
    """Go's filepath.Match: the whole `name`, where `*` and `?` do not reach over a slash. Used by COPY's wildcards.

    Raises BadPattern.
    """
    single = re.sub(r"(\\.)|\*+", lambda found: found[1] or "*", pattern, flags=re.DOTALL)
    return re.fullmatch(_translate(single), name, re.DOTALL) is not None
