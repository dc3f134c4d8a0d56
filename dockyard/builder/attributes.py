"""Attributes of outputs, caches and attestations: names and values that clients write as text."""

from __future__ import annotations

from collections.abc import Mapping

from dockyard.errors import InvalidParameter

TRUE, FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")


def flag(attributes: Mapping[str, str], name: str, otherwise: bool = False) -> bool:
    """A yes or no; no value is a yes. Raises InvalidParameter."""
    value = attributes.get(name)
    if value is None:
        return otherwise
    if value not in (*TRUE, *FALSE, ""):
        raise InvalidParameter(
            f'non-bool value specified for {name}: strconv.ParseBool: parsing "{value}": invalid syntax'
        )
    return value not in FALSE
