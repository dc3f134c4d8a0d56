"""Work on whole directory trees that a container may have shaped, and may be changing at this moment.

Everything goes by directory file descriptors with O_NOFOLLOW, so that a symlink put in the way leads nowhere.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from dockyard.errors import SystemFailure

# An open descriptor is held per level, so a tree nested deeper than this is refused (or flattened, when deleting).
DEPTH_LIMIT = 256

FICLONE = 0x40049409  # ioctl_ficlone(2): share the blocks of a file

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def opened_directory(path: str, parent: int | None = None) -> Iterator[int]:
    """The directory `path` (relative to the descriptor `parent`) as a descriptor; never follows a last symlink."""
    descriptor = os.open(path, _OPEN_DIRECTORY, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def entries(descriptor: int) -> list[os.DirEntry[str]]:
    """The directory's entries, sorted by name."""
    with os.scandir(descriptor) as found:
        return sorted(found, key=lambda entry: entry.name)


def tree_size(path: str) -> int:
    """Bytes in all files and symlinks under `path`, hard links counted once, directories not at all."""
    seen: set[tuple[int, int]] = set()

    def measure(descriptor: int, depth: int) -> int:
        if depth > DEPTH_LIMIT:
            raise SystemFailure(f"cannot measure {path}: directories are nested more than {DEPTH_LIMIT} deep")
        total = 0
        with os.scandir(descriptor) as found:
            children = list(found)
        for entry in children:
            try:
                if entry.is_dir(follow_symlinks=False):
                    with opened_directory(entry.name, descriptor) as child:
                        total += measure(child, depth + 1)
                    continue
                status = os.stat(entry.name, dir_fd=descriptor, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                continue  # it went away while we looked
            if status.st_nlink > 1:
                inode = (status.st_dev, status.st_ino)
                if inode in seen:
                    continue
                seen.add(inode)
            total += status.st_size
        return total

    with opened_directory(path) as top:
        return measure(top, 0)


def remove_tree(path: str) -> None:
    """Delete `path` and everything in it, however deep; no error when it is not there.

    Names longer than PATH_MAX and nesting beyond any recursion limit are no obstacle: what lies deeper than
    DEPTH_LIMIT is first moved up to the top.
    """
    try:
        top = os.open(path, _OPEN_DIRECTORY)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(path)
        return
    moved = 0
    unique = secrets.token_hex(8)

    def empty(descriptor: int, depth: int) -> None:
        nonlocal moved
        with os.scandir(descriptor) as found:
            children = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
        for name, is_directory in children:
            if not is_directory:
                os.unlink(name, dir_fd=descriptor)
                continue
            try:
                os.rmdir(name, dir_fd=descriptor)
                continue
            except OSError:
                pass  # not empty: the usual case
            if depth >= DEPTH_LIMIT:
                moved += 1
                os.rename(name, f"{unique}-{moved}", src_dir_fd=descriptor, dst_dir_fd=top)
                continue
            with opened_directory(name, descriptor) as child:
                empty(child, depth + 1)
            os.rmdir(name, dir_fd=descriptor)

    try:
        before = -1
        while before != moved:
            before = moved
            empty(top, 0)
    finally:
        os.close(top)
    os.rmdir(path)


def copy_tree(source: str, target: str) -> None:
    """Copy everything in the directory `source` into the existing directory `target`, with all attributes."""
    links: dict[tuple[int, int], str] = {}
    with opened_directory(source) as below, opened_directory(target) as above:
        _copy_children(below, above, links, target, "", 0)
        copy_opened_attributes(below, above, os.fstat(below))


def _copy_children(
    source: int, target: int, links: dict[tuple[int, int], str], top: str, path: str, depth: int
) -> None:
    if depth > DEPTH_LIMIT:
        raise SystemFailure(f"cannot copy {path[:200]}…: directories are nested more than {DEPTH_LIMIT} deep")
    for entry in entries(source):
        status = os.stat(entry.name, dir_fd=source, follow_symlinks=False)
        name = f"{path}/{entry.name}"
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            inode = (status.st_dev, status.st_ino)
            if inode in links:
                os.link(links[inode], entry.name, dst_dir_fd=target, follow_symlinks=False)
                continue
            links[inode] = f"{top}{name}"
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(entry.name, 0o700, dir_fd=target)
            with (
                opened_directory(entry.name, source) as child,
                opened_directory(entry.name, target) as copy,
            ):
                _copy_children(child, copy, links, top, name, depth + 1)
                copy_opened_attributes(child, copy, status)
        else:
            copy_leaf(source, target, entry.name, status)


def copy_leaf(source: int, target: int, name: str, status: os.stat_result) -> None:
    """Copy what is no directory from one open directory to another, with all attributes."""
    if stat.S_ISREG(status.st_mode):
        given = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        copy = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            _copy_content(given, copy)
            copy_opened_attributes(given, copy, status)
        finally:
            os.close(given)
            os.close(copy)
        return
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _copy_content(source: int, target: int) -> None:
    try:
        fcntl.ioctl(target, FICLONE, source)
        return
    except OSError:
        pass  # this file system can't share blocks
    while os.copy_file_range(source, target, 1 << 30):
        pass


def copy_opened_attributes(source: int, target: int, status: os.stat_result) -> None:
    """Give one open file the owner, mode, times and all extended attributes of another."""
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def differs(status: os.stat_result, below: os.stat_result) -> bool:
    """Whether a path counts as modified: as Docker, by mode, owner, device, and for non-directories size and mtime."""
    if (status.st_mode, status.st_uid, status.st_gid, status.st_rdev) != (
        below.st_mode,
        below.st_uid,
        below.st_gid,
        below.st_rdev,
    ):
        return True
    if stat.S_ISDIR(status.st_mode):
        return False
    return (status.st_size, status.st_mtime_ns) != (below.st_size, below.st_mtime_ns)


def copy_attributes(source: str, target: str, status: os.stat_result | None = None) -> None:
    """Give the directory `target` the owner, mode, times and extended attributes of the directory `source`."""
    status = status or os.lstat(source)
    if status.st_uid or status.st_gid:
        os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source, follow_symlinks=False):
        if not name.startswith("trusted.overlay."):
            os.setxattr(target, name, os.getxattr(source, name, follow_symlinks=False), follow_symlinks=False)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
