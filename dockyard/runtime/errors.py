"""What a runtime can fail at."""

import contextlib
from collections.abc import Iterator


class RuntimeFailure(Exception):
    """A container or a process in it could not be made or changed.

    `exit_code` is what a command line should end with: 127 when the program was not found, 126 when it may not be
    executed, else 1 (POSIX's shell convention, which Docker follows). `errno` is what the kernel said, 0 where that
    is not told.
    """

    def __init__(self, message: str, exit_code: int = 1, *, inside: bool = False, errno: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.errno = errno
        self.inside = inside  # whether it happened to the container's process, not to us who made it


class ProgramMissing(RuntimeFailure):
    """It takes a program that is not installed on this host."""


def reason(error: OSError) -> str:
    """The kernel's words as other runtimes print them."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Raise a RuntimeFailure that says `what` was being done for an OSError."""
    try:
        yield
    except OSError as error:
        raise RuntimeFailure(f"{what}: {reason(error)}", errno=error.errno or 0) from error
