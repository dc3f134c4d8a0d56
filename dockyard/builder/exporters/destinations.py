"""Where images are written to: an archive on the client's side, a registry, a content store of the client's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from dockyard.builder.exporters.blobs import LayerBlob, PackedLayers, layer_type
from dockyard.builder.exporters.options import Compression
from dockyard.builder.graph.client import ContentStore
from dockyard.content import tar_format
from dockyard.content.registry import Repository
from dockyard.content.tar_format import Entry
from dockyard.engine.images.layer_blobs import BlobRow
from dockyard.engine.images.service import ImageService
from dockyard.generators import closing
from dockyard.oci.descriptor import Descriptor
from dockyard.oci.digest import digest_of
from dockyard.oci.manifest import INDEXES, MANIFESTS
from dockyard.oci.reference import Reference

MOUNT_ATTEMPTS = 3


class Memory:
    """Keeps documents, and writes no layers: to know what an image's documents would say."""

    def __init__(self, packed: PackedLayers, compression: Compression) -> None:
        self._packed = packed
        self._compression = compression
        self.documents: dict[str, bytes] = {}

    async def layer(self, chain_id: str, *, oci: bool, base: bool) -> Descriptor:
        return (await self._packed.get(chain_id, self._compression)).descriptor(oci=oci)

    async def document(self, descriptor: Descriptor, content: bytes) -> None:
        self.documents[descriptor.digest] = content


class Archive:
    """A tar archive of an OCI layout's blobs; every blob once."""

    def __init__(self, packed: PackedLayers, compression: Compression, write: Callable[[bytes], Any]) -> None:
        self._packed = packed
        self._compression = compression
        self._write = write
        self._written: set[str] = set()
        self._waiting: list[LayerBlob] = []
        self._begun = False

    async def layer(self, chain_id: str, *, oci: bool, base: bool) -> Descriptor:
        blob = await self._packed.get(chain_id, self._compression)
        self._waiting.append(blob)
        return blob.descriptor(oci=oci)

    async def document(self, descriptor: Descriptor, content: bytes) -> None:
        await self._write_layers()
        await self._blob(descriptor.digest, content)

    async def _write_layers(self) -> None:
        """Write the layers that have been packed since: one after the other, for there is one stream."""
        waiting, self._waiting = self._waiting, []
        for blob in sorted(waiting, key=lambda blob: blob.digest):  # in which order they were packed is chance
            if blob.digest in self._written:
                continue
            self._written.add(blob.digest)
            await self._begin()
            await self._write(tar_format.header(Entry(_place(blob.digest), size=blob.size)))
            async with closing(self._packed.pieces(blob)) as pieces:
                async for piece in pieces:
                    await self._write(piece)
            await self._write(bytes(tar_format.padding(blob.size)))

    async def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            for folder in ("blobs/", "blobs/sha256/"):
                await self._write(tar_format.header(Entry(folder, tar_format.DIRECTORY, 0o755)))

    async def _blob(self, digest: str, content: bytes) -> None:
        if digest not in self._written:
            self._written.add(digest)
            await self.file(_place(digest), content)

    async def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Add a file."""
        await self._begin()
        head = tar_format.header(Entry(name, mode=mode, size=len(content)))
        await self._write(head + content + bytes(tar_format.padding(len(content))))


def _place(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


class Registry:
    """A repository of a registry, to which only what it does not have is sent."""

    def __init__(
        self,
        packed: PackedLayers,
        compression: Compression,
        images: ImageService,
        repository: Repository,
        part: Callable[[str, int, int, bool], None],
    ) -> None:
        self._packed = packed
        self._compression = compression
        self._images = images
        self._repository = repository
        self._name: Reference = repository.name
        self._part = part

    async def layer(self, chain_id: str, *, oci: bool, base: bool) -> Descriptor:
        diff_id = self._images.layers.get(chain_id).diff_id
        if not self._compression.force:
            for row in self._images.layer_blobs.for_push(diff_id, self._name)[:MOUNT_ATTEMPTS]:
                kind = _kind_of(row.media_type)
                if (base or kind == self._compression.kind) and await self._there(diff_id, row):
                    self._packed.note(diff_id, Descriptor(layer_type(kind, oci=True), row.digest, row.size))
                    return Descriptor(layer_type(kind, oci=oci), row.digest, row.size)
        blob = await self._packed.get(chain_id, self._compression)
        if await self._repository.blob_size(blob.digest) is None:
            await self._send(blob)
        about = blob.descriptor(oci=oci)
        self._note(diff_id, about)
        return about

    async def _there(self, diff_id: str, row: BlobRow) -> bool:
        """Whether the repository has a blob, if need be by mounting it there."""
        target = f"{self._name.domain}/{self._name.path}"
        if await self._repository.blob_size(row.digest) is not None:
            return True
        if row.repository == target:
            self._images.layer_blobs.forget(diff_id, row.digest, row.repository)
            return False
        if not await self._repository.mount_blob(row.digest, row.repository.partition("/")[2]):
            return False
        self._note(diff_id, Descriptor(row.media_type, row.digest, row.size))
        return True

    def _note(self, diff_id: str, about: Descriptor) -> None:
        target = f"{self._name.domain}/{self._name.path}"
        self._images.layer_blobs.note(diff_id, BlobRow(about.digest, about.size, about.media_type, target))

    async def _send(self, blob: LayerBlob) -> None:
        sent = 0

        async def pieces() -> AsyncIterator[bytes]:
            nonlocal sent
            sent = 0
            async with closing(self._packed.pieces(blob)) as given:
                async for piece in given:
                    sent += len(piece)
                    self._part(f"pushing layer {blob.digest}", sent, blob.size, False)
                    yield piece

        await self._repository.upload_stream(pieces)
        self._part(f"pushing layer {blob.digest}", blob.size, blob.size, True)

    async def document(self, descriptor: Descriptor, content: bytes) -> None:
        if descriptor.media_type in (*MANIFESTS, *INDEXES):
            await self._repository.put_manifest(descriptor.digest, descriptor.media_type, content)
        elif await self._repository.blob_size(descriptor.digest) is None:
            await self._repository.upload_bytes(content)

    async def name(self, tag: str, top: Descriptor, content: bytes) -> None:
        """Let `tag` stand for what was written."""
        await self._repository.put_manifest(tag, top.media_type, content)
        self._part(f"pushing manifest for {self._name.full()}@{top.digest}", 0, 0, True)


def _kind_of(media_type: str) -> str:
    if media_type.endswith("zstd"):
        return "zstd"
    return "gzip" if media_type.endswith("gzip") else "uncompressed"


class ClientStore:
    """A content store that the client serves on its session (`type=local` caches, `tar=false`)."""

    def __init__(self, packed: PackedLayers, compression: Compression, store: ContentStore) -> None:
        self._packed = packed
        self._compression = compression
        self._store = store
        self._one = asyncio.Lock()  # a store refuses the same blob while it is being written

    async def layer(self, chain_id: str, *, oci: bool, base: bool) -> Descriptor:
        blob = await self._packed.get(chain_id, self._compression)
        async with self._one:
            await self._store.write(blob.digest, blob.size, partial(self._packed.pieces, blob))
        return blob.descriptor(oci=oci)

    async def document(self, descriptor: Descriptor, content: bytes) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield content

        assert digest_of(content) == descriptor.digest
        await self._store.write(descriptor.digest, len(content), pieces)
