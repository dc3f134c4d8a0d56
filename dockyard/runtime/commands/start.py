"""start: let a created container's program run."""

import os

from dockyard.runtime.command_line.main import Session
from dockyard.runtime.command_line.usage import Flags, check_arguments

HELP = """\
NAME:
   dockyard-runc start - executes the user defined process in a created container

USAGE:
   dockyard-runc start <container-id>

Where "<container-id>" is the name of a container that "create" has made.
"""


def command(session: Session, flags: Flags) -> None:
    """Start; returns once the program runs, below a service manager once it is ready."""
    check_arguments("start", flags.arguments, 1, 1)
    from dockyard.runtime.errors import RuntimeFailure
    from dockyard.runtime.lifecycle.handle import ContainerHandle
    from dockyard.runtime.state import exec_fifo

    told = os.environ.get("DOCKYARD_RUNC_START_FAILED")
    if told:  # the launcher has started it, and heard this
        raise exec_fifo.failure_of(told)
    container = ContainerHandle.load(session.root, flags.arguments[0])
    status = container.status()
    if status == "running":
        raise RuntimeFailure("cannot start an already running container")
    if status == "stopped":
        raise RuntimeFailure("cannot start a container that has stopped")
    if status != "created":
        raise RuntimeFailure(f"cannot start a container in the {status} state")
    manager = os.environ.get("NOTIFY_SOCKET", "")
    if not manager:
        container.start()
        return
    from dockyard.runtime.lifecycle import notify

    pidfd = container.pidfd()
    notifications = notify.Notifications(container.directory, manager)
    container.start()
    notifications.await_ready(container.record.pid, pidfd)
