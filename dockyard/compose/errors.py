"""What can go wrong with a project, as types."""

from __future__ import annotations

from dockyard.client.errors import ClientError


class ComposeError(ClientError):
    """A project cannot be loaded or handled: the message says why, `code` is a command's exit status."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class Disabled(ComposeError):
    """A service that is there, but that no active profile enables."""


class Missing(ComposeError):
    """There is no such service, file or project."""
