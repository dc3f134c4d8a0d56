"""HCL as a tree: bodies of attributes and blocks, and expressions (HashiCorp's HCL native syntax specification)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dockyard.bake.errors import Place


@dataclass(frozen=True, slots=True)
class Expression:
    """Anything that has a value."""

    place: Place


@dataclass(frozen=True, slots=True)
class Literal(Expression):
    value: Any


@dataclass(frozen=True, slots=True)
class Template(Expression):
    """Text with values in it; one part alone keeps its type."""

    parts: Sequence[Expression]


@dataclass(frozen=True, slots=True)
class TemplateIf(Expression):
    condition: Expression
    yes: Template
    no: Template


@dataclass(frozen=True, slots=True)
class TemplateFor(Expression):
    key: str
    name: str
    over: Expression
    body: Template


@dataclass(frozen=True, slots=True)
class Name(Expression):
    name: str


@dataclass(frozen=True, slots=True)
class Attribute(Expression):
    of: Expression
    name: str


@dataclass(frozen=True, slots=True)
class Index(Expression):
    of: Expression
    key: Expression


@dataclass(frozen=True, slots=True)
class Splat(Expression):
    """`of.*.…` or `of[*].…`: `each` of the elements, which it knows as `item`."""

    of: Expression
    each: Expression
    item: Item


@dataclass(frozen=True, slots=True, eq=False)
class Item(Expression):
    """The element that a splat is at."""


@dataclass(frozen=True, slots=True)
class Call(Expression):
    name: str
    arguments: Sequence[Expression]
    expanded: bool  # the last argument is a list of arguments


@dataclass(frozen=True, slots=True)
class Unary(Expression):
    operator: str
    operand: Expression


@dataclass(frozen=True, slots=True)
class Binary(Expression):
    operator: str
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Conditional(Expression):
    condition: Expression
    yes: Expression
    no: Expression


@dataclass(frozen=True, slots=True)
class TupleOf(Expression):
    items: Sequence[Expression]


@dataclass(frozen=True, slots=True)
class ObjectOf(Expression):
    items: Sequence[tuple[Expression, Expression]]


@dataclass(frozen=True, slots=True)
class For(Expression):
    """A list, or with `key_result` an object; with `grouped` values of the same key make lists."""

    key: str
    name: str
    over: Expression
    key_result: Expression | None
    result: Expression
    condition: Expression | None
    grouped: bool


@dataclass(slots=True)
class Block:
    kind: str
    labels: Sequence[str]
    body: Body
    place: Place


@dataclass(slots=True)
class Body:
    attributes: dict[str, Expression] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)


Scope = Mapping[str, Any]
