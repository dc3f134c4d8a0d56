"""What a container binds of the host: which propagation it may have there, and that it is there at a start."""

import errno
import os
import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from dockyard.engine.containers.container import MountPoint
from dockyard.engine.system.id_ranges import IdRange
from dockyard.errors import InvalidParameter, SystemFailure
from dockyard.linux.mounts import Mount, mount_table

# What is wrong with a path, whatever the host is like.
OF_THE_PATH = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)
# Others would keep the engine's own mounts in the container, and the engine from removing what they are of.
SAFE_FOR_DATA_ROOT = ("rslave", "rshared")


def propagation_of(source: str, asked: str, data_root: Path) -> str:
    """The propagation of a bind of `source`, for which `asked` was asked ("": nothing).

    Raises InvalidParameter, in Docker's words, where the container would hold the engine's mounts (moby
    daemon/volumes_linux.go): `source` is, contains or lies below the data root, by whatever name.
    """
    if not _touches(source, data_root):
        return asked or "rprivate"
    if asked and asked not in SAFE_FOR_DATA_ROOT:
        raise InvalidParameter(
            'invalid mount config: must use either propagation mode "rslave" or "rshared" when mount source is within '
            f'the daemon root, daemon root: "{data_root}", bind mount source: "{source}", propagation: "{asked}"'
        )
    return asked or "rslave"


def prepare(points: Sequence[MountPoint], data_root: Path, ids: IdRange | None) -> list[MountPoint]:
    """Make the sources of binds that are gone and may be made; returns the mounts as they can be had here.

    Raises InvalidParameter, in Docker's words, for a propagation that the source's own mount doesn't have, and
    SystemFailure for a source that can't be made. Blocks.
    """
    make_missing(points, ids)
    return [_propagating(point, data_root) if point.type == "bind" else point for point in points]


def make_missing(points: Iterable[MountPoint], ids: IdRange | None) -> None:
    """Make the sources of binds that are gone and may be made: `-v` makes a missing directory, `--mount` does not.

    Raises as `_make_directory`.
    """
    for point in points:
        if point.type == "bind" and point.make and not os.path.lexists(point.source):
            _make_directory(point.source, ids)


def _make_directory(path: str, ids: IdRange | None) -> None:
    """Make a directory on the host and those above it, of the container's root.

    Raises InvalidParameter for a path that can't be one, SystemFailure where the host does not want it.
    """
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = posixpath.dirname(path)
    for directory in reversed(missing):
        try:
            os.mkdir(directory, 0o755)
            if ids is not None:
                os.chown(directory, ids.uid, ids.gid)
        except FileExistsError:
            continue
        except OSError as error:
            kind = InvalidParameter if error.errno in OF_THE_PATH else SystemFailure
            raise kind(
                f"error while creating mount source path '{missing[0]}': mkdir {directory}: "
                f"{(error.strerror or '').lower()}"
            ) from error


def _touches(source: str, data_root: Path) -> bool:
    root = os.path.realpath(data_root)
    return any(os.path.commonpath([place, root]) in (place, root) for place in (os.path.realpath(source), source))


def _propagating(point: MountPoint, data_root: Path) -> MountPoint:
    kind = point.propagation.removeprefix("r")
    if kind not in ("shared", "slave"):
        return point
    mount = _mount_of(point.source)
    if mount.shared or (kind == "slave" and mount.slave):
        return point
    if not point.given_propagation and _touches(point.source, data_root):
        # it has rslave because of the data root: nothing is propagated here anyway
        return msgspec.structs.replace(point, propagation="rprivate")
    wanted = "shared" if kind == "shared" else "shared or slave"
    raise InvalidParameter(f"path {point.source} is mounted on {mount.target} but it is not a {wanted} mount")


def _mount_of(path: str) -> Mount:
    """The mount that a path lies on."""
    real = os.path.realpath(path)
    above = [mount for mount in mount_table() if os.path.commonpath([mount.target, real]) == mount.target]
    # of two at the same place the later one lies on top
    return max(reversed(above), key=lambda mount: len(mount.target))
