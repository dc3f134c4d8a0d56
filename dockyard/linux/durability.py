"""Getting files and directories onto the disk, so that a power cut leaves them.

A file's own fsync(2) says nothing of its name: that is the directory's, which has to be synced as well.
"""

import ctypes
import os
from collections.abc import Iterable

from dockyard.linux import recorder

_START = 2  # SYNC_FILE_RANGE_WRITE: begin to write what is dirty, wait for nothing


def sync_path(path: str) -> None:
    """fsync a file or a directory. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        recorder.note("fsync", path)
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_paths(paths: Iterable[str]) -> None:
    """fsync several files and directories. Raises OSError.

    All are begun before the first is waited for: a journalling file system then has one commit for them together.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    opened: list[int] = []
    try:
        for path in paths:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            opened.append(fd)
            libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _START)  # of a directory: refused, no harm
            recorder.note("fsync", path)
        for fd in opened:
            os.fsync(fd)
    finally:
        for fd in opened:
            os.close(fd)


def sync_file_system(path: str) -> None:
    """Write everything of the file system that holds `path` to the disk (syncfs(2)). Raises OSError.

    Cheaper than each file's fsync(2) where there are many, but it waits for what others have written there, too.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        recorder.note("syncfs", path)
        if libc.syncfs(fd) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), path)
    finally:
        os.close(fd)
