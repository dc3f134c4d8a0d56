"""What the build cache takes on the disk, thing by thing, and giving it back.

Things are layers of steps, directories of cache mounts, and contexts as clients sent them last.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dockyard.builder.cache.filters import matcher
from dockyard.builder.cache.orders import PruneOrder, collection_orders
from dockyard.builder.cache.records import StepCache
from dockyard.builder_settings import CacheCollection
from dockyard.engine.images.layer_store import LayerStore
from dockyard.engine.images.packed_blobs import PackedBlobs, cache_budget

if TYPE_CHECKING:
    from dockyard.builder.exec.cache_mounts import CacheMounts
    from dockyard.builder.sources.contexts import ContextStore

log = logging.getLogger("dockyard.builder")

COLLECT_EVERY = 300.0  # s
STEP, MOUNT, CONTEXT, BLOB = "regular", "exec.cachemount", "source.local", "internal"
ID_SIZE = 25


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One thing in the cache; times are UNIX s, `size` bytes. `shared`: an image has it, too.

    `handles`: by what the part that keeps it knows it.
    """

    id: str
    kind: str
    description: str
    size: int
    created: float
    used: float
    uses: int
    in_use: bool
    shared: bool = False
    parents: tuple[str, ...] = ()
    handles: tuple[str, ...] = ()
    depth: int = 0

    @property
    def mutable(self) -> bool:
        """Whether it changes while it is used."""
        return self.kind not in (STEP, BLOB)

    def fields(self) -> dict[str, Any]:
        """What filters may ask for."""
        return {
            "id": self.id,
            "type": self.kind,
            "description": self.description,
            "parents": ";".join(self.parents),
            "inuse": self.in_use,
            "mutable": self.mutable,
            "immutable": not self.mutable,
            "shared": self.shared,
            "private": not self.shared,
        }


