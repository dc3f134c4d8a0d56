"""The layer store: which layers exist, and who holds them.

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
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from dockyard.content import packing
from dockyard.content.unpack import UnpackedLayer, Worker
from dockyard.engine.state.database import Database
from dockyard.engine.state.documents import Documents
from dockyard.errors import Conflict, InvalidParameter, NotFound, SystemFailure, words
from dockyard.folders import own_folder
from dockyard.generators import closing
from dockyard.linux.durability import sync_file_system
from dockyard.snapshots import trees
from dockyard.snapshots.driver import Driver

log = logging.getLogger("dockyard.layers")

R = TypeVar("R")

# The diff ID of a layer without any file: that of an empty tar archive.
EMPTY = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"

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


@lru_cache(maxsize=2048)  # asked of every layer of an image, again and again
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


class LayerStore:
    """Registers layers and lets go of them."""

    def __init__(self, driver: Driver, archives: Worker, database: Database, root: str | os.PathLike[str]) -> None:
        """Take up what the database knows. `root` is the data root; call `sweep` once all holders have spoken."""
        self.driver = driver
        self.archives = archives
        self.images_root = Path(root) / "image"
        own_folder(self.images_root)
        own_folder(self.images_root / driver.name)
        self.records = own_folder(self.images_root / driver.name / "layerdb")
        self._documents = Documents(lambda snapshot: self.records / f"{snapshot}.json", LayerDocument)
        # for archives that must be unpacked before anyone knows what is in them; on the layers' own file system
        self.scratch = own_folder(Path(root) / "tmp")
        self._rows = database.collection(f"layers_{driver.name}", LayerRow)
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._database = database
        self._layers: dict[str, LayerRow] = dict(self._rows.all())
        self._unsettled = {chain_id for chain_id, row in self._layers.items() if row.unsettled}
        self._settling: asyncio.Future[None] | None = None
        # those that were unsettled when the machine went down, while it is looked what has become of them
        self._examined: dict[str, asyncio.Future[None]] = {}
        self._holds: dict[str, int] = dict.fromkeys(self._layers, 0)
        # registrations under way, by the chain ID they will have when that is known beforehand
        self._under_way: dict[str, asyncio.Future[None]] = {}
        self._snapshots_under_way: set[str] = set()
        # snapshots that are no layers', but stand on some: containers'; whoever has them tells here
        self.others: set[str] = set()
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="layers")
        self._background: set[asyncio.Future[None]] = set()
        self._discarding: set[asyncio.Future[None]] = set()
        # Layers that wait for nobody are unpacked as many at a time as there are processors: more would only take the
        # caches from each other.
        self._from_files = asyncio.Semaphore(max(2, os.cpu_count() or 1))
        self._closing = asyncio.Event()
        for row in self._layers.values():
            if row.parent in self._holds:
                self._holds[row.parent] += 1

    def open(self) -> None:
        """See what an earlier daemon has left unsettled onto the disk, or, after a power cut, whether it is there.

        Returns at once. Who wants such a layer waits until it has been looked at.
        """
        for chain_id in sorted(self._unsettled, key=list(self._layers).index):
            if self._layers[chain_id].unsettled != self._boot:
                self._unsettled.discard(chain_id)
                self._examined[chain_id] = self.beside(self._examine(chain_id))
        for chain_id, row in self._layers.items():
            if row.damaged:
                log.error("layer %s is damaged: %s", chain_id, row.damaged)
        if self._unsettled:
            self.beside(self._settle_later())

    def beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
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
            self.beside(self._settle_later())

    async def _damage(self, row: LayerRow) -> str:
        missing = await self.run(self.driver.missing, row.snapshot)
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

    def sweep(self) -> None:
        """Remove what nobody holds and what a crash left behind. Called once at start, after the images are loaded."""
        if self._database.unreadable:
            log.warning("no layer is removed as long as there are rows in the state database that cannot be read")
            return
        for chain_id in list(self._layers):
            if chain_id in self._layers and not self._holds[chain_id]:
                self._forget(chain_id)
        known = {row.snapshot for row in self._layers.values()} | self.others | self._snapshots_under_way
        lost = {path.name.partition(".")[0] for path in self.records.glob("*.json")} - known
        for snapshot in sorted(lost):
            log.warning("snapshot %s is whole, but the database does not know it: it is kept", snapshot)
        known |= lost
        swept = self.driver.sweep(known)
        if swept:
            log.info("removed %d leftover snapshots", len(swept))
        for record in self.records.iterdir():
            if record.name.partition(".")[0] not in known:
                trees.remove_tree(str(record))
        self._documents.put_all(
            (row.snapshot, _document(chain_id, row))
            for chain_id, row in self._layers.items()
            if not row.unsettled and not row.damaged
        )
        for leftover in self.scratch.iterdir():
            trees.remove_tree(str(leftover))

    async def close(self) -> None:
        """Finish what runs in the background; what is mounted stays mounted."""
        self._closing.set()
        while self._background:
            await asyncio.gather(*self._background, return_exceptions=True)
        with suppress(SystemFailure):
            await self.settle()
        await self.run(self.driver.cleanup)
        self._threads.shutdown()

    async def run(self, work: Callable[..., R], *arguments: object) -> R:
        """Do blocking work in one of the store's threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def create_snapshot(self, snapshot: str, work: Callable[..., R], *arguments: object) -> R:
        """Have the driver make a snapshot. One that is given up in the midst of that is removed when it is there."""
        making = asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:

            def made(done: asyncio.Future[R]) -> None:
                if done.exception() is None:
                    self.discard(snapshot)

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
        discarding = self.beside(self._discard_for_good(row.snapshot))
        self._discarding.add(discarding)
        discarding.add_done_callback(self._discarding.discard)

    async def _discard_for_good(self, snapshot: str) -> None:
        """Remove a layer's files when the disk has that there is no such layer: else a power cut left it without."""
        await self._database.on_disk()
        await asyncio.wrap_future(await self.run(self.discard, snapshot))

    def discard(self, snapshot: str) -> Future[None]:
        """Remove a snapshot that no row speaks of (any more); done when its space is free."""
        self._record(snapshot).unlink(missing_ok=True)
        return self.driver.remove(snapshot)

    async def freed(self) -> None:
        """Until the space of all layers that have gone so far is free."""
        if self._discarding:
            await asyncio.wait(list(self._discarding))
            await self._database.names.reach(self.records)  # no document says any more that they are whole

    def _record(self, snapshot: str) -> Path:
        """Where it is kept how the layer's tar stream was laid out, so that the same bytes can be made again."""
        return self.records / f"{snapshot}.split"

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
            target = await self.create_snapshot(snapshot, self.driver.create, snapshot, below)
            try:
                unpacked = await self._unpack(source, target, snapshot, diff_id, progress, lowest=parent is None)
            except BaseException:
                self.discard(snapshot)
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
        target = await self.create_snapshot(snapshot, self.driver.create, snapshot, None)
        try:
            unpacked = await self._unpack(source, target, snapshot, diff_id, progress)
            below = await parent()
            if below is not None:
                self.hold(below)
                try:
                    await self.run(self.driver.set_parent, snapshot, self._layers[below].snapshot)
                finally:
                    self.drop(below)
        except BaseException:
            self.discard(snapshot)
            raise
        return await self._enter(below, unpacked.diff_id, unpacked.size, snapshot)

    async def _unpack(
        self,
        source: LayerSource | Callable[[], Awaitable[LayerSource]],
        target: str,
        snapshot: str,
        diff_id: str | None,
        progress: Callable[[int], None] | None,
        *,
        lowest: bool = False,
    ) -> UnpackedLayer:
        """Unpack a layer. `lowest`: nothing is below that it could hide, and overlayfs would list what hides it."""
        whiteouts = "plain" if lowest else self.driver.whiteouts
        stream = await source() if callable(source) else source
        arriving = isinstance(stream, AsyncIterator)
        try:
            async with nullcontext() if arriving else self._from_files:
                unpacked = await self.archives.unpack(
                    stream, target, record=self._record(snapshot), whiteouts=whiteouts, progress=progress
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
            self.discard(snapshot)
        elif known is not None:
            await self.run(self._mend, known.snapshot, snapshot)
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
                self.beside(self._settle_later())
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
        await self.sync()
        for chain_id, row in written.items():
            if self._layers.get(chain_id) is row:
                self._unsettled.discard(chain_id)
                self._keep(chain_id, msgspec.structs.replace(row, unsettled=""))
        await self._database.on_disk()
        for chain_id, row in written.items():  # a document without its row would say that the database has lost it
            if chain_id in self._layers:
                self._documents.put(row.snapshot, _document(chain_id, row))

    async def sync(self) -> None:
        """Until all files that the driver has are on the disk. Raises SystemFailure."""
        self._database.check_disk()
        try:
            await self.run(sync_file_system, self.driver.home)
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
        snapshot = self.snapshot_of(chain_id)
        await self.sound(chain_id)
        async with self.held(chain_id), closing(self._packed(snapshot)) as pieces:
            async for piece in pieces:
                yield piece

    def _packed(self, snapshot: str) -> AsyncIterator[bytes]:
        return self.archives.pack_record(self.driver.diff_path(snapshot), self._record(snapshot))

    def snapshot_of(self, chain_id: str) -> str:
        """The snapshot that holds the layer's files. Raises NotFound."""
        row = self._layers.get(chain_id)
        if row is None:
            raise NotFound(f"layer does not exist: {chain_id}")
        return row.snapshot

    async def packed_size(self, chain_id: str) -> int:
        """How many bytes `pack` will give. Raises NotFound."""
        return await self.run(self._packed_size, self._record(self.snapshot_of(chain_id)))

    @staticmethod
    def _packed_size(record: Path) -> int:
        with record.open("rb") as file:
            return packing.record_size(file.fileno())

    def layer_in(self, snapshot: str) -> Layer | None:
        """The layer whose files are in a snapshot."""
        for chain_id, row in self._layers.items():
            if row.snapshot == snapshot:
                return self.get(chain_id)
        return None

    def graph_data(self, chain_id: str | None) -> dict[str, str]:
        """GraphDriver.Data of a layer."""
        return self.metadata(self.snapshot_of(chain_id)) if chain_id is not None else {}

    def metadata(self, snapshot: str) -> dict[str, str]:
        """What the driver says of a snapshot, for users to see; nothing when it is damaged: whoever uses it is told."""
        try:
            return self.driver.metadata(snapshot)
        except OSError as error:
            log.debug("%s: %s", snapshot, words(error))
            return {}
