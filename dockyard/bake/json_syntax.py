"""HCL written as JSON: what a block is and what an attribute is known by its name (HCL's JSON syntax)."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from dockyard.bake import tree
from dockyard.bake.errors import BakeError, Place
from dockyard.bake.syntax import parse_template

BLOCKS = {"target": 1, "group": 1, "variable": 1, "function": 1}  # and their labels
INNER = {"variable": {"validation": 0}}


def parse(text: str, file: str) -> tree.Body:
    """A file's body. Raises BakeError."""
    try:
        document = json.loads(text, parse_float=Decimal)
    except ValueError as error:
        line, column = getattr(error, "lineno", 1), getattr(error, "colno", 1)
        raise BakeError(f"Invalid JSON; {getattr(error, 'msg', error)}", Place(file, line, column)) from None
    except RecursionError:
        raise BakeError("Invalid JSON; it is nested too deeply", Place(file, 1, 1)) from None
    place = Place(file, 1, 1)
    if not isinstance(document, dict):
        raise BakeError("Invalid JSON; a JSON object is required at the top", place)
    return _body(document, place, BLOCKS)


def _body(document: dict[str, Any], place: Place, kinds: dict[str, int]) -> tree.Body:
    body = tree.Body()
    for name, value in document.items():
        if name == "//":
            continue
        if name in kinds:
            body.blocks += _blocks(name, value, kinds[name], [], place)
        else:
            body.attributes[name] = _expression(value, place)
    return body


def _blocks(kind: str, value: Any, labels: int, found: list[str], place: Place) -> list[tree.Block]:
    if isinstance(value, list):
        return [block for one in value for block in _blocks(kind, one, labels, found, place)]
    if not isinstance(value, dict):
        raise BakeError(f"Incorrect JSON value type; a JSON object is required for {kind}", place)
    if labels > len(found):
        return [block for name, one in value.items() for block in _blocks(kind, one, labels, [*found, name], place)]
    return [tree.Block(kind, found, _body(value, place, INNER.get(kind, {})), place)]


def _expression(value: Any, place: Place) -> tree.Expression:
    if isinstance(value, str):
        return parse_template(value, place)
    if isinstance(value, list):
        return tree.TupleOf(place, [_expression(one, place) for one in value])
    if isinstance(value, dict):
        pairs = [(parse_template(name, place), _expression(one, place)) for name, one in value.items()]
        return tree.ObjectOf(place, pairs)
    return tree.Literal(place, value)
