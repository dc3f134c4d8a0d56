"""Mounting, unmounting and reading the mount table."""

import os
from dataclasses import dataclass

from dockyard.linux import syscalls


def is_mount_root(path: str) -> bool:
    """Whether something is mounted at `path`, which may lie in another mount namespace; not told before Linux 5.8.

    statx(2), STATX_ATTR_MOUNT_ROOT. A link is not followed. Raises OSError.
    """
    return bool(syscalls.statx_attributes(path) & syscalls.STATX_ATTR_MOUNT_ROOT)


def mount(source: str | None, target: str, kind: str | None, flags: int = 0, options: str | None = None) -> None:
    """mount(2); `flags` are syscalls.MS_*, `options` the file system's own, comma separated."""
    syscalls.mount(source, target, kind, flags, options)


def unmount(target: str, flags: int = 0) -> None:
    """umount2(2); `flags` are syscalls.MNT_*."""
    syscalls.umount2(target, flags)


@dataclass(frozen=True, slots=True)
class Mount:
    """A row of mountinfo (proc_pid_mountinfo(5))."""

    root: str
    target: str
    options: str
    kind: str
    source: str
    super_options: str
    shared: bool = False
    slave: bool = False


def mount_table(pid: int | str = "self") -> list[Mount]:
    """Every mount in the mount namespace of `pid`, in the order of mounting."""
    table = []
    with open(f"/proc/{pid}/mountinfo", "rb") as rows:
        for row in rows:
            fields, _, rest = os.fsdecode(row).rstrip("\n").partition(" - ")
            _, _, _, root, target, options, *optional = fields.split(" ")
            kind, source, super_options = rest.split(" ")[:3]
            shared = any(tag.startswith("shared:") for tag in optional)
            slave = any(tag.startswith("master:") for tag in optional)
            table.append(
                Mount(_plain(root), _plain(target), options, kind, _plain(source), super_options, shared, slave)
            )
    return table


def _plain(escaped: str) -> str:
    r"""Undo mountinfo's \040 and the like."""
    if "\\" not in escaped:
        return escaped
    parts = escaped.split("\\")
    return parts[0] + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts[1:])
