"""Words of a Dockerfile: quotes, escapes and variables (Dockerfile reference, "Environment replacement").

Not a shell: there is no command substitution and no splitting except where an instruction takes several words.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping

from dockyard.errors import InvalidParameter

_SPECIAL = "@*#?-$!0123456789"


def expand(word: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """`word` with variables replaced, quotes and escapes taken off. Raises InvalidParameter for bad syntax."""
    return _Reader(word, variables, escape).word()


def expand_document(content: str, variables: Mapping[str, str]) -> str:
    """Variables and escapes in an in-line document, whose quotes mean nothing. Raises InvalidParameter.

    The escape character is always a backslash there, whatever the directive says (BuildKit, dispatchers).
    """
    return _Reader(content, variables, "\\", quotes=False).word()


def expand_words(text: str, variables: Mapping[str, str], escape: str = "\\") -> list[str]:
    """As `expand`, split at blanks that are not quoted, also those that come out of variables."""
    return _Reader(text, variables, escape).words()


def split_words(text: str, escape: str = "\\") -> list[str]:
    """`text` split at blanks outside quotes; quotes and escapes stay in the words."""
    words: list[str] = []
    current = ""
    quote = ""
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == escape and position < len(text) and quote != "'":
            current += character + text[position]
            position += 1
            continue
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character.isspace():
            if current:
                words.append(current)
            current = ""
            continue
        current += character
    if current:
        words.append(current)
    return words


class _Reader:
    """Reads one text from left to right."""

    def __init__(self, text: str, variables: Mapping[str, str], escape: str, *, quotes: bool = True) -> None:
        self._text = text
        self._quotes = quotes
        self._variables = variables
        self._escape = escape
        self._position = 0
        self._words: list[str] = []
        self._current = ""
        self._in_word = False

    def word(self) -> str:
        try:
            return self._until("")
        except InvalidParameter as error:
            raise InvalidParameter(f'failed to process "{self._text}": {error}') from None

    def words(self) -> list[str]:
        try:
            while self._position < len(self._text):
                start = self._position
                character = self._text[start]
                if character.isspace():
                    self._position += 1
                    self._finish()
                elif character == "$":
                    self._add_split(self._dollar())
                else:
                    self._add(self._one())
            self._finish()
            return self._words
        except InvalidParameter as error:
            raise InvalidParameter(f'failed to process "{self._text}": {error}') from None

    def _finish(self) -> None:
        if self._in_word:
            self._words.append(self._current)
        self._current, self._in_word = "", False

    def _add(self, text: str) -> None:
        self._current += text
        self._in_word = True

    def _add_split(self, text: str) -> None:
        pieces = re.split(r"(\s+)", text)
        for piece in pieces:
            if piece.isspace():
                self._finish()
            elif piece:
                self._add(piece)

    def _until(self, stop: str) -> str:
        """Read up to one of `stop` (which is consumed), or to the end when there is no `stop`."""
        result = ""
        while self._position < len(self._text):
            character = self._text[self._position]
            if stop and character == stop:
                self._position += 1
                return result
            result += self._dollar() if character == "$" else self._one()
        if stop:
            raise InvalidParameter(f"unexpected end of statement while looking for matching {stop}")
        return result

    def _one(self) -> str:
        """A quoted part, an escaped character or a plain one."""
        character = self._text[self._position]
        if character == "'" and self._quotes:
            return self._single_quoted()
        if character == '"' and self._quotes:
            return self._double_quoted()
        self._position += 1
        if character == self._escape:
            if self._position >= len(self._text):
                return ""
            self._position += 1
            return self._text[self._position - 1]
        return character

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._position + 1)
        if end < 0:
            raise InvalidParameter("unexpected end of statement while looking for matching single-quote")
        inner = self._text[self._position + 1 : end]
        self._position = end + 1
        return inner

    def _double_quoted(self) -> str:
        self._position += 1
        result = ""
        while self._position < len(self._text):
            character = self._text[self._position]
            if character == '"':
                self._position += 1
                return result
            if character == "$":
                result += self._dollar()
                continue
            self._position += 1
            if character == self._escape and self._position < len(self._text):
                following = self._text[self._position]
                self._position += 1
                # Only these lose the escape character inside double quotes.
                result += following if following in ('"', "$", self._escape) else character + following
                continue
            result += character
        raise InvalidParameter("unexpected end of statement while looking for matching double-quote")

    def _dollar(self) -> str:
        """What a $ and the name after it stand for."""
        self._position += 1
        if self._peek() == "{":
            self._position += 1
            return self._braces()
        name = self._name()
        if not name:
            return "$"
        return self._variables.get(name, "")

    def _peek(self) -> str:
        return self._text[self._position] if self._position < len(self._text) else ""

    def _name(self) -> str:
        found = re.compile(r"[A-Za-z_][A-Za-z0-9_]*").match(self._text, self._position)
        if found is not None:
            self._position = found.end()
            return found[0]
        if self._peek() and self._peek() in _SPECIAL:
            self._position += 1
            return self._text[self._position - 1]
        return ""

    def _braces(self) -> str:
        name = self._name()
        if not self._peek():
            raise InvalidParameter("syntax error: missing '}'")
        if not name:
            raise InvalidParameter("syntax error: bad substitution")
        value = self._variables.get(name)
        operator = self._peek()
        self._position += 1
        if operator == "}":
            return value or ""
        empty_too = operator == ":"
        if empty_too:
            operator = self._peek()
            self._position += 1
        if operator not in ("-", "+", "?") and (empty_too or operator not in ("#", "%", "/")):
            shown = f":{operator}" if empty_too else operator
            raise InvalidParameter(f"unsupported modifier ({shown}) in substitution")
        if operator in ("#", "%"):
            return self._trimmed(operator, value or "")
        if operator == "/":
            return self._replaced(value or "")
        other = self._until_brace()
        missing = not value if empty_too else value is None
        if operator == "+":
            return "" if missing else other
        if not missing:
            return value or ""
        if operator == "?":
            raise InvalidParameter(f"{name}: {other or 'is not allowed to be unset'}")
        return other

    def _until_brace(self) -> str:
        try:
            return self._until("}")
        except InvalidParameter:
            raise InvalidParameter("syntax error: missing '}'") from None

    def _trimmed(self, operator: str, value: str) -> str:
        longest = self._peek() == operator
        if longest:
            self._position += 1
        pattern = self._until_brace()
        lengths = range(len(value), -1, -1) if longest else range(len(value) + 1)
        for length in lengths:
            part = value[:length] if operator == "#" else value[len(value) - length :]
            if fnmatch.fnmatchcase(part, pattern):
                return value[length:] if operator == "#" else value[: len(value) - length]
        return value

    def _replaced(self, value: str) -> str:
        every = self._peek() == "/"
        if every:
            self._position += 1
        try:
            pattern = self._until("/")
        except InvalidParameter:
            raise InvalidParameter("syntax error: missing '/' in ${}") from None
        replacement = self._until_brace()
        matcher = re.compile(fnmatch.translate(pattern).removesuffix(r"\Z"))
        return matcher.sub(lambda _: replacement, value, count=0 if every else 1)
