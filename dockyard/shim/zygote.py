"""The zygote: a small process with everything imported that forks a shim whenever the daemon asks for one.

It runs from a sealed copy of the interpreter in memory. Until its execve a container's first process is a fork of this
one, and what it could reach as /proc/self/exe can't be written (runc CVE-2019-5736).
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING

from dockyard.linux import memory_files, syscalls

if TYPE_CHECKING:
    import subprocess

    from dockyard.shim.habits import Habits

# What the daemon says to ask for a shim; one descriptor comes along, the shim's first connection.
FORK = b"fork"


def main() -> None:
    """Serve the daemon at descriptor 0 until it hangs up."""
    # here and not above: the daemon, which starts us, has no use for them
    from dockyard.linux import capabilities, cgroups
    from dockyard.shim import rehearsal

    daemon = socket.socket(fileno=os.dup(0))
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here waits for shims
    syscalls.set_process_name("dockyard-zygote")
    os.chdir("/")
    os.umask(0o022)
    cgroups.layout()  # and what else every start would read
    capabilities.last_known_to_kernel()
    gc.disable()
    try:
        rehearsal.rehearse(f"/run/dockyard-rehearsal-{os.getpid()}")
    except Exception as failure:  # whatever it is: without a rehearsal shims need more memory and time, no more
        print(f"the rehearsal has failed: {failure!r}", file=sys.stderr, flush=True)
    gc.collect()
    gc.freeze()  # the collector touches no inherited object: pages stay shared with every fork
    _keep_a_spare(daemon)


def _keep_a_spare(daemon: socket.socket) -> None:
    """Have a shim ready at any time: it takes the daemon's next request itself, and says so to be replaced."""
    from dockyard.shim.habits import Habits

    taken, tell = os.pipe()
    habits = Habits()
    poll = select.poll()
    poll.register(daemon, 0)  # only its end is for us
    poll.register(taken, select.POLLIN)
    spare = _fork_spare(daemon, tell, habits)
    poll.register(spare, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == daemon.fileno():
                return
            if fd == taken:
                os.read(taken, 1)
        # taken, or (its pidfd says) killed
        poll.unregister(spare)
        os.close(spare)
        habits.learn()
        spare = _fork_spare(daemon, tell, habits)
        poll.register(spare, select.POLLIN)


def _fork_spare(daemon: socket.socket, tell: int, habits: "Habits") -> int:
    """Fork a shim that waits for a container; its pidfd."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return os.pidfd_open(pid)
    try:
        _be_spare(daemon, tell, parent, habits)
    finally:
        os._exit(0)


def _be_spare(orders: socket.socket, tell: int, parent: int, habits: "Habits") -> None:
    """Be a shim: sleep until a starter has made a container, and then until something happens in it."""
    from dockyard.shim import starter, supervisor

    syscalls.close_all_but(0, 1, 2, orders.fileno(), tell, *habits.descriptors())
    zygote = os.pidfd_open(parent)
    if os.getppid() != parent:
        return
    # What is ours to say goes to files of ours: the daemon's own output must come to an end when the daemon does.
    os.dup2(0, 1)
    os.dup2(0, 2)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    syscalls.set_process_name("dockyard-shim")
    os.setsid()
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    pid, channel, watch = starter.fork(orders, tell, zygote, habits)
    habits.close()
    orders.close()
    os.close(tell)
    os.close(zygote)
    _, status = os.waitpid(pid, 0)
    # a first process that was not wanted, or a go-between: they are in our process group, the container's are not
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(0, os.WNOHANG)[0]:
            pass
    if os.WIFSIGNALED(status):
        supervisor.clear_up(channel)
    elif status == 0:
        watch.poll()
        watch.close()
        supervisor.run(channel)


def spawn() -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """Start a zygote: its process and our end of the connection."""
    import subprocess  # not for the zygote: `threading`, which it imports, touches 0.4 MB of memory after each fork

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    interpreter = memory_files.copy("dockyard", os.path.realpath(sys.executable))
    try:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", "from dockyard.shim.zygote import main; main()"],
                executable=f"/proc/self/fd/{interpreter}",
                pass_fds=(interpreter,),
                stdin=theirs.fileno(),
                cwd="/",
                start_new_session=True,
            )
    finally:
        os.close(interpreter)
    return process, ours
