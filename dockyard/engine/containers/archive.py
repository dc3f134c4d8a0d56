"""Files in and out of containers: `docker cp`, `export` and `diff`.

A running container is entered by the root of its process, which has all its mounts. For one that does not run, a
thread makes a mount namespace of its own in which the volumes are put in place. Paths are resolved by the kernel as if
chrooted (linux/rooted.py), and archives are made and unpacked by a process that really is (content/unpack.py): whatever
a hostile container does to its files meanwhile, nothing outside it is read or written.
"""

from __future__ import annotations

import asyncio
import fnmatch
import os
import posixpath
import secrets
import stat
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

from dockyard.content.unpack import Worker
from dockyard.engine.containers.container import Container, MountPoint
from dockyard.engine.containers.layers import ContainerLayers
from dockyard.engine.containers.mounts.bind_sources import make_missing
from dockyard.engine.containers.service import ContainerService
from dockyard.engine.containers.spec.namespace_modes import joined
from dockyard.engine.containers.spec.users import find_user
from dockyard.engine.system.id_ranges import IdRange
from dockyard.engine.volumes.service import VolumeService
from dockyard.errors import Conflict, InvalidParameter, NotFound, SystemFailure
from dockyard.generators import closing
from dockyard.linux import mounts, syscalls
from dockyard.linux.durability import sync_file_system
from dockyard.linux.rooted import Root
from dockyard.snapshots.driver import Change
from dockyard.volumes.subpath import open_subpath

FILES = ("resolv.conf", "hostname", "hosts")  # of the container's network, in its folder
VOLUME = "volume:"  # what a reference to a volume's files begins with


@dataclass(frozen=True, slots=True)
class PathStat:
    """What is at a path of a container; `mode` is st_mode, `link_target` (resolved) is empty for no symlink."""

    name: str
    size: int
    mode: int
    mtime_ns: int
    link_target: str


