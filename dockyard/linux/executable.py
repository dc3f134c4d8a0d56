"""Keeping the program that we are from being overwritten by a container.

A process that is on its way into a container is, until its execve, our own interpreter: a container that gets hold of
it as /proc/self/exe or /proc/<pid>/exe could write to the file behind that link, on the host (runc CVE-2019-5736).
What holds is an executable that nobody can write to: on a read-only mount, or a sealed copy in memory.
"""

import fcntl
import os

from dockyard.linux import syscalls

OWN = "/proc/self/exe"


def is_protected() -> bool:
    """Whether a process with our rights could not write to our executable."""
    if not os.access(OWN, os.W_OK, effective_ids=True):
        return True  # it is on a read-only mount, or somebody else's file
    try:
        fd = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE != 0
        finally:
            os.close(fd)
    except OSError:
        return False  # no memory file


def mount_read_only(path: str, target: str) -> None:
    """Have the file `path` at `target` too, read-only there for everybody. Raises OSError."""
    clone = syscalls.open_tree(syscalls.AT_FDCWD, path, syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC)
    try:
        syscalls.mount_setattr(
            clone,
            "",
            syscalls.AT_EMPTY_PATH,
            set_=syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV,
        )
        syscalls.move_mount(clone, syscalls.AT_FDCWD, target)
    finally:
        os.close(clone)
