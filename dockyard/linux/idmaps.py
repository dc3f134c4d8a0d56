"""Id mappings: of user namespaces, and of mounts by way of them (user_namespaces(7), mount_setattr(2))."""

import errno
import os
from collections.abc import Sequence
from typing import Protocol

from dockyard.linux import namespaces, procfs, syscalls

Row = tuple[int, int, int]  # a range: first id inside, first outside, size


class Range(Protocol):
    """`size` ids from `container_id` on are those from `host_id` on outside."""

    @property
    def container_id(self) -> int: ...
    @property
    def host_id(self) -> int: ...
    @property
    def size(self) -> int: ...


def write(pid: int, uids: Sequence[Range], gids: Sequence[Range], *, proc: int | None = None) -> None:
    """Set the mappings of the new user namespace of `pid`. Raises OSError.

    `proc`: the procfs that knows the process by that number, if that is not /proc. A caller who is not root may map
    itself; more it may by newuidmap(1), as far as /etc/subuid and /etc/subgid say.
    """
    if os.geteuid() == 0:
        _put(pid, "uid_map", uids, proc)
        _put(pid, "gid_map", gids, proc)
        return
    if _is_self(uids, os.geteuid()):
        _put(pid, "uid_map", uids)
    else:
        _by_helper("newuidmap", pid, uids)
    if _is_self(gids, os.getegid()):
        # the kernel's condition: else groups that are there to keep someone out could be dropped (CVE-2014-8989)
        fd = os.open(f"/proc/{pid}/setgroups", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"deny")
        finally:
            os.close(fd)
        _put(pid, "gid_map", gids)
    else:
        _by_helper("newgidmap", pid, gids)


def _put(pid: int, name: str, ranges: Sequence[Range], proc: int | None = None) -> None:
    text = "".join(f"{row.container_id} {row.host_id} {row.size}\n" for row in ranges)
    path = f"/proc/{pid}/{name}" if proc is None else f"{pid}/{name}"
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        # in one write: the kernel takes no second one
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _is_self(ranges: Sequence[Range], own: int) -> bool:
    return len(ranges) == 1 and ranges[0].size == 1 and ranges[0].host_id == own


def _by_helper(program: str, pid: int, ranges: Sequence[Range]) -> None:
    import subprocess  # only for who is not root

    words = [program, str(pid)]
    for row in ranges:
        words += [str(row.container_id), str(row.host_id), str(row.size)]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise OSError(errno.ENOENT, f"{program} is not installed: install the package uidmap") from None
    if done.returncode:
        raise OSError(errno.EPERM, done.stderr.strip() or f"{program} failed")


def host_id(ranges: Sequence[Range], inside: int) -> int | None:
    """What `inside` is outside; None when it is not mapped."""
    for row in ranges:
        if row.container_id <= inside < row.container_id + row.size:
            return row.host_id + inside - row.container_id
    return None


def user_namespace(uids: Sequence[Range], gids: Sequence[Range]) -> int:
    """The descriptor of a new user namespace with these mappings that nobody is in.

    Only for single-threaded processes. Raises OSError.
    """
    # a container's first process has numbers of its own for its children, and may still see the host's /proc
    with namespaces.staying(lambda: syscalls.unshare(syscalls.CLONE_NEWUSER)) as pid:
        proc = procfs.open_root()
        try:
            write(pid, uids, gids, proc=proc)
            return os.open(f"{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
        finally:
            os.close(proc)


def of_namespace(namespace: int) -> tuple[list[Row], list[Row]]:
    """The mappings of the user namespace behind a descriptor, as seen from ours: of uids, of gids.

    Only for single-threaded processes. Raises OSError when we may not join it.
    """
    with namespaces.staying(lambda: syscalls.setns(namespace, syscalls.CLONE_NEWUSER)) as pid:
        proc = procfs.open_root()
        try:
            return _rows(proc, f"{pid}/uid_map"), _rows(proc, f"{pid}/gid_map")
        finally:
            os.close(proc)


def _rows(proc: int, path: str) -> list[Row]:
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)) as rows:
        return sorted((int(inside), int(outside), int(size)) for inside, outside, size in map(str.split, rows))


def map_mount(mount: int, namespace: int, *, recursive: bool = False) -> None:
    """Give the detached mount `mount` the mapping of the user namespace `namespace`. Raises OSError.

    EINVAL: its file system can't (idmapped mounts are each file system's own work), or it is mapped already.
    """
    flags = syscalls.AT_EMPTY_PATH | (syscalls.AT_RECURSIVE if recursive else 0)
    syscalls.mount_setattr(mount, "", flags, set_=syscalls.MOUNT_ATTR_IDMAP, userns=namespace)
