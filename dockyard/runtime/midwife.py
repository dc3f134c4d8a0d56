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


class Attendance:
    """Answers the process at the other end of `process` until it says that it is created.

    `state` is the container's as its seccomp agent shall see it. `console` is the terminal's master, or -1.
    """

    def __init__(
        self,
        process: socket.socket,
        pidfd: int,
        pid: int,
        wanted: Process | None,
        filter_: Filter | None,
        state: State,
        run_hooks: Callable[[], None] | None = None,
        on_console: Callable[[int], None] | None = None,
        map_ids: Callable[[int, int], None] | None = None,
        join_cgroup: Callable[[], None] | None = None,
    ) -> None:
        self.created = False
        self.console = -1
        self._process = process
        self._pidfd = pidfd
        self._pid = pid
        self._wanted = wanted
        self._filter = filter_
        self._state = state
        self._run_hooks = run_hooks
        self._on_console = on_console
        self._map_ids = map_ids
        self._join_cgroup = join_cgroup

    def step(self) -> None:
        """Wait for one message and do as it says. Raises RuntimeFailure; then `abandon`."""
        message, fd = channel.receive(self._process)
        if message is None:
            raise RuntimeFailure("the container's process ended before it was created")
        if message.kind == "error":
            raise RuntimeFailure(message.text, message.exit_code, inside=True)
        if message.kind == "created":
            self.created = True
            return
        if message.kind == "console":
            self.console = fd
            if self._on_console is not None:
                self._on_console(fd)
        elif message.kind == "hooks" and self._run_hooks is not None:
            self._run_hooks()
        elif message.kind == "ids" and self._map_ids is not None:
            try:
                self._map_ids(int(message.text), fd)
            finally:
                os.close(fd)
        elif message.kind == "cgroup" and self._join_cgroup is not None:
            self._join_cgroup()
        elif message.kind == "limits" and self._wanted is not None:
            # only the host's root may raise a hard limit, not that of a user namespace
            limits.apply(self._wanted.rlimits, self._pid)
        elif message.kind == "seccomp" and self._filter is not None:
            _tell_agent(self._pidfd, self._pid, message.pid, self._filter, self._state)
        channel.send(self._process, Message("done"))

    def abandon(self) -> None:
        """Let go of the terminal."""
        if self.console >= 0:
            os.close(self.console)
            self.console = -1


def attend(
    process: socket.socket,
    pidfd: int,
    pid: int,
    wanted: Process | None,
    filter_: Filter | None,
    state: State,
    run_hooks: Callable[[], None] | None = None,
    on_console: Callable[[int], None] | None = None,
    map_ids: Callable[[int, int], None] | None = None,
) -> int:
    """Answer a process until it is created; its terminal's master, or -1. Raises RuntimeFailure."""
    attendance = Attendance(process, pidfd, pid, wanted, filter_, state, run_hooks, on_console, map_ids)
    try:
        while not attendance.created:
            attendance.step()
    except BaseException:
        attendance.abandon()
        raise
    return attendance.console


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
                if sent < len(data):  # an agent that has all may have hung up
                    agent.sendall(data[sent:])
        finally:
            os.close(listener)
    except OSError as error:
        raise RuntimeFailure(
            f"failed to connect with seccomp agent at listenerPath {filter_.listener_path}: {error.strerror or error}"
        ) from error
