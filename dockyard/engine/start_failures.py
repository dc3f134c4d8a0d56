"""Why a container's program could not be started, and with what exit code that ends a command line."""

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


class RuntimeBroke(StartFailure, SystemFailure):
    """The container could not be made."""


def start_failure(failure: RuntimeFailure, *, restored: bool = False) -> StartFailure:
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
    if failure.exit_code in (126, 127):
        return CannotRun(text, failure.exit_code)
    return RuntimeBroke(text, 128)


async def translated(work: Coroutine[Any, Any, None]) -> None:
    """Await a request to a shim; what the runtime refuses is a failure of the system, an ended container a conflict."""
    try:
        await work
    except RuntimeFailure as failure:
        raise SystemFailure(failure.message) from failure
    except NotFound:
        raise Conflict("container is not running") from None
