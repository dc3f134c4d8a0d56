"""What is wrong with a bake file, and where."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """Where something stands: a file's name, a line and a column, from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line},{self.column}"


class BakeError(ValueError):
    """A bake file, or what was asked of it, that makes no sense."""

    def __init__(self, message: str, place: Place | None = None) -> None:
        super().__init__(f"{place}: {message}" if place is not None else message)
        self.message = message
        self.place = place
