"""Pushing: the layers a registry lacks, the configuration, and the manifest that binds them to a tag."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from isal import isal_zlib

from dockyard.content.registry import Repository
from dockyard.engine.images.layer_blobs import BlobRow
from dockyard.engine.images.layer_store import Layer, chains_of
from dockyard.engine.images.progress import Progress
from dockyard.generators import closing
from dockyard.oci.reference import Reference

if TYPE_CHECKING:
    from dockyard.engine.images.image import Image
    from dockyard.engine.images.service import ImageService

# What `max-concurrent-uploads` is unless set.
CONCURRENT_UPLOADS = 5
# Registries answer a blob mount across repositories only when both are allowed; a few tries are worth it.
MOUNT_ATTEMPTS = 4

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
GZIP_LAYERS = (DOCKER_LAYER, "application/vnd.oci.image.layer.v1.tar+gzip")


class Pusher:
    """One push of any number of tags of one repository."""

    def __init__(self, images: ImageService, repository: Repository, name: Reference, progress: Progress) -> None:
        self._images = images
        self._repository = repository
        self._name = name
        self._progress = progress
        self._uploads = asyncio.Semaphore(CONCURRENT_UPLOADS)
        self._known: dict[str, BlobRow] = {}

    async def push(self, image: Image, tag: str) -> None:
        """Push `image` as `tag`. Raises Unauthorized, Unavailable, …"""
        layers = [self._images.layers.get(chain_id) for chain_id in chains_of(image.config.rootfs.diff_ids)]
        for layer in layers:
            self._progress.stage("Preparing", _short(layer.diff_id))
        for layer in layers[CONCURRENT_UPLOADS:]:
            self._progress.stage("Waiting", _short(layer.diff_id))
        tasks: dict[str, asyncio.Task[BlobRow]] = {}
        async with self._images.layers.held(image.chain_id):
            try:
                for layer in layers:
                    if layer.diff_id not in tasks:  # the empty layer, for one, may come several times
                        tasks[layer.diff_id] = asyncio.ensure_future(self._layer(layer))
                blobs = [await tasks[layer.diff_id] for layer in layers]
            except BaseException:
                for task in tasks.values():
                    task.cancel()
                await asyncio.gather(*tasks.values(), return_exceptions=True)
                raise
        if await self._repository.blob_size(image.id) is None:
            await self._repository.upload_bytes(image.raw)
        document = manifest(image.raw, image.id, blobs)
        digest = await self._repository.put_manifest(tag, DOCKER_MANIFEST, document)
        name = self._name
        self._images.names.put(Reference.parse(f"{name.domain}/{name.path}@{digest}"), image.id)
        self._progress.status(f"{tag}: digest: {digest} size: {len(document)}")
        self._progress.aux({"Tag": tag, "Digest": digest, "Size": len(document)})

    async def _layer(self, layer: Layer) -> BlobRow:
        async with self._uploads:
            if layer.diff_id not in self._known:
                self._known[layer.diff_id] = await self._there(layer) or await self._upload(layer)
                self._images.layer_blobs.note(layer.diff_id, self._known[layer.diff_id])
            else:
                self._progress.stage("Layer already exists", _short(layer.diff_id))
            return self._known[layer.diff_id]

    async def _there(self, layer: Layer) -> BlobRow | None:
        """The layer as a blob of the target repository, if it is there already or can be mounted into it."""
        target = f"{self._name.domain}/{self._name.path}"
        attempts = 0
        for row in self._images.layer_blobs.for_push(layer.diff_id, self._name):
            if row.media_type not in GZIP_LAYERS:
                continue
            if attempts >= MOUNT_ATTEMPTS:
                break
            attempts += 1
            size = await self._repository.blob_size(row.digest)
            if size is not None:
                self._progress.stage("Layer already exists", _short(layer.diff_id))
                return BlobRow(row.digest, size, row.media_type, target)
            if row.repository == target:
                self._images.layer_blobs.forget(layer.diff_id, row.digest, row.repository)
                continue
            source = row.repository.partition("/")[2]
            if await self._repository.mount_blob(row.digest, source):
                self._progress.stage(f"Mounted from {source}", _short(layer.diff_id))
                return BlobRow(row.digest, row.size, row.media_type, target)
        return None

    async def _upload(self, layer: Layer) -> BlobRow:
        short = _short(layer.diff_id)

        async def pieces() -> AsyncIterator[bytes]:
            packing = self._images.layers.pack(layer.chain_id)
            async with closing(packing) as packed, closing(compressed(packed, progress)) as found:
                async for piece in found:
                    yield piece

        def progress(packed: int) -> None:
            self._progress.bar("Pushing", short, packed, layer.size)

        digest, size = await self._repository.upload_stream(pieces, lambda wait: self._progress.retry(wait, short))
        self._progress.stage("Pushed", short)
        return BlobRow(digest, size, DOCKER_LAYER, f"{self._name.domain}/{self._name.path}")


async def compressed(pieces: AsyncIterator[bytes], progress: Any) -> AsyncIterator[bytes]:
    """A stream as gzip; `progress` hears how many bytes have been read."""
    deflate = isal_zlib.compressobj(level=2, wbits=31)
    loop = asyncio.get_running_loop()
    read = 0
    async for piece in pieces:
        read += len(piece)
        # deflating releases the interpreter lock, so other work goes on meanwhile
        ready = await loop.run_in_executor(None, deflate.compress, piece)
        progress(read)
        if ready:
            yield ready
    yield deflate.flush(zlib.Z_FINISH)


def manifest(config: bytes, config_digest: str, blobs: list[BlobRow]) -> bytes:
    """The image manifest, version 2 schema 2, in the layout that Docker itself gives it (so digests agree)."""
    document = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {"mediaType": DOCKER_CONFIG, "size": len(config), "digest": config_digest},
        "layers": [{"mediaType": DOCKER_LAYER, "size": blob.size, "digest": blob.digest} for blob in blobs],
    }
    return json.dumps(document, indent=3).encode()


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
