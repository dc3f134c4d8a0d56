""".dockerignore: which files of a context stay behind. Standard library only, for the client has it too.

The rules are those of the Dockerfile reference, ".dockerignore file": one pattern a line, the last one that matches
decides, `!` takes a file back in, `*` and `?` stay within one path component and `**` does not.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable


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
        """The rules in a .dockerignore file."""
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
    """A regular expression for a pattern of Go's filepath.Match with `**` added."""
    result = ""
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*":
            if pattern[position : position + 1] != "*":
                result += "[^/]*"
                continue
            position += 1
            if pattern[position : position + 1] == "/":
                position += 1
                result += "(?:.*/)?"
            else:
                result += ".*"
        elif character == "?":
            result += "[^/]"
        elif character == "\\" and position < len(pattern):
            result += re.escape(pattern[position])
            position += 1
        elif character == "[" and (end := pattern.find("]", position + 1)) > 0:
            inner = pattern[position:end].replace("\\", "\\\\")
            negated = inner.startswith("^")
            result += f"[{'^' if negated else ''}{inner.removeprefix('^')}]"
            position = end + 1
        else:
            result += re.escape(character)
    return result


def match(pattern: str, name: str) -> bool:
    """Go's filepath.Match: the whole `name`, where `*` and `?` do not reach over a slash. Used by COPY's wildcards."""
    return re.fullmatch(_translate(pattern.replace("**", "*")), name, re.DOTALL) is not None
