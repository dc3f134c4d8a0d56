"""Go's text/template, as far as `--format` uses it: what users of Docker write works unchanged.

    Template('{{.Name}}: {{range .Ports}}{{.}} {{end}}').render({"Name": "web", "Ports": [80, 443]})

Specified by https://pkg.go.dev/text/template; the functions besides its own are those of Docker's command line.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Value = Any
    Scope = dict[str, Any]


class TemplateError(Exception):
    """The template cannot be parsed, or not be applied to the data."""


class ExecutionError(TemplateError):
    """The template is in order, but the data have not what it asks for."""


class Missing:
    """A key that a map lacks, printed as Go does."""

    def __str__(self) -> str:
        return "<no value>"

    def __bool__(self) -> bool:
        return False


_MISSING = Missing()
_WORD = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"


class Template:
    """A parsed template."""

    def __init__(self, text: str) -> None:
        """Raises TemplateError."""
        nodes = _Parser(_pieces(text)).block(())
        self._nodes = nodes

    def render(self, data: Value) -> str:
        """The template applied to `data` (dicts, lists, strings, numbers). Raises TemplateError."""
        out: list[str] = []
        _run(self._nodes, data, {"$": data}, out)
        return "".join(out)


# ---- text into pieces, pieces into a tree ----------------------------------------------------------------------


def _pieces(text: str) -> list[tuple[str, Value]]:
    """("text", str) and ("action", tokens) by turns; `{{-` and `-}}` trim the text beside them."""
    pieces: list[tuple[str, Value]] = []
    position, trim = 0, False
    while True:
        start = text.find("{{", position)
        plain = text[position:] if start < 0 else text[position:start]
        if trim:
            plain = plain.lstrip(" \t\r\n")
        if start < 0:
            pieces.append(("text", plain))
            return pieces
        body = start + 2
        if text[body : body + 1] == "-" and text[body + 1 : body + 2] in tuple(" \t\r\n"):
            plain = plain.rstrip(" \t\r\n")
            body += 1
        pieces.append(("text", plain))
        end = _end_of_action(text, body)
        inner = text[body:end]
        trim = inner.endswith("-") and inner[-2:-1] in tuple(" \t\r\n")
        inner = inner[:-1] if trim else inner
        if not inner.strip().startswith("/*"):
            pieces.append(("action", list(_tokens(inner))))
        position = end + 2


def _end_of_action(text: str, position: int) -> int:
    quote = ""
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
    raise TemplateError("template: :1: unclosed action")


def _tokens(text: str) -> Iterator[tuple[str, Value]]:
    position = 0
    while position < len(text):
        letter = text[position]
        start = position
        if letter in " \t\r\n":
            position += 1
            while position < len(text) and text[position] in " \t\r\n":
                position += 1
            yield "space", " "
        elif letter in "\"'`":
            position += 1
            while position < len(text) and text[position] != letter:
                position += 2 if text[position] == "\\" and letter != "`" else 1
            position += 1
            yield "value", _literal(text[start:position])
        elif letter in "(),|":
            position += 1
            yield letter, letter
        elif letter == "=" or text.startswith(":=", position):
            position += 1 if letter == "=" else 2
            yield ":=", ":="
        elif letter.isdigit() or (letter in "+-" and text[position + 1 : position + 2].isdigit()):
            position += 1
            while position < len(text) and text[position] in _WORD + ".":
                position += 1
            yield "value", _number(text[start:position])
        elif letter in "." or letter == "$" or letter in _WORD:
            position += 1
            while position < len(text) and (text[position] in _WORD or ord(text[position]) > 127):
                position += 1
            word = text[start:position]
            yield {".": "field", "$": "variable"}.get(letter, "word"), word
        else:
            raise TemplateError(f'template: :1: unexpected "{letter}" in command')


def _literal(text: str) -> Value:
    if len(text) < 2 or text[0] != text[-1]:
        raise TemplateError("template: :1: unterminated quoted string")
    if text[0] == "`":
        return text[1:-1]
    inner = text[1:-1].replace('\\"', '"').replace("\\'", "'")
    plain = inner.encode("latin-1", "backslashreplace").decode("unicode_escape")
    return ord(plain) if text[0] == "'" else plain


def _number(text: str) -> Value:
    try:
        return int(text, 0)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            raise TemplateError(f'template: :1: bad number syntax: "{text}"') from None


class _Parser:
    """Pieces into nodes: ("text", s), ("print", pipe), ("if"/"with", pipe, body, rest), ("range", …)."""

    def __init__(self, pieces: list[tuple[str, Value]]) -> None:
        self._pieces = pieces
        self._next = 0
        self.stopped_at: list[tuple[str, Value]] = []

    def block(self, until: tuple[str, ...]) -> list[Value]:
        """Nodes up to an action that begins with a word of `until`."""
        nodes: list[Value] = []
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
            elif first in ("end", "else"):
                raise TemplateError(f"template: :1: unexpected {{{{{first}}}}}")
            elif not tokens:
                raise TemplateError("template: :1: missing value for command")
            else:
                nodes.append(("print", _pipe(tokens)))
        if until:
            raise TemplateError("template: :1: unexpected EOF")
        return nodes

    def _control(self, word: str, tokens: list[tuple[str, Value]]) -> Value:
        pipe = _pipe(_strip(tokens))
        body = self.block(("else", "end"))
        rest: list[Value] = []
        if self.stopped_at[0][1] == "else":
            after = _strip(self.stopped_at[1:])
            if after and after[0][1] in ("if", "with"):
                rest = [self._control(after[0][1], after[1:])]
            else:
                rest = self.block(("end",))
        return (word, pipe, body, rest)


def _strip(tokens: list[tuple[str, Value]]) -> list[tuple[str, Value]]:
    while tokens and tokens[0][0] == "space":
        tokens = tokens[1:]
    while tokens and tokens[-1][0] == "space":
        tokens = tokens[:-1]
    return tokens


def _pipe(tokens: list[tuple[str, Value]]) -> Value:
    """(variables, [command, …]); a command is a list of operands."""
    variables: list[str] = []
    for index, (kind, _) in enumerate(tokens):
        if kind == ":=":
            variables = [word for kind, word in tokens[:index] if kind == "variable"]
            tokens = _strip(tokens[index + 1 :])
            break
    commands, rest = _commands(tokens)
    if rest:
        raise TemplateError('template: :1: unexpected ")" in command')
    return (variables, commands)


def _commands(tokens: list[tuple[str, Value]]) -> tuple[list[Value], list[tuple[str, Value]]]:
    commands: list[Value] = []
    operands: list[Value] = []
    spaced = True
    while tokens:
        (kind, content), tokens = tokens[0], tokens[1:]
        if kind == ")":
            commands.append(operands)
            return commands, [(kind, content), *tokens]
        if kind == "space":
            spaced = True
            continue
        if kind == "|":
            commands.append(operands)
            operands = []
        elif kind == "(":
            inner, tokens = _commands(tokens)
            if not tokens or tokens[0][0] != ")":
                raise TemplateError("template: :1: unclosed left paren")
            tokens = tokens[1:]
            operands.append(("pipe", ([], inner), []))
        elif kind == "field" and not spaced and operands and operands[-1][0] in ("pipe", "field", "variable"):
            operands[-1][2].append(content[1:])
        elif kind == "field":
            operands.append(("field", "", [content[1:]] if content != "." else []))
        elif kind in ("value", "word", "variable"):
            if kind == "word" and content not in FUNCTIONS and content not in ("true", "false", "nil"):
                raise TemplateError(f'template: :1: function "{content}" not defined')
            operands.append((kind, content, []))
        else:
            raise TemplateError(f'template: :1: unexpected "{content}" in operand')
        spaced = kind == "|"
    commands.append(operands)
    if not all(commands):
        raise TemplateError("template: :1: missing value for command")
    return commands, []


# ---- the tree applied to data ----------------------------------------------------------------------------------


def _run(nodes: list[Value], dot: Value, scope: Scope, out: list[str]) -> None:
    for node in nodes:
        kind = node[0]
        if kind == "text":
            out.append(node[1])
        elif kind == "print":
            value = _evaluate(node[1], dot, scope)
            if not node[1][0]:
                out.append(text_of(value))
        elif kind == "range":
            _range(node, dot, scope, out)
        else:
            inner = dict(scope)
            value = _evaluate(node[1], dot, inner)
            if _truth(value):
                _run(node[2], value if kind == "with" else dot, inner, out)
            else:
                _run(node[3], dot, inner, out)


def _range(node: Value, dot: Value, scope: Scope, out: list[str]) -> None:
    _, (variables, commands), body, rest = node
    value = _evaluate(([], commands), dot, scope)
    if isinstance(value, dict):
        items = sorted(value.items())
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))
    elif isinstance(value, int) and not isinstance(value, bool):
        items = [(index, index) for index in range(value)]
    elif value is None or value is _MISSING:
        items = []
    else:
        raise ExecutionError(f"range can't iterate over {text_of(value)}")
    if not items:
        _run(rest, dot, scope, out)
    for key, item in items:
        inner = dict(scope)
        names = variables if len(variables) == 2 else [None, *variables]
        for name, bound in zip(names, (key, item), strict=False):
            if name:
                inner[name] = bound
        _run(body, item, inner, out)


def _evaluate(pipe: Value, dot: Value, scope: Scope) -> Value:
    variables, commands = pipe
    value: Value = None
    for index, command in enumerate(commands):
        value = _command(command, dot, scope, [value] if index else [])
    for name in variables:
        scope[name] = value
    return value


def _command(operands: list[Value], dot: Value, scope: Scope, piped: list[Value]) -> Value:
    first = operands[0]
    if first[0] == "word" and first[1] not in ("true", "false", "nil"):
        function = FUNCTIONS[first[1]]
        arguments = [_operand(operand, dot, scope) for operand in operands[1:]] + piped
        try:
            return function(*arguments)
        except TemplateError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            raise ExecutionError(f"template: :1: error calling {first[1]}: {error}") from None
    arguments = [_operand(operand, dot, scope) for operand in operands[1:]] + piped
    value = _operand(first, dot, scope, call=not arguments)
    if callable(value):
        return value(*arguments)
    if arguments:
        raise ExecutionError(f"template: :1: can't give argument to non-function {_source(first)}")
    return value


def _operand(operand: Value, dot: Value, scope: Scope, call: bool = True) -> Value:
    kind, content, fields = operand
    if kind == "value":
        return content
    if kind == "word":
        if content in ("true", "false", "nil"):
            return {"true": True, "false": False, "nil": None}[content]
        return _command([operand], dot, scope, [])
    if kind == "variable":
        if content not in scope:
            raise ExecutionError(f'template: :1: undefined variable "{content}"')
        value = scope[content]
    elif kind == "pipe":
        value = _evaluate(content, dot, dict(scope))
    else:
        value = dot
    for name in fields:
        value = _field(value, name, operand)
    return value() if call and callable(value) else value


def _field(value: Value, name: str, operand: Value) -> Value:
    if isinstance(value, dict):
        if name in value:
            return value[name]
        for key in value:
            if isinstance(key, str) and key.lower() == name.lower():
                return value[key]
        raise ExecutionError(f'template: :1:2: executing "" at <{_source(operand)}>: map has no entry for key "{name}"')
    if value is None:
        raise ExecutionError(f'template: :1:2: executing "" at <{_source(operand)}>: nil pointer evaluating *.{name}')
    kind = "slice" if isinstance(value, list) else type(value).__name__
    raise ExecutionError(
        f'template: :1:2: executing "" at <{_source(operand)}>: can\'t evaluate field {name} in type {kind}'
    )


def _source(operand: Value) -> str:
    head = operand[1] if operand[0] == "variable" else ""
    return head + "".join(f".{name}" for name in operand[2]) or "."


def _truth(value: Value) -> bool:
    return bool(value)


def text_of(value: Value) -> str:
    """`value` as Go's fmt prints it: true, map[a:b], [1 2]."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{text_of(item)}" for key, item in sorted(value.items())) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(text_of(item) for item in value) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _printf(form: str, *values: Value) -> str:
    out, rest, position = [], list(values), 0
    while position < len(form):
        start = form.find("%", position)
        if start < 0:
            out.append(form[position:])
            break
        out.append(form[position:start])
        end = start + 1
        while end < len(form) and form[end] in "+-# 0123456789.":
            end += 1
        flags, verb = form[start + 1 : end], form[end : end + 1]
        position = end + 1
        if verb == "%":
            out.append("%")
            continue
        if not rest:
            out.append(f"%!{verb}(MISSING)")
            continue
        value = rest.pop(0)
        if verb in "dxXoeEfgGc" and not isinstance(value, (str, list, dict)) and value is not None:
            out.append(f"%{flags}{verb}" % value)
        elif verb == "q":
            out.append(json.dumps(value, ensure_ascii=False))
        else:
            out.append(f"%{flags}s" % text_of(value))
    return "".join(out)


