"""Words of a Dockerfile: quotes, escapes and variables (Dockerfile reference, "Environment replacement").

Not a shell: there is no command substitution and no splitting except where an instruction takes several words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dockyard.dockerfile.wildcards import Wildcards
from dockyard.errors import InvalidParameter

_SPECIAL = "@*#?-$!"


@dataclass(frozen=True, slots=True)
class Expansion:
    """A word with its variables replaced; the names in it that stand for something, and those that stand for nothing.

    A name that has a default in the word (`${name:-default}`) is among the unknown ones all the same.
    """

    text: str
    known: tuple[str, ...]
    unknown: tuple[str, ...]


class BadSubstitution(InvalidParameter):
    """A word that can't be expanded; `unknown`: names in it that stand for nothing."""

    def __init__(self, message: str, unknown: tuple[str, ...]) -> None:
        super().__init__(message)
        self.unknown = unknown


@dataclass(frozen=True, slots=True)
class _Ways:
    """What is left as it is: quotes, although they count; escapes; quotes that mean nothing; variables not known."""

    keep_quotes: bool = False
    keep_escapes: bool = False
    no_quotes: bool = False
    keep_unknown: bool = False


def expand(word: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """`word` with variables replaced, quotes and escapes taken off. Raises InvalidParameter for bad syntax."""
    return expansion(word, variables, escape).text


def expansion(word: str, variables: Mapping[str, str], escape: str = "\\") -> Expansion:
    """The same, with the names of variables that were looked for."""
    return _Reader(word, variables, escape, _Ways()).word()


def expand_document(content: str, variables: Mapping[str, str]) -> str:
    """Variables and escapes in an in-line document, whose quotes mean nothing. Raises InvalidParameter.

    The escape character is always a backslash there, whatever the directive says (BuildKit, dispatchers).
    """
    return document_expansion(content, variables).text


def document_expansion(content: str, variables: Mapping[str, str]) -> Expansion:
    """The same, with the names of variables that were looked for."""
    return _Reader(content, variables, "\\", _Ways(no_quotes=True)).word()


def shown_command(text: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """A command as it is shown: with its quotes, and with variables that only its shell will know."""
    try:
        return _Reader(text, variables, escape, _Ways(keep_quotes=True, keep_unknown=True)).word().text
    except InvalidParameter:
        return text


def expand_words(text: str, variables: Mapping[str, str], escape: str = "\\") -> list[str]:
    """As `expand`, split at blanks that are not quoted, also those that come out of variables."""
    return _Reader(text, variables, escape, _Ways()).words()


def heredoc_words(text: str) -> list[str]:
    """`text` split at blanks that are not quoted, with quotes and escapes in place; none where a quote is not closed.

    A word may be `<<` and what follows it after blanks.
    """
    ways = _Ways(keep_quotes=True, keep_escapes=True, keep_unknown=True)
    try:
        return _Reader(text, {}, "\\", ways).words()
    except InvalidParameter:
        return []


def heredoc_name(text: str, *, quotes: bool) -> list[str]:
    """What follows `<<` as words, with or without its quotes. Raises InvalidParameter."""
    return _Reader(text, {}, "\\", _Ways(keep_quotes=quotes, keep_unknown=True)).words()


def split_words(text: str, escape: str = "\\") -> list[str]:
    """`text` split at blanks outside quotes; quotes and escapes stay in the words."""
    words: list[str] = []
    current = ""
    quote = ""
    quoted = False  # an empty word is one when it is quoted
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == escape and quote != "'":
            if position == len(text):  # it escapes nothing
                break
            current += character + text[position]
            position += 1
            continue
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote, quoted = character, True
        elif character.isspace():
            if current or quoted:
                words.append(current)
            current, quoted = "", False
            continue
        current += character
    if current or quoted:
        words.append(current)
    return words


class _Words:
    """Words as they come together."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._current = ""

    def add(self, text: str) -> None:
        """More of the current word, whatever it is."""
        self._current += text

    def add_split(self, text: str) -> None:
        """Text in which blanks end words."""
        for character in text:
            if not character.isspace():
                self._current += character
            elif self._current:
                self.end()

    def end(self) -> list[str]:
        if self._current:
            self.found.append(self._current)
        self._current = ""
        return self.found


class _Reader:
    """Reads one text from left to right."""

    def __init__(self, text: str, variables: Mapping[str, str], escape: str, ways: _Ways) -> None:
        self._text = text
        self._variables = variables
        self._escape = escape
        self._ways = ways
        self._raw = ways.keep_escapes
        self._position = 0
        self._known: dict[str, None] = {}
        self._unknown: dict[str, None] = {}

    def word(self) -> Expansion:
        text, _ = self._read()
        return Expansion(text, tuple(self._known), tuple(self._unknown))

    def words(self) -> list[str]:
        return self._read()[1]

    def _read(self) -> tuple[str, list[str]]:
        try:
            return self._until("", raw=self._raw)
        except InvalidParameter as error:
            message = f"failed to process {go_quoted(self._text)}: {error}"
            raise BadSubstitution(message, tuple(self._unknown)) from None

    def _peek(self) -> str:
        return self._text[self._position] if self._position < len(self._text) else ""

    def _next(self) -> str:
        found = self._peek()
        self._position += len(found)
        return found

    def _until(self, stop: str, *, raw: bool) -> tuple[str, list[str]]:
        """Read up to `stop` (which is consumed), or to the end when there is none; `raw`: escapes stay."""
        before, self._raw = self._raw, raw
        try:
            return self._pieces(stop)
        finally:
            self._raw = before

    def _pieces(self, stop: str) -> tuple[str, list[str]]:
        result, words = "", _Words()
        while (character := self._peek()) != "":
            if stop and character == stop:
                self._position += 1
                return result, words.end()
            if character == "$":
                piece = self._dollar()
                words.add_split(piece)
            elif character in "'\"" and not self._ways.no_quotes:
                piece = self._single_quoted() if character == "'" else self._double_quoted()
                words.add(piece)
            elif character == "<":
                piece = self._less()
                words.add(piece)
            elif character == self._escape:
                self._position += 1
                piece = (character if self._raw else "") + self._next()
                words.add(piece)
            else:
                self._position += 1
                piece = character
                words.add_split(piece)
            result += piece
        if stop:
            raise InvalidParameter(f"unexpected end of statement while looking for matching {stop}")
        return result, words.end()

    def _less(self) -> str:
        """`<`, or the `<<` of an in-line document with the blanks after it, which do not end a word."""
        start = self._position
        self._position += 1
        if self._peek() == "<":
            self._position += 1
            while self._peek() and self._peek() in " \t\r":
                self._position += 1
        return self._text[start : self._position]

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._position + 1)
        if end < 0:
            self._position = len(self._text)
            raise InvalidParameter("unexpected end of statement while looking for matching single-quote")
        inner = self._text[self._position + 1 : end]
        self._position = end + 1
        return f"'{inner}'" if self._ways.keep_quotes else inner

    def _double_quoted(self) -> str:
        self._position += 1
        mark = '"' if self._ways.keep_quotes else ""
        result = mark
        while (character := self._peek()) != "":
            if character == "$":
                result += self._dollar()
                continue
            self._position += 1
            if character == '"':
                return result + mark
            if character == self._escape:
                result += character if self._raw else ""
                following = self._peek()
                if not following:
                    break
                # Only these lose the escape character inside double quotes.
                if following in ('"', "$", self._escape):
                    character = self._next()
            result += character
        raise InvalidParameter("unexpected end of statement while looking for matching double-quote")

    def _look_up(self, name: str) -> str | None:
        value = self._variables.get(name)
        (self._unknown if value is None else self._known)[name] = None
        return value

    def _name(self) -> str:
        """A name of letters, digits and `_`, a number, or one of the shell's own."""
        start = self._position
        first = self._peek()
        if first and first in _SPECIAL:
            self._position += 1
        elif first.isdecimal():
            while self._peek().isdecimal():
                self._position += 1
        else:
            while (character := self._peek()) and (character.isalpha() or character.isdecimal() or character == "_"):
                self._position += 1
        return self._text[start : self._position]

    def _dollar(self) -> str:
        """What a $ and the name after it stand for."""
        self._position += 1
        if self._peek() == "{":
            self._position += 1
            return self._braces()
        name = self._name()
        if not name:
            return "$"
        value = self._look_up(name)
        if value is None:
            return f"${name}" if self._ways.keep_unknown else ""
        return value

    def _braces(self) -> str:
        if not self._peek():
            raise InvalidParameter("syntax error: missing '}'")
        if self._peek() in "{}:":
            raise InvalidParameter("syntax error: bad substitution")
        name = self._name()
        operator = self._next()
        if operator == "}":
            value = self._look_up(name)
            if value is None:
                return f"${{{name}}}" if self._ways.keep_unknown else ""
            return value
        if operator == "/":
            return self._replaced(name)
        if not operator:
            raise InvalidParameter("syntax error: missing '}'")
        empty_too = operator == ":"
        if empty_too:
            operator = self._next()
        shown = f":{operator}" if empty_too else operator
        raw = operator in ("#", "%")
        if (empty_too and raw) or (not empty_too and operator not in ("+", "-", "?", "#", "%")):
            raise InvalidParameter(f"unsupported modifier ({shown}) in substitution")
        word = self._part("}", raw=raw)
        value = self._look_up(name)
        if value is None and self._ways.keep_unknown:
            return f"${{{name}{shown}{word}}}"
        if raw:
            return _trimmed(operator, word, value or "")
        return _chosen(name, operator, word, value, empty_too=empty_too)

    def _part(self, stop: str, *, raw: bool) -> str:
        """What is inside of braces up to `stop`."""
        try:
            return self._until(stop, raw=raw)[0]
        except InvalidParameter:
            if self._peek():
                raise
            where = " in ${}" if stop == "/" else ""
            raise InvalidParameter(f"syntax error: missing '{stop}'{where}") from None

    def _replaced(self, name: str) -> str:
        every = self._peek() == "/"
        if every:
            self._position += 1
        pattern = self._part("/", raw=True)
        replacement = self._part("}", raw=True)
        value = self._look_up(name)
        if value is None and self._ways.keep_unknown:
            return f"${{{name}/{pattern}/{replacement}}}"
        return Wildcards(pattern).replaced(value or "", replacement, every=every)


def _chosen(name: str, operator: str, word: str, value: str | None, *, empty_too: bool) -> str:
    """What `${name-word}`, `+` and `?` stand for; `empty_too`: an empty value is none."""
    missing = not value if empty_too else value is None
    match operator:
        case "-":
            return word if missing else value or ""
        case "+":
            return "" if missing else word
        case "?":
            if missing:
                raise InvalidParameter(f"{name}: {word or f'is not allowed to be {_lack(value)}'}")
            return value or ""
    raise InvalidParameter(f"unsupported modifier (:{operator}) in substitution")


def _lack(value: str | None) -> str:
    return "unset" if value is None else "empty"


def _trimmed(operator: str, pattern: str, value: str) -> str:
    """`value` without what `pattern` matches at its beginning (#) or end (%), the longest part if it is doubled."""
    longest = pattern.startswith(operator)
    matcher = Wildcards(pattern[1:] if longest else pattern)
    if operator == "#":
        return value[matcher.prefix(value, longest=longest) or 0 :]
    return value[: len(value) - (matcher.suffix(value, longest=longest) or 0)]


def go_quoted(text: str) -> str:
    """As Go's %q prints it, but for what needs no escape here."""
    import json

    return json.dumps(text, ensure_ascii=False)
