"""What is mounted on the host for one container, in its folder's `mounts`: a /dev/shm to be shared, parts of volumes.

The runtime binds these into the container, so a part of a volume is needed for the time of a start only.
"""

import os
import secrets
import stat
from contextlib import suppress

from dockyard.engine.system.id_ranges import IdRange
from dockyard.linux import mounts, syscalls
from dockyard.volumes.subpath import open_subpath

SUBPATH = "subpath-"


def shm_path(folder: str) -> str:
    """Where in the container's folder its /dev/shm is mounted on the host."""
    return f"{folder}/mounts/shm"


def mount_shm(folder: str, size: int, ids: IdRange | None) -> str:
    """A /dev/shm that other containers can join: a tmpfs on the host, of the container's root."""
    path = shm_path(folder)
    os.makedirs(path, mode=0o700, exist_ok=True)
    flags = syscalls.MS_NOSUID | syscalls.MS_NOEXEC | syscalls.MS_NODEV
    owner = "" if ids is None else f",uid={ids.uid},gid={ids.gid}"
    mounts.mount("shm", path, "tmpfs", flags, f"mode=1777,size={size}{owner}")
    return path


def mount_subpath(folder: str, volume: str, subpath: str) -> str:
    """Mount what is at `subpath` in the directory `volume` in a place that no other container can change; its path.

    Raises InvalidParameter for a path that leads out of the volume, SystemFailure for one that isn't there.
    """
    found = open_subpath(volume, subpath)
    try:
        place = f"{folder}/mounts/{SUBPATH}{secrets.token_hex(8)}"
        os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
        if stat.S_ISDIR(os.fstat(found).st_mode):
            os.mkdir(place)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
        mounts.mount(f"/proc/self/fd/{found}", place, None, syscalls.MS_BIND | syscalls.MS_REC)
        return place
    finally:
        os.close(found)


def unmount_subpaths(folder: str) -> None:
    """Take away what `mount_subpath` has mounted; no error when there is nothing."""
    _unmount(folder, SUBPATH)


def unmount_all(folder: str) -> None:
    """Take away all that is mounted for the container; no error when there is nothing."""
    _unmount(folder, "")


def _unmount(folder: str, prefix: str) -> None:
    try:
        names = os.listdir(f"{folder}/mounts")
    except FileNotFoundError:
        return
    for name in names:
        if not name.startswith(prefix):
            continue
        place = f"{folder}/mounts/{name}"
        with suppress(OSError):
            mounts.unmount(place, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        if name.startswith(SUBPATH):
            with suppress(OSError):  # EBUSY, were it mounted still
                os.rmdir(place) if os.path.isdir(place) else os.unlink(place)
