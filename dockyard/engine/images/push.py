"""Pushing: the layers a registry lacks, the configuration, and the manifest that binds them to a tag."""

from __future__ import annotations

import asyncio
import json
import logging
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from isal import isal_zlib

from dockyard.content.registry import Repository
from dockyard.engine.images.layer_blobs import BlobRow
from dockyard.engine.images.layer_store import Layer, chains_of
from dockyard.engine.images.manifests import ATTESTATION, REFERENCE_DIGEST, REFERENCE_TYPE, ManifestRow
from dockyard.engine.images.names import NameRow
from dockyard.engine.images.packed_blobs import Writing, packing_of
from dockyard.engine.images.platforms import Listed
from dockyard.engine.images.progress import Progress
from dockyard.errors import SystemFailure
from dockyard.generators import ahead, blocks, closing
from dockyard.oci.descriptor import Descriptor
from dockyard.oci.digest import digest_of
from dockyard.oci.manifest import DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, INDEXES, OCI_LAYER_GZIP, Manifest
from dockyard.oci.reference import Reference

if TYPE_CHECKING:
    from dockyard.engine.images.image import Image
    from dockyard.engine.images.service import ImageService

log = logging.getLogger("dockyard.images")

# What `max-concurrent-uploads` is unless set.
CONCURRENT_UPLOADS = 5
# Registries answer a blob mount across repositories only when both are allowed; a few tries are worth it.
MOUNT_ATTEMPTS = 4

PIECE = 1 << 20  # of what is compressed at a time, on which the bytes that come of it depend

FAST = packing_of("gzip")  # what `compressed` makes
GZIP_LAYERS = (DOCKER_LAYER, OCI_LAYER_GZIP)


