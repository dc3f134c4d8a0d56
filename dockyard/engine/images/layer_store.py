"""The layer store: which layers exist, who holds them, and what every container has on top of them.

A layer is known by its chain ID (what it is together with all below it) and lies in a snapshot with a random name.
Layers are shared: an image, a container or another layer holds the layer it stands on, and what nobody holds goes.
Rows are written after a snapshot is complete and deleted before it is removed, so a crash leaves at worst a snapshot
without a row, which the sweep at the next start removes: unless a document says that it was whole, for then it is the
database that has lost something.

For power cuts the same order holds on the disk. A new layer's row says `unsettled` until `settle` has seen its files
there, which whoever answers for it awaits; a snapshot goes when the disk has that its row is gone. If the power went
while a layer was unsettled, the next daemon compares it with its diff ID. One that is damaged stays, is named, refuses
to be used, and is whole again when it is pulled, loaded or built once more.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from dockyard.content import packing
from dockyard.content.unpack import UnpackedLayer, Worker
from dockyard.engine.state.database import Database
from dockyard.engine.state.documents import Documents
from dockyard.engine.system.id_ranges import IdRange
from dockyard.errors import Conflict, DockyardError, InvalidParameter, NotFound, SystemFailure, words
from dockyard.folders import own_folder
from dockyard.generators import closing
from dockyard.linux.durability import sync_file_system
from dockyard.snapshots import trees
from dockyard.snapshots.driver import Change, Driver, Fixture

log = logging.getLogger("dockyard.layers")

R = TypeVar("R")

# The diff ID of a layer without any file: that of an empty tar archive.
EMPTY = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"

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

# A tar stream: an open file (its position is where the stream begins) or pieces as they arrive.
LayerSource = BinaryIO | AsyncIterator[bytes]
# The chain ID below a new layer (None: nothing), or how to wait for it.
Parent = str | None | Callable[[], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class Layer:
    """One registered layer; `size` is in bytes and its own alone, `parent` the chain ID below it."""

    chain_id: str
    diff_id: str
    size: int
    parent: str | None


class LayerRow(msgspec.Struct, frozen=True):
    """A layer as the database keeps it, under its chain ID."""

    diff_id: str
    size: int
    parent: str | None
    snapshot: str
    # The boot during which it was written, as long as it may not be on the disk yet.
    unsettled: str = ""
    # What is wrong with it, if it has been found not to be what it was.
    damaged: str = ""


class DamagedLayer(Conflict):
    """A layer is not what it was and can't be used."""

    def __init__(self, diff_id: str, reason: str) -> None:
        super().__init__(f"layer {diff_id} is damaged: {reason}; pull, load or build an image that has it once more")


class LayerDocument(msgspec.Struct, frozen=True):
    """What a layer is, as it is written beside its archive's record, under the snapshot's name."""

    chain_id: str
    diff_id: str
    size: int
    parent: str | None


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


def chain_of(parent: str | None, diff_id: str) -> str:
    """The chain ID of the layer `diff_id` on `parent` (OCI image-spec, config.md, "Layer ChainID")."""
    if parent is None:
        return diff_id
    return "sha256:" + hashlib.sha256(f"{parent} {diff_id}".encode()).hexdigest()


def chains_of(diff_ids: Iterable[str]) -> list[str]:
    """The chain ID at every height of a stack of layers, bottom first."""
    chains: list[str] = []
    for diff_id in diff_ids:
        chains.append(chain_of(chains[-1] if chains else None, diff_id))
    return chains


def _document(chain_id: str, row: LayerRow) -> LayerDocument:
    return LayerDocument(chain_id, row.diff_id, row.size, row.parent)


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


