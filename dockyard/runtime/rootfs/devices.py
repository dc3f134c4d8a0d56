"""A container's /dev: its device nodes and the customary links (runtime-spec config-linux.md, "Devices")."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dockyard.linux import syscalls
from dockyard.oci.runtime_spec import Device
from dockyard.runtime.errors import RuntimeFailure

if TYPE_CHECKING:
    from dockyard.runtime.rootfs.tree import Rootfs

KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
# "Default Devices" and "Dev symbolic links"
DEFAULTS = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
)


def check(devices: Sequence[Device]) -> None:
    """Raise RuntimeFailure for a device that can't be."""
    for device in devices:
        if device.type not in KINDS:
            raise RuntimeFailure(f"{device.type!r} is not a valid device type for device {device.path}")
        if not device.path.startswith("/") or device.path.rstrip("/") != device.path:
            raise RuntimeFailure(f"device path {device.path!r} is not absolute or not clean")
        if device.type != "p" and not (0 <= device.major < 1 << 12 and 0 <= device.minor < 1 << 20):
            raise RuntimeFailure(f"device {device.path} has no valid numbers: {device.major}:{device.minor}")


def make_all(root: Rootfs, devices: Sequence[Device], *, bind: bool) -> None:
    """Make the nodes of the spec and those every container has, and /dev's links.

    With `bind` (a user namespace, where no node may be made) the host's node of the same path stands in for each.
    """
    directory = root.make_directory("/dev")
    previous = os.umask(0)
    try:
        listed = {device.path for device in devices}
        for name, major, minor in DEFAULTS:
            if f"/dev/{name}" not in listed:
                _node(directory, name, Device("c", f"/dev/{name}", major, minor), bind)
        for device in devices:
            parent, _, name = device.path.rpartition("/")
            if device.path == "/dev/ptmx":
                continue  # devpts has its own
            if parent == "/dev":
                _node(directory, name, device, bind)
                continue
            elsewhere = root.make_directory(parent)
            try:
                _node(elsewhere, name, device, bind)
            finally:
                os.close(elsewhere)
        for name, target in LINKS:
            _link(directory, name, target)
        if os.path.exists("/proc/kcore"):
            _link(directory, "core", "/proc/kcore")
        try:
            os.unlink("ptmx", dir_fd=directory)
        except FileNotFoundError:
            pass
        _link(directory, "ptmx", "pts/ptmx")
    finally:
        os.umask(previous)
        os.close(directory)


def _link(directory: int, name: str, target: str) -> None:
    try:
        os.symlink(target, name, dir_fd=directory)
    except FileExistsError:
        pass


def _node(directory: int, name: str, device: Device, bind: bool) -> None:
    try:
        if bind and device.type != "p":
            if _is_mounted_on(directory, name):
                return
            _bind(directory, name, device)
        else:
            _make(directory, name, device)
    except OSError as error:
        raise RuntimeFailure(f"error creating device nodes: {device.path}: {error.strerror}") from error


def _is_mounted_on(directory: int, name: str) -> bool:
    """Whether something else is there already; whoever has mounted it knows why."""
    try:
        flags = os.O_PATH | os.O_NOFOLLOW
        os.close(syscalls.openat2(directory, name, flags, resolve=syscalls.RESOLVE_NO_XDEV))
    except OSError as error:
        return error.errno == errno.EXDEV
    return False


def _make(directory: int, name: str, device: Device) -> None:
    kind = KINDS[device.type]
    mode = kind | (0o666 if device.file_mode is None else device.file_mode & 0o7777)
    number = os.makedev(device.major, device.minor) if device.type != "p" else 0
    try:
        os.mknod(name, mode, number, dir_fd=directory)
    except FileExistsError:
        if _is_mounted_on(directory, name):
            return
        present = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_IFMT(present.st_mode) != kind or (device.type != "p" and present.st_rdev != number):
            raise RuntimeFailure(f"error creating device nodes: {device.path} is there and is another file") from None
        return
    except PermissionError:
        if device.type == "p":
            raise
        # where a security module or a missing capability forbids mknod
        _bind(directory, name, device)
        return
    if device.uid or device.gid:
        os.chown(name, device.uid or 0, device.gid or 0, dir_fd=directory, follow_symlinks=False)


def _bind(directory: int, name: str, device: Device) -> None:
    node = syscalls.open_tree(syscalls.AT_FDCWD, device.path, syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC)
    try:
        found = os.fstat(node)
        if stat.S_IFMT(found.st_mode) != KINDS[device.type] or found.st_rdev != os.makedev(device.major, device.minor):
            raise RuntimeFailure(
                f"error creating device nodes: the host's {device.path} is not device {device.major}:{device.minor}"
            )
        flags = os.O_CREAT | os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            os.close(os.open(name, flags | os.O_EXCL, 0o644, dir_fd=directory))
        except FileExistsError:
            pass
        place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            if stat.S_ISLNK(os.fstat(place).st_mode):
                raise RuntimeFailure(f"error creating device nodes: {device.path} is there and is a link")
            # which concerns the node itself, that is the host's: its owner, its mode
            syscalls.mount_setattr(node, "", syscalls.AT_EMPTY_PATH, set_=syscalls.MOUNT_ATTR_RDONLY)
            syscalls.move_mount(node, place, "", syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH)
        finally:
            os.close(place)
    finally:
        os.close(node)
