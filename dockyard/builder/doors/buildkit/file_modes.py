"""Go's os.FileMode, which is on the wire, and what a tar header says instead (io/fs, ModeDir …)."""

from __future__ import annotations

import stat

from dockyard.content import tar_format

DIRECTORY, SYMLINK, DEVICE, FIFO, SOCKET = 1 << 31, 1 << 27, 1 << 26, 1 << 25, 1 << 24
SETUID, SETGID, CHARACTER, STICKY = 1 << 23, 1 << 22, 1 << 21, 1 << 20

_KINDS = {
    tar_format.DIRECTORY: DIRECTORY,
    tar_format.SYMLINK: SYMLINK,
    tar_format.CHARACTER: DEVICE | CHARACTER,
    tar_format.BLOCK_DEVICE: DEVICE,
    tar_format.FIFO: FIFO,
}


def go_mode(kind: bytes, permissions: int) -> int:
    """The mode of a file of a kind."""
    mode = permissions & 0o777 | _KINDS.get(kind, 0)
    mode |= (SETUID if permissions & stat.S_ISUID else 0) | (SETGID if permissions & stat.S_ISGID else 0)
    return mode | (STICKY if permissions & stat.S_ISVTX else 0)


def kind_and_permissions(mode: int) -> tuple[bytes | None, int]:
    """A file's kind, None for a socket, and its permissions."""
    permissions = mode & 0o777
    permissions |= (stat.S_ISUID if mode & SETUID else 0) | (stat.S_ISGID if mode & SETGID else 0)
    permissions |= stat.S_ISVTX if mode & STICKY else 0
    if mode & DIRECTORY:
        return tar_format.DIRECTORY, permissions
    if mode & SYMLINK:
        return tar_format.SYMLINK, 0o777
    if mode & CHARACTER:
        return tar_format.CHARACTER, permissions
    if mode & DEVICE:
        return tar_format.BLOCK_DEVICE, permissions
    if mode & FIFO:
        return tar_format.FIFO, permissions
    return (None if mode & SOCKET else tar_format.REGULAR), permissions