class LayerStore:
    """Registers layers, stacks containers on them, and lets go of both."""

    def __init__(self, driver: Driver, archives: Worker, database: Database, root: str | os.PathLike[str]) -> None:
        """Take up what the database knows. `root` is the data root; call `sweep` once all holders have spoken."""
        self.driver = driver
        self.archives = archives
        self.images_root = Path(root) / "image"
        own_folder(self.images_root)
        own_folder(self.images_root / driver.name)
        self._records = own_folder(self.images_root / driver.name / "layerdb")
        self._documents = Documents(lambda snapshot: self._records / f"{snapshot}.json", LayerDocument)
        self._container_documents = Documents(lambda owner: self._records / f"{owner}.container.json", ContainerRow)
        # for archives that must be unpacked before anyone knows what is in them; on the layers' own file system
        self.scratch = own_folder(Path(root) / "tmp")
        self._rows = database.collection(f"layers_{driver.name}", LayerRow)
        self._container_rows = database.collection(f"container_layers_{driver.name}", ContainerRow)
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._database = database
        self._layers: dict[str, LayerRow] = dict(self._rows.all())
        self._unsettled = {chain_id for chain_id, row in self._layers.items() if row.unsettled}
        self._settling: asyncio.Future[None] | None = None
        # those that were unsettled when the machine went down, while it is looked what has become of them
        self._examined: dict[str, asyncio.Future[None]] = {}
        self._holds: dict[str, int] = dict.fromkeys(self._layers, 0)
        self._containers: dict[str, _Mounted] = {}
        # registrations under way, by the chain ID they will have when that is known beforehand
        self._under_way: dict[str, asyncio.Future[None]] = {}
        self._snapshots_under_way: set[str] = set()
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="layers")
        self._background: set[asyncio.Future[None]] = set()
        self._discarding: set[asyncio.Future[None]] = set()
        self._closing = asyncio.Event()
        for row in self._layers.values():
            if row.parent in self._holds:
                self._holds[row.parent] += 1
        for container_id, container in self._container_rows.all():
            self._containers[container_id] = _Mounted(container)
            if container.chain_id is not None and container.chain_id in self._holds:
                self._holds[container.chain_id] += 1

    def open(self) -> None:
        """See what an earlier daemon has left unsettled onto the disk, or, after a power cut, whether it is there.

        Returns at once. Who wants such a layer waits until it has been looked at.
        """
        for chain_id in sorted(self._unsettled, key=list(self._layers).index):
            if self._layers[chain_id].unsettled != self._boot:
                self._unsettled.discard(chain_id)
                self._examined[chain_id] = self._beside(self._examine(chain_id))
        for chain_id, row in self._layers.items():
            if row.damaged:
                log.error("layer %s is damaged: %s", chain_id, row.damaged)
        for container_id, container in self._containers.items():
            if not container.row.volatile:
                self._mend_container(container_id, container.row)
        if self._unsettled:
            self._beside(self._settle_later())

    def _mend_container(self, container_id: str, row: ContainerRow) -> None:
        """Make anew what the driver keeps about a container's layer, which nobody has waited for to reach the disk."""
        below = self._layers[row.chain_id].snapshot if row.chain_id in self._layers else None
        for name in (f"{container_id}-init", container_id):
            if not self.driver.exists(name):
                continue
            problem = self.driver.problem(name, below)
            if problem is not None and self.driver.mendable(name) and (below is None) == (row.chain_id is None):
                try:
                    self.driver.mend(name, below)
                    log.info("snapshot %s has been put right: %s", name, problem)
                except OSError as error:
                    log.error("snapshot %s is damaged: %s (%s)", name, problem, words(error))
            below = name

    def _beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        """Do something in the background; `close` waits for it."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _examine(self, chain_id: str) -> None:
        """Compare a layer with its diff ID: the machine went down before it was sure to be on the disk."""
        row = self._layers[chain_id]
        try:
            reason = await self._damage(row)
        except Exception as failure:
            log.exception("layer %s cannot be examined", chain_id)
            reason = str(failure)
        if reason:
            log.error("layer %s was not on the disk when the machine went down: %s; it is kept", chain_id, reason)
            self._documents.delete(row.snapshot)
            self._keep(chain_id, msgspec.structs.replace(row, unsettled="", damaged=reason))
        else:
            log.info("layer %s is whole, although the machine went down when it was new", chain_id)
            self._keep(chain_id, msgspec.structs.replace(row, unsettled=self._boot))
            self._unsettled.add(chain_id)
            self._beside(self._settle_later())

    async def _damage(self, row: LayerRow) -> str:
        missing = await self._run(self.driver.missing, row.snapshot)
        if missing is not None and missing[0] == row.snapshot:
            return missing[1]
        digest = hashlib.sha256()
        try:
            async with closing(self._packed(row.snapshot)) as pieces:
                async for piece in pieces:
                    digest.update(piece)
        except (SystemFailure, OSError) as failure:
            return words(failure)
        return "" if f"sha256:{digest.hexdigest()}" == row.diff_id else "its files are not what they were"

    def _keep(self, chain_id: str, row: LayerRow) -> None:
        if chain_id in self._layers:
            self._layers[chain_id] = row
            self._rows.put(chain_id, row)

    async def sound(self, chain_id: str | None) -> None:
        """Raise DamagedLayer when the layer or one that it stands on is damaged; for those in doubt that is awaited."""
        while chain_id is not None:
            if chain_id in self._examined:
                await asyncio.shield(self._examined[chain_id])
                self._examined.pop(chain_id, None)
            row = self._layers.get(chain_id)
            if row is None:
                return
            if row.damaged:
                raise DamagedLayer(row.diff_id, row.damaged)
            chain_id = row.parent

    def is_damaged(self, chain_id: str | None) -> bool:
        """Whether the layer or one that it stands on is known to be damaged."""
        while chain_id is not None and chain_id in self._layers:
            if self._layers[chain_id].damaged:
                return True
            chain_id = self._layers[chain_id].parent
        return False

    async def is_whole(self, chain_id: str) -> bool:
        """Whether the layer is here and, with all that it stands on, what it was."""
        try:
            await self.sound(chain_id)
        except DamagedLayer:
            return False
        return chain_id in self._layers

    async def _diagnosed(self, id: str, failure: SystemFailure) -> DockyardError:
        """What to say when a container's file system can't be mounted: which layer has lost something, if one has."""
        missing = await self._run(self.driver.missing, id)
        if missing is None:
            return failure
        for row in self._layers.values():
            if row.snapshot == missing[0]:
                return DamagedLayer(row.diff_id, missing[1])
        return Conflict(f"the file system of container {id} is damaged: {missing[1]}")

    def sweep(self) -> None:
        """Remove what nobody holds and what a crash left behind. Called once at start, after the images are loaded."""
        if self._database.unreadable:
            log.warning("no layer is removed as long as there are rows in the state database that cannot be read")
            return
        for chain_id in list(self._layers):
            if chain_id in self._layers and not self._holds[chain_id]:
                self._forget(chain_id)
        known = {row.snapshot for row in self._layers.values()} | set(self._containers) | self._snapshots_under_way
        lost = {path.name.partition(".")[0] for path in self._records.glob("*.json")} - known
        for snapshot in sorted(lost):
            log.warning("snapshot %s is whole, but the database does not know it: it is kept", snapshot)
        known |= lost
        swept = self.driver.sweep(known)
        if swept:
            log.info("removed %d leftover snapshots", len(swept))
        for record in self._records.iterdir():
            if record.name.partition(".")[0] not in known:
                trees.remove_tree(str(record))
        self._documents.put_all(
            (row.snapshot, _document(chain_id, row))
            for chain_id, row in self._layers.items()
            if not row.unsettled and not row.damaged
        )
        self._container_documents.put_all(
            (key, container.row) for key, container in self._containers.items() if not container.row.volatile
        )
        for leftover in self.scratch.iterdir():
            trees.remove_tree(str(leftover))

    async def close(self) -> None:
        """Finish what runs in the background; mounted containers stay mounted."""
        self._closing.set()
        while self._background:
            await asyncio.gather(*self._background, return_exceptions=True)
        with suppress(SystemFailure):
            await self.settle()
        await self._run(self.driver.cleanup)
        self._threads.shutdown()

    async def _run(self, work: Callable[..., R], *arguments: object) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def _create(self, snapshot: str, work: Callable[..., R], *arguments: object) -> R:
        """Have the driver make a snapshot. One that is given up in the midst of that is removed when it is there."""
        making = asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:

            def made(done: asyncio.Future[R]) -> None:
                if done.exception() is None:
                    self._discard(snapshot)

            making.add_done_callback(made)
            raise

    # -- layers

    def get(self, chain_id: str) -> Layer:
        """The layer `chain_id`. Raises NotFound."""
        row = self._layers.get(chain_id)
        if row is None:
            raise NotFound(f"layer does not exist: {chain_id}")
        return Layer(chain_id, row.diff_id, row.size, row.parent)

    def __contains__(self, chain_id: str) -> bool:
        return chain_id in self._layers

    def all(self) -> dict[str, Layer]:
        """Every layer by chain ID."""
        return {chain_id: Layer(chain_id, row.diff_id, row.size, row.parent) for chain_id, row in self._layers.items()}

    def snapshots(self) -> dict[str, tuple[str, str | None]]:
        """{chain ID: (the snapshot that holds the layer's files, the chain ID below it)}, parents before children."""
        return {chain_id: (row.snapshot, row.parent) for chain_id, row in self._layers.items()}

    def damage(self, chain_id: str) -> str:
        """What has been found wrong with the layer's files after a power cut, if anything."""
        row = self._layers.get(chain_id)
        return row.damaged if row is not None else ""

    def container_layers(self) -> dict[str, str | None]:
        """{container ID: the chain ID its layer stands on}."""
        return {container_id: container.row.chain_id for container_id, container in self._containers.items()}

    def has_record(self, snapshot: str) -> bool:
        """Whether a layer's archive can be made again."""
        return self._record(snapshot).is_file()

    def total_size(self, chain_id: str | None) -> int:
        """Bytes of the layer and all below it."""
        total = 0
        while chain_id is not None and chain_id in self._layers:
            row = self._layers[chain_id]
            total += row.size
            chain_id = row.parent
        return total

    def hold(self, chain_id: str) -> None:
        """Keep the layer until `drop` is called as often. Raises NotFound when it does not exist."""
        if chain_id not in self._layers:
            raise NotFound(f"layer does not exist: {chain_id}")
        self._holds[chain_id] += 1

    def drop(self, chain_id: str) -> list[Layer]:
        """Undo one `hold`; returns the layers that went because nobody holds them any more, top first."""
        gone = []
        current: str | None = chain_id
        while current is not None and current in self._holds:  # not there: lost, whatever stands on it
            self._holds[current] -= 1
            if self._holds[current]:
                break
            layer = self.get(current)
            gone.append(layer)
            self._remove(current)
            current = layer.parent
        return gone

    def _forget(self, chain_id: str) -> None:
        self._holds[chain_id] += 1
        self.drop(chain_id)

    def _remove(self, chain_id: str) -> None:
        row = self._layers.pop(chain_id)
        del self._holds[chain_id]
        self._documents.delete(row.snapshot)
        self._unsettled.discard(chain_id)
        self._rows.delete(chain_id)
        discarding = self._beside(self._discard_for_good(row.snapshot))
        self._discarding.add(discarding)
        discarding.add_done_callback(self._discarding.discard)

    async def _discard_for_good(self, snapshot: str) -> None:
        """Remove a layer's files when the disk has that there is no such layer: else a power cut left it without."""
        await self._database.on_disk()
        await asyncio.wrap_future(await self._run(self._discard, snapshot))

    def _discard(self, snapshot: str) -> Future[None]:
        self._record(snapshot).unlink(missing_ok=True)
        return self.driver.remove(snapshot)

    async def freed(self) -> None:
        """Until the space of all layers that have gone so far is free."""
        if self._discarding:
            await asyncio.wait(list(self._discarding))
            await self._database.names.reach(self._records)  # no document says any more that they are whole

    def _record(self, snapshot: str) -> Path:
        """Where it is kept how the layer's tar stream was laid out, so that the same bytes can be made again."""
        return self._records / f"{snapshot}.split"

    async def register(
        self,
        parent: Parent,
        source: LayerSource | Callable[[], Awaitable[LayerSource]],
        *,
        diff_id: str | None = None,
        chain_id: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Layer:
        """Unpack an uncompressed or compressed layer tar onto `parent` and return the layer, held once for the caller.

        When the driver allows it, unpacking begins before a `parent` that is yet to come is known, so that the layers
        of an image can be unpacked side by side. With `diff_id` given, the content must have that digest; with
        `chain_id` given, too, a layer that is already there or being registered is not unpacked again (then `source`
        is not read). `progress` is called with the number of compressed bytes consumed so far. Raises
        InvalidParameter for a broken or malicious archive.
        """
        if chain_id is None:
            return await self._register_new(parent, source, diff_id, progress)
        while not await self.is_whole(chain_id):
            other = self._under_way.get(chain_id)
            if other is None:
                mine = self._under_way[chain_id] = asyncio.get_running_loop().create_future()
                try:
                    return await self._register_new(parent, source, diff_id, progress)
                finally:
                    del self._under_way[chain_id]
                    mine.set_result(None)
            await asyncio.shield(other)
        self.hold(chain_id)
        return self.get(chain_id)

    async def _register_new(
        self,
        parent: Parent,
        source: LayerSource | Callable[[], Awaitable[LayerSource]],
        diff_id: str | None,
        progress: Callable[[int], None] | None,
    ) -> Layer:
        snapshot = secrets.token_hex(32)
        self._snapshots_under_way.add(snapshot)
        try:
            if not callable(parent):
                return await self._register(parent, source, snapshot, diff_id, progress)
            if self.driver.whiteouts == "plain":  # the snapshot starts as a copy of its parent
                return await self._register(await parent(), source, snapshot, diff_id, progress)
            return await self._register_ahead(parent, source, snapshot, diff_id, progress)
        finally:
            self._snapshots_under_way.discard(snapshot)

    async def _register(
        self,
        parent: str | None,
        source: LayerSource | Callable[[], Awaitable[LayerSource]],
        snapshot: str,
        diff_id: str | None,
        progress: Callable[[int], None] | None,
    ) -> Layer:
        below = None if parent is None else self._layers[parent].snapshot
        if parent is not None:
            self.hold(parent)
        try:
            target = await self._create(snapshot, self.driver.create, snapshot, below)
            try:
                unpacked = await self._unpack(source, target, snapshot, diff_id, progress)
            except BaseException:
                self._discard(snapshot)
                raise
            return await self._enter(parent, unpacked.diff_id, unpacked.size, snapshot)
        finally:
            if parent is not None:
                self.drop(parent)

    async def _register_ahead(
        self,
        parent: Callable[[], Awaitable[str | None]],
        source: LayerSource | Callable[[], Awaitable[LayerSource]],
        snapshot: str,
        diff_id: str | None,
        progress: Callable[[int], None] | None,
    ) -> Layer:
        """Unpack while the parent is still being made, then put the layer onto it."""
        target = await self._create(snapshot, self.driver.create, snapshot, None)
        try:
            unpacked = await self._unpack(source, target, snapshot, diff_id, progress)
            below = await parent()
            if below is not None:
                self.hold(below)
                try:
                    await self._run(self.driver.set_parent, snapshot, self._layers[below].snapshot)
                finally:
                    self.drop(below)
        except BaseException:
            self._discard(snapshot)
            raise
        return await self._enter(below, unpacked.diff_id, unpacked.size, snapshot)

    async def _unpack(
        self,
        source: LayerSource | Callable[[], Awaitable[LayerSource]],
        target: str,
        snapshot: str,
        diff_id: str | None,
        progress: Callable[[int], None] | None,
    ) -> UnpackedLayer:
        stream = await source() if callable(source) else source
        try:
            unpacked = await self.archives.unpack(
                stream, target, record=self._record(snapshot), whiteouts=self.driver.whiteouts, progress=progress
            )
        finally:
            if not isinstance(stream, AsyncIterator):
                stream.close()
        if diff_id is not None and unpacked.diff_id != diff_id:
            raise InvalidParameter(f"layer has the wrong content: expected {diff_id}, got {unpacked.diff_id}")
        return unpacked

    async def _enter(self, parent: str | None, diff_id: str, size: int, snapshot: str) -> Layer:
        """Make the finished snapshot a layer (or drop it when the same layer came first), held once."""
        chain_id = chain_of(parent, diff_id)
        known = self._layers.get(chain_id)
        if known is not None and not known.damaged:
            self._discard(snapshot)
        elif known is not None:
            await self._run(self._mend, known.snapshot, snapshot)
            log.info("layer %s, which was damaged, is whole again", chain_id)
            self._keep(chain_id, LayerRow(diff_id, size, parent, known.snapshot, self._boot))
        else:
            row = LayerRow(diff_id, size, parent, snapshot, self._boot)
            self._rows.put(chain_id, row, lazy=True)  # nobody is told of it before it is settled
            self._layers[chain_id] = row
            self._holds[chain_id] = 0
            if parent is not None:
                self._holds[parent] += 1
        if self._layers[chain_id].unsettled and chain_id not in self._unsettled:
            self._unsettled.add(chain_id)
            if len(self._unsettled) == 1:
                self._beside(self._settle_later())
        self.hold(chain_id)
        return self.get(chain_id)

    def _mend(self, snapshot: str, fresh: str) -> None:
        self._record(fresh).replace(self._record(snapshot))
        self.driver.replace(snapshot, fresh)

    async def settle(self) -> None:
        """Until every layer registered so far is on the disk, and its row says so.

        Those who wait at one time share one sync. Raises SystemFailure.
        """
        wanted = set(self._unsettled)
        while wanted & self._unsettled:
            if self._settling is None:
                self._settling = asyncio.ensure_future(self._settle())
                self._settling.add_done_callback(self._settled)
            await asyncio.shield(self._settling)

    def _settled(self, done: asyncio.Future[None]) -> None:
        self._settling = None

    async def _settle(self) -> None:
        written = {chain_id: self._layers[chain_id] for chain_id in self._unsettled}
        await self._sync()
        for chain_id, row in written.items():
            if self._layers.get(chain_id) is row:
                self._unsettled.discard(chain_id)
                self._keep(chain_id, msgspec.structs.replace(row, unsettled=""))
        await self._database.on_disk()
        for chain_id, row in written.items():  # a document without its row would say that the database has lost it
            if chain_id in self._layers:
                self._documents.put(row.snapshot, _document(chain_id, row))

    async def _sync(self) -> None:
        """Until all files that the driver has are on the disk. Raises SystemFailure."""
        self._database.check_disk()
        try:
            await self._run(sync_file_system, self.driver.home)
        except OSError as error:
            raise self._database.sync_failed("layers", error) from error

    async def _settle_later(self) -> None:
        """For layers that nobody answers for yet: those of a build's first steps."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), 1)
        with suppress(SystemFailure):
            await self.settle()

    @asynccontextmanager
    async def held(self, chain_id: str | None) -> AsyncIterator[None]:
        """Keep a layer for the time of the block."""
        if chain_id is None:
            yield
            return
        self.hold(chain_id)
        try:
            yield
        finally:
            self.drop(chain_id)

    async def pack(self, chain_id: str) -> AsyncIterator[bytes]:
        """The layer's tar stream, byte for byte as it was registered. Raises NotFound, DamagedLayer."""
        snapshot = self._snapshot(chain_id)
        await self.sound(chain_id)
        async with self.held(chain_id), closing(self._packed(snapshot)) as pieces:
            async for piece in pieces:
                yield piece

    def _packed(self, snapshot: str) -> AsyncIterator[bytes]:
        return self.archives.pack_record(self.driver.diff_path(snapshot), self._record(snapshot))

    def _snapshot(self, chain_id: str) -> str:
        row = self._layers.get(chain_id)
        if row is None:
            raise NotFound(f"layer does not exist: {chain_id}")
        return row.snapshot

    async def packed_size(self, chain_id: str) -> int:
        """How many bytes `pack` will give. Raises NotFound."""
        return await self._run(self._packed_size, self._record(self._snapshot(chain_id)))

    @staticmethod
    def _packed_size(record: Path) -> int:
        with record.open("rb") as file:
            return packing.record_size(file.fileno())

    def graph_data(self, id: str | None) -> dict[str, str]:
        """GraphDriver.Data of a layer (by chain ID) or of a container (by container ID)."""
        if id is None:
            return {}
        snapshot = self._layers[id].snapshot if id in self._layers else id
        if snapshot == id:
            self._container(id)
        try:
            return self.driver.metadata(snapshot)
        except OSError as error:  # it is damaged: whoever uses it is told so
            log.debug("%s: %s", snapshot, words(error))
            return {}

    # -- containers

    async def create_container_layer(
        self,
        container_id: str,
        chain_id: str | None,
        *,
        volatile: bool = False,
        bare: bool = False,
        options: Mapping[str, str] | None = None,
        ids: IdRange | None = None,
    ) -> None:
        """Make the writable layer of a container on the layer `chain_id` (None: on nothing).

        `volatile`: nobody wants its data after a power cut (`--rm`), so it need never be synced to disk.
        `bare`: without FIXTURES, to look at an image's own files.
        `ids`: what its processes will see it with.
        `options` are `--storage-opt`'s. Raises NotFound, DamagedLayer, and InvalidParameter for an option the driver
        lacks.
        """
        parent = None
        await self.sound(chain_id)
        if chain_id is not None:
            self.hold(chain_id)
            parent = self._layers[chain_id].snapshot
        self._snapshots_under_way.add(container_id)
        try:
            if not volatile:
                await self.settle()  # of a build, if the image is of one that is not done yet
            fixtures = () if bare else FIXTURES
            await self._create(container_id, self._create_read_write, container_id, parent, fixtures, options)
            row = ContainerRow(chain_id, volatile, ids)
            try:
                self._container_rows.put(container_id, row, lazy=volatile)
            except BaseException:
                self._discard(container_id)
                raise
            self._containers[container_id] = _Mounted(row)
        except BaseException:
            if chain_id is not None:
                self.drop(chain_id)
            raise
        finally:
            self._snapshots_under_way.discard(container_id)

    def _create_read_write(
        self,
        id: str,
        parent: str | None,
        fixtures: Sequence[Fixture],
        options: Mapping[str, str] | None,
    ) -> None:
        try:
            self.driver.create_read_write(id, parent, fixtures=fixtures, options=options)
        except FileNotFoundError as error:
            raise SystemFailure(words(error)) from error  # the parent has lost something

    async def container_on_disk(self, folders: Path) -> None:
        """Until the layers of all containers made so far survive a power cut, but for what has been put into them.

        What the driver keeps about them is made anew if it has not come so far. `folders`, where containers have
        theirs, comes along. Raises SystemFailure.
        """
        if self.driver.whiteouts == "plain":  # it is a whole copy
            await self._sync()
        await self._database.names.reach(self.driver.home, folders)

    def document_container(self, container_id: str) -> None:
        """Write beside a container's layer what it is, once the disk has its row."""
        container = self._container(container_id)
        if not container.row.volatile:
            self._container_documents.put(container_id, container.row)

    def _container(self, container_id: str) -> _Mounted:
        container = self._containers.get(container_id)
        if container is None:
            raise NotFound(f"no writable layer for container {container_id}")
        return container

    def container_ids(self) -> list[str]:
        """The containers that have a layer here; to release, at start, those that nobody knows any more."""
        return list(self._containers)

    async def unmount_idle(self, but: Collection[str] = ()) -> None:
        """Unmount what a crash has left mounted. Called at start, when running containers have mounted theirs again."""
        for container_id in await self._run(self.driver.mounted):
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
            await self.sound(container.row.chain_id)
            try:
                container.path = await self._run(self._get, container_id, container.row.volatile, ids)
            except SystemFailure as failure:
                raise await self._diagnosed(container_id, failure) from failure
            container.plain = plain
            container.vacated.clear()
        container.users += 1
        return container.path

    def _get(self, id: str, volatile: bool, ids: IdRange | None) -> str:
        return self.driver.get(id, volatile=volatile, ids=ids)

    async def unmount(self, container_id: str) -> None:
        """Undo one `mount`. The last one unmounts in the background: the next `mount` or `release` waits for it."""
        container = self._container(container_id)
        async with container.lock:
            container.users -= 1
            if container.users <= 0:
                container.users = 0
                container.path = None
                container.vacated.set()
                container.unmounting = asyncio.ensure_future(self._put(container, container_id))
                self._background.add(container.unmounting)
                container.unmounting.add_done_callback(self._background.discard)

    async def _put(self, container: _Mounted, container_id: str) -> None:
        try:
            # syncs the file system below unless the mount is volatile, so it may take its time
            await self._run(self.driver.put, container_id)
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
            self._container_documents.delete(container_id)
            self._container_rows.delete(container_id, lazy=container.row.volatile)
            del self._containers[container_id]
            container.vacated.set()
            self._snapshots_under_way.add(container_id)
            try:
                removed = await self._run(self._put_and_remove, container_id)
            finally:
                self._snapshots_under_way.discard(container_id)
            if container.row.chain_id is not None:
                self.drop(container.row.chain_id)
        if freed:
            await asyncio.wrap_future(removed)

    def _put_and_remove(self, id: str) -> Future[None]:
        self.driver.put(id)
        return self.driver.remove(id)

    async def changes(self, container_id: str) -> list[Change]:
        """What the container changed in its image, as `docker diff` tells it, parents before children."""
        container = self._container(container_id)
        async with container.lock:
            return await self._run(self.driver.changes, container_id)

    async def diff(self, container_id: str) -> AsyncIterator[bytes]:
        """The container's changes as a layer tar stream, with `.wh.` files for what it deleted."""
        self._container(container_id)
        difference = self.driver.difference(container_id)
        directory = await self._run(difference.__enter__)
        try:
            async with closing(self.archives.pack_tree(directory, whiteouts=True)) as pieces:
                async for piece in pieces:
                    yield piece
        except (OSError, SystemFailure):
            self._container(container_id)  # not there: it has been removed meanwhile
            raise
        finally:
            await asyncio.shield(self._run(difference.__exit__, None, None, None))

    async def copy_changes(self, source: str, target: str) -> None:
        """Let the container `target`, fresh and on the same layer, differ from it as `source` does."""
        self._container(source)
        self._container(target)
        await self._run(self.driver.copy_changes, source, target)

    async def commit(self, container_id: str) -> Layer:
        """Register the container's changes as a new layer on its image's, held once for the caller."""
        container = self._container(container_id)
        await self.sound(container.row.chain_id)
        if container.path is not None and container.row.volatile:
            # Its writes are never synced, so nobody has been told of one that failed. Of a volatile overlay this syncs
            # nothing, but says so (Documentation/filesystems/overlayfs.rst, "Volatile mount").
            await self._run(sync_file_system, container.path)
        return await self.register(container.row.chain_id, self.diff(container_id))

    async def sizes(self, container_id: str) -> tuple[int, int]:
        """(bytes the container itself wrote, those and its image's together)."""
        container = self._container(container_id)
        own = await self._run(self.driver.size, container_id)
        return own, own + self.total_size(container.row.chain_id)
