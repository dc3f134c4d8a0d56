"""A bake file's meaning: variables, functions and targets, each worked out when it is needed (bake/hclparser)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

from dockyard.bake import tree
from dockyard.bake.errors import BakeError, Place
from dockyard.bake.evaluation import Evaluator
from dockyard.bake.functions import FUNCTIONS
from dockyard.bake.target import FIELDS, Target, field_of, merge
from dockyard.bake.types import Type, convert, from_environment, type_of
from dockyard.bake.values import Value, WrongType, to_bool, to_string

JSON_SUFFIX = "_JSON"
TARGET_NAME = re.compile(r"[a-zA-Z0-9_-]+")
INTERNAL = ("name", "matrix")


class Instance:
    """One target or group of a block: a block with a matrix has several. `local`: what its names mean."""

    def __init__(self, block: tree.Block, name: str, local: Mapping[str, Value]) -> None:
        self.block = block
        self.name = name
        self.local = local
        self.done: dict[str, Any] = {}
        self.under_way: set[str] = set()


class Definition:
    """The bodies of one or more files, laid over each other."""

    def __init__(self, bodies: Sequence[tree.Body], builtin: Mapping[str, str], environment: Mapping[str, str]) -> None:
        self._builtin = builtin
        self._environment = environment
        self._attributes: dict[str, tree.Expression] = {}
        self._variables: dict[str, tree.Body] = {}
        self._functions: dict[str, tree.Block] = {}
        self._blocks: list[tree.Block] = []
        for body in bodies:
            self._take(body)
        self._values: dict[str, Value] = dict(builtin)
        self._made: dict[str, Callable[..., Value]] = {}
        self._under_way: list[str] = []
        self._evaluator = Evaluator(self)
        self._instances: dict[str, dict[str, list[Instance]]] = {"target": {}, "group": {}}
        self.renamed: dict[str, list[str]] = {}

    def _take(self, body: tree.Body) -> None:
        self._attributes.update(body.attributes)
        for block in body.blocks:
            if block.kind not in ("variable", "function", "target", "group"):
                raise _unexpected(block)
            if len(block.labels) != 1:
                raise BakeError(f"Invalid block; invalid block label: {list(block.labels)}", block.place)
            name = block.labels[0]
            if block.kind == "variable":
                self._variables[name] = block.body
            elif block.kind == "function":
                self._functions[name] = block
            else:
                self._blocks.append(block)

    # -- what names mean

    def value(self, name: str) -> Value:
        """A variable or a global attribute, targets and groups by their kind. Raises KeyError, BakeError."""
        if name in self._values:
            return self._values[name]
        if self._instances.get(name):
            return _Blocks(self, name)
        if name not in self._attributes and name not in self._variables:
            raise KeyError(name)
        if name in self._under_way:
            raise BakeError(f"Invalid expression; variable cycle not allowed for {name}", self._place_of(name))
        self._under_way.append(name)
        try:
            found = self._values[name] = self._worked_out(name)
        finally:
            self._under_way.remove(name)
        return found

    def _place_of(self, name: str) -> Place | None:
        found = self._attributes.get(name) or self._variables[name].attributes.get("default")
        return found.place if found is not None else None

    def _worked_out(self, name: str) -> Value:
        declared: Type | None = None
        body = self._variables.get(name)
        default = self._attributes.get(name)
        if default is None and body is not None:
            default = body.attributes.get("default")
            if "type" in body.attributes:
                declared = type_of(body.attributes["type"])
        text, as_json = self._overridden(name, favor_json=declared is not None)
        found = self._evaluator.value(default) if default is not None else None
        if declared is not None and default is not None:
            try:
                found = convert(found, declared)
            except WrongType as error:
                message = f"invalid type {declared} for variable {name} default value: {error}"
                raise BakeError(f"Invalid value; {message}", default.place) from None
        if body is None or text is None:
            return "" if default is None and declared is None else found
        return from_environment(name, text, declared, found, as_json=as_json)

    def _overridden(self, name: str, *, favor_json: bool) -> tuple[str | None, bool]:
        """What the environment says of a variable, and whether it says it in JSON."""
        text = self._environment.get(name)
        other = name + JSON_SUFFIX
        if (text is None or favor_json) and other not in self._variables and other not in self._builtin:
            as_json = self._environment.get(other)
            if as_json is not None:
                return as_json, True
        return text, False

    def function(self, name: str) -> Callable[..., Value] | None:
        """A function, of ours or of the file's. Raises BakeError."""
        if name in FUNCTIONS:
            return FUNCTIONS[name]
        if name in self._made:
            return self._made[name]
        block = self._functions.get(name)
        if block is None:
            return None
        self._made[name] = found = self._defined(name, block)
        return found

    def _defined(self, name: str, block: tree.Block) -> Callable[..., Value]:
        attributes = block.body.attributes
        result, params = attributes.get("result"), attributes.get("params")
        if result is None or params is None:
            missing = "result" if result is None else "params"
            raise BakeError(f"Invalid function; empty {missing} not allowed for {name}", block.place)
        items = params.items if isinstance(params, tree.TupleOf) else ()
        names = [_parameter(one) for one in items]
        variadic = _parameter(attributes["variadic_params"]) if "variadic_params" in attributes else ""
        depth = 0

        def call(*arguments: Value) -> Value:
            nonlocal depth
            if len(arguments) < len(names) or (len(arguments) > len(names) and not variadic):
                raise ValueError(f"{len(names)} arguments are wanted")
            local = dict(zip(names, arguments, strict=False))
            if variadic:
                local[variadic] = list(arguments[len(names) :])
            depth += 1
            try:
                if depth > 1:
                    raise ValueError(f"function cycle not allowed for {name}")
                return self._evaluator.value(result, local)
            finally:
                depth -= 1

        return call

    # -- targets and groups

    def read(self) -> tuple[dict[str, Target], dict[str, Target]]:
        """All targets and groups: ({name: …}, {name: …}). Raises BakeError."""
        for name in self._variables:
            self.value(name)
        self._validate()
        for name in self._functions:
            self.function(name)
        order: list[tuple[tree.Block, list[Instance]]] = []
        for block in self._blocks:
            made = self._instances_of(block)
            order.append((block, made))
            if [one.name for one in made] != [block.labels[0]]:
                self.renamed.setdefault(block.labels[0], []).extend(one.name for one in made)
            for one in made:
                self._instances[block.kind].setdefault(one.name, []).append(one)
        targets: dict[str, Target] = {}
        groups: dict[str, Target] = {}
        for block, made in order:
            for one in made:
                fields = {name: found for name in self._fields(one) if (found := self.field(one, name)) is not None}
                if block.kind == "target":
                    targets[one.name] = merge(targets.get(one.name, {}), fields)
                else:
                    groups[one.name] = fields  # (a group that is there again is another one)
        for name in self._attributes:
            self.value(name)
        return targets, groups

    def _validate(self) -> None:
        for body in self._variables.values():
            for block in body.blocks:
                condition, message = block.body.attributes.get("condition"), block.body.attributes.get("error_message")
                if block.kind != "validation" or condition is None or message is None:
                    raise BakeError("Unsupported block; a validation has a condition and an error_message", block.place)
                found = self._evaluator.value(condition)
                if found is None:
                    raise BakeError("Invalid condition result; it must be true or false, not null.", condition.place)
                if not to_bool(found):
                    text = self._evaluator.value(message)
                    said = "This check failed, but has an invalid error message." if text is None else to_string(text)
                    raise BakeError(f"Validation failed; {said}", condition.place)

    def _instances_of(self, block: tree.Block) -> list[Instance]:
        matrix, name = block.body.attributes.get("matrix"), block.body.attributes.get("name")
        label = block.labels[0]
        _check_name(label, block.place)
        if block.kind == "group" and (matrix is not None or name is not None):
            raise BakeError(f"{'matrix' if matrix is not None else 'name'} is not supported for groups", block.place)
        if matrix is None:
            if name is not None:
                raise BakeError("Invalid name; name requires matrix", block.place)
            return [Instance(block, label, {})]
        found = self._evaluator.value(matrix)
        if not isinstance(found, dict):
            raise BakeError("Invalid name; matrix must be a map", matrix.place)
        if not all(isinstance(one, list) for one in found.values()):
            raise BakeError("Invalid name; matrix values must be a list", matrix.place)
        made: dict[str, Instance] = {}
        for combination in product(*found.values()):
            local = dict(zip(found, combination, strict=True))
            own = to_string(self._evaluator.value(name, local)) if name is not None else label
            _check_name(own, block.place)
            if own in made:
                raise BakeError(f'Invalid name; duplicate name "{own}"', block.place)
            made[own] = Instance(block, own, local)
        return list(made.values())

    @staticmethod
    def _fields(one: Instance) -> list[str]:
        allowed = FIELDS if one.block.kind == "target" else ("targets", "description")
        for name, expression in one.block.body.attributes.items():
            if name not in allowed and name not in INTERNAL:
                message = f'Unsupported argument; An argument named "{name}" is not expected here.'
                raise BakeError(message, expression.place)
        for block in one.block.body.blocks:
            raise _unexpected(block)
        return [name for name in one.block.body.attributes if name not in INTERNAL]

    def field(self, one: Instance, name: str) -> Any:
        """A field of a target or group. Raises BakeError."""
        if name in one.done:
            return one.done[name]
        expression = one.block.body.attributes.get(name)
        if expression is None:
            return None
        if name in one.under_way:
            message = f"reference cycle not allowed for {one.block.kind}.{one.name}.{name}"
            raise BakeError(f"Invalid expression; {message}", expression.place)
        one.under_way.add(name)
        try:
            found = self._evaluator.value(expression, one.local)
            if one.block.kind == "target":
                one.done[name] = field_of(name, found)
            elif name == "targets":
                one.done[name] = [to_string(item) for item in found or []]
            else:
                one.done[name] = to_string(found) if found is not None else None
        except BakeError as error:
            raise error if error.place is not None else BakeError(error.message, expression.place) from None
        except WrongType as error:
            raise BakeError(str(error), expression.place) from None
        finally:
            one.under_way.discard(name)
        return one.done[name]

    def named(self, kind: str, name: str) -> Instance:
        """The target or group that expressions mean by `target.name`. Raises KeyError."""
        return self._instances[kind][name][-1]

    def names(self, kind: str) -> list[str]:
        """All that expressions can mean."""
        return list(self._instances[kind])

    def variables(self) -> list[tuple[str, str, Value, Value]]:
        """(name, type, value, description) of every variable, for `--list`. Raises BakeError."""
        found = []
        for name, body in sorted(self._variables.items()):
            kind = str(type_of(body.attributes["type"])) if "type" in body.attributes else ""
            about = self._evaluator.value(body.attributes["description"]) if "description" in body.attributes else ""
            found.append((name, kind, self.value(name), about))
        return found


