"""Filling a new volume with what the image has at its place.

Everything is done relative to open directories and no symlink is ever followed but those inside the container's root
on the way to the source, which the kernel resolves as if chrooted there.
"""

from __future__ import annotations

import errno
import os
import stat

from dockyard.errors import InvalidParameter
from dockyard.linux import syscalls

# Extended attributes that belong to a file's content; the rest is the host's business (labels, overlay's marks).
KEPT_ATTRIBUTES = ("user.", "security.capability", "system.posix_acl_access", "system.posix_acl_default")


def copy_up(rootfs: str, path: str, destination: str) -> bool:
    """Copy the directory `path` of a container into the directory `destination` when that is empty.

    Ownership, mode, times and extended attributes of everything are kept, `destination`'s own too; hard links stay
    linked. Returns whether there was anything to copy. Raises InvalidParameter when a file is at `path`. Blocks.
    """
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        source = syscalls.openat2(
            root, path, os.O_RDONLY | os.O_DIRECTORY, resolve=syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
        )
    except OSError as error:
        if error.errno == errno.ENOTDIR and _is_there(root, path):
            raise InvalidParameter(f"cannot mount volume over existing file, file exists {path}") from None
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise
    finally:
        os.close(root)
    target = os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.scandir(target) as entries:
            if any(True for _ in entries):
                return False
        _copy_directory(source, target, "", _Links(target))
        return True
    finally:
        os.close(source)
        os.close(target)


def _is_there(root: int, path: str) -> bool:
    try:
        found = syscalls.openat2(
            root, path, os.O_PATH, resolve=syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
        )
    except OSError:
        return False
    os.close(found)
    return True


class _Links:
    """Which files with several names have been copied, and where, so that the copies are one file, too."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._copies: dict[tuple[int, int], str] = {}

    def note(self, status: os.stat_result, place: str) -> None:
        if status.st_nlink > 1:
            self._copies[status.st_dev, status.st_ino] = place

    def link(self, status: os.stat_result, target: int, name: str) -> bool:
        """Make `name` in `target` another name of the copy; False when there is no copy yet."""
        place = self._copies.get((status.st_dev, status.st_ino)) if status.st_nlink > 1 else None
        if place is None:
            return False
        resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
        copy = syscalls.openat2(self._top, place, os.O_PATH | os.O_NOFOLLOW, resolve=resolve)
        try:
            os.link(f"/proc/self/fd/{copy}", name, dst_dir_fd=target)
        finally:
            os.close(copy)
        return True


def _copy_directory(source: int, target: int, place: str, links: _Links) -> None:
    """Copy what is in `source` (an fd) into `target`, which is `place` below the top, then `source`'s own metadata."""
    with os.scandir(source) as entries:
        names = [entry.name for entry in entries]
    status = os.fstat(source)
    for name in names:
        _copy_entry(source, target, name, f"{place}/{name}" if place else name, links)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    _copy_attributes(source, target)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy_entry(source: int, target: int, name: str, place: str, links: _Links) -> None:
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        os.mkdir(name, 0o700, dir_fd=target)
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        try:
            made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
            try:
                _copy_directory(inner, made, place, links)
            finally:
                os.close(made)
        finally:
            os.close(inner)
        return
    if links.link(status, target, name):
        return
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif kind == stat.S_IFREG:
        _copy_file(source, target, name, status)
    elif kind == stat.S_IFSOCK:
        return  # a socket without its process is nothing
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
    if kind != stat.S_IFREG:
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        if kind != stat.S_IFLNK:
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)
    links.note(status, place)


def _copy_file(source: int, target: int, name: str, status: os.stat_result) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        writer = os.open(name, flags, 0o600, dir_fd=target)
        try:
            _copy_bytes(reader, writer)
            os.fchown(writer, status.st_uid, status.st_gid)
            os.fchmod(writer, stat.S_IMODE(status.st_mode))  # after chown, which clears set-user-ID
            _copy_attributes(reader, writer)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_bytes(reader: int, writer: int) -> None:
    try:
        while os.copy_file_range(reader, writer, 1 << 30):
            pass
        return
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    while os.sendfile(writer, reader, None, 1 << 24):
        pass


def _copy_attributes(source: int, target: int) -> None:
    try:
        names = os.listxattr(source)
    except OSError:
        return  # the file system has none
    for name in names:
        if name.startswith(KEPT_ATTRIBUTES):
            try:
                os.setxattr(target, name, os.getxattr(source, name))
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENODATA):
                    raise
