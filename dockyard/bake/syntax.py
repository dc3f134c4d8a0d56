"""HCL's native syntax: text → a body. One pass over the text; what is read is decided by where one is."""

from __future__ import annotations

import re
from decimal import Decimal

from dockyard.bake import tree
from dockyard.bake.errors import BakeError, Place

_IDENTIFIER = re.compile(r"[^\W\d][\w-]*")
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_SPACE = re.compile(r"(?:[ \t\r]+|#[^\n]*|//[^\n]*|/\*.*?\*/)+", re.DOTALL)
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]+|#[^\n]*|//[^\n]*|/\*.*?\*/)+", re.DOTALL)
_HEREDOC = re.compile(r"<<(-?)([^\W\d][\w-]*)[ \t]*\r?\n")
_OPERATORS = (("||",), ("&&",), ("==", "!="), ("<=", ">=", "<", ">"), ("+", "-"), ("*", "/", "%"))
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}
_DEEPEST = 50  # expressions in each other


def parse(text: str, file: str) -> tree.Body:
    """A file's body. Raises BakeError."""
    parser = Parser(text.removeprefix("\ufeff"), file)
    return parser.body("")


def parse_template(text: str, place: Place) -> tree.Expression:
    """A string of JSON as a template. Raises BakeError."""
    parser = Parser(text, place.file, place)
    return parser.template(None)


def parse_expression(text: str, place: Place) -> tree.Expression:
    """An expression that stands alone. Raises BakeError."""
    parser = Parser(text, place.file, place)
    found = parser.expression()
    parser.skip(lines=True)
    if parser.at < len(text):
        raise parser.error("Extra characters after expression")
    return found


