"""Request bodies read as Go's encoding/json reads them, which clients count on.

A field's name matches in any case (docker-py sends `detachKeys`); null stands for a value left out, whatever the type;
text that is not UTF-8, and half of a surrogate pair, become U+FFFD. A value of another type is refused in Go's words,
which name the types of Docker's own source (go_types.py).
"""

import json
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from dockyard.api import go_types
from dockyard.api.json_syntax import end_of_value
from dockyard.errors import InvalidParameter

T = TypeVar("T")
Fix = Callable[[Any], Any]
# What null means in a list or map of such values.
ZEROS: dict[type, Any] = {inspect.StrType: "", inspect.IntType: 0, inspect.BoolType: False, inspect.FloatType: 0.0}


class _Mismatch(Exception):
    """A value of another type than Go's `wanted`. On its way up it learns which field of which struct it is."""

    def __init__(self, value: Any, wanted: str) -> None:
        super().__init__()
        self.value = value
        self.wanted = wanted
        self.struct = ""
        self.path: list[str] = []

    def __str__(self) -> str:
        where = f"Go struct field {self.struct}.{'.'.join(reversed(self.path))}" if self.struct else "Go value"
        return f"json: cannot unmarshal {_kind(self.value, self.wanted)} into {where} of type {self.wanted}"


def decode(data: bytes, kind: type[T]) -> T:
    """`data` as a `kind`. Raises InvalidParameter when it is empty, malformed or of another shape."""
    if not data.strip():
        raise InvalidParameter("invalid JSON: got EOF while reading request body")
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        value = _as_go_reads_it(data.decode(errors="replace"))
    try:
        fix, _ = _fixer(kind)  # type: ignore[arg-type]  # mypy does not see that a type is hashable
        return msgspec.convert({} if value is None else fix(value), kind)
    except (_Mismatch, msgspec.ValidationError) as error:
        raise InvalidParameter(f"invalid JSON: {error}") from None


def _as_go_reads_it(text: str) -> Any:
    end = end_of_value(text)
    rest = text[end:].lstrip(" \t\r\n")
    if rest and rest[0] not in "]}":  # (json.Decoder.More takes those for the end of something around)
        raise InvalidParameter("unexpected content after JSON")
    try:
        return _without_surrogates(json.loads(text[:end]))
    except RecursionError:
        raise InvalidParameter("invalid JSON: exceeded max depth") from None
    except ValueError as error:  # a number with more digits than Python reads
        raise InvalidParameter(f"invalid JSON: {error}") from None


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value


def _kind(value: Any, wanted: str) -> str:
    """What JSON calls `value`; of a number that does not fit, the number too."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return f"number {value}" if wanted in go_types.INTEGERS else "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


@cache
def _fixer(kind: Any) -> tuple[Fix, str]:
    return _fix_for(inspect.type_info(kind), {}, "", "")


def _fix_for(info: inspect.Type, known: dict[type, Fix], owner: str, field: str) -> tuple[Fix, str]:
    """What makes a value fit for `info`, and what Go calls its type; it is the field `field` of the struct `owner`."""
    if isinstance(info, inspect.UnionType):
        others = [part for part in info.types if not isinstance(part, inspect.NoneType)]
        return _fix_for(others[0], known, owner, field)
    named = go_types.FIELDS.get(field, "")
    if isinstance(info, inspect.StructType):
        name = _struct_name(info.cls)
        return known.get(info.cls) or _struct_fix(info, known, name), name
    if isinstance(info, inspect.DictType):
        inner, inner_name = _fix_for(info.value_type, known, owner, "")
        if isinstance(info.value_type, inspect.AnyType):
            inner, inner_name = _plain(dict, "struct {}"), "struct {}"
        name = named or f"map[string]{inner_name}"
        return _map_fix(inner, _zero(info.value_type), name), name
    if isinstance(info, inspect.ListType):
        inner, inner_name = _fix_for(info.item_type, known, owner, "")
        name = named or f"[]{inner_name}"
        if named == "[2]uint":
            inner = _plain(int, "uint")
        one = field in go_types.STRING_OR_LIST and (owner, field) not in go_types.NO_STRING
        return _list_fix(inner, _zero(info.item_type), name, or_string=one), name
    if isinstance(info, inspect.StrType):
        name = named or "string"
        return _plain(str, name), name
    if isinstance(info, inspect.BoolType):
        return _plain(bool, "bool"), "bool"
    if isinstance(info, inspect.IntType):
        name = named or "int64"
        return _plain(int, name), name
    return (lambda value: value), "interface {}"


def _struct_name(kind: type) -> str:
    own = f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"
    return go_types.STRUCTS.get(own, own)


def _plain(kind: type, name: str) -> Fix:
    """For values that are taken as they are, if they are of that type and, numbers, within its bounds."""
    bounds = go_types.INTEGERS.get(name)

    def fix(value: Any) -> Any:
        given: type = type(value)
        if given is not kind or (bounds is not None and not bounds[0] <= value <= bounds[1]):
            raise _Mismatch(value, name)
        return value

    return fix


def _struct_fix(info: inspect.StructType, known: dict[type, Fix], name: str) -> Fix:
    fields: dict[str, tuple[str, Fix]] = {}

    def fix(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _Mismatch(value, name)
        fixed = {}
        for key, item in value.items():
            if item is not None and (field := fields.get(key) or fields.get(key.lower())) is not None:
                try:
                    fixed[field[0]] = field[1](item)
                except _Mismatch as mismatch:
                    mismatch.struct = mismatch.struct or name.rpartition(".")[2]
                    mismatch.path.append(field[0])
                    raise
        return fixed

    known[info.cls] = fix  # before its fields: a type may hold itself
    owner = f"{info.cls.__module__.rpartition('.')[2]}.{info.cls.__name__}"
    for field in info.fields:
        entry = (field.encode_name, _fix_for(field.type, known, owner, field.encode_name)[0])
        fields[field.encode_name] = fields[field.encode_name.lower()] = entry
    return fix


def _map_fix(fix: Fix, zero: Any, name: str) -> Fix:
    def fix_map(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _Mismatch(value, name)
        # in the order of the keys, in which Go would write them again
        return {key: zero if (item := value[key]) is None else fix(item) for key in sorted(value)}

    return fix_map


def _list_fix(fix: Fix, zero: Any, name: str, *, or_string: bool) -> Fix:
    def fix_list(value: Any) -> Any:
        if or_string and isinstance(value, str):
            return [value]
        if not isinstance(value, list):
            raise _Mismatch(value, "string" if or_string else name)
        try:
            return [zero if item is None else fix(item) for item in value]
        except _Mismatch:
            if or_string:  # (strslice tries a string last, and its complaint is the one that is told)
                raise _Mismatch(value, "string") from None
            raise

    return fix_list


def _zero(info: inspect.Type) -> Any:
    if isinstance(info, inspect.StructType | inspect.DictType):
        return {}
    return ZEROS.get(type(info))