@dataclass(slots=True)
class CacheUsage:
    """Lists and prunes; `held` are the layers that builds under way need, `shared` those that images have."""

    steps: StepCache
    mounts: CacheMounts
    contexts: ContextStore
    layers: LayerStore
    packed: PackedBlobs
    held: Callable[[], set[str]]
    shared: Callable[[], set[str]]
    collection: CacheCollection
    _pruning: asyncio.Lock = field(default_factory=asyncio.Lock)
    _collected: float = field(default_factory=time.monotonic)

    async def entries(self) -> list[CacheEntry]:
        """Everything in the cache, oldest use first."""
        found = [
            *self._steps(),
            *self._blobs(),
            *await asyncio.to_thread(self._mounts),
            *await asyncio.to_thread(self._contexts),
        ]
        return sorted(found, key=lambda entry: (entry.used, -entry.depth))

    def _steps(self) -> list[CacheEntry]:
        held, shared = self.held(), self.shared()
        groups: dict[str, list[tuple[str, Any]]] = {}
        for key, row in self.steps.rows():
            groups.setdefault(row.chain_id if row.diff_id and row.chain_id else f"key:{key}", []).append((key, row))
        names = {chain: chain.rpartition(":")[2][:ID_SIZE] for chain in groups}
        found = []
        for chain, rows in groups.items():
            newest = max(rows, key=lambda one: one[1].used)[1]
            parent = newest.parent
            found.append(
                CacheEntry(
                    names[chain],
                    STEP,
                    newest.name,
                    self.steps.size(newest),
                    min(row.made for _, row in rows),
                    newest.used,
                    sum(row.uses for _, row in rows),
                    chain in held,
                    chain in shared,
                    (names[parent],) if parent in names else (),
                    tuple(key for key, _ in rows),
                    self._depth(newest.chain_id),
                )
            )
        return found

    def _depth(self, chain_id: str | None) -> int:
        depth = 0
        while chain_id is not None and chain_id in self.layers:
            chain_id = self.layers.get(chain_id).parent
            depth += 1
        return depth

    def _mounts(self) -> list[CacheEntry]:
        return [
            CacheEntry(
                name[:ID_SIZE], MOUNT, f"cached mount {row.id.removeprefix('/')}", self.mounts.size(name), row.made,
                row.used, row.uses, in_use, handles=(name,),
            )
            for name, row, in_use in self.mounts.rows()
        ]  # fmt: skip

    def _blobs(self) -> list[CacheEntry]:
        return [
            CacheEntry(
                row.digest.rpartition(":")[2][:ID_SIZE], BLOB, f"layer {row.diff_id} packed with {row.packing}",
                row.size, row.made, row.used, row.uses, in_use, handles=(row.digest,),
            )
            for row, in_use in self.packed.rows()
        ]  # fmt: skip

    def _contexts(self) -> list[CacheEntry]:
        return [
            CacheEntry(
                folder[:ID_SIZE], CONTEXT, f"local source for {name.partition(':')[0]}", size, used, used, 1, in_use,
                handles=(folder,),
            )
            for folder, name, size, used, in_use in self.contexts.rows()
        ]  # fmt: skip

    async def prune(self, order: PruneOrder, told: Callable[[CacheEntry], None] = lambda entry: None) -> int:
        """Let go of what the order means, least recently used first; the bytes that are free when this returns.

        `told` is called with each thing that goes.
        """
        async with self._pruning:
            return await self._prune(order, told)

    async def remove(self, entry: CacheEntry) -> int:
        """Let go of one thing, unless it is in use or an image's by now; the bytes that are free when this returns."""
        async with self._pruning:
            if entry.kind == STEP:
                kept = {one.id for one in self._steps() if not one.in_use and not one.shared}
                if entry.id not in kept:
                    return 0
            elif entry.handles[0] in await asyncio.to_thread(self._in_use, entry.kind):
                return 0
            gone = await self._remove(entry)
            await self.layers.freed()
            return gone

    def _in_use(self, kind: str) -> set[str]:
        if kind == BLOB:
            return {row.digest for row, in_use in self.packed.rows() if in_use}
        rows: Iterable[tuple[Any, ...]] = self.mounts.rows() if kind == MOUNT else self.contexts.rows()
        return {name for name, *_, in_use in rows if in_use}

    async def collect(self) -> None:
        """Keep to daemon.json's policy, else to the budget: a tenth of the file system, between 2 and 100 GB.

        Not more than every few minutes.
        """
        self.steps.note_uses()
        moment = time.monotonic()
        if moment - self._collected < COLLECT_EVERY:
            return
        self._collected = moment
        try:
            freed = 0
            for order in collection_orders(self.collection, cache_budget(self.layers.scratch)):
                freed += await self.prune(order)
        except OSError as error:
            log.warning("the build cache cannot be looked through: %s", error)
            return
        if freed:
            log.info("the build cache has given back %d bytes to keep to its size", freed)

    async def _prune(self, order: PruneOrder, told: Callable[[CacheEntry], None]) -> int:
        wanted, freed = matcher(order.filters), 0
        entries = await self.entries()
        total = sum(entry.size for entry in entries if not entry.shared)
        keep = self._to_keep(order, total)
        for entry in entries:
            if total <= keep and keep:
                break
            if entry.in_use or (entry.shared and not order.all) or not wanted(entry):
                continue
            if order.unused_for and time.time() - entry.used < order.unused_for:
                continue
            gone = await self._remove(entry)
            total -= 0 if entry.shared else entry.size
            freed += gone
            told(entry)
        await self.layers.freed()
        return freed

    def _to_keep(self, order: PruneOrder, total: int) -> int:
        """How many bytes may stay; 0: none need (BuildKit, calculateKeepBytes)."""
        keep = order.largest
        if order.least_free:
            status = os.statvfs(self.layers.scratch)
            excess = order.least_free - status.f_bavail * status.f_frsize
            if excess > 0:
                keep = min(keep, total - excess) if keep else total - excess
        return max(keep, order.reserved)

    async def _remove(self, entry: CacheEntry) -> int:
        if entry.kind == STEP:
            return self.steps.forget(entry.handles)
        for handle in entry.handles:
            if entry.kind == BLOB:
                self.packed.forget(handle)
            elif entry.kind == MOUNT:
                await self.mounts.remove(handle)
            elif self.contexts.release(handle):
                await asyncio.to_thread(self.contexts.remove, handle)
        return entry.size
