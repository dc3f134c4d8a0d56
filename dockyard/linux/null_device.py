"""A null device of one's own: who changes the owner and the mode of his streams or masks does not reach the host's."""

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
        directory = file_system()
    except OSError:
        return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        return os.open("null", os.O_RDWR | os.O_CLOEXEC, dir_fd=directory)
    except OSError:  # those made may not be opened
        return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    finally:
        os.close(directory)


def file_system(label: str = "", attributes: int = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC) -> int:
    """A descriptor of a tmpfs, mounted nowhere yet, that has a device `null` and nothing else.

    `label` is the SELinux label of all that is in there, if any; `attributes` are MOUNT_ATTR_*. Raises OSError where
    devices may not be made.
    """
    context = syscalls.fsopen("tmpfs")
    try:
        options = {"size": "4k", "nr_inodes": "2", **({"context": label} if label else {})}
        for name, value in options.items():
            syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, name, value)
        syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE)
        made = syscalls.fsmount(context, attributes)
    finally:
        os.close(context)
    try:
        os.mknod("null", stat.S_IFCHR | 0o666, NUMBER, dir_fd=made)
        os.chmod("null", 0o666, dir_fd=made)  # whatever the umask is
    except BaseException:
        os.close(made)
        raise
    return made
