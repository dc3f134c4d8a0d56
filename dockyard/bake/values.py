"""Values of HCL as Python's: None, bool, str, int or Decimal, list, dict; and how one kind becomes another (go-cty).

A bool is no number here, whatever Python thinks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

Value = Any
Number = int | Decimal


class WrongType(ValueError):
    """A value that does not become what it is to be."""


def is_number(value: Value) -> bool:
    """Whether it is a number."""
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def kind_of(value: Value) -> str:
    """What the value is called."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if is_number(value):
        return "number"
    return "tuple" if isinstance(value, list) else "object"


def normal(value: Decimal | int) -> Number:
    """A number without needless digits."""
    if isinstance(value, int):
        return value
    return int(value) if value == value.to_integral_value() else value.normalize()


def to_string(value: Value) -> str:
    """A primitive as text. Raises WrongType."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if is_number(value):
        return f"{normal(value):f}" if isinstance(value, Decimal) else str(value)
    raise WrongType(f"string required, but have {kind_of(value)}")


def to_number(value: Value) -> Number:
    """A number, or text that is one. Raises WrongType."""
    if is_number(value):
        return value  # type: ignore[no-any-return]  # as seen
    if isinstance(value, str):
        try:
            found = Decimal(value)
            if found.is_finite() and "_" not in value and value == value.strip():
                return normal(found)
        except InvalidOperation:
            pass
    raise WrongType("a number is required")


def to_bool(value: Value) -> bool:
    """A bool, or text that is one. Raises WrongType."""
    if isinstance(value, bool):
        return value
    if value in ("true", "1") and isinstance(value, str):
        return True
    if value in ("false", "0") and isinstance(value, str):
        return False
    raise WrongType("a bool is required")


def equal(left: Value, right: Value) -> bool:
    """Whether two values are the same, of the same kind."""
    if is_number(left) and is_number(right):
        return bool(left == right)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal(left[name], right[name]) for name in left)
    return type(left) is type(right) and bool(left == right)


def unified(values: list[Value]) -> list[Value]:
    """Values of one kind, where they are primitives of several: as text."""
    kinds = {kind_of(value) for value in values if value is not None}
    if len(kinds) > 1 and kinds <= {"string", "number", "bool"}:
        return [None if value is None else to_string(value) for value in values]
    return values


def to_json(value: Value) -> str:
    """As jsonencode has it."""
    return json.dumps(_plain(value), separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def _plain(value: Value) -> Any:
    if isinstance(value, Decimal):
        found = normal(value)
        return float(found) if isinstance(found, Decimal) else found
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return value
