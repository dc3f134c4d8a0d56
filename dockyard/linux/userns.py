"""User namespaces made from a process with threads: a child that sleeps is in them until they are held otherwise.

unshare(2) and setns(2) of a user namespace are for processes with one thread, and forking an interpreter with threads
is dear. The child here is a clone that shares our memory and runs nothing but the C library's pause(2) on a stack of
its own, so it costs some microseconds. Kernel: user_namespaces(7).
"""

import ctypes
import mmap
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from dockyard.linux import namespaces, recorder, syscalls

CLONE_VM = 0x100
WALL = 0x40000000  # waitpid(2): also for children that do not end with SIGCHLD
STACK = 16384

_libc = ctypes.CDLL(None, use_errno=True)
_libc.clone.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


class Range(Protocol):
    """`size` ids from `container_id` on are those from `host_id` on outside."""

    @property
    def container_id(self) -> int: ...
    @property
    def host_id(self) -> int: ...
    @property
    def size(self) -> int: ...


@contextmanager
def held(uids: Sequence[Range], gids: Sequence[Range], *, network: bool = False) -> Iterator[int]:
    """A new user namespace with these mappings, for the time of the block that of the process whose PID is given.

    With `network` there is a network namespace, too, that belongs to it. Raises OSError.
    """
    flags = CLONE_VM | syscalls.CLONE_NEWUSER | (syscalls.CLONE_NEWNET if network else 0)
    recorder.note("clone", flags)
    stack = mmap.mmap(-1, STACK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    anchor = ctypes.c_char.from_buffer(stack)
    try:
        top = (ctypes.addressof(anchor) + STACK) & ~15
        pid = _libc.clone(ctypes.cast(_libc.pause, ctypes.c_void_p), top, flags, None)
        if pid < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"cannot make a user namespace: {os.strerror(code)}")
        try:
            # setgroups stays allowed: we are privileged outside
            for name, ranges in (("uid_map", uids), ("gid_map", gids)):
                _write(
                    f"/proc/{pid}/{name}", "".join(f"{row.container_id} {row.host_id} {row.size}\n" for row in ranges)
                )
            yield pid
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, WALL)
    finally:
        del anchor
        stack.close()


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())  # at once: the kernel takes no second write
    finally:
        os.close(fd)


def make_network_in(namespace: str, path: str) -> None:
    """Keep a new network namespace that belongs to the user namespace `namespace` (a path) in the file `path`."""
    user = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)

    def enter() -> None:
        syscalls.setns(user, syscalls.CLONE_NEWUSER)
        syscalls.unshare(syscalls.CLONE_NEWNET)

    try:
        with namespaces.staying(enter) as pid:
            pin(pid, "net", path)
    except OSError as error:
        raise OSError(
            error.errno, f"cannot make a network in the user namespace {namespace}: {error.strerror}"
        ) from error
    finally:
        os.close(user)


def open_namespace(uids: Sequence[Range], gids: Sequence[Range]) -> int:
    """The descriptor of a new user namespace with these mappings. Raises OSError."""
    with held(uids, gids) as pid:
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def map_mount(mount: int, namespace: int) -> None:
    """Give the detached mount `mount` the mapping of the user namespace `namespace` (mount_setattr(2)). Raises OSError.

    EINVAL: its file system can't, for idmapped mounts are each file system's own work (overlayfs has none).
    """
    syscalls.mount_setattr(mount, "", syscalls.AT_EMPTY_PATH, set_=syscalls.MOUNT_ATTR_IDMAP, userns=namespace)


PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 1 << 2


def make_files_as(uid: int, gid: int) -> None:
    """From now on what this thread makes is `uid`'s and `gid`'s (setfsuid(2)), with its capabilities kept.

    There is no way back: for threads of their own.
    """
    recorder.note("setfsuid", uid, gid)
    # else leaving uid 0 would take away the capabilities that files need (capabilities(7))
    syscalls.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)


def pin(pid: int, kind: str, path: str) -> None:
    """Keep the namespace `kind` (user, net) of a process in the file `path`, which is made."""
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        syscalls.mount(f"/proc/{pid}/ns/{kind}", path, None, syscalls.MS_BIND)
    except BaseException:
        os.unlink(path)
        raise


def unpin(path: str) -> None:
    """Undo `pin`; the namespace goes with the last process inside. No error when it is gone already."""
    try:
        syscalls.umount2(path, syscalls.MNT_DETACH)
    except OSError:
        pass
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
