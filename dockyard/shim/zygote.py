"""The zygote: a small process with everything imported that forks shims and starters for the daemon's containers.

Until its execve a process of a container's is a fork of this one, and a container may see what that has: so it runs
from a sealed copy of the interpreter in memory (runc CVE-2019-5736: /proc/self/exe), is started where every file is on
a read-only mount (/proc/<pid>/map_files leads to the libraries), and has nearly nothing of the daemon's environment.
"""

import gc
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from dockyard.linux import memory_files, syscalls
from dockyard.runtime.birth.environment import kept

if TYPE_CHECKING:
    import subprocess

# What the daemon says to ask for a shim; one descriptor comes along, the shim's first connection.
FORK = b"fork"
# Of CPython's allocator: the size of a pool, whose blocks are of one size, and where the first one lies
# (Objects/obmalloc.c, since 3.10).
POOL, POOL_HEADER = 1 << 14, 48
MOST_FILLERS = 1000  # of a size, should another allocator look otherwise


def main(home: int = -1, root: int = -1, helpers: int = -1) -> None:
    """Serve the daemon at descriptor 0 until it hangs up. `home` and `root` are where it lives, if not we too.

    `helpers` is a connection for orders of other processes (helpers.py).
    """
    # here and not above: the daemon, which starts us, has no use for them
    import traceback

    from dockyard.linux import capabilities, cgroups
    from dockyard.shim import unit, warm_up
    from dockyard.shim.process_pool import ProcessPool

    daemon = socket.socket(fileno=os.dup(0))
    others = socket.socket(fileno=os.dup(helpers)) if helpers >= 0 else None  # a low number: a warm-up closes the rest
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here waits for shims
    syscalls.set_process_name("dockyard-zygote")
    os.umask(0o022)
    try:
        unit.leave_the_daemons()
    except OSError as failure:  # shims outlive the daemon there, too, if its unit says KillMode=process
        print(f"the shims stay in the daemon's unit: {failure}", file=sys.stderr, flush=True)
    # what every start would import, and read
    if cgroups.layout().version == 2:
        from dockyard.runtime.resources import v2 as resources_v2  # noqa: F401
    else:
        from dockyard.runtime.resources import v1 as resources_v1  # noqa: F401
    capabilities.last_known_to_kernel()
    if home >= 0:
        _come_home(home, root)
    os.chdir("/")
    gc.disable()
    try:
        warm_up.warm_up(f"/run/dockyard-warm-up-{os.getpid()}")
    except Exception as failure:  # whatever it is: without it shims need more memory and time, no more
        print(f"the warm-up has failed: {failure!r}", file=sys.stderr, flush=True)
    gc.collect()
    holes = _fill_holes()
    gc.freeze()  # the collector touches no inherited object: pages stay shared with every fork
    # What forks have to say goes to files of theirs: the daemon's own output must come to an end when the daemon does.
    told = os.dup(2)
    os.dup2(0, 1)
    os.dup2(0, 2)
    try:
        ProcessPool(daemon, others).tend()
    except Exception:
        os.write(told, traceback.format_exc().encode())
        raise
    del holes


def _fill_holes() -> list[bytes]:
    """Objects of every size that Python's allocator has pools for, which are to be kept.

    What is allocated after a fork then lies side by side, and not in the gaps of many pages, each of which would have
    to be copied: a tenth of a shim's memory. A size has no gaps left when two objects lie at the beginning of a pool.
    """
    kept: list[bytes] = []
    for size in range(48, 513, 16):
        length, place = size - sys.getsizeof(b""), 0
        for _ in range(MOST_FILLERS):
            before, filler = place, bytes(length)
            place = id(filler) % POOL
            if before == POOL_HEADER and place == before + size:
                break
            kept.append(filler)
    return kept


def spawn() -> tuple["subprocess.Popen[bytes]", socket.socket, socket.socket]:
    """Start a zygote: its process and our ends of the connections, for shims and for helpers."""
    import threading  # not for the zygote: it touches 0.4 MB of memory after each fork

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    helpers, helpers_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    started: list[subprocess.Popen[bytes]] = []
    failures: list[BaseException] = []

    def start() -> None:
        try:
            started.append(_start(theirs, helpers_end))
        except BaseException as failure:
            failures.append(failure)

    # a thread for it alone, which is then in a mount namespace of its own
    with theirs, helpers_end:
        thread = threading.Thread(target=start, name="zygote")
        thread.start()
        thread.join()
    if failures:
        ours.close()
        helpers.close()
        raise failures[0]
    return started[0], ours, helpers


def _start(daemon: socket.socket, helpers: socket.socket) -> "subprocess.Popen[bytes]":
    """Start it where all files are read-only, and so are those that it maps: the interpreter's libraries."""
    import subprocess

    interpreter = memory_files.copy("dockyard", os.path.realpath(sys.executable))
    home = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        # what is unmounted on the host shall be gone here too
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
        syscalls.mount_setattr(syscalls.AT_FDCWD, "/", syscalls.AT_RECURSIVE, set_=syscalls.MOUNT_ATTR_RDONLY)
        return subprocess.Popen(
            [sys.executable, "-c", f"from dockyard.shim.zygote import main; main({home}, {root}, {helpers.fileno()})"],
            executable=f"/proc/self/fd/{interpreter}",
            pass_fds=(interpreter, home, root, helpers.fileno()),
            stdin=daemon.fileno(),
            cwd="/",
            start_new_session=True,
            env=kept(),
        )
    finally:
        for fd in (interpreter, home, root):
            os.close(fd)


def _come_home(home: int, root: int) -> None:
    """Go from the mount namespace of our start to the daemon's, and to its root."""
    syscalls.setns(home, syscalls.CLONE_NEWNS)
    if not os.path.samestat(os.fstat(root), os.stat("/")):
        os.fchdir(root)
        os.chroot(".")
    os.close(home)
    os.close(root)
