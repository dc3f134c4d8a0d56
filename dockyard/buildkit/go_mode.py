"""Go's os.FileMode, which is on the wire, as numbers (io/fs, ModeDir …)."""

from __future__ import annotations

import stat

DIRECTORY, SYMLINK, DEVICE, FIFO, SOCKET = 1 << 31, 1 << 27, 1 << 26, 1 << 25, 1 << 24
SETUID, SETGID, CHARACTER, STICKY = 1 << 23, 1 << 22, 1 << 21, 1 << 20

_KINDS = {
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: DEVICE | CHARACTER,
    stat.S_IFBLK: DEVICE,
    stat.S_IFIFO: FIFO,
    stat.S_IFSOCK: SOCKET,
}


def with_special_bits(mode: int) -> int:
    """Permissions of the kernel's as Go's."""
    found = mode & 0o777
    found |= (SETUID if mode & stat.S_ISUID else 0) | (SETGID if mode & stat.S_ISGID else 0)
    return found | (STICKY if mode & stat.S_ISVTX else 0)


def of_stat(mode: int) -> int:
    """A st_mode as Go's."""
    return with_special_bits(mode) | _KINDS.get(stat.S_IFMT(mode), 0)


def permissions(mode: int) -> int:
    """What chmod takes of Go's mode."""
    found = mode & 0o777
    found |= (stat.S_ISUID if mode & SETUID else 0) | (stat.S_ISGID if mode & SETGID else 0)
    return found | (stat.S_ISVTX if mode & STICKY else 0)