def _index(value: Value, *keys: Value) -> Value:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key, _MISSING)
        elif isinstance(value, (list, str)):
            if not isinstance(key, int) or not 0 <= key < len(value):
                raise ExecutionError(f"error calling index: index out of range: {key}")
            value = value[key]
        else:
            raise ExecutionError("error calling index: index of untyped nil")
    return value


def _slice(value: Value, *bounds: int) -> Value:
    return value[slice(*bounds[:2])] if len(bounds) > 1 else value[bounds[0] if bounds else 0 :]


def _and(*values: Value) -> Value:
    return next((value for value in values if not _truth(value)), values[-1])


def _or(*values: Value) -> Value:
    return next((value for value in values if _truth(value)), values[-1])


def to_json(value: Value) -> str:
    """Compact JSON, as the function `json` gives it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _escape_html(value: Value) -> str:
    text = text_of(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace('"', "&#34;").replace("'", "&#39;")


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "and": _and,
    "or": _or,
    "not": lambda value: not _truth(value),
    "eq": lambda value, *others: any(value == other for other in others),
    "ne": lambda one, two: one != two,
    "lt": lambda one, two: one < two,
    "le": lambda one, two: one <= two,
    "gt": lambda one, two: one > two,
    "ge": lambda one, two: one >= two,
    "len": len,
    "index": _index,
    "slice": _slice,
    "print": lambda *values: " ".join(text_of(value) for value in values),
    "println": lambda *values: " ".join(text_of(value) for value in values) + "\n",
    "printf": _printf,
    "html": _escape_html,
    "json": to_json,
    "join": lambda values, separator: separator.join(text_of(value) for value in values or []),
    "split": lambda text, separator: text.split(separator),
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "title": lambda text: text.title(),
    "pad": lambda text, before, after: " " * before + text + " " * after if text else text,
    "truncate": lambda text, length: text[:length],
}
