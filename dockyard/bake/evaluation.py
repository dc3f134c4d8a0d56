"""What expressions are worth, where names mean what a scope says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal, DivisionByZero, InvalidOperation, localcontext
from typing import Any, Protocol

from dockyard.bake import tree
from dockyard.bake.errors import BakeError
from dockyard.bake.values import (
    Value,
    WrongType,
    equal,
    kind_of,
    normal,
    to_bool,
    to_number,
    to_string,
    unified,
)

MOST_STEPS = 1_000_000  # expressions that one value may take
PRECISION = 155  # digits, as of go-cty's numbers


class Names(Protocol):
    """What names outside of expressions mean."""

    def value(self, name: str) -> Value:
        """The variable `name`. Raises KeyError when there is none, BakeError."""

    def function(self, name: str) -> Callable[..., Value] | None:
        """The function `name`."""


class Evaluator:
    """Evaluates expressions with the names of a file."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._steps = 0
        self._depth = 0
        self._items: dict[tree.Item, Value] = {}

    def value(self, expression: tree.Expression, local: Mapping[str, Value] | None = None) -> Value:
        """What it is worth; `local` names come before all others. Raises BakeError."""
        self._steps += 1
        self._depth += 1
        if self._steps > MOST_STEPS or self._depth > 200:
            raise BakeError("Invalid expression; it takes too many steps", expression.place)
        try:
            handler = _HANDLERS[type(expression)]
            return handler(self, expression, local or {})
        except WrongType as error:
            raise BakeError(f"Invalid expression; {error}", expression.place) from None
        finally:
            self._depth -= 1

    # -- values

    def _literal(self, one: tree.Literal, _: tree.Scope) -> Value:
        return one.value

    def _name(self, one: tree.Name, local: tree.Scope) -> Value:
        if one.name in local:
            return local[one.name]
        try:
            return self._names.value(one.name)
        except KeyError:
            raise BakeError(f'Unknown variable; There is no variable named "{one.name}".', one.place) from None

    def _template(self, one: tree.Template, local: tree.Scope) -> Value:
        return "".join(self._text(part, local) for part in one.parts)

    def _text(self, part: tree.Expression, local: tree.Scope) -> str:
        found = self.value(part, local)
        if found is None:
            raise BakeError("Invalid template interpolation value; The expression result is null.", part.place)
        try:
            return to_string(found)
        except WrongType:
            message = "Invalid template interpolation value; Cannot include the given value in a string template: "
            raise BakeError(f"{message}string required, but have {kind_of(found)}.", part.place) from None

    def _template_if(self, one: tree.TemplateIf, local: tree.Scope) -> Value:
        chosen = one.yes if self._condition(one.condition, local) else one.no
        return self._template(chosen, local)

    def _template_for(self, one: tree.TemplateFor, local: tree.Scope) -> Value:
        text = ""
        for key, value in self._pairs(one.over, local):
            text += self._template(one.body, {**local, **({one.key: key} if one.key else {}), one.name: value})
        return text

    def _tuple(self, one: tree.TupleOf, local: tree.Scope) -> Value:
        return [self.value(item, local) for item in one.items]

    def _object(self, one: tree.ObjectOf, local: tree.Scope) -> Value:
        return {self._key(key, local): self.value(item, local) for key, item in one.items}

    def _key(self, expression: tree.Expression, local: tree.Scope) -> str:
        found = self.value(expression, local)
        if found is None:
            raise BakeError("Null value as key; Can't use a null value as a key.", expression.place)
        return to_string(found)

    # -- parts of values

    def _attribute(self, one: tree.Attribute, local: tree.Scope) -> Value:
        return self._part(self.value(one.of, local), one.name, one)

    def _index(self, one: tree.Index, local: tree.Scope) -> Value:
        return self._part(self.value(one.of, local), self.value(one.key, local), one)

    def _part(self, found: Value, key: Value, one: tree.Expression) -> Value:
        if found is None:
            raise BakeError("Attempt to get attribute from null value; This value is null.", one.place)
        if isinstance(found, dict):
            name = to_string(key)
            if name in found:
                return found[name]
            raise BakeError(f'Unsupported attribute; This object does not have an attribute named "{name}".', one.place)
        if isinstance(found, list):
            number = to_number(key)
            if isinstance(number, int) and 0 <= number < len(found):
                return found[number]
            raise BakeError("Invalid index; The given key does not identify an element in this collection.", one.place)
        raise BakeError("Unsupported attribute; This value does not have any attributes.", one.place)

    def _splat(self, one: tree.Splat, local: tree.Scope) -> Value:
        found = self.value(one.of, local)
        if found is None:
            return []
        results = []
        for item in found if isinstance(found, list) else [found]:
            self._items[one.item] = item
            results.append(self.value(one.each, local))
        return results

    def _item(self, one: tree.Item, _: tree.Scope) -> Value:
        return self._items[one]

    def _for(self, one: tree.For, local: tree.Scope) -> Value:
        items: list[Value] = []
        made: dict[str, Value] = {}
        for key, value in self._pairs(one.over, local):
            inner = {**local, **({one.key: key} if one.key else {}), one.name: value}
            if one.condition is not None and not self._condition(one.condition, inner):
                continue
            result = self.value(one.result, inner)
            if one.key_result is None:
                items.append(result)
                continue
            name = self._key(one.key_result, inner)
            if one.grouped:
                made.setdefault(name, []).append(result)
            elif name in made:
                raise BakeError(f'Duplicate object key; Two different items produced the key "{name}".', one.place)
            else:
                made[name] = result
        return items if one.key_result is None else made

    def _pairs(self, expression: tree.Expression, local: tree.Scope) -> Iterator[tuple[Value, Value]]:
        found = self.value(expression, local)
        if isinstance(found, list):
            return iter(list(enumerate(found)))
        if isinstance(found, dict):
            return iter(sorted(found.items()))
        raise BakeError(
            "Iteration over non-iterable value; A value of this type can't be used in for.", expression.place
        )

    # -- operations

    def _condition(self, expression: tree.Expression, local: tree.Scope) -> bool:
        found = self.value(expression, local)
        if found is None:
            raise BakeError("Null condition; The condition value is null.", expression.place)
        try:
            return to_bool(found)
        except WrongType:
            raise BakeError(
                "Incorrect condition type; The condition expression must be of type bool.", expression.place
            ) from None

    def _conditional(self, one: tree.Conditional, local: tree.Scope) -> Value:
        chosen, other = (one.yes, one.no) if self._condition(one.condition, local) else (one.no, one.yes)
        found = self.value(chosen, local)
        try:
            # both results have one kind, whichever is chosen
            return unified([found, self.value(other, local)])[0]
        except BakeError:
            return found

    def _unary(self, one: tree.Unary, local: tree.Scope) -> Value:
        found = self.value(one.operand, local)
        if one.operator == "!":
            return not to_bool(found)
        return -to_number(found)

    def _binary(self, one: tree.Binary, local: tree.Scope) -> Value:
        left = self.value(one.left, local)
        if one.operator in ("&&", "||"):
            right = self.value(one.right, local)
            return to_bool(left) and to_bool(right) if one.operator == "&&" else to_bool(left) or to_bool(right)
        right = self.value(one.right, local)
        if one.operator in ("==", "!="):
            return equal(left, right) == (one.operator == "==")
        if left is None or right is None:
            raise BakeError("Invalid operand; Unsuitable value for operand: argument must not be null.", one.place)
        return self._calculated(one, to_number(left), to_number(right))

    def _calculated(self, one: tree.Binary, left: Any, right: Any) -> Value:
        with localcontext() as context:
            context.prec = PRECISION
            try:
                return _CALCULATIONS[one.operator](left, right)
            except (DivisionByZero, InvalidOperation, ZeroDivisionError):
                raise BakeError("Division by zero; the divisor must not be zero", one.place) from None

    # -- functions

    def _call(self, one: tree.Call, local: tree.Scope) -> Value:
        if one.name in ("try", "can"):
            return self._attempt(one, local)
        function = self._names.function(one.name)
        if function is None:
            raise BakeError(f'Call to unknown function; There is no function named "{one.name}".', one.place)
        if one.name == "convert" and len(one.arguments) == 2:
            return function(self.value(one.arguments[0], local), one.arguments[1])
        arguments = [self.value(argument, local) for argument in one.arguments]
        if one.expanded:
            last = arguments.pop()
            if not isinstance(last, list):
                raise BakeError("Invalid expanding argument value; The expanding argument must be a list.", one.place)
            arguments += last
        try:
            return function(*arguments)
        except (ValueError, ArithmeticError, IndexError, re.error) as error:
            if isinstance(error, BakeError):
                raise
            raise BakeError(
                f'Error in function call; Call to function "{one.name}" failed: {error}.', one.place
            ) from None
        except TypeError as error:
            if "positional argument" not in str(error) and "takes" not in str(error):
                raise BakeError(
                    f'Error in function call; Call to function "{one.name}" failed: unsuitable argument.', one.place
                ) from None
            raise BakeError(f'Not enough or too many function arguments; Function "{one.name}".', one.place) from None

    def _attempt(self, one: tree.Call, local: tree.Scope) -> Value:
        """`try` and `can`, which look at what their arguments fail with."""
        failure: BakeError | None = None
        for argument in one.arguments:
            try:
                found = self.value(argument, local)
            except BakeError as error:
                failure = error
            else:
                return True if one.name == "can" else found
        if one.name == "can":
            return False
        raise BakeError(f'Error in function call; Call to function "try" failed: {failure}', one.place)