class Pusher:
    """One push of any number of tags of one repository."""

    def __init__(self, images: ImageService, repository: Repository, name: Reference, progress: Progress) -> None:
        self._images = images
        self._repository = repository
        self._name = name
        self._progress = progress
        self._uploads = asyncio.Semaphore(CONCURRENT_UPLOADS)
        self._known: dict[str, BlobRow] = {}

    async def push_all(self, image: Image, tag: Reference) -> None:
        """Push what `tag` stands for: the index with all its images, if they are here, else `image`."""
        row = self._images.names.row(tag)
        index = self._images.manifests.get(row.target) if row is not None else None
        label = tag.tag or "latest"
        if row is None or index is None or index.media_type not in INDEXES:
            await self.push(image, label)
            return
        listed = self._images.platforms.listed(row.target)
        missing = await self._missing(listed)
        if missing:
            pushed = await self.push(image, label)
            if len(listed) > 1:
                self._progress.aux(
                    {
                        "manifestPushedInsteadOfIndex": True,
                        "originalIndex": Descriptor(index.media_type, row.target, len(index.raw)),
                        "selectedManifest": pushed,
                    }
                )
            return
        await self._push_index(index, row, label)

    async def _missing(self, listed: Sequence[Listed]) -> bool:
        """Whether anything that an index lists is neither here nor, an attestation, in the repository already."""
        for entry in listed:
            if entry.attests:
                if not entry.statements and not await self._repository.has_manifest(entry.descriptor.digest):
                    return True
            elif not entry.image_id:
                return True
        return False

    async def _push_index(self, index: ManifestRow, row: NameRow, tag: str) -> None:
        """Push all images of an index and the index: the very same, if the registry has or gets the same blobs."""
        changed: dict[str, Descriptor] = {}
        for entry in self._images.platforms.listed(row.target):
            if entry.image_id:
                image = self._images.describe(entry.image_id)
                changed[entry.descriptor.digest] = await self._push_listed(image, entry.descriptor)
        for entry in self._images.platforms.listed(row.target):
            pushed = changed.get(entry.attests)
            if entry.statements and (pushed is None or pushed.digest == entry.attests):
                await self._push_attestation(entry)
        document, digest = await self._put_index(row.target, index, changed, tag)
        name = Reference.parse(f"{self._name.domain}/{self._name.path}@{digest}")
        self._images.manifests.put(document, index.media_type)
        self._images.names.put(name, row.image_id, digest, row.beside)
        self._pushed(tag, digest, len(document))

    async def _put_index(
        self, digest: str, index: ManifestRow, changed: dict[str, Descriptor], reference: str
    ) -> tuple[bytes, str]:
        """Push an index as `reference` ("": its digest), those in it first; (document, digest)."""
        document = json.loads(index.raw)
        entries = []
        for entry in document["manifests"]:
            inner = self._images.manifests.get(entry["digest"])
            if inner is not None and inner.media_type in INDEXES:
                raw, other = await self._put_index(entry["digest"], inner, changed, "")
                entry = {**entry, "digest": other, "size": len(raw)}
            elif entry["digest"] in changed:
                now = changed[entry["digest"]]
                entry = {**entry, "mediaType": now.media_type, "digest": now.digest, "size": now.size}
            elif (about := changed.get(_attested(entry))) is not None and about.digest != _attested(entry):
                continue  # an attestation of what is not pushed as it was
            entries.append(entry)
        same = entries == document["manifests"]
        content = index.raw if same else json.dumps({**document, "manifests": entries}, indent=3).encode()
        await self._repository.put_manifest(reference or digest_of(content), index.media_type, content)
        return content, digest_of(content)

    async def _push_listed(self, image: Image, entry: Descriptor) -> Descriptor:
        """Push one image of an index: under the manifest it came with, if its blobs are or can be had there."""
        kept = self._images.manifests.get(entry.digest)
        known = self._images.manifests.manifest(entry.digest)
        if kept is not None and known is not None and await self._blobs_there(image, known):
            await self._put_config(image)
            await self._repository.put_manifest(entry.digest, kept.media_type, kept.raw)
            return Descriptor(kept.media_type, entry.digest, len(kept.raw))
        document = manifest(image.raw, image.id, await self._push_blobs(image))
        await self._put_config(image)
        digest = await self._repository.put_manifest(digest_of(document), DOCKER_MANIFEST, document)
        self._images.manifests.put(document, DOCKER_MANIFEST)
        return Descriptor(DOCKER_MANIFEST, digest, len(document))

    async def _push_attestation(self, entry: Listed) -> None:
        """Push what is said about an image that was pushed as it was."""
        digest = entry.descriptor.digest
        kept = self._images.manifests.get(digest)
        if kept is None or await self._repository.has_manifest(digest):
            return
        for blob in entry.statements:
            content = await asyncio.to_thread(self._images.manifests.statements.get, blob.digest)
            if content is None:
                raise SystemFailure(f"attestation {blob.digest} is damaged: pull or build the image once more")
            if await self._repository.blob_size(blob.digest) is None:
                await self._repository.upload_bytes(content)
        await self._repository.put_manifest(digest, kept.media_type, kept.raw)

    async def _blobs_there(self, image: Image, known: Manifest) -> bool:
        """Have the layers in the repository under the very digests of a manifest; whether that can be."""
        chains = chains_of(image.config.rootfs.diff_ids)
        if len(chains) != len(known.layers):
            return False
        layers = [self._images.layers.get(chain_id) for chain_id in chains]
        pairs = zip(layers, known.layers, strict=True)
        return all(await asyncio.gather(*(self._layer_as(layer, blob) for layer, blob in pairs)))

    async def _layer_as(self, layer: Layer, blob: Descriptor) -> bool:
        """Have a layer there as that blob: it is already, another one has it, or packing it comes to the same."""
        async with self._uploads:
            if await self._repository.blob_size(blob.digest) is not None:
                self._progress.stage("Layer already exists", _short(layer.diff_id))
                return True
            rows = self._images.layer_blobs.for_push(layer.diff_id, self._name)
            for row in [row for row in rows if row.digest == blob.digest][:MOUNT_ATTEMPTS]:
                source = row.repository.partition("/")[2]
                if await self._repository.mount_blob(row.digest, source):
                    self._progress.stage(f"Mounted from {source}", _short(layer.diff_id))
                    return True
            kept = self._images.packed.by_digest(blob.digest) is not None
            if not kept and (blob.media_type not in GZIP_LAYERS or layer.diff_id in self._known):
                return False
            made = await self._upload(layer, blob.digest if kept else "")
            if made.digest != blob.digest:
                self._known[layer.diff_id] = made
                return False
            row = BlobRow(blob.digest, blob.size, blob.media_type, made.repository)
            self._images.layer_blobs.note(layer.diff_id, row)
            return True

    async def push(self, image: Image, tag: str) -> Descriptor:
        """Push `image` as `tag`; its manifest. Raises Unauthorized, Unavailable, …"""
        blobs = await self._push_blobs(image)
        await self._put_config(image)
        document = manifest(image.raw, image.id, blobs)
        digest = await self._repository.put_manifest(tag, DOCKER_MANIFEST, document)
        name = Reference.parse(f"{self._name.domain}/{self._name.path}@{digest}")
        self._images.manifests.put(document, DOCKER_MANIFEST)
        self._images.names.put(name, image.id, digest)
        self._pushed(tag, digest, len(document))
        return Descriptor(DOCKER_MANIFEST, digest, len(document), platform=image.platform)

    def _pushed(self, tag: str, digest: str, size: int) -> None:
        self._progress.status(f"{tag}: digest: {digest} size: {size}")
        self._progress.aux({"Tag": tag, "Digest": digest, "Size": size})

    async def _put_config(self, image: Image) -> None:
        if await self._repository.blob_size(image.id) is None:
            await self._repository.upload_bytes(image.raw)

    async def _push_blobs(self, image: Image) -> list[BlobRow]:
        """Have the image's layers in the repository; their blobs, bottom first."""
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
        return blobs

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

    async def _upload(self, layer: Layer, digest: str = "") -> BlobRow:
        """Send a layer as it was packed before, as the blob `digest` or any, or else pack it."""
        blobs = self._images.packed
        short = _short(layer.diff_id)
        keeping: list[Writing] = []  # the last try's is the one that counts

        async def pieces() -> AsyncIterator[bytes]:
            abandon()
            kept = blobs.by_digest(digest) if digest else blobs.find(layer.diff_id, FAST)
            if kept is not None:  # should it be damaged it is forgotten, and the next try packs
                sent = 0
                async with closing(blobs.pieces(kept.digest)) as known:
                    async for piece in known:
                        sent += len(piece)
                        self._progress.bar("Pushing", short, sent, kept.size)
                        yield piece
                return
            if (begun := blobs.begin(layer.diff_id, FAST)) is not None:
                keeping.append(begun)
            packing = self._images.layers.pack(layer.chain_id)
            async with closing(ahead(packing)) as packed, closing(ahead(compressed(packed, progress))) as found:
                async for piece in found:
                    if begun is not None:
                        await asyncio.to_thread(begun.write, piece)
                    yield piece

        def abandon() -> None:
            while keeping:
                keeping.pop().abandon()

        def progress(packed: int) -> None:
            self._progress.bar("Pushing", short, packed, layer.size)

        try:
            made, size = await self._repository.upload_stream(pieces, lambda wait: self._progress.retry(wait, short))
            if keeping:
                keeping[0].keep(made)
        finally:
            abandon()
        self._progress.stage("Pushed", short)
        return BlobRow(made, size, DOCKER_LAYER, f"{self._name.domain}/{self._name.path}")


async def compressed(pieces: AsyncIterator[bytes], progress: Any) -> AsyncIterator[bytes]:
    """A stream as gzip; `progress` hears how many bytes have been read."""
    deflate = isal_zlib.compressobj(level=2, wbits=31)
    loop = asyncio.get_running_loop()
    read = 0
    async for piece in blocks(pieces, PIECE):
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


def _attested(entry: dict[str, Any]) -> str:
    """The digest of the manifest that an index's entry is an attestation for; "" when it is none."""
    annotations = entry.get("annotations") or {}
    return str(annotations.get(REFERENCE_DIGEST, "")) if annotations.get(REFERENCE_TYPE) == ATTESTATION else ""


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
