"""A Compose file: where it is, and its text."""

from __future__ import annotations

from dataclasses import dataclass

from dockyard.compose.errors import ComposeError


@dataclass(frozen=True)
class Source:
    """A file: its path, or "-" with its text."""

    path: str
    text: bytes | None = None

    def read(self) -> bytes:
        """Its text. Raises ComposeError."""
        if self.text is not None:
            return self.text
        try:
            with open(self.path, "rb") as file:
                return file.read()
        except OSError as error:
            raise ComposeError(f"open {self.path}: {(error.strerror or str(error)).lower()}") from None