class ArchiveService:
    """Reads and writes the files of containers."""

    def __init__(
        self, containers: ContainerService, layers: ContainerLayers, volumes: VolumeService, worker: Worker
    ) -> None:
        self._containers = containers
        self._layers = layers
        self._volumes = volumes
        self._worker = worker

    async def stat(self, reference: str, path: str) -> PathStat:
        """What is at `path`. Raises NotFound."""
        async with self._place(reference) as (root, _, _):
            return await asyncio.to_thread(_stat, root, reference, path)

    @asynccontextmanager
    async def read(
        self, reference: str, path: str, *, name: str = ""
    ) -> AsyncIterator[tuple[PathStat, AsyncIterator[bytes]]]:
        """(what is at `path`, it and all below as a tar stream), for the time of the block. Raises NotFound.

        With a `name` it is called so in the stream, and not as it is.
        """
        async with self._place(reference) as (root, ids, container):
            found = await asyncio.to_thread(_stat, root, reference, path)
            absolute = posixpath.join("/", path)
            place = absolute
            if stat.S_ISDIR(found.mode) or absolute.endswith(("/", "/.")):
                place = await asyncio.to_thread(root.resolve, absolute)
            if container is not None:
                self._containers.emit(container, "archive-path")
            async with closing(self._worker.pack_tree(_path_of(root), place, name or found.name, ids=ids)) as pieces:
                yield found, pieces

    async def glob(self, reference: str, pattern: str) -> list[str]:
        """The paths that fit `pattern`, whose parts may hold *, ? and […], sorted. No symlink is a match's parent."""
        async with self._place(reference) as (root, _, _):
            return await asyncio.to_thread(_glob, root, posixpath.join("/", pattern))

    async def write(
        self,
        reference: str,
        path: str,
        content: AsyncIterator[bytes],
        *,
        keep_directories: bool = False,
        take_owner: bool = False,
    ) -> None:
        """Unpack a tar stream, compressed or not, into the directory `path`.

        `keep_directories`: never replace a directory by something else or the other way round. `take_owner`:
        everything becomes the container's user's. It is on the disk when this returns.

        Raises NotFound, InvalidParameter (also for read-only places).
        """
        async with self._place(reference) as (root, ids, container):
            place = await asyncio.to_thread(_directory, root, reference, path)
            if container is not None:
                _check_writable(container, place)
            owner = None
            if take_owner and container is not None and container.config.user:
                user, _ = await asyncio.to_thread(find_user, _path_of(root), container.config.user, [])
                owner = (user.uid, user.gid)
            await self._worker.unpack(
                content, _path_of(root), inside=place, owner=owner, keep_directories=keep_directories, ids=ids
            )
            points = container.record.mounts if container is not None else ()
            inner = [point.destination for point in points if point.destination.startswith(place.rstrip("/") + "/")]
            await asyncio.to_thread(_sync, root, [place, *inner])
        if container is not None:
            self._containers.emit(container, "extract-to-dir")

    @asynccontextmanager
    async def export(self, reference: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The container's whole file system, without its volumes, as a tar stream."""
        container = self._containers.get(reference)
        if container.state.status == "dead" or container.removing:
            raise Conflict(f"You cannot export container {container.id} which is Dead")
        async with self._containers.rootfs(container) as tree:
            self._containers.emit(container, "export")
            async with closing(self._worker.pack_tree(tree.path, "/", "", ids=_host_ids(tree.ids))) as pieces:
                yield pieces

    async def changes(self, reference: str) -> Sequence[Change]:
        """What the container changed in its image."""
        container = self._containers.get(reference)
        await self._containers.make_whole(container)
        return await self._layers.changes(container.id)

    @asynccontextmanager
    async def _place(self, reference: str) -> AsyncIterator[tuple[Root, tuple[int, int, int] | None, Container | None]]:
        """(the files meant, the ids for worker.Job, whose files they are); `volume:NAME` means a volume."""
        if not reference.startswith(VOLUME):
            container = self._containers.get(reference)
            async with self._tree(container) as (root, ids):
                yield root, ids, container
            return
        name, user = reference.removeprefix(VOLUME), f"files-{secrets.token_hex(8)}"
        path = await self._volumes.mount(name, user)
        try:
            root = Root(path)
            try:
                yield root, None, None
            finally:
                root.close()
        finally:
            await self._volumes.unmount(name, user)

    @asynccontextmanager
    async def _tree(self, container: Container) -> AsyncIterator[tuple[Root, tuple[int, int, int] | None]]:
        """(the container's files as it sees them, mounts included; the ids for worker.Job)."""
        if container.state.running:
            root = _root_of_process(container)
            if root is not None:
                try:
                    yield root, _host_ids(container.record.ids)
                finally:
                    root.close()
                return
        async with self._containers.rootfs(container) as tree, self._mounts(container) as sources:
            await asyncio.to_thread(make_missing, container.record.mounts, container.record.ids)
            view = _View(tree.path, [*container.record.mounts, *self._network_files(container)], sources)
            root = await asyncio.to_thread(view.open)
            try:
                yield root, _host_ids(tree.ids)
            finally:
                view.close()

    def _network_files(self, container: Container) -> list[MountPoint]:
        """What is mounted into every container that has run, but for what it has a mount of its own in the place of."""
        other = joined(container.host_config.network_mode)
        try:
            folder = self._containers.folder(self._containers.get(other) if other else container)
        except NotFound:
            return []
        taken = {point.destination for point in container.record.mounts}
        return [
            MountPoint(type="bind", source=source, destination=f"/etc/{name}")
            for name in FILES
            if os.path.exists(source := f"{folder}/{name}") and f"/etc/{name}" not in taken
        ]

    @asynccontextmanager
    async def _mounts(self, container: Container) -> AsyncIterator[dict[str, str]]:
        """The host paths of the container's volumes and images by destination, mounted for the time of the block."""
        user = f"{container.id}-files"
        mounted: list[MountPoint] = []
        try:
            sources = {}
            for point in container.record.mounts:
                if point.type == "volume":
                    sources[point.destination] = await self._volumes.mount(point.name, user)
                    mounted.append(point)
                elif point.type == "image":
                    sources[point.destination] = await self._layers.mount(point.layer)
                    mounted.append(point)
            yield sources
        finally:
            for point in mounted:
                if point.type == "volume":
                    await self._volumes.unmount(point.name, user)
                else:
                    await self._layers.unmount(point.layer)


def _glob(root: Root, pattern: str) -> list[str]:
    found = ["/"]
    for part in filter(None, pattern.split("/")):
        reached = []
        for folder in found:
            for name in _names(root, folder):
                fits = name == part or fnmatch.fnmatchcase(name, part)
                if fits and (part.startswith(".") or not name.startswith(".")):
                    reached.append(posixpath.join(folder, name))
        found = reached
    return sorted(found) if pattern.strip("/") else []


def _names(root: Root, folder: str) -> list[str]:
    """The names in a folder; none in what is no folder, or a link to one."""
    try:
        fd = root.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return []
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def _host_ids(ids: IdRange | None) -> tuple[int, int, int] | None:
    return None if ids is None else (ids.uid, ids.gid, ids.size)


def _path_of(root: Root) -> str:
    """A path by which another process finds the open directory."""
    return f"/proc/{os.getpid()}/fd/{root.fd}"


def _root_of_process(container: Container) -> Root | None:
    """The root of the container's process; None when it has just ended."""
    pid = container.state.pid
    try:
        root = Root(f"/proc/{pid}/root")
    except OSError:
        return None
    try:
        # Looked at after the root was opened: were the PID another process's by now, the root might be the host's.
        with open(f"/proc/{pid}/cgroup") as groups:
            ours = container.id in groups.read()
    except OSError:
        ours = False
    if not ours:
        root.close()
        return None
    return root


class _View:
    """A stopped container's root with its volumes mounted, in a mount namespace that a thread of ours keeps alive."""

    def __init__(self, rootfs: str, points: Sequence[MountPoint], sources: dict[str, str]) -> None:
        self._rootfs = rootfs
        self._points = sorted(points, key=lambda point: point.destination.count("/"))
        self._sources = sources
        self._root: Root | None = None
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._done = threading.Event()

    def open(self) -> Root:
        """Make the view; blocks. Raises SystemFailure."""
        if not self._points:
            self._root = Root(self._rootfs)
            return self._root
        threading.Thread(target=self._keep, name="container-view", daemon=True).start()
        self._ready.wait()
        if self._failure is not None:
            raise SystemFailure(f"cannot put the container's mounts in place: {self._failure}") from self._failure
        assert self._root is not None
        return self._root

    def close(self) -> None:
        """Let go of it; the namespace goes with its thread."""
        if self._root is not None:
            self._root.close()
        self._done.set()

    def _keep(self) -> None:
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_FS)
            mounts.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
            root = Root(self._rootfs)
            for point in self._points:
                self._put(root, point)
            root.close()
            self._root = Root(self._rootfs)
        except BaseException as failure:
            self._failure = failure
        self._ready.set()
        self._done.wait()

    def _put(self, root: Root, point: MountPoint) -> None:
        place = root.resolve(point.destination)
        source = self._sources.get(point.destination, point.source)
        with ExitStack() as opened:
            if point.subpath:
                part = open_subpath(source, point.subpath)
                opened.callback(os.close, part)
                source = f"/proc/self/fd/{part}"
            target = root.make(place, point.type == "tmpfs" or os.path.isdir(source))
            opened.callback(os.close, target)
            if point.type == "tmpfs":
                mounts.mount("tmpfs", f"/proc/self/fd/{target}", "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV)
            else:
                mounts.mount(source, f"/proc/self/fd/{target}", None, syscalls.MS_BIND | syscalls.MS_REC)
        if not point.rw:
            mounted = root.open(place, os.O_PATH)
            try:
                flags = syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE
                syscalls.mount_setattr(mounted, "", flags, set_=syscalls.MOUNT_ATTR_RDONLY)
            finally:
                os.close(mounted)


def _sync(root: Root, places: Sequence[str]) -> None:
    """Have what has been written there on the disk, whichever file systems that are."""
    for place in places:
        try:
            fd = root.open(place, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue  # nothing that could have been written to
        try:
            sync_file_system(f"/proc/self/fd/{fd}")
        except OSError as error:
            raise SystemFailure(f"cannot write {place} to the disk: {error.strerror}") from error
        finally:
            os.close(fd)


def _not_found(reference: str, path: str) -> NotFound:
    return NotFound(f"Could not find the file {path} in container {reference}")


def _in_container(work: Callable[[], os.stat_result], reference: str, path: str) -> os.stat_result:
    try:
        return work()
    except (FileNotFoundError, NotADirectoryError):
        raise _not_found(reference, path) from None
    except OSError as error:
        raise InvalidParameter(f"cannot look at {path} in container {reference}: {error.strerror}") from None


def _stat(root: Root, reference: str, path: str) -> PathStat:
    if not path or "\0" in path:
        raise InvalidParameter("bad parameter: the path is missing")
    absolute = posixpath.join("/", path)
    through = absolute.endswith(("/", "/."))  # as lstat(2) does: the link itself is not meant

    def look() -> os.stat_result:
        found = root.lstat(root.resolve(absolute) if through else absolute)
        if through and not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(path)
        return found

    status = _in_container(look, reference, path)
    target = root.resolve(absolute) if stat.S_ISLNK(status.st_mode) else ""
    name = posixpath.basename(absolute.rstrip("/")) or "/"
    return PathStat(name, status.st_size, status.st_mode, status.st_mtime_ns, target)


def _directory(root: Root, reference: str, path: str) -> str:
    """The directory at `path`, symlinks followed."""
    place = root.resolve(posixpath.join("/", path))
    status = _in_container(lambda: root.lstat(place), reference, path)
    if not stat.S_ISDIR(status.st_mode):
        raise InvalidParameter("extraction point is not a directory")
    return place


def _check_writable(container: Container, place: str) -> None:
    """Raise InvalidParameter when the container's own settings forbid to write at `place` (resolved)."""
    for point in sorted(container.record.mounts, key=lambda point: len(point.destination), reverse=True):
        if place == point.destination or place.startswith(f"{point.destination.rstrip('/')}/"):
            if not point.rw:
                raise InvalidParameter("mounted volume is marked read-only")
            return
    if container.host_config.readonly_rootfs:
        raise InvalidParameter("container rootfs is marked read-only")
