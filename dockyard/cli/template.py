"""Go's text/template, as far as `--format` uses it: what users of Docker write works unchanged.

    Template('{{.Name}}: {{range .Ports}}{{.}} {{end}}').render({"Name": "web", "Ports": [80, 443]})

Specified by https://pkg.go.dev/text/template; errors say the same as Go's, with the same positions.
"""

from __future__ import annotations

from dockyard.cli.template_functions import (
    FUNCTIONS,
    KEPT_IN_HEADINGS,
    MISSING,
    CallError,
    Nil,
    text_of,
    truth,
    type_name,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Value = Any
    Node = tuple[Any, ...]
    Token = tuple[str, Any, str, int]  # kind, content, source, position


class TemplateError(Exception):
    """The template cannot be parsed."""


class ExecutionError(Exception):
    """The template is in order, but the data have not what it asks for."""


class Record(dict):  # type: ignore[type-arg]  # of anything
    """Data whose fields Go declares: a field that is not there is an error of the template, not of the data."""

    type = "*formatter.Context"
    methods: dict[str, Any] = {}  # noqa: RUF012 (replaced, never changed)


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


_WORD = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
_SPACE = " \t\r\n"
_CONSTANTS = {"true": True, "false": False, "nil": None}


class Template:
    """A parsed template."""

    def __init__(self, text: str, name: str = "") -> None:
        """`name` is what errors call it. Raises TemplateError."""
        self.text, self.name = text, name
        parser = _Parser(text, name)
        self._nodes = parser.block(())
        self.defined = parser.defined

    def render(self, data: Value, *, heading: bool = False) -> str:
        """The template applied to `data` (dicts, lists, strings, numbers). Raises ExecutionError.

        As the `heading` of a table, functions that would change a column's name do not.
        """
        out: list[str] = []
        run = _Run(self, out, heading=heading, declared=isinstance(data, Record))
        run.nodes(self._nodes, data, {"$": data})
        return "".join(out)


# ---- text into pieces, pieces into a tree ----------------------------------------------------------------------


class _Parser:
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
                raise self._wrong(f"unexpected {_quoted(letter)} in command", offset + start)
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
            raise self._wrong(f"unexpected {_quoted(rest[0][2])} in {context}", rest[0][3])
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
                operands.append(("pipe", ([], inner, False), [], "(" + _pipe_source(inner) + ")", position))
            elif kind == "field" and not spaced and operands and operands[-1][0] in ("pipe", "field", "variable"):
                operands[-1] = self._longer(operands[-1], content, position)
            elif kind == "field":
                operands.append(("field", "", [content[1:]] if content != "." else [], source, position))
            elif kind in ("value", "word", "variable"):
                if kind == "word" and content not in FUNCTIONS and content not in _CONSTANTS:
                    raise self._wrong(f"function {_quoted(content)} not defined", position)
                operands.append((kind, content, [], source, position))
            else:
                raise self._wrong(f"unexpected {_quoted(source)} in operand", position)
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


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _command_source(operands: list[Node]) -> str:
    return " ".join(operand[3] for operand in operands)


def _pipe_source(commands: list[list[Node]]) -> str:
    return " | ".join(_command_source(operands) for operands in commands)


# ---- the tree applied to data ----------------------------------------------------------------------------------


class _Run:
    """One application of a template."""

    def __init__(self, template: Template, out: list[str], *, heading: bool, declared: bool) -> None:
        self._text, self._name, self._defined = template.text, template.name, template.defined
        self._heading = heading
        self._out = out
        self._declared = declared
        self._depth = 0

    def _wrong(self, position: int, source: str, message: str) -> ExecutionError:
        line = 1 + self._text.count("\n", 0, position)
        column = position - (self._text.rfind("\n", 0, position) + 1)
        where = f"template: {self._name}:{line}:{column}"
        return ExecutionError(f'{where}: executing "{self._name}" at <{source}>: {message}')

    def nodes(self, nodes: list[Node], dot: Value, scope: dict[str, Value]) -> None:
        """Apply nodes to `dot`; `scope` holds the variables."""
        for node in nodes:
            kind = node[0]
            if kind == "text":
                self._out.append(node[1])
            elif kind == "print":
                value = self._pipe(node[1], dot, scope)
                if not node[1][0]:
                    self._out.append(text_of(value))
            elif kind == "range":
                self._range(node, dot, scope)
            elif kind == "break":
                raise _Break
            elif kind == "continue":
                raise _Continue
            elif kind == "template":
                self._template(node, dot, scope)
            else:
                inner = _Scope(scope)
                value = self._pipe(node[1], dot, inner)
                if truth(value):
                    self.nodes(node[2], value if kind == "with" else dot, inner)
                else:
                    self.nodes(node[3], dot, inner)

    def _template(self, node: Node, dot: Value, scope: dict[str, Value]) -> None:
        _, name, pipe, position = node
        if name not in self._defined:
            raise self._wrong(position, f"{{{{template {_quoted(name)}}}}}", f"template {_quoted(name)} not defined")
        if self._depth > 1000:
            raise self._wrong(position, f"{{{{template {_quoted(name)}}}}}", "exceeded maximum template depth (100000)")
        value = self._pipe(pipe, dot, scope) if pipe is not None else None
        self._depth += 1
        self.nodes(self._defined[name], value, {"$": value})
        self._depth -= 1

    def _range(self, node: Node, dot: Value, scope: dict[str, Value]) -> None:
        _, (variables, commands, declared), body, rest = node
        value = self._pipe(([], commands, False), dot, scope)
        if isinstance(value, dict):
            items: list[tuple[Value, Value]] = sorted(value.items())
        elif isinstance(value, (list, tuple)):
            items = list(enumerate(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            items = [(index, index) for index in range(value)]
        elif value is None or isinstance(value, Nil):
            items = []
        else:
            operands = commands[-1]
            message = f"range can't iterate over {text_of(value)}"
            raise self._wrong(operands[0][4], _pipe_source(commands), message)
        if not items:
            self.nodes(rest, dot, _Scope(scope))
        for key, item in items:
            inner = _Scope(scope)
            names = variables if len(variables) == 2 else [None, *variables]
            for name, bound in zip(names, (key, item), strict=False):
                if name:
                    (inner.declare if declared else inner.__setitem__)(name, bound)
            try:
                self.nodes(body, item, inner)
            except _Break:
                return
            except _Continue:
                continue

    def _pipe(self, pipe: Node, dot: Value, scope: dict[str, Value]) -> Value:
        variables, commands, declared = pipe
        value: Value = None
        for index, command in enumerate(commands):
            value = self._command(command, dot, scope, [value] if index else [])
        for name in variables:
            if declared and isinstance(scope, _Scope):
                scope.declare(name, value)
            else:
                scope[name] = value
        return value

    def _command(self, operands: list[Node], dot: Value, scope: dict[str, Value], piped: list[Value]) -> Value:
        first = operands[0]
        if first[0] == "word" and first[1] not in _CONSTANTS:
            return self._call(operands, dot, scope, piped)
        arguments = [self._operand(operand, dot, scope) for operand in operands[1:]] + piped
        value = self._operand(first, dot, scope, call=not arguments)
        if callable(value):
            return value(*arguments)
        if arguments:
            raise self._wrong(first[4], first[3], f"can't give argument to non-function {first[3]}")
        return value

    def _call(self, operands: list[Node], dot: Value, scope: dict[str, Value], piped: list[Value]) -> Value:
        name, position, source = operands[0][1], operands[0][4], _command_source(operands)
        if name in ("and", "or"):  # they evaluate no more than they must
            value: Value = None
            for operand in operands[1:]:
                value = self._operand(operand, dot, scope)
                if truth(value) == (name == "or"):
                    return value
            return piped[0] if piped else value
        arguments = [self._operand(operand, dot, scope) for operand in operands[1:]] + piped
        function, types = FUNCTIONS[name]
        if types is not None:
            if len(arguments) != len(types):
                message = f"wrong number of args for {name}: want {len(types)} got {len(arguments)}"
                raise self._wrong(position, name, message)
            for index, (wanted, argument) in enumerate(zip(types, arguments, strict=True)):
                arguments[index] = self._fitting(wanted, argument, operands, index)
        elif not arguments:
            raise self._wrong(position, name, f"wrong number of args for {name}: want at least 1 got 0")
        if self._heading and name in KEPT_IN_HEADINGS:
            return arguments[0]
        try:
            return function(*arguments)
        except (CallError, TypeError, ValueError, AttributeError) as error:
            raise self._wrong(position, source, f"error calling {name}: {error}") from None

    def _fitting(self, wanted: str, value: Value, operands: list[Node], index: int) -> Value:
        """An argument, if it is of the Go type that the function takes."""
        if wanted == "any":
            return value
        if wanted == "[]string" and (self._heading or isinstance(value, Nil)):
            return value if self._heading else []
        if isinstance(value, Nil) and wanted == "string" and value.shown == "":
            return ""
        if type_name(value) != wanted and not (wanted == "[]string" and type_name(value) == "[]string"):
            shown = operands[index + 1] if index + 1 < len(operands) else operands[0]
            if index + 1 < len(operands) and operands[index + 1][0] == "value":
                raise self._wrong(shown[4], shown[3], f"expected {wanted}; found {shown[3]}")
            found = "json.Number" if type_name(value) in ("int", "float64") else type_name(value)
            message = f"wrong type for value; expected {wanted}; got {found}"
            raise self._wrong(shown[4], shown[3], message)
        return value

    def _operand(self, operand: Node, dot: Value, scope: dict[str, Value], *, call: bool = True) -> Value:
        kind, content, fields, source, position = operand
        if kind == "value":
            return content
        if kind == "word":
            return _CONSTANTS[content] if content in _CONSTANTS else self._call([operand], dot, scope, [])
        if kind == "variable":
            if content not in scope:
                raise TemplateError(f"template: :1: undefined variable {_quoted(content)}")
            value = scope[content]
        elif kind == "pipe":
            value = self._pipe(content, dot, _Scope(scope))
        else:
            value = dot
        for index, name in enumerate(fields):
            if isinstance(value, Nil) and index and fields[index - 1] in OPTIONAL:
                raise self._wrong(position, source, f"map has no entry for key {_quoted(fields[index - 1])}")
            value = self._field(value, name, source, position)
        return value() if call and callable(value) else value

    def _field(self, value: Value, name: str, source: str, position: int) -> Value:
        if isinstance(value, Record) and name in value.methods:
            return value.methods[name]
        if isinstance(value, dict):
            if name in value:
                return value[name] if isinstance(value, Record) else _typed(name, value[name])
            lowered = name.lower()
            for key in value:
                if isinstance(key, str) and key.lower() == lowered:
                    return _typed(name, value[key])
            if self._heading:
                return name.upper()
            if isinstance(value, Record):
                raise self._wrong(position, source, f"can't evaluate field {name} in type {value.type}")
            if name in OPTIONAL:
                return OPTIONAL[name]
            if self._declared:
                return MISSING
            raise self._wrong(position, source, f"map has no entry for key {_quoted(name)}")
        if value is None or isinstance(value, Nil):
            raise self._wrong(position, source, f"nil pointer evaluating interface {{}}.{name}")
        kind = "string" if self._declared else "interface {}"
        raise self._wrong(position, source, f"can't evaluate field {name} in type {kind}")


class _Scope(dict):  # type: ignore[type-arg]  # variables: name -> value
    """Variables of a block; an assignment to one of a block around it changes that one."""

    def __init__(self, outer: dict[str, Value]) -> None:
        super().__init__()
        self._outer = outer

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self._outer

    def __missing__(self, name: str) -> Value:
        return self._outer[name]

    def declare(self, name: str, value: Value) -> None:
        """A variable of this block."""
        super().__setitem__(name, value)

    def __setitem__(self, name: str, value: Value) -> None:
        if not super().__contains__(name) and name in self._outer:
            self._outer[name] = value
        else:
            super().__setitem__(name, value)


# What Go's types declare and the API leaves out when it is empty.
_POINTER, _LIST, _MAP, _TEXT = Nil("<nil>"), Nil("[]"), Nil("map[]"), Nil("")
OPTIONAL: dict[str, Nil] = {
    **dict.fromkeys(
        ("Health", "Healthcheck", "SizeRw", "SizeRootFs", "StopTimeout", "Init", "OomKillDisable", "MemorySwappiness",
         "PidsLimit", "IPAMConfig", "UsageData", "ClusterVolume", "ImageManifestDescriptor", "Descriptor", "Identity"),
        _POINTER,
    ),
    **dict.fromkeys(("Mounts", "Shell", "OnBuild", "Cmd", "Entrypoint", "MaskedPaths", "ReadonlyPaths"), _LIST),
    **dict.fromkeys(
        ("Annotations", "Tmpfs", "Sysctls", "StorageOpt", "Volumes", "ExposedPorts", "Labels", "Options", "DriverOpts",
         "AuxiliaryAddresses", "Status", "PortBindings", "Ports", "Networks"),
        _MAP,
    ),
    **dict.fromkeys(
        ("StopSignal", "MacAddress", "Runtime", "Isolation", "Comment", "Author", "Parent", "Variant", "OsVersion",
         "DockerVersion", "IPRange", "CreatedAt", "Container"),
        _TEXT,
    ),
}  # fmt: skip


def _typed(name: str, value: Value) -> Value:
    """A null of the API is Go's nil of the field's type."""
    return value if value is not None else OPTIONAL.get(name, _LIST)


__all__ = ["MISSING", "ExecutionError", "Record", "Template", "TemplateError"]