class _Blocks(dict[str, Any]):
    """Targets or groups as an object whose attributes are worked out when they are asked for."""

    def __init__(self, definition: Definition, kind: str) -> None:
        super().__init__(dict.fromkeys(definition.names(kind)))
        self._definition = definition
        self._kind = kind

    def __getitem__(self, name: str) -> Any:
        return _Fields(self._definition, self._definition.named(self._kind, name))


class _Fields(dict[str, Any]):
    """One target's fields."""

    def __init__(self, definition: Definition, one: Instance) -> None:
        names = FIELDS if one.block.kind == "target" else ("targets", "description")
        super().__init__(dict.fromkeys((*names, "name")))
        self._definition = definition
        self._one = one

    def __getitem__(self, name: str) -> Any:
        return self._one.name if name == "name" else self._definition.field(self._one, name)


def _unexpected(block: tree.Block) -> BakeError:
    message = f'Unsupported block type; Blocks of type "{block.kind}" are not expected here.'
    return BakeError(message, block.place)


def _parameter(expression: tree.Expression) -> str:
    if isinstance(expression, tree.Name):
        return expression.name
    if isinstance(expression, tree.Literal) and isinstance(expression.value, str):
        return expression.value  # in JSON
    raise BakeError("Invalid param element; Each parameter name must be an identifier.", expression.place)


def _check_name(name: str, place: Place) -> None:
    if not TARGET_NAME.fullmatch(name):
        raise BakeError('Invalid name; only "[a-zA-Z0-9_-]+" are allowed', place)
