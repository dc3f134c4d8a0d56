"""Types that variables are declared to have, and values as these (HCL's typeexpr, go-cty's convert)."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from dockyard.bake import tree
from dockyard.bake.errors import BakeError
from dockyard.bake.values import Value, WrongType, equal, kind_of, to_bool, to_number, to_string

PRIMITIVES = ("string", "number", "bool")


@dataclass(frozen=True)
class Type:
    """`kind`: string number bool any list set map object tuple; `of` of elements, `fields` of an object."""

    kind: str
    of: Type | None = None
    items: tuple[Type, ...] = ()
    fields: Mapping[str, tuple[Type, bool, Value]] = field(default_factory=dict)  # (type, optional, default)

    @property
    def primitive(self) -> bool:
        """Whether it has no parts."""
        return self.kind in PRIMITIVES

    def __str__(self) -> str:
        if self.of is not None:
            return f"{self.kind} of {self.of}" if self.of.kind != "any" else f"{self.kind} of any single type"
        if self.kind == "any":
            return "any type"
        return self.kind


def type_of(expression: tree.Expression) -> Type:
    """The type that an expression names. Raises BakeError."""
    if isinstance(expression, tree.Literal) and isinstance(expression.value, str):
        from dockyard.bake.syntax import parse_expression

        return type_of(parse_expression(expression.value, expression.place))
    if isinstance(expression, tree.Name) and expression.name in (*PRIMITIVES, "any"):
        return Type(expression.name)
    if isinstance(expression, tree.Call) and len(expression.arguments) == 1:
        argument = expression.arguments[0]
        if expression.name in ("list", "set", "map"):
            return Type(expression.name, type_of(argument))
        if expression.name == "tuple" and isinstance(argument, tree.TupleOf):
            return Type("tuple", items=tuple(map(type_of, argument.items)))
        if expression.name == "object" and isinstance(argument, tree.ObjectOf):
            return Type("object", fields=dict(map(_field, argument.items)))
    raise BakeError("Invalid type specification; a type is required", expression.place)


def _field(item: tuple[tree.Expression, tree.Expression]) -> tuple[str, tuple[Type, bool, Value]]:
    key, kind = item
    if not isinstance(key, tree.Literal):
        raise BakeError("Invalid type specification; an attribute's name is required", key.place)
    if isinstance(kind, tree.Call) and kind.name == "optional" and kind.arguments:
        default = kind.arguments[1] if len(kind.arguments) > 1 else None
        return str(key.value), (
            type_of(kind.arguments[0]),
            True,
            default.value if isinstance(default, tree.Literal) else None,
        )
    return str(key.value), (type_of(kind), False, None)


def convert(value: Value, to: Type) -> Value:
    """`value` as a value of the type. Raises WrongType."""
    if value is None or to.kind == "any":
        return value
    if to.kind == "string":
        return to_string(value)
    if to.kind == "number":
        return to_number(value)
    if to.kind == "bool":
        return to_bool(value)
    if to.kind in ("list", "set"):
        if not isinstance(value, list) or to.of is None:
            raise WrongType(f"{to.kind} of {to.of} required, but have {kind_of(value)}")
        found = [convert(one, to.of) for one in value]
        return found if to.kind == "list" else _set(found)
    if to.kind == "tuple":
        if not isinstance(value, list) or len(value) != len(to.items):
            raise WrongType(f"tuple of {len(to.items)} elements required")
        return [convert(one, kind) for one, kind in zip(value, to.items, strict=True)]
    if not isinstance(value, dict):
        raise WrongType(f"{to.kind} required, but have {kind_of(value)}")
    if to.kind == "map" and to.of is not None:
        return {name: convert(one, to.of) for name, one in value.items()}
    found_fields = {}
    for name, (kind, optional, default) in to.fields.items():
        if name not in value and not optional:
            raise WrongType(f'attribute "{name}" is required')
        one = value.get(name)
        found_fields[name] = convert(default if one is None else one, kind)
    return found_fields


def _set(values: list[Value]) -> list[Value]:
    found: list[Value] = []
    for value in values:
        if not any(equal(value, other) for other in found):
            found.append(value)
    return sorted(found, key=lambda one: (kind_of(one), str(one) if not isinstance(one, int | Decimal) else one))


def from_environment(name: str, text: str, declared: Type | None, default: Value, *, as_json: bool) -> Value:
    """What a variable of the environment says that the variable `name` is. Raises BakeError."""
    try:
        if declared is not None and as_json:
            try:
                return convert(json.loads(text, parse_float=Decimal), declared)
            except ValueError as error:
                raise BakeError(f"failed to convert variable {name} from JSON: {error}") from None
        if declared is not None and _lists_of_primitives(declared):
            return _from_csv(name, text, declared)
        if declared is not None and declared.primitive:
            return _primitive(name, text, declared.kind)
        if declared is not None and declared.kind != "any":
            raise BakeError(f"unsupported type {declared} for variable {name}")
        if default is None:
            return text
        kind = kind_of(default)
        if kind in PRIMITIVES:
            return _primitive(name, text, kind)
    except WrongType as error:
        raise BakeError(f"failed to convert variable {name} from CSV: {error}") from None
    raise BakeError(f"unsupported type {kind_of(default)} for variable {name}")


def _primitive(name: str, text: str, kind: str) -> Value:
    if kind == "bool":
        # as Go's strconv.ParseBool
        if text in ("1", "t", "T", "TRUE", "true", "True"):
            return True
        if text in ("0", "f", "F", "FALSE", "false", "False"):
            return False
        raise BakeError(f"failed to parse {name} as bool")
    if kind == "number":
        try:
            return to_number(text)
        except WrongType:
            raise BakeError(f"failed to parse {name} as number") from None
    return text


def _lists_of_primitives(kind: Type) -> bool:
    if kind.kind == "tuple":
        return all(one.primitive for one in kind.items)
    return kind.kind in ("list", "set", "map") and kind.of is not None and kind.of.primitive


def _from_csv(name: str, text: str, kind: Type) -> Value:
    cells: list[str] = next(csv.reader([text]), [])
    if kind.kind == "tuple" and len(cells) != len(kind.items):
        raise BakeError(f"{name}: number of elements ({len(cells)}) does not match the tuple's ({len(kind.items)})")
    if kind.kind != "map":
        return convert(list(cells), kind)
    found: dict[str, Any] = {}
    for cell in cells:
        key, equals, value = cell.partition("=")
        if not equals:
            raise BakeError(
                f"failed to convert variable {name} from CSV: expected key-value pair of form k=v; got {cell}"
            )
        found[key] = value
    return convert(found, kind)
