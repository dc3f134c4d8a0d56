"""How a command ends early: it has failed, it was asked for wrongly, or only help was wanted."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dockyard.client.errors import APIError

EXIT_NOT_STARTED = 125  # of `run`, when the engine and not the container has failed


class Failure(Exception):
    """A command ends with this message and exit status."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class UsageError(Exception):
    """The command line is wrong: the message says how, `code` is the exit status."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class HelpWanted(Exception):
    """The command line asks for a command's help."""


def status_of(error: APIError) -> int:
    """The exit status that a failed start stands for: 127 command not found, 126 not executable, 125 else."""
    text = error.message
    if "executable file not found" in text or "no such file or directory" in text or "system cannot find" in text:
        return 127
    if "permission denied" in text or "is a directory" in text:
        return 126
    return EXIT_NOT_STARTED
