"""Go's os.FileMode, which is on the wire, and what a tar header says instead."""

from __future__ import annotations

from dockyard.buildkit.go_mode import (
    CHARACTER,
    DEVICE,
    DIRECTORY,
    FIFO,
    SOCKET,
    SYMLINK,
    permissions,
    with_special_bits,
)
from dockyard.content import tar_format

_KINDS = {
    tar_format.DIRECTORY: DIRECTORY,
    tar_format.SYMLINK: SYMLINK,
    tar_format.CHARACTER: DEVICE | CHARACTER,
    tar_format.BLOCK_DEVICE: DEVICE,
    tar_format.FIFO: FIFO,
}


def go_mode(kind: bytes, mode: int) -> int:
    """The mode of a file of a kind."""
    return with_special_bits(mode) | _KINDS.get(kind, 0)


def kind_and_permissions(mode: int) -> tuple[bytes | None, int]:
    """A file's kind, None for a socket, and its permissions."""
    found = permissions(mode)
    if mode & DIRECTORY:
        return tar_format.DIRECTORY, found
    if mode & SYMLINK:
        return tar_format.SYMLINK, 0o777
    if mode & CHARACTER:
        return tar_format.CHARACTER, found
    if mode & DEVICE:
        return tar_format.BLOCK_DEVICE, found
    if mode & FIFO:
        return tar_format.FIFO, found
    return (None if mode & SOCKET else tar_format.REGULAR), found
