"""What the runtime does for a process that it makes, and that this one can't do itself, until that is created."""

import errno
import os
import socket
from collections.abc import Callable

from dockyard.linux import syscalls
from dockyard.oci.runtime_spec import VERSION, ContainerProcessState, Process, Spec, State, encode
from dockyard.runtime import channel
from dockyard.runtime.birth import init, last_fork, scheduling
from dockyard.runtime.birth import rlimits as limits
from dockyard.runtime.channel import Message
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.security.seccomp import Filter
from dockyard.runtime.state import record


class ParentSync:
    """Answers the process at the other end of `process` until it says that it is created.

    `pid` and `pidfd` (to be closed by whoever has this) are that process's; if it `crosses`, in the end those of the
    child that goes on in its place (last_fork.py), a child of `parent`'s (0: ours), and `maker` is who it was then.
    `state` is the container's as its seccomp agent shall see it, `spec` its specification. `console` is the terminal's
    master, or -1, `keeper` where the child's maker waits for what it needs to keep the exec FIFO, or -1.
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
        join_cgroup: Callable[[int], None] | None = None,
        make_room: Callable[[int], None] | None = None,
        spec: Spec | None = None,
        parent: int = 0,
        crosses: bool = False,
    ) -> None:
        self.created = False
        self.console = self.keeper = -1
        self.pid = pid
        self.maker = 0
        self.pidfd = pidfd
        self._process = process
        self._spec = spec
        self._parent = parent or os.getpid()
        self._crosses = crosses
        self._since = record.start_time(pid) if crosses else 0
        self._crossed = False
        self._crowded = False
        self._make_room = make_room
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
            raise RuntimeFailure("the container's process ended before it was created", errno=errno.ESRCH)
        if message.kind == "error":
            raise channel.failure_of(message, inside=True)
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
            self._join_cgroup(self.pid)
        elif message.kind == "crowded" and self._make_room is not None:
            self._make_room(self.pid)
            self._crowded = True
        elif message.kind == "born" and self._crosses and not self._crossed:
            self._go_on_with(message.pid, fd)
        elif message.kind == "clocks" and self._spec is not None:
            init.set_clocks(self.pid, self._spec)
        elif message.kind == "limits" and self._wanted is not None:
            # only the host's root may raise a hard limit, not that of a user namespace
            try:
                if self._crosses:
                    last_fork.set_early_limits(self._wanted, self.pid)
                else:
                    limits.apply(self._wanted.rlimits, self.pid)
            except PermissionError as error:  # nobody may
                raise RuntimeFailure(str(error.strerror)) from error
        elif message.kind == "seccomp" and self._filter is not None:
            _tell_agent(self.pidfd, self.pid, message.pid, self._filter, self._state)
        channel.send(self._process, Message("done"))

    def _go_on_with(self, child: int, keeper: int) -> None:
        """The process has forked for the last time: from now on its child is meant."""
        self._crossed = True
        self.keeper = keeper
        last_fork.check(child, self._parent, self._since)
        self.maker, self.pid = self.pid, child
        os.close(self.pidfd)
        self.pidfd = os.pidfd_open(child)
        if self._crowded and self._join_cgroup is not None:
            self._join_cgroup(child)
        if self._wanted is not None:
            resources = self._spec.linux.resources if self._spec is not None else None
            scheduling.apply_scheduler(self._wanted, resources, child)

    def abandon(self) -> None:
        """Let go of the terminal, and of who waits."""
        for fd in (self.console, self.keeper):
            if fd >= 0:
                os.close(fd)
        self.console = self.keeper = -1


def serve(parent_sync: ParentSync) -> None:
    """Answer a process until it is created. Raises RuntimeFailure; then `abandon` has been called."""
    try:
        while not parent_sync.created:
            parent_sync.step()
    except BaseException:
        parent_sync.abandon()
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
                if sent < len(data):  # an agent that has all may have hung up
                    agent.sendall(data[sent:])
        finally:
            os.close(listener)
    except OSError as error:
        raise RuntimeFailure(
            f"failed to connect with seccomp agent at listenerPath {filter_.listener_path}: {error.strerror or error}"
        ) from error
