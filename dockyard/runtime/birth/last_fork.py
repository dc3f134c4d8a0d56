"""The way of a process into a PID namespace where others live: the last fork before its program runs.

Whoever has CAP_SYS_PTRACE there can look into every process that it sees, whatever that says of itself by prctl(2): its
root, its descriptors, its memory; and can make it do what it is allowed to. So nobody is seen there who has anything
that the container has not. A process that joins enters all other namespaces, drops what it must, and loads the filter
while it is still outside; only then it forks into the PID namespace. The child has but to lead a session and to execve.

It is a child of its maker's parent (CLONE_PARENT), the runtime. What only that can do for it (make room in a full
cgroup, set a scheduler that a fork would lose) it does while the child waits.
"""

import os
import socket
from collections.abc import Callable, Sequence

from dockyard.linux import namespaces, syscalls
from dockyard.oci.runtime_spec import Process, Rlimit
from dockyard.runtime import channel
from dockyard.runtime.birth import program as process
from dockyard.runtime.birth import rlimits as limits
from dockyard.runtime.channel import Message
from dockyard.runtime.errors import RuntimeFailure, reason
from dockyard.runtime.state import record

# Counted by user: the process that forks and the child would both count.
LATE_LIMIT = "RLIMIT_NPROC"


def cross(
    runtime: socket.socket,
    wanted: Process,
    *,
    keep_fds: Sequence[int] = (),
    stay: Callable[[int], None] | None = None,
) -> None:
    """Fork; only the child returns, which leads a session, on the terminal that is its stdio if it is to have one.

    Nothing stays open but stdio, `keep_fds` and the channel. `stay`, if given, is what the caller does instead of
    ending at once, with a socket whose other end the runtime gets. Raises RuntimeFailure.
    """
    syscalls.close_all_but(0, 1, 2, runtime.fileno(), *keep_fds)
    pid = _fork(runtime)
    if pid:
        if stay is None:
            channel.send(runtime, Message("born", pid=pid))
        else:
            ours, theirs = channel.pair()
            channel.send(runtime, Message("born", pid=pid), theirs.fileno())
            syscalls.close_all_but(ours.fileno())
            stay(ours.fileno())
        os._exit(0)
    channel.expect(runtime, "done", "entering the PID namespace")
    limits.apply(_late(wanted))
    os.setsid()
    if wanted.terminal:
        process.control_terminal()


def _fork(runtime: socket.socket) -> int:
    try:
        try:
            return namespaces.fork_into(syscalls.CLONE_PARENT)
        except BlockingIOError:
            # the container's cgroup may have room for one process, and we are two for a moment
            channel.send(runtime, Message("crowded"))
            channel.expect(runtime, "done", "making room for a process")
            return namespaces.fork_into(syscalls.CLONE_PARENT)
    except OSError as error:
        raise RuntimeFailure(f"cannot fork into the container: {reason(error)}", errno=error.errno or 0) from error


def check(child: int, parent: int, since: int) -> None:
    """Raise RuntimeFailure unless `child` can be what a child of `parent` that started at `since` has forked last.

    Its number came over a socket that the child has too, and with it perhaps by now whoever looks into it.
    """
    try:
        its_parent, started = record.parentage(child)
        if its_parent == parent and started >= since:
            return
    except OSError:
        pass
    raise RuntimeFailure("the container's process has not been made by its maker")


def set_early_limits(wanted: Process, pid: int = 0) -> None:
    """As limits.apply, of all that may be set before the last fork."""
    limits.apply([limit for limit in wanted.rlimits if limit.type != LATE_LIMIT], pid)
    for limit in _late(wanted):
        limits.raise_hard(limit, pid)


def _late(wanted: Process) -> list[Rlimit]:
    return [limit for limit in wanted.rlimits if limit.type == LATE_LIMIT]
