"""Creating, keeping and entering namespaces."""

import ctypes
import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dockyard.linux.syscalls import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MNT_DETACH,
    MS_BIND,
    SYS_CLONE,
    mount,
    setns,
    umount2,
    unshare,
)

__all__ = [
    "CLONE_FLAGS",
    "CLONE_NEWNET",
    "PROC_NAMES",
    "create_netns",
    "delete_netns",
    "fork_into",
    "setns",
    "staying",
    "unshare",
]

# The OCI runtime spec's names of namespaces, and the kernel's of them.
CLONE_FLAGS = {
    "user": CLONE_NEWUSER,
    "mount": CLONE_NEWNS,
    "uts": CLONE_NEWUTS,
    "ipc": CLONE_NEWIPC,
    "network": CLONE_NEWNET,
    "pid": CLONE_NEWPID,
    "cgroup": CLONE_NEWCGROUP,
    "time": CLONE_NEWTIME,
}
PROC_NAMES = {"mount": "mnt", "network": "net"}  # the others are called in /proc/<pid>/ns as in the spec


# PyDLL: the lock that Python's fork holds must be held during the call too
_clone = ctypes.PyDLL(None, use_errno=True).syscall
_clone.restype = ctypes.c_long


def fork_into(flags: int) -> int:
    """fork(2) with flags of clone(2): namespaces for the child, or CLONE_PARENT; returns like os.fork.

    Only for single-threaded processes: the interpreter is told of the fork, the C library is not.
    """
    interpreter = ctypes.pythonapi
    interpreter.PyOS_BeforeFork()
    pid = int(_clone(ctypes.c_long(SYS_CLONE), ctypes.c_ulong(flags | signal.SIGCHLD), None, None, None, None))
    if pid == 0:
        interpreter.PyOS_AfterFork_Child()
        return 0
    failure = ctypes.get_errno()
    interpreter.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(failure, os.strerror(failure))
    return pid


@contextmanager
def staying(enter: Callable[[], None]) -> Iterator[int]:
    """A child of ours that has done `enter` and stays for the time of the block; its PID. Raises `enter`'s OSError."""
    said, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            enter()
            os.write(tell, b"0")
            while True:
                signal.pause()
        except OSError as error:
            os.write(tell, str(error.errno).encode())
        finally:
            os._exit(0)
    try:
        os.close(tell)
        code = int(os.read(said, 16) or errno.EPERM)
        if code:
            raise OSError(code, os.strerror(code))
        yield pid
    finally:
        os.close(said)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def create_netns(path: str, source: str = "") -> None:
    """Make a network namespace that lives on in the file `path` (its directory must exist). Blocking, about 1 ms.

    With `source` it is the one kept in that file. Raises OSError; then nothing is left at `path`.
    """
    # here and not above: where it is imported it touches 0.4 MB of memory after each fork, the zygote's too
    import threading

    failures: list[BaseException] = []

    def create() -> None:
        # unshare moves only this thread, which then ends; the bind mount keeps the namespace
        try:
            if not source:
                unshare(CLONE_NEWNET)
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
            try:
                mount(source or "/proc/thread-self/ns/net", path, None, MS_BIND)
            except BaseException:
                os.unlink(path)
                raise
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=create, name="create_netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def delete_netns(path: str) -> None:
    """Give up the file `path`; the namespace goes with the last process inside. No error when it is gone already."""
    try:
        umount2(path, MNT_DETACH)
    except OSError:
        pass
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
