"""A null device of one's own: who changes the owner and the mode of his streams does not reach the host's."""

import os
import stat

from dockyard.linux import syscalls

NUMBER = os.makedev(1, 3)  # Documentation/admin-guide/devices.txt


def is_null(fd: int) -> bool:
    """Whether the descriptor is of a null device."""
    status = os.fstat(fd)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == NUMBER


def open_own() -> int:
    """A descriptor (close-on-exec, for reading and writing) of a device in a tmpfs that is mounted nowhere.

    The host's own where such a file system cannot be made. Raises OSError.
    """
    try:
        directory = _tmpfs()
    except OSError:
        return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        os.mknod("null", stat.S_IFCHR | 0o666, NUMBER, dir_fd=directory)
        os.chmod("null", 0o666, dir_fd=directory)  # whatever the umask is
        return os.open("null", os.O_RDWR | os.O_CLOEXEC, dir_fd=directory)
    except PermissionError:  # devices may not be made, or those made may not be opened
        return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    finally:
        os.close(directory)


def _tmpfs() -> int:
    context = syscalls.fsopen("tmpfs")
    try:
        syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, "size", "4k")
        syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE)
        return syscalls.fsmount(context, syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC)
    finally:
        os.close(context)
