"""What the runtime does for a process that it makes, and that this one can't do itself, until that is created."""

import os
import socket
from collections.abc import Callable

from dockyard.linux import syscalls
from dockyard.oci.runtime_spec import VERSION, ContainerProcessState, Process, State, encode
from dockyard.runtime import channel, limits
from dockyard.runtime.channel import Message
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.filter import Filter


def attend(
    process: socket.socket,
    pidfd: int,
    pid: int,
    wanted: Process | None,
    filter_: Filter | None,
    state: State,
    run_hooks: Callable[[], None] | None = None,
) -> int:
    """Answer the process at the other end until it says that it is created; its terminal's master, or -1.

    `state` is the container's as its seccomp agent shall see it. Raises RuntimeFailure.
    """
    console = -1
    try:
        while True:
            message, fd = channel.receive(process)
            if message is None:
                raise RuntimeFailure("the container's process ended before it was created")
            if message.kind == "created":
                return console
            if message.kind == "error":
                raise RuntimeFailure(message.text, message.exit_code)
            if message.kind == "console":
                console = fd
                continue
            if message.kind == "hooks" and run_hooks is not None:
                run_hooks()
            elif message.kind == "limits" and wanted is not None:
                # only the host's root may raise a hard limit, not that of a user namespace
                limits.apply(wanted.rlimits, pid)
            elif message.kind == "seccomp" and filter_ is not None:
                _tell_agent(pidfd, pid, message.pid, filter_, state)
            channel.send(process, Message("done"))
    except BaseException:
        if console >= 0:
            os.close(console)
        raise


def _tell_agent(pidfd: int, pid: int, number: int, filter_: Filter, state: State) -> None:
    """Hand the listener, the process's descriptor `number`, to whoever decides its calls (config-linux.md, seccomp)."""
    try:
        listener = syscalls.pidfd_getfd(pidfd, number)
        try:
            text = ContainerProcessState(
                oci_version=VERSION, fds=["seccompFd"], pid=pid, metadata=filter_.listener_metadata, state=state
            )
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
                agent.connect(filter_.listener_path)
                data = encode(text)
                sent = socket.send_fds(agent, [data], [listener])
                agent.sendall(data[sent:])
        finally:
            os.close(listener)
    except OSError as error:
        raise RuntimeFailure(
            f"error sending the seccomp listener to {filter_.listener_path}: {error.strerror or error}"
        ) from error
