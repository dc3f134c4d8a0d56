"""Variables in texts: $NAME, ${NAME}, and ${NAME:-default}, ${NAME-default}, ${NAME:?error}, ${NAME?error},
${NAME:+replacement}, ${NAME+replacement}, nested as one likes (Compose Specification, "Interpolation")."""

from __future__ import annotations

import re

from dockyard.compose.errors import ComposeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Lookup = Callable[[str], "str | None"]
    Unset = Callable[[str], None]

_REFERENCE = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<named>[_a-z][_a-z0-9]*)|\{(?:(?P<braced>[_a-z][_a-z0-9]*(?::?[-+?](?:.*))?)\}|(?P<invalid>)))",
    re.IGNORECASE | re.ASCII,
)
_OPERATORS = (":?", "?", ":-", "-", ":+", "+")


class InvalidTemplate(ComposeError):
    """A text with a $ that starts no reference."""


class MissingVariable(ComposeError):
    """${NAME?…} of a variable that is not set."""


def substitute(text: str, lookup: Lookup, unset: Unset | None = None) -> str:
    """`text` with its references replaced; `unset` is told of variables without a value.

    Raises InvalidTemplate, whose message is the text, and MissingVariable.
    """
    if "$" not in text:
        return text

    def replace(match: re.Match[str]) -> str:
        return _replacement(match, text, lookup, unset)

    return _REFERENCE.sub(replace, text)


def _replacement(match: re.Match[str], text: str, lookup: Lookup, unset: Unset | None) -> str:
    if match["escaped"]:
        return "$"
    if match["named"]:
        return _plain(match["named"], lookup, unset)
    if match["braced"] is None:
        raise InvalidTemplate(text)
    # The expression takes all that is there until the line's last brace: the reference ends at its own.
    whole = match[0]
    end = _closing_brace(whole)
    rest = whole[end + 1 :] if end >= 0 else ""
    own = _REFERENCE.fullmatch(whole[: end + 1]) if end >= 0 else match
    if own is None or own["braced"] is None:
        raise InvalidTemplate(text)
    operator = _operator(whole)
    if operator not in own["braced"]:
        return _plain(own["braced"], lookup, unset) + substitute(rest, lookup, unset)
    name, _, argument = own["braced"].partition(operator)
    argument = substitute(argument, lookup, unset)
    return _chosen(operator, name, argument, lookup(name)) + substitute(rest, lookup, unset)


def _plain(name: str, lookup: Lookup, unset: Unset | None) -> str:
    value = lookup(name)
    if value is None:
        if unset is not None:
            unset(name)
        return ""
    return value


def _operator(whole: str) -> str:
    """The operator that comes first."""
    found = [(whole.find(operator), order) for order, operator in enumerate(_OPERATORS) if operator in whole]
    return _OPERATORS[min(found)[1]] if found else _OPERATORS[0]


def _chosen(operator: str, name: str, argument: str, value: str | None) -> str:
    is_set = bool(value) if operator.startswith(":") else value is not None
    if operator.endswith("?"):
        if not is_set:
            reason = f": {argument}" if argument else ""
            raise MissingVariable(f"required variable {name} is missing a value{reason}")
        return value or ""
    if operator.endswith("-"):
        return (value or "") if is_set else argument
    return argument if is_set else value or ""


def _closing_brace(text: str) -> int:
    depth = 0
    position = 0
    while position < len(text):
        if text[position] == "}":
            depth -= 1
            if depth == 0:
                return position
        elif text[position] == "{":
            depth += 1
            position += 1  # what follows cannot end it
        position += 1
    return -1


class Reference:
    """A variable that a text refers to, with what stands in for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.required = False
        self.default = ""
        self.alternative = ""


def references(text: str) -> list[Reference]:
    """The variables that `text` refers to, nested ones included."""
    found: list[Reference] = []
    for match in _REFERENCE.finditer(text):
        if match["named"]:
            found.append(Reference(match["named"]))
        if not match["braced"]:
            continue
        end = _closing_brace(match[0])
        own = match[0][2:end] if end >= 0 else match["braced"]
        operator = _operator(match[0])
        name, is_there, argument = own.partition(operator)
        one = Reference(name)
        found.append(one)
        if is_there:
            one.required = operator.endswith("?")
            if operator.endswith("-"):
                one.default = argument
            if operator.endswith("+"):
                one.alternative = argument
            found += references(argument)
        if end >= 0:
            found += references(match[0][end + 1 :])
    return found
