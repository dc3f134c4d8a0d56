"""The container's view of its cgroups: mounts of type cgroup."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from dockyard.linux import cgroups, syscalls
from dockyard.linux.syscalls import MS_BIND, MS_RDONLY, MS_REC, MS_REMOUNT, mount, mount_setattr
from dockyard.oci.runtime_spec import Mount
from dockyard.runtime.rootfs.mount_options import Options

if TYPE_CHECKING:
    from dockyard.runtime.rootfs.tree import Rootfs


def make(root: Rootfs, wanted: Mount, options: Options, group: cgroups.Cgroup | None, own_namespace: bool) -> None:
    """Mount the hierarchies at the destination. Raises OSError."""
    target = root.make_directory(wanted.destination)
    place = f"/proc/self/fd/{target}"
    try:
        root.check_place(target)
        layout = cgroups.layout()
        if layout.version == 2:
            _mount_unified(root, wanted, options, place, group, own_namespace)
            return
        flags = options.flags
        mount("tmpfs", place, "tmpfs", flags & ~MS_RDONLY, "mode=755")
    finally:
        os.close(target)
    top = root.open(wanted.destination)
    try:
        _mount_hierarchies(top, layout, flags, group, own_namespace)
        if flags & MS_RDONLY:
            mount_setattr(top, "", syscalls.AT_EMPTY_PATH, set_=syscalls.MOUNT_ATTR_RDONLY)
    finally:
        os.close(top)


def _mount_unified(
    root: Rootfs, wanted: Mount, options: Options, place: str, group: cgroups.Cgroup | None, own_namespace: bool
) -> None:
    if own_namespace or group is None:
        try:
            mount("cgroup", place, "cgroup2", options.flags)
            return
        except OSError as error:
            # who is not root may mount none: then the host's is bound, as runc does
            if error.errno not in (errno.EPERM, errno.EBUSY):
                raise
    directories = group.directories if group is not None else []
    mount(directories[0] if directories else cgroups.ROOT, place, None, MS_BIND | MS_REC)
    fd = root.open(wanted.destination)
    try:
        mount(None, f"/proc/self/fd/{fd}", None, MS_REMOUNT | MS_BIND | options.flags)
    finally:
        os.close(fd)


def _mount_hierarchies(
    top: int, layout: cgroups.Layout, flags: int, group: cgroups.Cgroup | None, own_namespace: bool
) -> None:
    done: set[str] = set()
    for controller, host_top in layout.tops.items():
        if not controller:
            continue  # a hybrid host's version 2, which has no controllers
        name = os.path.basename(host_top)
        if name not in done:
            done.add(name)
            os.mkdir(name, 0o755, dir_fd=top)
            place = f"/proc/self/fd/{top}/{name}"
            if own_namespace:
                # all that share the hierarchy: fewer would ask for a new one, which only the host may make
                together = [other for other, its_top in layout.tops.items() if its_top == host_top]
                mount("cgroup", place, "cgroup", flags, ",".join(together))
            else:
                directory = (group.directory(controller) if group is not None else None) or host_top
                mount(directory, place, None, MS_BIND | MS_REC)
                if flags & ~MS_REC:
                    mount(None, place, None, MS_REMOUNT | MS_BIND | flags)
        if name != controller and not controller.startswith("name="):
            os.symlink(name, controller, dir_fd=top)
