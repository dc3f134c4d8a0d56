"""Why a container's program could not be started, and with what exit code that ends a command line."""

import errno
import os
from collections.abc import Coroutine
from typing import Any

from dockyard.errors import Conflict, DockyardError, InvalidParameter, NotFound, SystemFailure
from dockyard.runtime.errors import RuntimeFailure


class StartFailure(DockyardError):
    """The runtime could not start the program; `exit_code` is what the command line should end with."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class CannotRun(StartFailure, InvalidParameter):
    """The program is not there or may not be executed."""


class Refused(StartFailure, InvalidParameter):
    """The runtime or the kernel refuses what the container is asked to be."""


class RuntimeBroke(StartFailure, SystemFailure):
    """The container could not be made, through no fault of whoever asked."""


WRONG_KIND = (
    "Are you trying to mount a directory onto a file (or vice-versa)? "
    "Check if the specified host path exists and is the expected type"
)

# What the kernel says when the host is at fault: all else that the runtime fails at is what it was asked for.
HOST_FAULTS = tuple(
    os.strerror(number).lower()
    for number in (
        *(errno.EAGAIN, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.ENOSYS),
        *(errno.EUCLEAN, errno.EUSERS),
    )
)


def is_hosts_fault(message: str) -> bool:
    """Whether a failure of the runtime is the host's (or ours), by what it says: an errno does not travel with it."""
    said = message.lower()
    return any(fault in said for fault in HOST_FAULTS) or "its maker ended" in said


def start_failure(failure: RuntimeFailure, *, restored: bool = False) -> StartFailure:
    """`failure` of a container's start as clients know it."""
    if restored:
        return RuntimeBroke(
            "failed to create task for container: failed to create shim task: OCI runtime restore failed: "
            f"{failure.message}",
            128,
        )
    text = (
        "failed to create task for container: failed to create shim task: OCI runtime create failed: "
        f"runc create failed: unable to start container process: {failure.message}"
    )
    return _failure(failure, text)


def exec_failure(failure: RuntimeFailure) -> StartFailure:
    """`failure` of a further process's start."""
    text = f"OCI runtime exec failed: exec failed: unable to start container process: {failure.message}"
    return _failure(failure, text)


def _failure(failure: RuntimeFailure, text: str) -> StartFailure:
    """By its exit code, and by its words, as in moby (daemon/errors.go, setExitCodeFromError), which adds to them."""
    said = failure.message.lower()
    code = failure.exit_code if failure.exit_code in (126, 127) else 128
    if os.strerror(errno.EACCES).lower() in said:
        code = 126
    elif os.strerror(errno.EISDIR).lower() in said:
        text, code = f"{text}: permission denied", 126  # clients look for that
    elif os.strerror(errno.ENOTDIR).lower() in said:
        text, code = f"{text}: {WRONG_KIND}", 127
    elif os.strerror(errno.ENOENT).lower() in said:
        code = 127
    if code != 128:
        return CannotRun(text, code)
    return RuntimeBroke(text, code) if is_hosts_fault(failure.message) else Refused(text, code)


async def translated(work: Coroutine[Any, Any, None]) -> None:
    """Await a request to a shim.

    Raises InvalidParameter for what the runtime or the kernel refuses, SystemFailure for what the host fails at, and
    Conflict for a container that has ended.
    """
    try:
        await work
    except RuntimeFailure as failure:
        kind = SystemFailure if is_hosts_fault(failure.message) else InvalidParameter
        raise kind(failure.message) from failure
    except NotFound:
        raise Conflict("container is not running") from None
