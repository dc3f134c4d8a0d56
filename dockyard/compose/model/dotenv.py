"""Files of variables: `.env`, `env_file` and `label_file`.

# a comment
NAME=value with ${OTHER}     # and another
export QUOTED="several\\nlines, $EXPANDED" LITERAL='$as it is'
INHERITED
"""

from __future__ import annotations

import os
import re

from dockyard.compose.errors import ComposeError
from dockyard.compose.model.variables import InvalidTemplate, substitute

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Lookup = Callable[[str], "str | None"]

_BLANKS = "\t\v\f\r \x85\xa0"
_ESCAPE = re.compile(r"\\(?:[abcfnrtv$\"\\]|0\d{0,3})")
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", '"': '"', "\\": "\\"}


class _Wrong(Exception):
    pass


def parse(text: str, variables: dict[str, str], lookup: Lookup, unset: Callable[[str], None] | None = None) -> None:
    """Add a file's variables to `variables`; `lookup` knows those that references may name besides.

    Raises ComposeError that says in which line.
    """
    try:
        _Parser(text.removeprefix("\ufeff"), variables, lookup, unset).run()
    except _Wrong as error:
        raise ComposeError(str(error)) from None
    except InvalidTemplate as error:
        raise ComposeError(f'Invalid template: "{error}"') from None


class _Parser:
    def __init__(
        self, text: str, variables: dict[str, str], lookup: Lookup, unset: Callable[[str], None] | None
    ) -> None:
        self._text = text
        self._at = 0
        self._variables = variables
        self._lookup = lookup
        self._unset = unset

    @property
    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def run(self) -> None:
        while self._skip_to_statement():
            name, inherited = self._name()
            if " " in name:
                raise _Wrong(f"line {self._line}: key cannot contain a space")
            if inherited:
                value = self._lookup(name)
                if value is not None:
                    self._variables[name] = value
            else:
                self._variables[name] = self._value()

    def _skip_to_statement(self) -> bool:
        while self._at < len(self._text):
            if self._text[self._at].isspace():
                self._at += 1
            elif self._text[self._at] == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            else:
                return True
        return False

    def _name(self) -> tuple[str, bool]:
        """A variable's name, and whether nothing follows it."""
        if re.compile(r"export\s+").match(self._text, self._at):
            self._at += len("export")
            self._skip_blanks()
        start = self._at
        for position in range(start, len(self._text)):
            letter = self._text[position]
            if letter in "=:\n":
                self._at = position + 1
                inherited = letter == "\n"
                self._skip_blanks()
                return self._text[start:position].rstrip(), inherited
            if not (letter in _BLANKS or letter in "_.-[]" or letter.isalnum()):
                line = self._text[start:].partition("\n")[0]
                raise _Wrong(f'line {self._line}: unexpected character "{letter}" in variable name "{line}"')
        # the file ends within the name
        rest = self._text[start:].strip()
        self._at = len(self._text)
        return rest, True

    def _skip_blanks(self) -> None:
        while self._at < len(self._text) and self._text[self._at] in _BLANKS:
            self._at += 1

    def _expanded(self, value: str) -> str:
        def lookup(name: str) -> str | None:
            found = self._lookup(name)
            return self._variables.get(name) if found is None else found

        return substitute(value, lookup, self._unset)

    def _value(self) -> str:
        quote = self._text[self._at : self._at + 1]
        if quote not in ("'", '"') or not quote:
            end = self._text.find("\n", self._at)
            line = self._text[self._at : len(self._text) if end < 0 else end]
            self._at = len(self._text) if end < 0 else end + 1
            return self._expanded(line.partition(" #")[0].rstrip())
        start = self._at
        letters: list[str] = []
        position = start + 1
        while position < len(self._text):
            letter = self._text[position]
            if letter == "\\" and position + 1 < len(self._text):
                following = self._text[position + 1]
                letters.append(following if following == quote else letter + following)
                position += 2
                continue
            if letter == quote:
                self._at = position + 1
                value = "".join(letters)
                return self._expanded(_ESCAPE.sub(_unescaped, value)) if quote == '"' else value
            letters.append(letter)
            position += 1
        raise _Wrong(f"line {self._line}: unterminated quoted value {self._text[start:].partition(chr(10))[0]}")


def _unescaped(match: re.Match[str]) -> str:
    body = match[0][1:]
    if body == "$":
        return "$$"
    if body.startswith("0"):
        return chr(int(body[1:], 8)) if len(body) == 4 and body[1:].strip("01234567") == "" else match[0]
    return _ESCAPED.get(body, match[0])


def read_files(
    paths: Iterable[str], environment: Mapping[str, str], unset: Callable[[str], None] | None = None
) -> dict[str, str]:
    """The variables of files, later ones first in rank, of which `environment` may be referred to.

    Raises ComposeError for a file that is not there or cannot be read.
    """
    found: dict[str, str] = {}

    def lookup(name: str) -> str | None:
        value = environment.get(name)
        return found.get(name) if value is None else value

    for path in paths:
        place = os.path.abspath(path)
        if not os.path.exists(place):
            raise ComposeError(f"couldn't find env file: {place}")
        if os.path.isdir(place):
            raise ComposeError(f"{place} is a directory")
        try:
            parse(read(place), found, lookup, unset)
        except ComposeError as error:
            raise ComposeError(f"failed to read {place}: {error}") from None
    return found


def read(path: str) -> str:
    """A file's text; bytes that are none are replaced."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def parse_raw(text: str, variables: dict[str, str], lookup: Lookup) -> None:
    """`format: raw`: NAME=value as `docker run --env-file` takes it, nothing in it being expanded."""
    for line in text.removeprefix("\ufeff").splitlines():
        stripped = line.lstrip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = stripped.partition("=")
        if not name:
            raise ComposeError(f"no variable name on line '{line}'")
        if any(letter.isspace() for letter in name):
            raise ComposeError(f"variable '{name}' contains whitespaces")
        if equals:
            variables[name] = value
        elif (found := lookup(name)) is not None:
            variables[name] = found
