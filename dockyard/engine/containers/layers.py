"""The writable layers of containers: made on an image's layer, mounted while somebody needs them, released.

A container's layer is a snapshot of the container's own name; what it stands on it holds in the layer store. Rows are
written after the snapshot is complete and deleted before it is removed, as there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from dockyard.engine.images.layer_store import DamagedLayer, Layer, LayerStore
from dockyard.engine.state.database import Database
from dockyard.engine.state.documents import Documents
from dockyard.engine.system.id_ranges import IdRange
from dockyard.errors import Conflict, DockyardError, NotFound, SystemFailure, words
from dockyard.generators import closing
from dockyard.linux.durability import sync_file_system
from dockyard.snapshots.driver import Change, Fixture

log = logging.getLogger("dockyard.layers")

# What every container finds at these places, whatever its image holds (moby daemon/initlayer): mount points for the
# runtime's mounts and for the files the engine writes.
FIXTURES = (
    Fixture("/dev/pts", "directory"),
    Fixture("/dev/shm", "directory"),
    Fixture("/proc", "directory"),
    Fixture("/sys", "directory"),
    Fixture("/.dockerenv", "file"),
    Fixture("/etc/resolv.conf", "file"),
    Fixture("/etc/hosts", "file"),
    Fixture("/etc/hostname", "file"),
    Fixture("/dev/console", "file"),
    Fixture("/etc/mtab", "symlink", "/proc/mounts"),
)

# Those of a build's step: what it looks for is to find nothing that the image will not have.
STEP_FIXTURES = tuple(one for one in FIXTURES if one.path not in ("/.dockerenv", "/etc/hostname", "/etc/mtab"))


class ContainerRow(msgspec.Struct, frozen=True):
    """A container's writable layer, under the container's ID, which also names its snapshot; its document, too."""

    chain_id: str | None
    volatile: bool = False
    ids: IdRange | None = None  # the host's ids for the container's, when they are not the same


@dataclass(frozen=True, slots=True)
class Tree:
    """A mounted root file system. With `ids` its files' owners are seen as the host's ids that stand for them."""

    path: str
    ids: IdRange | None = None


@dataclass(slots=True)
class _Mounted:
    """A container's layer in memory: how many want it mounted, and the lock under which that changes."""

    row: ContainerRow
    users: int = 0
    path: str | None = None
    plain: bool = True  # as it lies on the disk, whatever `row.ids`
    vacated: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    unmounting: asyncio.Future[None] | None = None


