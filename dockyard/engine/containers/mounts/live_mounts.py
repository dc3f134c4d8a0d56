"""Mounting into and unmounting from a container that runs.

A thread of ours enters the container's mount namespace for a moment. What it mounts was cloned before, on the host, as
a mount that belongs nowhere yet (open_tree(2)), so no path of the host's means anything in there; and the place
is looked up by the kernel as if chrooted (openat2(2), RESOLVE_IN_ROOT), whatever the container does to its files
meanwhile.
"""

import os
import posixpath
import stat
import threading
from collections.abc import Callable

from dockyard.engine.system.id_ranges import IdRange
from dockyard.errors import Conflict, InvalidParameter, SystemFailure
from dockyard.linux import syscalls, userns
from dockyard.linux.rooted import Root
from dockyard.oci.runtime_spec import Mount

PROPAGATIONS = {
    "private": syscalls.MS_PRIVATE,
    "shared": syscalls.MS_SHARED,
    "slave": syscalls.MS_SLAVE,
}


def attach(pid: int, container_id: str, mount: Mount, ids: IdRange | None) -> None:
    """Mount `mount` (a bind or a tmpfs) in the container whose process is `pid`; blocks.

    Raises InvalidParameter for a place that can't be, Conflict when the process is the container's no more.
    """
    made = _new_tmpfs(mount) if mount.type == "tmpfs" else _clone(mount)
    try:
        directory = stat.S_ISDIR(os.fstat(made).st_mode)

        def work() -> None:
            if ids is not None:
                userns.make_files_as(ids.uid, ids.gid)
            root = Root("/")
            try:
                target = root.make(_place(root, mount.destination), directory)
                try:
                    syscalls.move_mount(
                        made, target, "", syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH
                    )
                finally:
                    os.close(target)
            finally:
                root.close()

        _inside(pid, container_id, work, f"cannot mount at {mount.destination}")
    finally:
        os.close(made)


def detach(pid: int, container_id: str, destination: str) -> None:
    """Unmount what is at `destination` in the container; what is open there stays usable. Blocks.

    Raises InvalidParameter when nothing is mounted there, Conflict when the process is the container's no more.
    """

    def work() -> None:
        root = Root("/")
        try:
            place = _place(root, destination)
            strict = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS
            above = syscalls.openat2(root.fd, posixpath.dirname(place), os.O_PATH | os.O_DIRECTORY, resolve=strict)
            try:
                os.fchdir(above)
            finally:
                os.close(above)
        finally:
            root.close()
        # by its name in a directory that is held: nothing else can be put in its way
        syscalls.umount2(posixpath.basename(place), syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)

    _inside(pid, container_id, work, f"cannot unmount {destination}")


def _place(root: Root, destination: str) -> str:
    """Where `destination` is without symlinks; never in what the runtime guards by mounts of its own."""
    place = root.resolve(destination)
    if place == "/":
        raise InvalidParameter("invalid specification: destination can't be '/'")
    if place.split("/")[1] in ("proc", "sys"):
        raise InvalidParameter(f"{destination} cannot be mounted because it is inside {place[:5].rstrip('/')}")
    return place


def _inside(pid: int, container_id: str, work: Callable[[], None], doing: str) -> None:
    """Do `work` in a thread that is in the container's mount namespace. Raises what it raises."""
    process = os.pidfd_open(pid)
    failure: list[BaseException] = []

    def run() -> None:
        try:
            # looked at after the process is held: its number may have been another's before
            with open(f"/proc/{pid}/cgroup") as groups:
                if container_id not in groups.read():
                    raise Conflict(f"container {container_id} is not running")
            syscalls.unshare(syscalls.CLONE_FS)
            syscalls.setns(process, syscalls.CLONE_NEWNS)
            work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="live-mount")
    thread.start()
    thread.join()
    os.close(process)
    if not failure:
        return
    error = failure[0]
    if isinstance(error, OSError):
        if error.errno in (22, 2, 20, 40):  # EINVAL: no mount point; ENOENT, ENOTDIR, ELOOP: no such place
            raise InvalidParameter(f"{doing}: {error.strerror}") from error
        raise SystemFailure(f"{doing}: {error.strerror}") from error
    raise error


def _clone(mount: Mount) -> int:
    """What the bind mount has as its source, as a detached mount with its mapping and options."""
    recursive = syscalls.AT_RECURSIVE if "rbind" in mount.options else 0
    flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | recursive
    try:
        clone = syscalls.open_tree(syscalls.AT_FDCWD, mount.source, flags)
    except OSError as error:
        raise InvalidParameter(
            f'invalid mount config for type "bind": bind source path does not exist: {mount.source}'
        ) from error
    try:
        if mount.uid_mappings:
            namespace = userns.open_namespace(mount.uid_mappings, mount.gid_mappings)
            try:
                userns.map_mount(clone, namespace)
            finally:
                os.close(namespace)
        read_only = {"ro", "rro"} & set(mount.options)
        if read_only:
            deep = syscalls.AT_RECURSIVE if "rro" in read_only else 0
            syscalls.mount_setattr(clone, "", syscalls.AT_EMPTY_PATH | deep, set_=syscalls.MOUNT_ATTR_RDONLY)
        for option in mount.options:
            kind = PROPAGATIONS.get(option.removeprefix("r"))
            if kind is not None and option != "ro":
                deep = syscalls.AT_RECURSIVE if option.startswith("r") else 0
                syscalls.mount_setattr(clone, "", syscalls.AT_EMPTY_PATH | deep, propagation=kind)
    except OSError as error:
        os.close(clone)
        raise SystemFailure(f"cannot mount {mount.source}: {error.strerror}") from error
    return clone


def _new_tmpfs(mount: Mount) -> int:
    """A tmpfs that is mounted nowhere yet."""
    attributes = {
        "ro": syscalls.MOUNT_ATTR_RDONLY,
        "nosuid": syscalls.MOUNT_ATTR_NOSUID,
        "nodev": syscalls.MOUNT_ATTR_NODEV,
        "noexec": syscalls.MOUNT_ATTR_NOEXEC,
    }
    context = syscalls.fsopen("tmpfs")
    try:
        for option in mount.options:
            name, equals, value = option.partition("=")
            if equals:
                syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, name, value)
        syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE)
        return syscalls.fsmount(context, sum(attributes.get(option, 0) for option in set(mount.options)))
    except OSError as error:
        raise InvalidParameter(f"cannot make a tmpfs for {mount.destination}: {error.strerror}") from error
    finally:
        os.close(context)
