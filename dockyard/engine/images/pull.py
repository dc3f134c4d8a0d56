"""Pulling: from a registry, or, when none answers, from the images that come with the engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from dockyard.content.embedded import embedded_image
from dockyard.content.embedded_layer import EmbeddedImage
from dockyard.content.kept_downloads import KeptDownload
from dockyard.content.registry import Document, Repository
from dockyard.content.signatures.policy import Requirement
from dockyard.engine.images.layer_blobs import BlobRow
from dockyard.engine.images.layer_store import LayerSource
from dockyard.engine.images.layers import register_layers
from dockyard.engine.images.load import Loader
from dockyard.engine.images.manifests import attested
from dockyard.engine.images.progress import Progress
from dockyard.engine.images.statements import LARGEST
from dockyard.errors import DockyardError, InvalidParameter, NotFound, SystemFailure, Unavailable
from dockyard.generators import closing
from dockyard.oci.descriptor import Descriptor, Platform
from dockyard.oci.manifest import DOCKER_CONFIG, MANIFESTS, OCI_CONFIG, OCI_MANIFEST, Index, Manifest, host
from dockyard.oci.reference import Reference

if TYPE_CHECKING:
    from dockyard.engine.images.service import ImageService

log = logging.getLogger("dockyard.images")

# What `max-concurrent-downloads` is unless set.
CONCURRENT_DOWNLOADS = 3

# What an image's configuration may be called; the last two by those who have made it long ago.
CONFIGS = (DOCKER_CONFIG, OCI_CONFIG, "application/octet-stream", "")

MOST_INDEXES = 8  # one in another

DOWNLOADED, UP_TO_DATE, EMBEDDED = "Downloaded newer image", "Image is up to date", "Took embedded image"


class Puller:
    """One pull from one repository."""

    def __init__(
        self, images: ImageService, repository: Repository, progress: Progress, platform: Platform | None
    ) -> None:
        self._images = images
        self._repository = repository
        self._progress = progress
        self._platform = platform
        self._downloads = asyncio.Semaphore(CONCURRENT_DOWNLOADS)
        self._kept: set[KeptDownload] = set()  # of layers that have not come whole

    async def pull(self, name: Reference) -> str:
        """Pull the image of one tag or digest; what Docker's status line says came of it.

        Raises NotFound, Unauthorized, Unavailable when no registry answers and the engine has no such image itself.
        """
        wanted = name.digest or name.tag or "latest"
        demanded = await asyncio.to_thread(self._images.gate.requirements, name)
        try:
            found = await self._repository.manifest(wanted)
        except Unavailable as failure:
            if self._platform not in (None, host()) or demanded:
                raise  # nobody has signed the engine's own
            image = await asyncio.get_running_loop().run_in_executor(None, embedded_image, name)
            if image is None:
                raise
            return await self._take_embedded(name, image, failure)
        self._progress.status(f"Pulling from {name.path}", wanted)
        with self._images.manifests.gathering():
            return await self._pull(name, found, demanded)

    async def _pull(self, name: Reference, found: Document, demanded: Sequence[Requirement]) -> str:
        """Pull the image that `found`, which the registry has under `name`, leads to."""
        document = await self._for_platform(name, found)
        await self._images.gate.admit(name, document.digest, demanded, self._repository)
        manifest = Manifest.decode(document.content)
        if (
            document.media_type in MANIFESTS
            and manifest.media_type != document.media_type
            and not (document.media_type == OCI_MANIFEST and not manifest.media_type)
        ):
            # what was signed or scanned as one thing must not run as another (CVE-2021-41190)
            raise InvalidParameter(
                f"mediaType in manifest should be '{document.media_type}' not '{manifest.media_type}'"
            )
        image_id = manifest.config.digest
        said = asyncio.ensure_future(self._statements(found.digest, document.digest))
        try:
            if not await self._is_whole(image_id):  # else there is nothing to say of its layers either
                image_id = await self._bring(name, manifest)
            await said
        finally:
            said.cancel()
        self._images.manifests.put(document.content, document.media_type)
        new = self._images.names.resolve(name) != image_id
        # the images for other platforms that came before stay, beside this one
        beside = self._images.platforms.here(found.digest)
        self._images.names.put(name.with_digest(found.digest), image_id, found.digest, beside)
        if name.digest is None:
            self._images.names.put(name, image_id, found.digest, beside)
        await self._images.on_disk()
        self._progress.status(f"Digest: {found.digest}")
        return DOWNLOADED if new else UP_TO_DATE

    async def _is_whole(self, image_id: str) -> bool:
        """Whether the image is here and none of its layers is damaged."""
        if image_id not in self._images:
            return False
        chain_id = self._images.find(image_id).chain_id
        return chain_id is None or await self._images.layers.is_whole(chain_id)

    async def _for_platform(self, name: Reference, found: Document) -> Document:
        """The image manifest itself, or the one of an index (or an index in it) that suits the wanted platform."""
        platform = self._platform or host()
        for _ in range(MOST_INDEXES):
            if not found.is_index:
                return found
            chosen = Index.decode(found.content).choose(platform)
            self._images.manifests.put(found.content, found.media_type)
            if chosen is None:
                raise NotFound(f"no matching manifest for {platform} in the manifest list entries of {name.familiar()}")
            found = await self._repository.manifest(chosen.digest)
        raise NotFound(f"the manifest list of {name.familiar()} leads through more than {MOST_INDEXES} others")

    async def _statements(self, target: str, image: str) -> None:
        """Fetch what the index `target` lists as said about the manifest `image`; the image is here without it, too."""
        manifests = self._images.manifests
        for entry in manifests.entries(target):
            if attested(entry) != image or manifests.statements_of(entry.digest) is not None:
                continue
            try:
                found = await self._repository.manifest(entry.digest)
                about = Manifest.decode(found.content)
                for blob in (about.config, *about.layers):
                    if blob.size > LARGEST:
                        raise InvalidParameter(f"attestation {blob.digest} is too large")
                    if blob.digest not in manifests.statements:
                        content = await self._repository.blob_bytes(blob)
                        await asyncio.to_thread(manifests.statements.put, content)
                manifests.put(found.content, found.media_type)
            except (DockyardError, OSError) as error:
                log.warning("attestation %s of %s can't be had: %s", entry.digest, self._repository.name, error)

    async def _bring(self, name: Reference, manifest: Manifest) -> str:
        """Download and register the layers that are missing, then keep the image; its ID."""
        if manifest.config.media_type not in CONFIGS:
            raise InvalidParameter(f'Encountered remote "{manifest.config.media_type}"(unknown) when fetching')
        raw = await self._repository.blob_bytes(manifest.config)
        diff_ids = self._images.decode(raw).rootfs.diff_ids
        blobs = manifest.layers
        if len(blobs) != len(diff_ids):
            raise SystemFailure(f"manifest of {name.familiar()} has {len(blobs)} layers, its image {len(diff_ids)}")
        shorts = [_short(blob.digest) for blob in blobs]

        def source(index: int, diff_id: str) -> Callable[[], Awaitable[LayerSource]]:
            async def opened() -> LayerSource:
                if self._downloads.locked():
                    self._progress.stage("Waiting", shorts[index])
                return self._download(blobs[index], shorts[index])

            return opened

        def done(index: int) -> None:
            blob = blobs[index]
            row = BlobRow(blob.digest, blob.size, blob.media_type, name.repository.full())
            self._images.layer_blobs.note(diff_ids[index], row)
            self._progress.bar("Extracting", shorts[index], blob.size, blob.size, final=True)
            self._progress.stage("Pull complete", shorts[index])

        try:
            layers = await register_layers(
                self._images,
                diff_ids,
                source,
                present=lambda index: self._progress.stage("Already exists", shorts[index]),
                missing=lambda index: self._progress.stage("Pulling fs layer", shorts[index]),
                done=done,
            )
        except InvalidParameter:
            # whoever unpacks has seen that it is not what it should be before all has come to be compared
            for kept in self._kept:
                kept.forget()
            raise
        try:
            await self._images.layers.settle()
            return self._images.put(raw)
        finally:
            for layer in layers:
                self._images.layers.drop(layer.chain_id)

    async def _download(self, blob: Descriptor, short: str) -> AsyncIterator[bytes]:
        """A layer's compressed bytes; they are unpacked as they arrive, and thrown away should they prove wrong."""
        async with self._downloads:
            kept = self._images.downloads.begin(blob.digest, blob.size)
            known = kept.size if kept is not None else 0
            if kept is not None:
                self._kept.add(kept)
            try:
                received = 0
                waiting = partial(self._progress.retry, short=short)
                before = kept.pieces() if kept is not None and known else None
                async with closing(self._repository.blob(blob, waiting, before)) as pieces:
                    async for piece in pieces:
                        received += len(piece)
                        self._progress.bar("Downloading", short, received, blob.size)
                        if kept is not None and received > known:
                            await kept.add(piece)
                        yield piece
                if kept is not None:
                    self._kept.discard(kept)
                    kept.forget()
            except (SystemFailure, InvalidParameter):
                if kept is not None:
                    self._kept.discard(kept)
                    kept.forget()  # it is not what it should be
                raise
            finally:
                if kept is not None:
                    kept.close()
            self._progress.stage("Verifying Checksum", short)
            self._progress.stage("Download complete", short)

    async def _take_embedded(self, name: Reference, image: EmbeddedImage, failure: Unavailable) -> str:
        """Use the image that comes with the engine, and say so."""
        log.info("no registry answers for %s (%s): using the embedded image", name.familiar(), failure)
        self._progress.status(f"Pulling from {name.path}", name.tag or "latest")
        self._progress.status(f"No registry answers: {failure}")
        self._progress.status(f"Using the image {name.familiar()} that is embedded in Dockyard")

        async def pieces() -> AsyncIterator[bytes]:
            for piece in image.archive():
                yield piece

        loader = Loader(self._images, self._progress, quiet=True)
        loaded = await loader.load(pieces(), str(self._images.layers.scratch), stages=True)
        image_id = loaded[0]
        new = self._images.names.resolve(name) != image_id
        self._images.names.put(name, image_id)
        await self._images.on_disk()
        return EMBEDDED if new else UP_TO_DATE


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
