"""The zygote: a small process with everything imported that forks shims and starters for the daemon's containers.

It runs from a sealed copy of the interpreter in memory. Until its execve a container's first process is a fork of this
one, and what it could reach as /proc/self/exe can't be written (runc CVE-2019-5736).
"""

import gc
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from dockyard.linux import memory_files, syscalls

if TYPE_CHECKING:
    import subprocess

# What the daemon says to ask for a shim; one descriptor comes along, the shim's first connection.
FORK = b"fork"
# Of CPython's allocator: the size of a pool, whose blocks are of one size, and where the first one lies
# (Objects/obmalloc.c, since 3.10).
POOL, POOL_HEADER = 1 << 14, 48
MOST_FILLERS = 1000  # of a size, should another allocator look otherwise


def main() -> None:
    """Serve the daemon at descriptor 0 until it hangs up."""
    # here and not above: the daemon, which starts us, has no use for them
    import traceback

    from dockyard.linux import capabilities, cgroups
    from dockyard.shim import rehearsal, unit
    from dockyard.shim.nursery import Nursery

    daemon = socket.socket(fileno=os.dup(0))
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here waits for shims
    syscalls.set_process_name("dockyard-zygote")
    os.chdir("/")
    os.umask(0o022)
    try:
        unit.leave_the_daemons()
    except OSError as failure:  # shims outlive the daemon there, too, if its unit says KillMode=process
        print(f"the shims stay in the daemon's unit: {failure}", file=sys.stderr, flush=True)
    # what every start would import, and read
    if cgroups.layout().version == 2:
        from dockyard.runtime import resources_v2  # noqa: F401
    else:
        from dockyard.runtime import resources_v1  # noqa: F401
    capabilities.last_known_to_kernel()
    gc.disable()
    try:
        rehearsal.rehearse(f"/run/dockyard-rehearsal-{os.getpid()}")
    except Exception as failure:  # whatever it is: without a rehearsal shims need more memory and time, no more
        print(f"the rehearsal has failed: {failure!r}", file=sys.stderr, flush=True)
    gc.collect()
    holes = _fill_holes()
    gc.freeze()  # the collector touches no inherited object: pages stay shared with every fork
    # What forks have to say goes to files of theirs: the daemon's own output must come to an end when the daemon does.
    told = os.dup(2)
    os.dup2(0, 1)
    os.dup2(0, 2)
    try:
        Nursery(daemon).tend()
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
