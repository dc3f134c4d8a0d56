"""Layers as blobs: compressed once for all outputs of a build and for later ones, in files of the engine's cache."""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import zstandard
from isal import isal_zlib

from dockyard.builder.exporters.options import Compression
from dockyard.builder.graph.job import Job
from dockyard.engine.images.packed_blobs import PackedBlob, packing_of
from dockyard.errors import SystemFailure
from dockyard.generators import blocks, closing
from dockyard.oci.descriptor import Descriptor
from dockyard.oci.manifest import DOCKER_LAYER, OCI_LAYER

PIECE = 1 << 20
AT_ONCE = 2
NO_ROOM = "it can't be written to the disk; is there room?"
FAST = 2  # of isal's levels
_DOCKER_LAYERS = {
    "uncompressed": DOCKER_LAYER.removesuffix(".gzip"),
    "gzip": DOCKER_LAYER,
    "zstd": f"{DOCKER_LAYER.removesuffix('.gzip')}.zstd",
}


def layer_type(kind: str, *, oci: bool) -> str:
    """The media type of a layer that is packed so."""
    if not oci:
        return _DOCKER_LAYERS[kind]
    return OCI_LAYER if kind == "uncompressed" else f"{OCI_LAYER}+{kind}"


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """A layer as a blob; `plain`: its tar stream itself."""

    chain_id: str
    diff_id: str
    kind: str
    digest: str
    size: int
    plain: bool = False

    def descriptor(self, *, oci: bool) -> Descriptor:
        """What a manifest says of it."""
        return Descriptor(layer_type(self.kind, oci=oci), self.digest, self.size)


class PackedLayers:
    """The blobs of one build's outputs; what has been packed is kept for others."""

    def __init__(self, job: Job) -> None:
        self._layers = job.solver.layers
        self._kept = job.solver.images.packed
        self._held: list[str] = []
        self._made: dict[tuple[str, str], asyncio.Task[LayerBlob]] = {}
        self._elsewhere: dict[str, Descriptor] = {}  # layers that were written without being packed, by diff ID
        self._turns = asyncio.Semaphore(AT_ONCE)
        job.closing.append(self._close)

    async def get(self, chain_id: str, compression: Compression) -> LayerBlob:
        """A layer, packed so. Raises NotFound, DamagedLayer."""
        diff_id = self._layers.get(chain_id).diff_id
        if compression.kind == "uncompressed":
            return LayerBlob(chain_id, diff_id, "uncompressed", diff_id, await self._layers.packed_size(chain_id), True)
        key = (diff_id, packing_of(compression.kind, _level(compression)))
        task = self._made.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._made[key] = asyncio.ensure_future(self._pack(chain_id, diff_id, compression))
        return await asyncio.shield(task)

    def known(self, chain_id: str) -> Descriptor | None:
        """A layer that has been packed for an output of this build, however."""
        if chain_id not in self._layers:
            return None
        diff_id = self._layers.get(chain_id).diff_id
        if diff_id in self._elsewhere:
            return self._elsewhere[diff_id]
        for (packed, _), task in self._made.items():
            if packed == diff_id and task.done() and not task.cancelled() and task.exception() is None:
                return task.result().descriptor(oci=True)
        return None

    def note(self, diff_id: str, about: Descriptor) -> None:
        """A registry has a layer already, in whichever form."""
        self._elsewhere[diff_id] = about

    async def pieces(self, blob: LayerBlob) -> AsyncIterator[bytes]:
        """A blob's bytes."""
        async with closing(self._layers.pack(blob.chain_id) if blob.plain else self._kept.pieces(blob.digest)) as found:
            async for piece in found:
                yield piece

    async def _pack(self, chain_id: str, diff_id: str, compression: Compression) -> LayerBlob:
        packing = packing_of(compression.kind, _level(compression))
        async with self._turns:
            kept = self._kept.find(diff_id, packing) or await self._packed(chain_id, diff_id, packing, compression)
            self._kept.hold(kept.digest)
            self._held.append(kept.digest)
        return LayerBlob(chain_id, diff_id, compression.kind, kept.digest, kept.size)

    async def _packed(self, chain_id: str, diff_id: str, packing: str, compression: Compression) -> PackedBlob:
        writing = self._kept.begin(diff_id, packing)
        if writing is None:
            raise SystemFailure(f"cannot pack layer {diff_id}: {NO_ROOM}")
        packer, hasher = _packer(compression), hashlib.sha256()

        def write(data: bytes) -> None:
            hasher.update(data)
            writing.write(data)

        def add(piece: bytes) -> None:
            write(packer.compress(piece))

        try:
            async with closing(blocks(self._layers.pack(chain_id), PIECE)) as pieces:
                async for piece in pieces:
                    await asyncio.to_thread(add, piece)
            await asyncio.to_thread(lambda: write(packer.flush()))
            kept = writing.keep(f"sha256:{hasher.hexdigest()}")
        finally:
            writing.abandon()
        if kept is None:
            raise SystemFailure(f"cannot pack layer {diff_id}: {NO_ROOM}")
        return kept

    def _close(self) -> None:
        for task in self._made.values():
            task.cancel()
        for digest in self._held:
            self._kept.drop(digest)
        self._held.clear()


def _level(compression: Compression) -> int | None:
    return 3 if compression.kind == "zstd" and compression.level is None else compression.level


def _packer(compression: Compression) -> Any:
    if compression.kind == "zstd":
        return zstandard.ZstdCompressor(_level(compression) or 0).compressobj()
    if compression.level is None:
        return isal_zlib.compressobj(FAST, zlib.DEFLATED, 31)
    return zlib.compressobj(compression.level, zlib.DEFLATED, 31)
