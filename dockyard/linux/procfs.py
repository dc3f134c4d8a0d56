"""/proc that can be trusted.

Whoever made the file tree we are in may have put anything at /proc: an ordinary directory, a link, another procfs with
files bound over it (runc CVE-2025-52881: a label meant for /proc/self/attr/exec was written to /proc/sysrq-trigger).
What matters is therefore opened in a procfs of our own that is mounted nowhere, and failing that in one that the
kernel says is a procfs, without following links or crossing mounts.
"""

import os
from collections.abc import Iterator

from dockyard.linux import syscalls

MAGIC = 0x9FA0
ROOT_INODE = 1  # include/linux/proc_ns.h, PROC_ROOT_INO


def in_pid_namespace(namespace: os.stat_result) -> Iterator[int]:
    """The processes that are in that PID namespace itself, not in one below it, as far as they are ours to look at.

    By their numbers here, of which each may have ended by now.
    """
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            inside = os.path.samestat(os.stat(f"/proc/{name}/ns/pid"), namespace)
        except OSError:
            continue
        if inside:
            yield int(name)


def status_of(pid: int, field: str) -> str:
    """A row of /proc/<pid>/status (proc_pid_status(5)). Raises OSError when the process has ended."""
    with open(f"/proc/{pid}/status") as rows:
        return next(row.partition(":")[2].strip() for row in rows if row.startswith(f"{field}:"))


def open_own(path: str, flags: int) -> int:
    """The descriptor of the caller's /proc/thread-self/`path`. Raises OSError, also when /proc is not a procfs."""
    proc = open_root()
    try:
        # thread-self is a link, but one of procfs's own
        own = syscalls.openat2(
            proc, "thread-self", os.O_PATH | os.O_DIRECTORY, resolve=syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_XDEV
        )
    finally:
        os.close(proc)
    try:
        return syscalls.openat2(
            own, path, flags, resolve=syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_XDEV | syscalls.RESOLVE_NO_SYMLINKS
        )
    finally:
        os.close(own)


def open_root() -> int:
    """A procfs of the caller's PID namespace, which that at /proc need not be. Raises OSError."""
    proc = _detached()
    if proc >= 0:
        return proc
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if syscalls.file_system_type(proc) != MAGIC or os.fstat(proc).st_ino != ROOT_INODE:
        os.close(proc)
        raise OSError(5, "/proc is not a procfs", "/proc")
    return proc


def _detached() -> int:
    """A new procfs of the caller's PID namespace, or -1 where it may not be made (a user namespace with masks)."""
    try:
        context = syscalls.fsopen("proc")
    except OSError:
        return -1
    try:
        # no /proc/sys, no /proc/sysrq-trigger: nothing there that a mistake could reach
        syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, "subset", "pid")
        syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE)
        return syscalls.fsmount(
            context, syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
        )
    except OSError:
        return -1
    finally:
        os.close(context)


def write_own(path: str, text: str) -> None:
    """Write `text` to /proc/thread-self/`path`. Raises OSError."""
    fd = open_own(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
