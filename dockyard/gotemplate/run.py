"""A template's tree applied to data."""

from __future__ import annotations

from dockyard.gotemplate.functions import (
    FUNCTIONS,
    KEPT_IN_HEADINGS,
    MISSING,
    CallError,
    Nil,
    text_of,
    truth,
    type_name,
)
from dockyard.gotemplate.parser import CONSTANTS, TemplateError, command_source, pipe_source, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Value = Any
    Node = tuple[Any, ...]


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


class Run:
    """One application of a template."""

    def __init__(
        self, text: str, name: str, defined: dict[str, list[Node]], out: list[str], *, heading: bool, declared: bool
    ) -> None:
        self._text, self._name, self._defined = text, name, defined
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
            raise self._wrong(position, f"{{{{template {quoted(name)}}}}}", f"template {quoted(name)} not defined")
        if self._depth > 1000:
            raise self._wrong(position, f"{{{{template {quoted(name)}}}}}", "exceeded maximum template depth (100000)")
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
            raise self._wrong(operands[0][4], pipe_source(commands), message)
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
        if first[0] == "word" and first[1] not in CONSTANTS:
            return self._call(operands, dot, scope, piped)
        arguments = [self._operand(operand, dot, scope) for operand in operands[1:]] + piped
        value = self._operand(first, dot, scope, call=not arguments)
        if callable(value):
            return value(*arguments)
        if arguments:
            raise self._wrong(first[4], first[3], f"can't give argument to non-function {first[3]}")
        return value

    def _call(self, operands: list[Node], dot: Value, scope: dict[str, Value], piped: list[Value]) -> Value:
        name, position, source = operands[0][1], operands[0][4], command_source(operands)
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
            return CONSTANTS[content] if content in CONSTANTS else self._call([operand], dot, scope, [])
        if kind == "variable":
            if content not in scope:
                raise TemplateError(f"template: :1: undefined variable {quoted(content)}")
            value = scope[content]
        elif kind == "pipe":
            value = self._pipe(content, dot, _Scope(scope))
        else:
            value = dot
        for index, name in enumerate(fields):
            if isinstance(value, Nil) and index and fields[index - 1] in OPTIONAL:
                raise self._wrong(position, source, f"map has no entry for key {quoted(fields[index - 1])}")
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
            raise self._wrong(position, source, f"map has no entry for key {quoted(name)}")
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
