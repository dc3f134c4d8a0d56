"""YAML as Compose files have it: what a plain scalar means, merge keys, and the tags !reset and !override.

libyaml parses; which type an untagged scalar has is decided here, by the rules of the YAML library that Compose files
are written for (go-yaml 3): 1.2's booleans, 1.1's octal numbers, and dates.
"""

from __future__ import annotations

import re

import yaml

from dockyard.compose.errors import ComposeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Path = tuple[str, ...]

MOST_NODES = 1_000_000  # of a document, aliases followed: more is an attack
MOST_DEPTH = 400

_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_DATE = re.compile(
    r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}"
    r"(([Tt]| )[0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}(\.[0-9]+)?(Z|[-+][0-9]{2}:[0-9]{2})?)?"
)
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
}


class Document:
    """One document: its value, and the places that `!reset` and `!override` mark in it."""

    def __init__(self, value: Any, marks: list[Path]) -> None:
        self.value = value
        self.marks = marks


class Date(str):
    """A date without quotes: no text to a schema, though it is kept as one."""


class _Node:
    """A node before its aliases are followed. `content`: a scalar's value, nodes, or pairs of nodes."""

    __slots__ = ("content", "kind", "line", "open", "tag")

    def __init__(self, kind: str, content: Any, tag: str, line: int) -> None:
        self.kind = kind
        self.content = content
        self.tag = tag
        self.line = line
        self.open = False


def documents(text: bytes | str, name: str) -> Iterator[Document]:
    """The documents of a file. Raises ComposeError, naming the file."""
    try:
        reader = _Reader(text)
        while (root := reader.document()) is not None:
            converter = _Converter()
            value = converter.value(root, ())
            yield Document(value, converter.marks)
    except yaml.YAMLError as error:
        raise ComposeError(f"failed to parse {name}: yaml: {_explained(error)}") from None
    except RecursionError:
        raise ComposeError(f"failed to parse {name}: yaml: exceeded max depth") from None
    except _Wrong as error:
        raise ComposeError(f"failed to parse {name}: {error}") from None


class _Wrong(Exception):
    pass


def _explained(error: yaml.YAMLError) -> str:
    """In go-yaml's words: both are libyaml's, but for the line."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return str(getattr(error, "reason", error))
    scanned = isinstance(error, yaml.scanner.ScannerError)
    for mark in (error.context_mark, error.problem_mark):
        if mark is not None and mark.line:
            return f"line {mark.line + scanned}: {error.problem}"
    return str(error.problem)


def _parser(text: bytes | str) -> Any:
    """libyaml's parser, or where PyYAML was built without it its own, which is slower."""
    try:
        from yaml._yaml import CParser
    except ImportError:
        return yaml.Loader(text)
    return CParser(text)


class _Reader:
    """Builds trees of nodes from libyaml's events."""

    def __init__(self, text: bytes | str) -> None:
        self._parser = _parser(text)
        self._anchors: dict[str, _Node] = {}
        self._depth = 0

    def document(self) -> _Node | None:
        """The next document's root, None at the end of the file."""
        event = self._parser.get_event()
        while not isinstance(event, (yaml.DocumentStartEvent, yaml.StreamEndEvent)):
            event = self._parser.get_event()
        if isinstance(event, yaml.StreamEndEvent):
            return None
        self._anchors = {}
        root = self._node(self._parser.get_event())
        self._parser.get_event()  # the document's end
        return root

    def _node(self, event: Any) -> _Node:
        kind = type(event)
        if kind is yaml.AliasEvent:
            found = self._anchors.get(event.anchor)
            if found is None:
                raise _Wrong(f"yaml: unknown anchor '{event.anchor}' referenced")
            if found.open:
                raise _Wrong(f"yaml: anchor '{event.anchor}' value contains itself")
            return found
        line = event.start_mark.line + 1
        if kind is yaml.ScalarEvent:
            node = _Node("scalar", _scalar(event), event.tag or "", line)
            if event.anchor:
                self._anchors[event.anchor] = node
            return node
        node = _Node("sequence" if kind is yaml.SequenceStartEvent else "mapping", [], event.tag or "", line)
        if event.anchor:
            self._anchors[event.anchor] = node
        node.open = True
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise _Wrong("yaml: exceeded max depth")
        if node.kind == "sequence":
            while not isinstance(following := self._parser.get_event(), yaml.SequenceEndEvent):
                node.content.append(self._node(following))
        else:
            while not isinstance(following := self._parser.get_event(), yaml.MappingEndEvent):
                key = self._node(following)
                node.content.append((key, self._node(self._parser.get_event())))
        self._depth -= 1
        node.open = False
        return node


