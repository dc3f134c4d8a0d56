"""Filling a new tmpfs with what the directory it will cover holds (mount option tmpcopyup).

The tmpfs is not mounted anywhere yet, and the directory is read by descriptor, links never followed: whatever happens
to paths meanwhile, nothing is copied from or to anywhere else.
"""

import os
import stat


def copy_tree(source: int, target: int) -> None:
    """Copy what is in the directory `source` (a descriptor) to the empty directory `target`. Raises OSError."""
    own = os.open(f"/proc/self/fd/{source}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    links: dict[tuple[int, int], str] = {}
    try:
        into = os.open(f"/proc/self/fd/{target}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _copy_entries(own, into, into, "", links)
            _copy_attributes(own, into)
        finally:
            os.close(into)
    finally:
        os.close(own)


def _copy_entries(source: int, target: int, top: int, path: str, links: dict[tuple[int, int], str]) -> None:
    for name in os.listdir(source):
        entry = os.stat(name, dir_fd=source, follow_symlinks=False)
        inside = f"{path}/{name}".lstrip("/")
        if stat.S_ISDIR(entry.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            below, copy = os.open(name, flags, dir_fd=source), os.open(name, flags, dir_fd=target)
            try:
                _copy_entries(below, copy, top, inside, links)
                _copy_attributes(below, copy)
            finally:
                os.close(below)
                os.close(copy)
            continue
        first = links.get((entry.st_dev, entry.st_ino))
        if first is not None:
            os.link(first, name, src_dir_fd=top, dst_dir_fd=target, follow_symlinks=False)
            continue
        if entry.st_nlink > 1:
            links[entry.st_dev, entry.st_ino] = inside
        if stat.S_ISREG(entry.st_mode):
            _copy_file(source, target, name)
            continue
        if stat.S_ISLNK(entry.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        else:
            os.mknod(name, entry.st_mode, entry.st_rdev, dir_fd=target)
            os.chmod(name, stat.S_IMODE(entry.st_mode), dir_fd=target)
        os.chown(name, entry.st_uid, entry.st_gid, dir_fd=target, follow_symlinks=False)
        os.utime(name, ns=(entry.st_atime_ns, entry.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _copy_file(source: int, target: int, name: str) -> None:
    # O_NONBLOCK: a FIFO put there since would hold us for ever
    reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        writing = os.open(name, flags, 0o600, dir_fd=target)
        try:
            while os.sendfile(writing, reading, None, 1 << 24):
                pass
            _copy_attributes(reading, writing)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _copy_attributes(source: int, target: int) -> None:
    entry = os.fstat(source)
    os.fchown(target, entry.st_uid, entry.st_gid)
    os.fchmod(target, stat.S_IMODE(entry.st_mode))
    for name in os.listxattr(source):
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError:
            pass  # tmpfs has no user.* before Linux 6.6, and an ACL may name ids that are not mapped
    os.utime(target, ns=(entry.st_atime_ns, entry.st_mtime_ns))
