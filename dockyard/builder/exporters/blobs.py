"""Layers as blobs: compressed once for all outputs of a build, in files that go with it."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import shutil
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import zstandard
from isal import isal_zlib

from dockyard.builder.exporters.options import Compression
from dockyard.builder.graph.solver import Job
from dockyard.generators import blocks, closing
from dockyard.oci.descriptor import Descriptor
from dockyard.oci.manifest import DOCKER_LAYER, OCI_LAYER

PIECE = 1 << 20
AT_ONCE = 2
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
    """A layer as a blob; `path` None: its tar stream itself."""

    chain_id: str
    diff_id: str
    kind: str
    digest: str
    size: int
    path: Path | None = None

    def descriptor(self, *, oci: bool) -> Descriptor:
        """What a manifest says of it."""
        return Descriptor(layer_type(self.kind, oci=oci), self.digest, self.size)


class PackedLayers:
    """The blobs of one build's outputs."""

    def __init__(self, job: Job) -> None:
        self._layers = job.solver.layers
        self._folder = job.solver.folder / f"blobs-{secrets.token_hex(8)}"
        self._made: dict[tuple[str, Compression], asyncio.Task[LayerBlob]] = {}
        self._elsewhere: dict[str, Descriptor] = {}  # layers that were written without being packed, by diff ID
        self._turns = asyncio.Semaphore(AT_ONCE)
        job.closing.append(self._close)

    async def get(self, chain_id: str, compression: Compression) -> LayerBlob:
        """A layer, packed so. Raises NotFound, DamagedLayer."""
        diff_id = self._layers.get(chain_id).diff_id
        if compression.kind == "uncompressed":
            return LayerBlob(chain_id, diff_id, "uncompressed", diff_id, await self._layers.packed_size(chain_id))
        key = (diff_id, Compression(compression.kind, compression.level))
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
        if blob.path is None:
            async with closing(self._layers.pack(blob.chain_id)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        with blob.path.open("rb") as file:
            while piece := await asyncio.to_thread(file.read, PIECE):
                yield piece

    async def _pack(self, chain_id: str, diff_id: str, compression: Compression) -> LayerBlob:
        async with self._turns:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self._folder / secrets.token_hex(8)
            packer, hasher, size = _packer(compression), hashlib.sha256(), 0
            with path.open("xb") as file:
                async with closing(blocks(self._layers.pack(chain_id), PIECE)) as pieces:
                    async for piece in pieces:
                        size += await asyncio.to_thread(_write, file, hasher, packer.compress(piece))
                size += _write(file, hasher, packer.flush())
        return LayerBlob(chain_id, diff_id, compression.kind, f"sha256:{hasher.hexdigest()}", size, path)

    def _close(self) -> None:
        for task in self._made.values():
            task.cancel()
        shutil.rmtree(self._folder, ignore_errors=True)


def _packer(compression: Compression) -> Any:
    if compression.kind == "zstd":
        return zstandard.ZstdCompressor(3 if compression.level is None else compression.level).compressobj()
    if compression.level is None:
        return isal_zlib.compressobj(FAST, zlib.DEFLATED, 31)
    return zlib.compressobj(compression.level, zlib.DEFLATED, 31)


def _write(file: BinaryIO, hasher: Any, data: bytes) -> int:
    if data:
        file.write(data)
        hasher.update(data)
    return len(data)
