"""A Compose file: where it is, and its text."""

from __future__ import annotations

from dockyard.compose.errors import ComposeError


class Source:
    """A file: its path, or "-" with its text."""

    def __init__(self, path: str, text: bytes | None = None) -> None:
        self.path = path
        self.text = text

    def read(self) -> bytes:
        """Its text. Raises ComposeError."""
        if self.text is not None:
            return self.text
        try:
            with open(self.path, "rb") as file:
                return file.read()
        except OSError as error:
            raise ComposeError(f"open {self.path}: {(error.strerror or str(error)).lower()}") from None
