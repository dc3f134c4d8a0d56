"""Request bodies read as Go's encoding/json reads them, which clients count on.

A field's name matches in any case (docker-py sends `detachKeys`), and null stands for a value left out, whatever the
field's type.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from dockyard.errors import InvalidParameter

T = TypeVar("T")
Fix = Callable[[Any], Any]
# What null means in a list or map of such values.
ZEROS: dict[type, Any] = {inspect.StrType: "", inspect.IntType: 0, inspect.BoolType: False, inspect.FloatType: 0.0}


def decode(data: bytes, kind: type[T]) -> T:
    """`data` as a `kind`. Raises InvalidParameter when it is empty, malformed or of another shape."""
    if not data.strip():
        raise InvalidParameter("invalid JSON: got EOF while reading request body")
    try:
        value = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        if "trailing characters" in str(error):
            raise InvalidParameter("unexpected content after JSON") from None
        raise InvalidParameter(f"invalid JSON: {error}") from None
    except RecursionError:
        raise InvalidParameter("invalid JSON: exceeded max depth") from None
    try:
        fix = _fixer(kind)  # type: ignore[arg-type]  # mypy does not see that a type is hashable
        return msgspec.convert({} if value is None else fix(value), kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"invalid JSON: {error}") from None


@cache
def _fixer(kind: Any) -> Fix:
    return _fix_for(inspect.type_info(kind), {})


def _same(value: Any) -> Any:
    return value


def _fix_for(info: inspect.Type, known: dict[type, Fix]) -> Fix:
    if isinstance(info, inspect.UnionType):
        others = [part for part in info.types if not isinstance(part, inspect.NoneType)]
        return _fix_for(others[0], known) if len(others) == 1 else _same
    if isinstance(info, inspect.StructType):
        return known.get(info.cls) or _struct_fix(info, known)
    if isinstance(info, inspect.DictType):
        return _map_fix(info.value_type, known)
    if isinstance(info, inspect.ListType):
        return _list_fix(info.item_type, known)
    return _same


def _struct_fix(info: inspect.StructType, known: dict[type, Fix]) -> Fix:
    fields: dict[str, tuple[str, Fix]] = {}

    def fix(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        fixed = {}
        for key, item in value.items():
            if item is not None and (field := fields.get(key) or fields.get(key.lower())) is not None:
                fixed[field[0]] = field[1](item)
        return fixed

    known[info.cls] = fix  # before its fields: a type may hold itself
    for field in info.fields:
        entry = (field.encode_name, _fix_for(field.type, known))
        fields[field.encode_name] = fields[field.encode_name.lower()] = entry
    return fix


def _map_fix(item_type: inspect.Type, known: dict[type, Fix]) -> Fix:
    fix, zero = _fix_for(item_type, known), _zero(item_type)
    return lambda value: (
        {key: zero if item is None else fix(item) for key, item in value.items()} if isinstance(value, dict) else value
    )


def _list_fix(item_type: inspect.Type, known: dict[type, Fix]) -> Fix:
    fix, zero = _fix_for(item_type, known), _zero(item_type)
    of_strings = isinstance(item_type, inspect.StrType)

    def fix_list(value: Any) -> Any:
        if isinstance(value, list):
            return [zero if item is None else fix(item) for item in value]
        # moby api/types/strslice: a command may be given as one string
        return [value] if of_strings and isinstance(value, str) else value

    return fix_list


def _zero(info: inspect.Type) -> Any:
    if isinstance(info, inspect.StructType | inspect.DictType):
        return {}
    return ZEROS.get(type(info))
