"""What Go's encoding/json says of text that is no JSON (scanner.go): clients match on its words.

Only read when a faster decoder has already refused the text.
"""

import re

from dockyard.errors import InvalidParameter

DEEPEST = 10_000  # levels (scanner.go, maxNestingDepth)
_BLANKS = re.compile(r"[ \t\r\n]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_DIGITS = re.compile(r"[0-9]*")
_LITERALS = {"t": "true", "f": "false", "n": "null"}
_QUOTED = {"'": r"'\''", '"': "'\"'", "\n": r"'\n'", "\r": r"'\r'", "\t": r"'\t'", "\\": r"'\\'"}


def end_of_value(text: str) -> int:
    """Where the first JSON value of `text` ends. Raises InvalidParameter with Go's words when there is none."""
    return _Scanner(text).value_end()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def value_end(self) -> int:
        open_ones: list[str] = []  # the closing signs of the objects and arrays around
        while True:
            opened = self._begin(open_ones)
            if opened:
                open_ones.append(opened)
                if len(open_ones) > DEEPEST:
                    raise InvalidParameter("invalid JSON: exceeded max depth")
                if self._peek() != opened:
                    if opened == "}":
                        self._key()
                    continue
                self._at += 1
                open_ones.pop()
            while open_ones:
                sign = self._peek()
                self._at += 1
                if sign == ",":
                    if open_ones[-1] == "}":
                        self._key()
                    break
                if sign != open_ones[-1]:
                    after = "object key:value pair" if open_ones[-1] == "}" else "array element"
                    raise self._wrong(sign, f"after {after}")
                open_ones.pop()
            else:
                return self._at

    def _peek(self) -> str:
        """The next sign that is no blank."""
        found = _BLANKS.match(self._text, self._at)
        assert found is not None
        self._at = found.end()
        return self._sign()

    def _sign(self) -> str:
        if self._at == len(self._text):
            raise InvalidParameter("invalid JSON: unexpected EOF")
        return self._text[self._at]

    def _begin(self, around: list[str]) -> str:
        """Read a string, number or literal whole; of an object or array the opening sign: what closes it then."""
        sign = self._peek()
        self._at += 1
        if sign in "{[":
            return "}" if sign == "{" else "]"
        if sign == '"':
            self._string()
        elif sign in _LITERALS:
            word = _LITERALS[sign]
            for expected in word[1:]:
                if self._sign() != expected:
                    raise self._wrong(self._sign(), f"in literal {word} (expecting {_quote(expected)})")
                self._at += 1
        elif sign == "-" or sign in "0123456789":
            self._number(sign, whole=not around)
        else:
            raise self._wrong(sign, "looking for beginning of value")
        return ""

    def _key(self) -> None:
        sign = self._peek()
        if sign != '"':
            raise self._wrong(sign, "looking for beginning of object key string")
        self._at += 1
        self._string()
        if (sign := self._peek()) != ":":
            raise self._wrong(sign, "after object key")
        self._at += 1

    def _string(self) -> None:
        while True:
            found = _PLAIN.match(self._text, self._at)
            assert found is not None
            self._at = found.end()
            sign = self._sign()
            self._at += 1
            if sign == '"':
                return
            if sign != "\\":
                raise self._wrong(sign, "in string literal")
            escaped = self._sign()
            if escaped not in 'bfnrt\\/"u':
                raise self._wrong(escaped, "in string escape code")
            self._at += 1
            for _ in range(4 if escaped == "u" else 0):
                if self._sign() not in "0123456789abcdefABCDEF":
                    raise self._wrong(self._sign(), r"in \u hexadecimal character escape")
                self._at += 1

    def _number(self, sign: str, *, whole: bool) -> None:
        """`whole`: nothing is around it, and it may end where the text does."""
        if sign == "-":
            sign = self._digit("in numeric literal")
        if sign != "0":
            self._digits()
        if self._next() == ".":
            self._at += 1
            self._digit("after decimal point in numeric literal")
            self._digits()
        if self._next() in ("e", "E"):
            self._at += 1
            if self._next() in ("+", "-"):
                self._at += 1
            self._digit("in exponent of numeric literal")
            self._digits()
        if not whole:
            self._sign()

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _digit(self, where: str) -> str:
        sign = self._sign()
        if sign not in "0123456789":
            raise self._wrong(sign, where)
        self._at += 1
        return sign

    def _digits(self) -> None:
        found = _DIGITS.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _wrong(self, sign: str, where: str) -> InvalidParameter:
        return InvalidParameter(f"invalid JSON: invalid character {_quote(sign)} {where}")


def _quote(sign: str) -> str:
    """As Go's scanner quotes a byte."""
    if sign in _QUOTED:
        return _QUOTED[sign]
    if not sign.isascii():
        return f"'{chr(sign.encode()[0])}'"  # of what is longer it names the first byte
    return f"'{sign}'" if sign.isprintable() else f"'\\x{ord(sign):02x}'"