class ContainerLayers:
    """Stacks containers on the store's layers, and lets go of them."""

    def __init__(self, store: LayerStore, database: Database) -> None:
        """Take up what the database knows."""
        self._store = store
        self._driver = store.driver
        self._database = database
        self._rows = database.collection(f"container_layers_{store.driver.name}", ContainerRow)
        self._documents = Documents(lambda owner: store.records / f"{owner}.container.json", ContainerRow)
        self._containers = {container_id: _Mounted(row) for container_id, row in self._rows.all()}
        store.others.update(self._containers)
        for container in self._containers.values():
            if container.row.chain_id is not None and container.row.chain_id in store:
                store.hold(container.row.chain_id)

    def open(self) -> None:
        """Put right what the driver keeps about containers' layers, and say beside each what it is."""
        for container_id, container in self._containers.items():
            if not container.row.volatile:
                self._mend(container_id, container.row)
        self._documents.put_all(
            (key, container.row) for key, container in self._containers.items() if not container.row.volatile
        )

    def _mend(self, container_id: str, row: ContainerRow) -> None:
        """Make anew what the driver keeps about a container's layer, which nobody has waited for to reach the disk."""
        below = (
            self._store.snapshot_of(row.chain_id) if row.chain_id is not None and row.chain_id in self._store else None
        )
        for name in (f"{container_id}-init", container_id):
            if not self._driver.exists(name):
                continue
            problem = self._driver.problem(name, below)
            if problem is not None and self._driver.mendable(name) and (below is None) == (row.chain_id is None):
                try:
                    self._driver.mend(name, below)
                    log.info("snapshot %s has been put right: %s", name, problem)
                except OSError as error:
                    log.error("snapshot %s is damaged: %s (%s)", name, problem, words(error))
            below = name

    def parents(self) -> dict[str, str | None]:
        """{container ID: the chain ID its layer stands on}."""
        return {container_id: container.row.chain_id for container_id, container in self._containers.items()}

    def graph_data(self, container_id: str) -> dict[str, str]:
        """GraphDriver.Data of a container. Raises NotFound."""
        self._container(container_id)
        return self._store.metadata(container_id)

    async def create(
        self,
        container_id: str,
        chain_id: str | None,
        *,
        volatile: bool = False,
        bare: bool = False,
        step: bool = False,
        options: Mapping[str, str] | None = None,
        ids: IdRange | None = None,
    ) -> None:
        """Make the writable layer of a container on the layer `chain_id` (None: on nothing).

        `volatile`: nobody wants its data after a power cut (`--rm`), so it need never be synced to disk.
        `bare`: without FIXTURES, to look at an image's own files. `step`: with a build's alone.
        `ids`: what its processes will see it with.
        `options` are `--storage-opt`'s. Raises NotFound, DamagedLayer, and InvalidParameter for an option the driver
        lacks.
        """
        parent = None
        await self._store.sound(chain_id)
        if chain_id is not None:
            self._store.hold(chain_id)
            parent = self._store.snapshot_of(chain_id)
        self._store.others.add(container_id)
        try:
            if not volatile:
                await self._store.settle()  # of a build, if the image is of one that is not done yet
            fixtures = () if bare else STEP_FIXTURES if step else FIXTURES
            await self._store.create_snapshot(
                container_id, self._create_read_write, container_id, parent, fixtures, options
            )
            row = ContainerRow(chain_id, volatile, ids)
            try:
                self._rows.put(container_id, row, lazy=volatile)
            except BaseException:
                self._store.discard(container_id)
                raise
            self._containers[container_id] = _Mounted(row)
        except BaseException:
            if chain_id is not None:
                self._store.drop(chain_id)
            self._store.others.discard(container_id)
            raise

    def _create_read_write(
        self,
        id: str,
        parent: str | None,
        fixtures: Sequence[Fixture],
        options: Mapping[str, str] | None,
    ) -> None:
        try:
            self._driver.create_read_write(id, parent, fixtures=fixtures, options=options)
        except FileNotFoundError as error:
            raise SystemFailure(words(error)) from error  # the parent has lost something

    async def on_disk(self, folders: Path) -> None:
        """Until the layers of all containers made so far survive a power cut, but for what has been put into them.

        What the driver keeps about them is made anew if it has not come so far. `folders`, where containers have
        theirs, comes along. Raises SystemFailure.
        """
        if self._driver.whiteouts == "plain":  # it is a whole copy
            await self._store.sync()
        await self._database.names.reach(self._driver.home, folders)

    def document(self, container_id: str) -> None:
        """Write beside a container's layer what it is, once the disk has its row."""
        container = self._container(container_id)
        if not container.row.volatile:
            self._documents.put(container_id, container.row)

    def _container(self, container_id: str) -> _Mounted:
        container = self._containers.get(container_id)
        if container is None:
            raise NotFound(f"no writable layer for container {container_id}")
        return container

    def ids(self) -> list[str]:
        """The containers that have a layer here; to release, at start, those that nobody knows any more."""
        return list(self._containers)

    async def unmount_idle(self, but: Collection[str] = ()) -> None:
        """Unmount what a crash has left mounted. Called at start, when running containers have mounted theirs again."""
        for container_id in await self._store.run(self._driver.mounted):
            container = self._containers.get(container_id)
            if container is not None and not container.users and container_id not in but:
                log.info("unmounting the file system of container %s, which does not run", container_id)
                async with container.lock:
                    if not container.users:
                        await self._put(container, container_id)

    async def mount(self, container_id: str) -> str:
        """Mount the container's root for its processes and return its path; each call wants an `unmount`.

        Where they have ids of their own, this waits for those who look at it as it is (`mounted`).
        """
        container = self._container(container_id)
        plain = container.row.ids is None
        while True:
            async with container.lock:
                if container.unmounting is not None:
                    await container.unmounting
                if container.path is None or container.plain == plain:
                    return await self._mount(container, container_id, plain)
            await container.vacated.wait()

    async def _mount(self, container: _Mounted, container_id: str, plain: bool) -> str:
        if container.path is None:
            ids = None if plain else container.row.ids
            await self._store.sound(container.row.chain_id)
            try:
                container.path = await self._store.run(self._get, container_id, container.row.volatile, ids)
            except SystemFailure as failure:
                raise await self._diagnosed(container_id, failure) from failure
            container.plain = plain
            container.vacated.clear()
        container.users += 1
        return container.path

    def _get(self, id: str, volatile: bool, ids: IdRange | None) -> str:
        return self._driver.get(id, volatile=volatile, ids=ids)

    async def unmount(self, container_id: str) -> None:
        """Undo one `mount`. The last one unmounts in the background: the next `mount` or `release` waits for it."""
        container = self._container(container_id)
        async with container.lock:
            container.users -= 1
            if container.users <= 0:
                container.users = 0
                container.path = None
                container.vacated.set()
                container.unmounting = self._store.beside(self._put(container, container_id))

    async def _put(self, container: _Mounted, container_id: str) -> None:
        try:
            # syncs the file system below unless the mount is volatile, so it may take its time
            await self._store.run(self._driver.put, container_id)
        except (OSError, SystemFailure) as error:
            log.warning("cannot unmount container %s: %s", container_id, error)
        finally:
            container.unmounting = None

    @asynccontextmanager
    async def mounted(self, container_id: str) -> AsyncIterator[Tree]:
        """The container's root file system, mounted for the time of the block: as it is on the disk, unless it runs."""
        container = self._container(container_id)
        async with container.lock:
            if container.unmounting is not None:
                await container.unmounting
            plain = container.plain if container.path is not None else True
            path = await self._mount(container, container_id, plain)
        try:
            yield Tree(path, None if plain else container.row.ids)
        finally:
            await self.unmount(container_id)

    async def release(self, container_id: str, *, freed: bool = False) -> None:
        """Give up the container's layer, mounted or not. No error when there is none.

        `freed`: return when its space is free, too.
        """
        container = self._containers.get(container_id)
        if container is None:
            return
        async with container.lock:
            if container.unmounting is not None:
                await container.unmounting
            if container_id not in self._containers:
                return
            self._documents.delete(container_id)
            self._rows.delete(container_id, lazy=container.row.volatile)
            del self._containers[container_id]
            container.vacated.set()
            try:
                removed = await self._store.run(self._put_and_remove, container_id)
            finally:
                self._store.others.discard(container_id)
            if container.row.chain_id is not None:
                self._store.drop(container.row.chain_id)
        if freed:
            await asyncio.wrap_future(removed)

    def _put_and_remove(self, id: str) -> Future[None]:
        self._driver.put(id)
        return self._driver.remove(id)

    async def changes(self, container_id: str) -> list[Change]:
        """What the container changed in its image, as `docker diff` tells it, parents before children."""
        container = self._container(container_id)
        async with container.lock:
            return await self._store.run(self._driver.changes, container_id)

    async def diff(self, container_id: str) -> AsyncIterator[bytes]:
        """The container's changes as a layer tar stream, with `.wh.` files for what it deleted."""
        self._container(container_id)
        difference = self._driver.difference(container_id)
        directory = await self._store.run(difference.__enter__)
        try:
            async with closing(self._store.archives.pack_tree(directory, whiteouts=True)) as pieces:
                async for piece in pieces:
                    yield piece
        except (OSError, SystemFailure):
            self._container(container_id)  # not there: it has been removed meanwhile
            raise
        finally:
            await asyncio.shield(self._store.run(difference.__exit__, None, None, None))

    async def copy_changes(self, source: str, target: str) -> None:
        """Let the container `target`, fresh and on the same layer, differ from it as `source` does."""
        self._container(source)
        self._container(target)
        await self._store.run(self._driver.copy_changes, source, target)

    async def commit(self, container_id: str) -> Layer:
        """Register the container's changes as a new layer on its image's, held once for the caller."""
        container = self._container(container_id)
        await self._store.sound(container.row.chain_id)
        if container.path is not None and container.row.volatile:
            # Its writes are never synced, so nobody has been told of one that failed. Of a volatile overlay this syncs
            # nothing, but says so (Documentation/filesystems/overlayfs.rst, "Volatile mount").
            await self._store.run(sync_file_system, container.path)
        return await self._store.register(container.row.chain_id, self.diff(container_id))

    async def sizes(self, container_id: str) -> tuple[int, int]:
        """(bytes the container itself wrote, with its image's). Raises NotFound, also when it goes meanwhile."""
        container = self._container(container_id)
        try:
            own = await self._store.run(self._driver.size, container_id)
        except FileNotFoundError:
            raise NotFound(f"no writable layer for container {container_id}") from None
        return own, own + self._store.total_size(container.row.chain_id)

    async def _diagnosed(self, id: str, failure: SystemFailure) -> DockyardError:
        """What to say when a container's file system can't be mounted: which layer has lost something, if one has."""
        missing = await self._store.run(self._driver.missing, id)
        if missing is None:
            return failure
        layer = self._store.layer_in(missing[0])
        if layer is not None:
            return DamagedLayer(layer.diff_id, missing[1])
        return Conflict(f"the file system of container {id} is damaged: {missing[1]}")