class Parser:
    """Where in the text one is, and what may come there."""

    def __init__(self, text: str, file: str, origin: Place | None = None) -> None:
        self.text = text
        self.at = 0
        self._file = file
        self._origin = origin
        self._inside = 0  # parentheses and brackets, within which lines may end anywhere
        self._depth = 0

    # -- where

    def place(self) -> Place:
        """The place of what comes next."""
        if self._origin is not None:
            return self._origin
        line = self.text.count("\n", 0, self.at)
        return Place(self._file, line + 1, self.at - self.text.rfind("\n", 0, self.at))

    def error(self, message: str) -> BakeError:
        """What is wrong here."""
        return BakeError(message, self.place())

    def skip(self, *, lines: bool = False) -> None:
        """Go over spaces and comments, and over ends of lines where they mean nothing."""
        found = (_SPACE_AND_LINES if lines or self._inside else _SPACE).match(self.text, self.at)
        if found is not None:
            self.at = found.end()

    def skip_blanks(self) -> None:
        """Go over white space in a template."""
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1

    def next_is(self, word: str) -> bool:
        """Whether `word` is what comes next."""
        return self.text.startswith(word, self.at)

    def take(self, word: str, *, lines: bool = False) -> bool:
        """Go over `word`, if it comes next."""
        self.skip(lines=lines)
        if not self.next_is(word):
            return False
        self.at += len(word)
        return True

    def expect(self, word: str, *, lines: bool = False) -> None:
        """Go over `word`, which must come next."""
        if not self.take(word, lines=lines):
            raise self.error(f'Invalid expression; expected "{word}"')

    def identifier(self) -> str:
        """A name, "" when none comes next."""
        self.skip()
        found = _IDENTIFIER.match(self.text, self.at)
        if found is None:
            return ""
        self.at = found.end()
        return found[0]

    # -- bodies

    def body(self, end: str) -> tree.Body:
        """Attributes and blocks up to `end`, "" for the file's end."""
        body = tree.Body()
        while True:
            self.skip(lines=True)
            if end and self.take(end):
                return body
            if self.at >= len(self.text):
                if end:
                    raise self.error(
                        "Unclosed configuration block; there is no closing brace for this block before the end"
                    )
                return body
            self._item(body)

    def _item(self, body: tree.Body) -> None:
        place = self.place()
        name = self.identifier()
        if not name:
            raise self.error("Invalid argument name; an argument or block definition is required here")
        self.skip()
        if self.next_is("=") and not self.next_is("=="):
            self.at += 1
            self.skip()
            if name in body.attributes:
                raise BakeError(f'Attribute redefined; the argument "{name}" was already set', place)
            body.attributes[name] = self.expression()
            self._end_of_item()
            return
        labels = []
        while not self.take("{"):
            if self.next_is('"'):
                labels.append(self._label())
            elif label := self.identifier():
                labels.append(label)
            else:
                raise self.error("Invalid block definition; a block begins with its type, labels and an opening brace")
        found = self._single_line() or self.body("}")
        body.blocks.append(tree.Block(name, labels, found, place))
        self._end_of_item()

    def _single_line(self) -> tree.Body | None:
        """A block whose one argument, or none, is on its own line; None for one that goes on below."""
        self.skip()
        if self.at >= len(self.text) or self.next_is("\n") or self.next_is("}"):
            return tree.Body() if self.take("}") else None
        body = tree.Body()
        name = self.identifier()
        if not name or not self.take("=") or self.next_is("="):
            raise self.error("Invalid single-argument block definition; only one argument may be on the block's line")
        body.attributes[name] = self.expression()
        if not self.take("}"):
            raise self.error(
                "Invalid single-argument block definition; An argument definition on the same line as its containing "
                "block creates a single-line block definition, which must also be closed on the same line. Place the "
                "block's closing brace immediately after the argument definition."
            )
        return body

    def _end_of_item(self) -> None:
        self.skip()
        if self.at < len(self.text) and not self.next_is("\n") and not self.next_is("}"):
            raise self.error("Missing newline after argument; an argument definition must end with a newline")

    def _label(self) -> str:
        self.at += 1
        found = self.template('"')
        if isinstance(found, tree.Literal) and isinstance(found.value, str):
            return found.value
        raise self.error("Invalid string literal; template sequences are not allowed here")

    # -- expressions

    def expression(self) -> tree.Expression:
        """An expression, with `? :` as what binds least."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self.error("expressions are nested too deeply")
        try:
            place = self.place()
            found = self._binary(0)
            if not self.take("?"):
                return found
            self.skip(lines=True)
            yes = self.expression()
            self.expect(":", lines=True)
            self.skip(lines=True)
            return tree.Conditional(place, found, yes, self.expression())
        finally:
            self._depth -= 1

    def _binary(self, level: int) -> tree.Expression:
        if level == len(_OPERATORS):
            return self._unary()
        place = self.place()
        left = self._binary(level + 1)
        while True:
            self.skip()
            operator = next((one for one in _OPERATORS[level] if self.next_is(one)), "")
            if not operator:
                return left
            self.at += len(operator)
            self.skip(lines=True)
            left = tree.Binary(place, operator, left, self._binary(level + 1))

    def _unary(self) -> tree.Expression:
        self.skip()
        place = self.place()
        for operator in ("-", "!"):
            if self.next_is(operator) and not self.next_is("!="):
                self.at += 1
                return tree.Unary(place, operator, self._unary())
        return self._traversal(self._primary(), legacy=False)

    def _traversal(self, found: tree.Expression, *, legacy: bool) -> tree.Expression:
        """What follows a value: attributes, indexes, splats; behind `.*` no further brackets (`legacy`)."""
        while True:
            place = self.place()
            if self.next_is("...") or not (self.next_is(".") or (self.next_is("[") and not legacy)):
                return found
            if self.next_is(".*") or self.next_is("[*]"):
                attributes = self.next_is(".*")
                self.at += 2 if attributes else 3
                item = tree.Item(place)
                found = tree.Splat(place, found, self._traversal(item, legacy=attributes), item)
            elif self.take("."):
                if name := self.identifier():
                    found = tree.Attribute(place, found, name)
                elif number := re.compile(r"\d+").match(self.text, self.at):
                    self.at = number.end()
                    found = tree.Index(place, found, tree.Literal(place, int(number[0])))
                else:
                    raise self.error("Invalid attribute name; an attribute name is required after a dot")
            else:
                self.at += 1
                self._inside += 1
                key = self.expression()
                self.expect("]")
                self._inside -= 1
                found = tree.Index(place, found, key)

    def _primary(self) -> tree.Expression:
        self.skip()
        place = self.place()
        if number := _NUMBER.match(self.text, self.at):
            self.at = number.end()
            value = Decimal(number[0])
            return tree.Literal(place, int(value) if value == value.to_integral_value() else value)
        if self.next_is('"'):
            self.at += 1
            return self.template('"')
        if heredoc := _HEREDOC.match(self.text, self.at):
            return self._heredoc(heredoc)
        if self.take("("):
            self._inside += 1
            found = self.expression()
            self.expect(")")
            self._inside -= 1
            return found
        if self.take("["):
            return self._bracketed(place)
        if self.take("{"):
            return self._braced(place)
        name = self.identifier()
        if not name:
            raise self.error("Invalid expression; expected the start of an expression, but found an invalid token")
        if name in ("true", "false", "null"):
            return tree.Literal(place, {"true": True, "false": False, "null": None}[name])
        if self.next_is("("):
            return self._call(place, name)
        return tree.Name(place, name)

    def _call(self, place: Place, name: str) -> tree.Expression:
        self.at += 1
        self._inside += 1
        arguments: list[tree.Expression] = []
        expanded = False
        while not self.take(")"):
            if expanded:
                raise self.error("Missing closing parenthesis; an expanded argument must be the last one")
            arguments.append(self.expression())
            expanded = self.take("...")
            self.skip()
            if not self.next_is(")"):
                self.expect(",")
        self._inside -= 1
        return tree.Call(place, name, arguments, expanded)

    def _bracketed(self, place: Place) -> tree.Expression:
        self._inside += 1
        try:
            if found := self._for(place, "]"):
                return found
            items: list[tree.Expression] = []
            while not self.take("]"):
                items.append(self.expression())
                self.skip()
                if not self.next_is("]"):
                    self.expect(",")
            return tree.TupleOf(place, items)
        finally:
            self._inside -= 1

    def _braced(self, place: Place) -> tree.Expression:
        outer, self._inside = self._inside, 1
        try:
            if found := self._for(place, "}"):
                return found
        finally:
            self._inside = 0
        items: list[tuple[tree.Expression, tree.Expression]] = []
        while not self.take("}", lines=True):
            key_place = self.place()
            key = self.expression()
            if isinstance(key, tree.Name):
                key = tree.Literal(key_place, key.name)
            if not self.take("=") and not self.take(":"):
                raise self.error("Missing attribute value; expected an attribute value, introduced by an equals sign")
            self.skip(lines=True)
            items.append((key, self.expression()))
            if not self.take(","):
                self.skip()
                if not self.next_is("\n") and not self.next_is("}"):
                    raise self.error(
                        "Missing attribute separator; expected a newline or comma to mark the next attribute"
                    )
        self._inside = outer
        return tree.ObjectOf(place, items)

    def _for(self, place: Place, end: str) -> tree.Expression | None:
        before = self.at
        if self.identifier() != "for" or not re.compile(r"\s").match(self.text, self.at):
            self.at = before
            return None
        name, key = self.identifier(), ""
        if self.take(","):
            key, name = name, self.identifier()
        if self.identifier() != "in":
            raise self.error('Invalid "for" expression; for requires the keyword "in" after its names')
        over = self.expression()
        self.expect(":")
        key_result, result = None, self.expression()
        if end == "}":
            self.expect("=>")
            key_result, result = result, self.expression()
        grouped = self.take("...")
        condition = self.expression() if self._keyword("if") else None
        self.expect(end)
        return tree.For(place, key, name, over, key_result, result, condition, grouped)

    def _keyword(self, word: str) -> bool:
        before = self.at
        if self.identifier() == word:
            return True
        self.at = before
        return False

    # -- templates

    def template(self, end: str | None) -> tree.Expression:
        """Text with `${…}` and `%{…}` in it up to `end`; None: all that is left."""
        place = self.place()
        parts, _ = self._parts(end, ())
        return _joined(place, parts)

    def _heredoc(self, opening: re.Match[str]) -> tree.Expression:
        place = self.place()
        closing = re.compile(rf"^[ \t]*{re.escape(opening[2])}[ \t]*(?=\r?$)", re.MULTILINE)
        found = closing.search(self.text, opening.end())
        if found is None:
            raise self.error("Unterminated template string; no closing marker was found for the string")
        lines = self.text[opening.end() : found.start()].replace("\r\n", "\n").splitlines(keepends=True)
        if opening[1]:
            depth = min((len(line) - len(line.lstrip(" \t")) for line in lines if line.strip()), default=0)
            lines = [line[depth:] if line.strip() else line.lstrip(" \t") for line in lines]
        inner = Parser("".join(lines), self._file, place)
        parts, _ = inner._parts(None, (), escapes=False)
        self.at = found.end()
        return _joined(place, parts)

    def _parts(
        self, end: str | None, until: tuple[str, ...], *, escapes: bool = True
    ) -> tuple[list[tree.Expression], str]:
        """Parts of a template up to `end` or one of the directives `until`, and that directive."""
        parts: list[tree.Expression] = []
        text = ""
        place = self.place()
        escapes = escapes and end is not None
        strip = False

        def flush() -> None:
            nonlocal text
            if text:
                parts.append(tree.Literal(place, text))
            text = ""

        while True:
            if self.at >= len(self.text):
                if end is not None or until:
                    raise self.error("Unterminated template string; no closing marker was found for the string")
                break
            if end is not None and self.next_is(end):
                self.at += len(end)
                break
            if self.next_is("$${") or self.next_is("%%{"):
                text += self.text[self.at + 1 : self.at + 3]
                self.at += 3
            elif self.next_is("${") or self.next_is("%{"):
                directive = self.next_is("%{")
                self.at += 2
                if self.take("~"):
                    text = text.rstrip()
                flush()
                found, word = self._directive(end, until, escapes=escapes) if directive else (self._interpolated(), "")
                strip = self.text[self.at - 2 : self.at] == "~}"
                if word:
                    return parts, word
                if found is not None:
                    parts.append(found)
                if strip:
                    self.skip_blanks()
            elif escapes and self.next_is("\\"):
                text += self._escape()
            elif end is not None and self.next_is("\n"):
                raise self.error("Invalid multi-line string; quoted strings may not be split over multiple lines")
            else:
                text += self.text[self.at]
                self.at += 1
        flush()
        return parts, ""

    def _interpolated(self) -> tree.Expression:
        self._inside += 1
        found = self.expression()
        self.take("~")
        self.expect("}")
        self._inside -= 1
        # a value by itself keeps its type; among others it becomes text
        return found

    def _directive(
        self, end: str | None, until: tuple[str, ...], *, escapes: bool
    ) -> tuple[tree.Expression | None, str]:
        place = self.place()
        self._inside += 1
        word = self.identifier()
        if word in until:
            self._close_directive()
            return None, word
        if word == "if":
            condition = self.expression()
            self._close_directive()
            yes, ended = self._parts(end, ("else", "endif"), escapes=escapes)
            no, _ = self._parts(end, ("endif",), escapes=escapes) if ended == "else" else ([], "")
            return tree.TemplateIf(place, condition, tree.Template(place, yes), tree.Template(place, no)), ""
        if word == "for":
            name, key = self.identifier(), ""
            if self.take(","):
                key, name = name, self.identifier()
            if self.identifier() != "in":
                raise self.error('Invalid "for" directive; for requires the keyword "in"')
            over = self.expression()
            self._close_directive()
            body, _ = self._parts(end, ("endfor",), escapes=escapes)
            return tree.TemplateFor(place, key, name, over, tree.Template(place, body)), ""
        raise self.error(f'Invalid template directive; "{word}" is not a valid one')

    def _close_directive(self) -> None:
        self.take("~")
        self.expect("}")
        self._inside -= 1

    def _escape(self) -> str:
        letter = self.text[self.at + 1 : self.at + 2]
        if letter in _ESCAPES:
            self.at += 2
            return _ESCAPES[letter]
        size = {"u": 4, "U": 8}.get(letter, 0)
        digits = self.text[self.at + 2 : self.at + 2 + size]
        if not size or not re.fullmatch(rf"[0-9A-Fa-f]{{{size}}}", digits) or int(digits, 16) > 0x10FFFF:
            raise self.error(f'Invalid escape sequence; the symbol "{letter}" is not a valid escape sequence selector')
        self.at += 2 + size
        return chr(int(digits, 16))


def _joined(place: Place, parts: list[tree.Expression]) -> tree.Expression:
    if not parts:
        return tree.Literal(place, "")
    if len(parts) == 1 and not isinstance(parts[0], tree.TemplateIf | tree.TemplateFor):
        return parts[0]
    return tree.Template(place, parts)
