"""The text of a template into pieces, the pieces into a tree."""

from __future__ import annotations

from dockyard.gotemplate.functions import FUNCTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Value = Any
    Node = tuple[Any, ...]
    Token = tuple[str, Any, str, int]  # kind, content, source, position


class TemplateError(Exception):
    """The template cannot be parsed."""


_WORD = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
_SPACE = " \t\r\n"
CONSTANTS = {"true": True, "false": False, "nil": None}


class Parser:
    """Nodes: ("text", s), ("print", pipe), (word, pipe, body, rest), ("break",), ("template", name, pipe)."""

    def __init__(self, text: str, name: str) -> None:
        self._text, self._name = text, name
        self._pieces = list(self._split())
        self._next = 0
        self._loops = 0
        self.stopped_at: list[Token] = []
        self.defined: dict[str, list[Node]] = {}

    def _wrong(self, message: str, position: int | None = None) -> TemplateError:
        line = 1 + (self._text.count("\n", 0, position) if position is not None else 0)
        return TemplateError(f"template: {self._name}:{line}: {message}")

    def _split(self) -> Iterator[tuple[str, Value]]:
        """("text", str) and ("action", tokens) by turns; `{{-` and `-}}` trim the text beside them."""
        text, position, trim = self._text, 0, False
        while True:
            start = text.find("{{", position)
            plain = text[position:] if start < 0 else text[position:start]
            if trim:
                plain = plain.lstrip(_SPACE)
            if start < 0:
                yield "text", plain
                return
            body = start + 2
            if text[body : body + 1] == "-" and text[body + 1 : body + 2] in tuple(_SPACE):
                plain = plain.rstrip(_SPACE)
                body += 1
            yield "text", plain
            end = self._end_of_action(body)
            inner = text[body:end]
            trim = inner.endswith("-") and inner[-2:-1] in tuple(_SPACE)
            inner = inner[:-1] if trim else inner
            if not inner.strip().startswith("/*"):
                yield "action", list(self._tokens(inner, body))
            position = end + 2

    def _end_of_action(self, start: int) -> int:
        text, position, quote = self._text, start, ""
        if text[position:].lstrip().startswith("/*"):
            end = text.find("*/", position)
            if end < 0:
                raise self._wrong("unclosed comment", start)
            position = end + 2
        while position < len(text):
            letter = text[position]
            if quote:
                if letter == "\\" and quote != "`":
                    position += 1
                elif letter == quote:
                    quote = ""
            elif letter in "\"'`":
                quote = letter
            elif text.startswith("}}", position):
                return position
            position += 1
        raise self._wrong("unterminated quoted string" if quote else "unclosed action", start)

    def _tokens(self, text: str, offset: int) -> Iterator[Token]:
        position = 0
        while position < len(text):
            letter, start = text[position], position
            position += 1
            if letter in _SPACE:
                while position < len(text) and text[position] in _SPACE:
                    position += 1
                kind: str = "space"
            elif letter in "\"'`":
                while position < len(text) and text[position] != letter:
                    position += 2 if text[position] == "\\" and letter != "`" else 1
                position += 1
                kind = "value"
            elif letter in "(),|":
                kind = letter
            elif letter == "=" or text.startswith(":=", start):
                position += letter == ":"
                kind = ":="
            elif letter.isdigit() or (letter in "+-" and text[position : position + 1].isdigit()):
                while position < len(text) and text[position] in _WORD + ".":
                    position += 1
                kind = "value"
            elif letter in ".$" or letter in _WORD or ord(letter) > 127:
                while position < len(text) and (text[position] in _WORD or ord(text[position]) > 127):
                    position += 1
                kind = {".": "field", "$": "variable"}.get(letter, "word")
            else:
                raise self._wrong(f"unexpected {quoted(letter)} in command", offset + start)
            source = text[start:position]
            content: Value = source
            if kind == "value":
                content = self._literal(source, offset + start)
            yield kind, content, source, offset + start

    def _literal(self, text: str, position: int) -> Value:
        if text[0] == "`":
            return text[1:-1]
        if text[0] in "\"'":
            inner = text[1:-1]
            plain = inner.encode("latin-1", "backslashreplace").decode("unicode_escape")
            if "\\" not in inner:
                plain = inner
            return ord(plain) if text[0] == "'" else plain
        digits = text.replace("_", "")
        for parse in (lambda: int(digits, 0), lambda: int(digits, 8), lambda: float(digits)):
            try:
                return parse()
            except ValueError:
                continue
        raise self._wrong(f'bad number syntax: "{text}"', position)

    def block(self, until: tuple[str, ...]) -> list[Node]:
        """Nodes up to an action that begins with a word of `until`."""
        nodes: list[Node] = []
        while self._next < len(self._pieces):
            kind, content = self._pieces[self._next]
            self._next += 1
            if kind == "text":
                if content:
                    nodes.append(("text", content))
                continue
            tokens = _strip(content)
            first = tokens[0][1] if tokens and tokens[0][0] == "word" else ""
            if first in until:
                self.stopped_at = tokens
                return nodes
            if first in ("if", "with", "range"):
                nodes.append(self._control(first, tokens[1:]))
            elif first in ("break", "continue") and len(tokens) == 1:
                if not self._loops:
                    raise self._wrong(f"{{{{{first}}}}} outside {{{{range}}}}", tokens[0][3])
                nodes.append((first,))
            elif first in ("define", "block", "template"):
                nodes += self._named(first, _strip(tokens[1:]), tokens[0][3])
            elif first in ("end", "else"):
                raise self._wrong(f"unexpected {{{{{first}}}}}", tokens[0][3])
            elif not tokens:
                raise self._wrong("missing value for command")
            else:
                nodes.append(("print", self._pipe(tokens, "command")))
        if until:
            raise self._wrong("unexpected EOF", len(self._text))
        return nodes

    def _named(self, word: str, tokens: list[Token], position: int) -> list[Node]:
        if not tokens or tokens[0][0] != "value" or not isinstance(tokens[0][1], str):
            raise self._wrong(f"unexpected token in {word} clause", position)
        name, rest = tokens[0][1], _strip(tokens[1:])
        pipe = self._pipe(rest, word) if rest else None
        if word != "template":
            self.defined[name] = self.block(("end",))
        return [] if word == "define" else [("template", name, pipe, position)]

    def _control(self, word: str, tokens: list[Token]) -> Node:
        if not _strip(tokens):
            raise self._wrong(f"missing value for {word}")
        pipe = self._pipe(_strip(tokens), word)
        self._loops += word == "range"
        body = self.block(("else", "end"))
        self._loops -= word == "range"
        rest: list[Node] = []
        if self.stopped_at[0][1] == "else":
            after = _strip(self.stopped_at[1:])
            if after and after[0][1] in ("if", "with"):
                rest = [self._control(after[0][1], after[1:])]
            else:
                rest = self.block(("end",))
        return (word, pipe, body, rest)

    def _pipe(self, tokens: list[Token], context: str) -> Node:
        """(variables, [command, …], whether they are declared); a command is a list of operands."""
        variables: list[str] = []
        declared = False
        for index, token in enumerate(tokens):
            if token[0] == ":=":
                variables = [content for kind, content, _, _ in tokens[:index] if kind == "variable"]
                declared = token[1] == ":="
                tokens = _strip(tokens[index + 1 :])
                break
        commands, rest = self._commands(tokens, context)
        if rest:
            raise self._wrong(f"unexpected {quoted(rest[0][2])} in {context}", rest[0][3])
        return (variables, commands, declared)

    def _commands(self, tokens: list[Token], context: str) -> tuple[list[list[Node]], list[Token]]:
        commands: list[list[Node]] = []
        operands: list[Node] = []
        spaced = True
        while tokens:
            (kind, content, source, position), tokens = tokens[0], tokens[1:]
            if kind == ")":
                commands.append(operands)
                return commands, [(kind, content, source, position), *tokens]
            if kind == "space":
                spaced = True
                continue
            if kind == "|":
                commands.append(operands)
                operands = []
            elif kind == "(":
                inner, tokens = self._commands(tokens, context)
                if not tokens or tokens[0][0] != ")":
                    raise self._wrong("unclosed left paren", position)
                tokens = tokens[1:]
                operands.append(("pipe", ([], inner, False), [], "(" + pipe_source(inner) + ")", position))
            elif kind == "field" and not spaced and operands and operands[-1][0] in ("pipe", "field", "variable"):
                operands[-1] = self._longer(operands[-1], content, position)
            elif kind == "field":
                operands.append(("field", "", [content[1:]] if content != "." else [], source, position))
            elif kind in ("value", "word", "variable"):
                if kind == "word" and content not in FUNCTIONS and content not in CONSTANTS:
                    raise self._wrong(f"function {quoted(content)} not defined", position)
                operands.append((kind, content, [], source, position))
            else:
                raise self._wrong(f"unexpected {quoted(source)} in operand", position)
            spaced = kind == "|"
        commands.append(operands)
        if not all(commands):
            raise self._wrong("missing value for " + context)
        return commands, []

    def _longer(self, operand: Node, field: str, position: int) -> Node:
        kind, content, fields, source, first = operand
        # Go takes the second field's place for the place of the whole chain.
        place = position if len(fields) == (1 if kind == "field" else 0) else first
        return (kind, content, [*fields, field[1:]], source + field, place)


def _strip(tokens: list[Token]) -> list[Token]:
    while tokens and tokens[0][0] == "space":
        tokens = tokens[1:]
    while tokens and tokens[-1][0] == "space":
        tokens = tokens[:-1]
    return tokens


def quoted(text: str) -> str:
    """As Go's %q shows it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def command_source(operands: list[Node]) -> str:
    """A command as it was written."""
    return " ".join(operand[3] for operand in operands)


def pipe_source(commands: list[list[Node]]) -> str:
    """A pipe as it was written."""
    return " | ".join(command_source(operands) for operands in commands)