def _scalar(event: Any) -> Any:
    tag = event.tag
    if event.implicit[0] and not tag:
        return resolve(event.value)
    if tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:null"):
        return resolve(event.value)
    return event.value


def resolve(text: str) -> Any:
    """What an untagged, unquoted scalar is."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "0123456789+-.":
        return text
    if _DATE.fullmatch(text):
        return Date(text)
    plain = text.replace("_", "")
    if text[0] != ".":
        number = _integer(plain)
        if number is not None:
            return number
    if _FLOAT.fullmatch(plain):
        return float(plain)
    return text


def _integer(text: str) -> int | None:
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-") if text[:1] in "+-" else text
    if len(text) - len(digits) > 1 or not digits or not digits.isascii():
        return None
    base = {"0x": 16, "0o": 8, "0b": 2}.get(digits[:2].lower(), 8 if digits[0] == "0" and len(digits) > 1 else 10)
    body = digits[2:] if digits[:2].lower() in ("0x", "0o", "0b") else digits
    if not body.isalnum():
        return None
    try:
        number = sign * int(body, base)
    except ValueError:
        return None
    return number if -(1 << 63) <= number < (1 << 64) else None


class _Converter:
    """Values from nodes; remembers where marks are."""

    def __init__(self) -> None:
        self.marks: list[Path] = []
        self._count = 0

    def value(self, node: _Node, path: Path) -> Any:
        self._count += 1
        if self._count > MOST_NODES:
            raise _Wrong("yaml: document contains excessive aliasing")
        if node.tag == "!override":
            self.marks.append(path)
        if node.kind == "scalar":
            return node.content
        if node.kind == "sequence":
            return [
                self.value(item, (*path, str(index)))
                for index, item in enumerate(node.content)
                if not self._reset(item, (*path, str(index)))
            ]
        return self._mapping(node, path)

    def _reset(self, node: _Node, path: Path) -> bool:
        if node.tag != "!reset":
            return False
        self.marks.append(path)
        return True

    def _mapping(self, node: _Node, path: Path) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        merged: list[_Node] = []
        lines: dict[str, int] = {}
        for key_node, value_node in node.content:
            key = key_node.content
            if key_node.kind != "scalar":
                raise _Wrong(f"yaml: line {key_node.line}: invalid map key")
            shown = "null" if key is None else str(key)
            if shown in lines:
                raise _Wrong(f'line {key_node.line}: mapping key "{shown}" already defined at line {lines[shown]}')
            lines[shown] = key_node.line
            if key == "<<" and not key_node.tag:
                merged += value_node.content if value_node.kind == "sequence" else [value_node]
                continue
            below = (*path, shown)
            if not self._reset(value_node, below):
                made[key] = self.value(value_node, below)
        for source in merged:
            if source.kind != "mapping":
                raise _Wrong(f"yaml: line {source.line}: map merge requires map or sequence of maps as the value")
            for key, value in self._mapping(source, path).items():
                made.setdefault(key, value)
        return made


def with_text_keys(value: Any, place: str = "") -> Any:
    """`value`, whose every key is text. Raises ComposeError for another one."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                where = f"in {place}" if place else "at top level"
                raise ComposeError(f"non-string key {where}: {_shown(key)}")
            with_text_keys(item, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            with_text_keys(item, f"{place}[{index}]")
    return value


def _shown(key: object) -> str:
    if key is None:
        return "interface {}(nil)"
    return str(key).lower() if isinstance(key, bool) else str(key)


# -- a file in which one scalar is another


def with_env_file(text: bytes, service: str, index: int, value: str) -> bytes:
    """The text of a file whose service has `value` for its env_file number `index`; all else is left as it stands."""
    node = _below(_below(_below(_root(text), "services"), service), "env_file")
    if isinstance(node, yaml.SequenceNode):
        node = node.value[index] if index < len(node.value) else None
        node = _below(node, "path") if isinstance(node, yaml.MappingNode) else node
    return _replaced(text, node, value)


def with_extends_file(text: bytes, service: str, value: str) -> bytes:
    """The text of a file whose service extends one of the file `value`."""
    return _replaced(text, _below(_below(_below(_below(_root(text), "services"), service), "extends"), "file"), value)


def _root(text: bytes) -> Any:
    return yaml.compose(text.decode(errors="surrogateescape"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _below(node: Any, key: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        return next((value for name, value in node.value if name.value == key), None)
    return None


def _replaced(text: bytes, node: Any, value: str) -> bytes:
    if not isinstance(node, yaml.ScalarNode):
        return text
    decoded = text.decode(errors="surrogateescape")
    changed = f"{decoded[: node.start_mark.index]}{value}{decoded[node.end_mark.index :]}"
    return changed.encode(errors="surrogateescape")
