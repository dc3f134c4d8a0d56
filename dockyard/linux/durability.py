"""Getting files and directories onto the disk, so that a power cut leaves them.

A file's own fsync(2) says nothing of its name: that is the directory's, which has to be synced as well.
"""

import ctypes
import errno
import os

from dockyard.linux import recorder, syscalls

_ORDERED = (0xEF53, 0x58465342)  # statfs(2)'s numbers of ext4 and XFS

_NOT_OPENED = (errno.EMFILE, errno.ENFILE, errno.ENOENT, errno.ENOTDIR)


def loses_writes(error: OSError) -> bool:
    """Whether, after a sync that failed so, what it was for may be lost although the next one succeeds.

    The kernel tells of a lost write once, and takes the page for clean afterwards (fsync(2), "EIO").
    """
    return error.errno not in _NOT_OPENED


def sync_path(path: str) -> None:
    """fsync a file or a directory. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        recorder.note("fsync", path)
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_names(folder: str) -> None:
    """Have all that has happened to names on the file system of the directory `folder` on the disk. Raises OSError.

    ext4 and XFS have one journal and write it in the order in which things were done: what was done last, here a new
    time for `folder`, is on the disk after all that was done before (Documentation/filesystems/ext4/journal.rst,
    xfs/xfs-delayed-logging-design.rst). Others promise nothing of the kind: there everything is written.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if syscalls.file_system_type(fd) in _ORDERED:
            recorder.note("fsync", folder)
            os.utime(fd)
            os.fsync(fd)
            return
    finally:
        os.close(fd)
    sync_file_system(folder)


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