def _remainder(left: Any, right: Any) -> Value:
    if right == 0:
        raise ZeroDivisionError
    sign = -1 if left < 0 else 1
    return normal(sign * (abs(Decimal(left)) % abs(Decimal(right))))


_CALCULATIONS: dict[str, Callable[[Any, Any], Value]] = {
    "+": lambda left, right: normal(left + right),
    "-": lambda left, right: normal(left - right),
    "*": lambda left, right: normal(left * right),
    "/": lambda left, right: normal(Decimal(left) / Decimal(right)),
    "%": _remainder,
    "<": lambda left, right: left < right,
    ">": lambda left, right: left > right,
    "<=": lambda left, right: left <= right,
    ">=": lambda left, right: left >= right,
}

_HANDLERS: dict[type, Callable[[Evaluator, Any, tree.Scope], Value]] = {
    tree.Literal: Evaluator._literal,
    tree.Name: Evaluator._name,
    tree.Template: Evaluator._template,
    tree.TemplateIf: Evaluator._template_if,
    tree.TemplateFor: Evaluator._template_for,
    tree.TupleOf: Evaluator._tuple,
    tree.ObjectOf: Evaluator._object,
    tree.Attribute: Evaluator._attribute,
    tree.Index: Evaluator._index,
    tree.Splat: Evaluator._splat,
    tree.Item: Evaluator._item,
    tree.For: Evaluator._for,
    tree.Conditional: Evaluator._conditional,
    tree.Unary: Evaluator._unary,
    tree.Binary: Evaluator._binary,
    tree.Call: Evaluator._call,
}
