"""The zygote: a small process with everything imported that forks a shim whenever the daemon asks for one.

It runs from a sealed copy of the interpreter in memory. Until its execve a container's first process is a fork of this
one, and what it could reach as /proc/self/exe can't be written (runc CVE-2019-5736).
"""

import fcntl
import gc
import os
import select
import signal
import socket
import subprocess
import sys

from dockyard.linux import syscalls

# What the daemon says to ask for a shim; one descriptor comes along, the shim's first connection.
FORK = b"fork"


def main() -> None:
    """Serve the daemon at descriptor 0 until it hangs up."""
    # here and not above: the daemon, which starts us, has no use for them
    from dockyard.linux import capabilities, cgroups
    from dockyard.shim import supervisor  # noqa: F401 (imported now for every spare)

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
    gc.collect()
    gc.freeze()  # the collector touches no inherited object: pages stay shared with every fork
    _keep_a_spare(daemon)


def _keep_a_spare(daemon: socket.socket) -> None:
    """Have a shim ready at any time: it takes the daemon's next request itself, and says so to be replaced."""
    taken, tell = os.pipe()
    poll = select.poll()
    poll.register(daemon, 0)  # only its end is for us
    poll.register(taken, select.POLLIN)
    spare = _fork_spare(daemon, tell)
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
        spare = _fork_spare(daemon, tell)
        poll.register(spare, select.POLLIN)


def _fork_spare(daemon: socket.socket, tell: int) -> int:
    """Fork a shim that waits for a container; its pidfd."""
    pid = os.fork()
    if pid:
        return os.pidfd_open(pid)
    try:
        _be_spare(daemon, tell)
    finally:
        os._exit(0)


def _be_spare(daemon: socket.socket, tell: int) -> None:
    from dockyard.shim import supervisor
    from dockyard.shim.starter import Starter

    low, high = sorted((daemon.fileno(), tell))
    os.closerange(3, low)
    os.closerange(low + 1, high)
    syscalls.close_range(high + 1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    syscalls.set_process_name("dockyard-shim")
    os.setsid()
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    starter = Starter()
    data, descriptors = supervisor.receive(daemon, 64)
    if not data:
        return
    os.write(tell, b".")
    daemon.close()
    os.close(tell)
    supervisor.run(socket.socket(fileno=descriptors[0]), starter)


def spawn() -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """Start a zygote: its process and our end of the connection."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    interpreter = sealed_copy(os.path.realpath(sys.executable))
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


def sealed_copy(path: str) -> int:
    """A memfd with the content of `path` that nobody can change any more."""
    copy = os.memfd_create("dockyard", os.MFD_ALLOW_SEALING)
    with open(path, "rb") as source:
        size = os.fstat(source.fileno()).st_size
        while size > 0:
            size -= os.sendfile(copy, source.fileno(), None, size)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, seals)
    return copy
