"""`save`: images as one archive, which has docker's layout and OCI's at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from dockyard.content import tar_format
from dockyard.content.tar_format import Entry
from dockyard.engine.images.archive import IMAGE_NAME, REFERENCE_NAME, SavedImage, blob_path
from dockyard.engine.images.image import is_id
from dockyard.engine.images.layer_store import chains_of
from dockyard.errors import NotFound
from dockyard.generators import closing
from dockyard.oci import manifest as oci
from dockyard.oci.descriptor import Descriptor, Platform
from dockyard.oci.digest import digest_of
from dockyard.oci.reference import Reference

if TYPE_CHECKING:
    from dockyard.engine.images.image import Image
    from dockyard.engine.images.platforms import Listed
    from dockyard.engine.images.service import ImageService


class Saver:
    """One `save`: lays several images out as one archive."""

    def __init__(self, images: ImageService, platforms: Sequence[Platform] = ()) -> None:
        """With `platforms`, the images for those, which must be here; else for all that are."""
        self._images = images
        self._platforms = platforms
        # image ID -> its tags that were asked for
        self._wanted: dict[str, list[Reference]] = {}
        # a tag that stands for several images -> their IDs
        self._indexes: dict[Reference, list[str]] = {}
        # a tag -> the index that it stands for, in which something is said about its images
        self._attested: dict[Reference, str] = {}
        # image ID -> the manifest that it had in such an index, with the blobs that that names
        self._exact: dict[str, Descriptor] = {}
        self._held: list[str] = []

    def add(self, name: str) -> None:
        """Have `name` saved: an ID, a tag, or a repository, which means all its tags. Raises NotFound."""
        try:
            image_id = self._images.resolve(name)
        except NotFound:
            image_id = None
        if image_id is not None and is_id(name, image_id):
            self._add(name, None)
            return
        reference = Reference.parse(name)
        tags = self._images.names.in_repository(reference) if reference.tag is None and reference.digest is None else []
        if not tags:
            self._images.resolve(name)
            self._add(name, reference.or_latest() if reference.digest is None else None)
        for tag, _ in tags:
            self._add(tag.familiar(), tag)

    def _add(self, name: str, tag: Reference | None) -> None:
        images = self._images.platforms.images_of(name)
        if self._platforms:
            images = list({image.id: image for image in map(partial(self._chosen, name), self._platforms)}.values())
        for image in images:
            self._wanted.setdefault(image.id, [])
        known = self._wanted[images[0].id]
        if tag is not None and tag not in known:
            known.append(tag)
            if len(images) > 1:
                self._indexes[tag] = [image.id for image in images]
            row = self._images.names.row(tag)
            listed = self._images.platforms.listed(row.target) if row is not None else []
            index = self._images.manifests.index(row.target) if row is not None else None
            flat = index is not None and not any(entry.media_type in oci.INDEXES for entry in index.manifests)
            if row is not None and flat and not self._platforms and any(entry.statements for entry in listed):
                self._attested[tag] = row.target

    def _chosen(self, name: str, platform: Platform) -> Image:
        try:
            return self._images.platforms.choose(name, platform)
        except NotFound:
            raise NotFound(f"no suitable export target found for platform {platform}") from None

    async def stream(self) -> AsyncIterator[bytes]:
        """The archive: the blobs of an OCI layout, its index, and docker's manifest.json beside it."""
        try:
            self._keep_attested()
            with self._images.manifests.gathering():
                async with closing(self._stream()) as pieces:
                    async for piece in pieces:
                        yield piece
        finally:
            for digest in self._held:
                self._images.packed.drop(digest)
            self._held.clear()

    def _keep_attested(self) -> None:
        """Find the indexes that can be saved as they are: what is said is said about manifests, so about packed layers.

        Others are saved anew, with layers that are not packed, and without what was said about them: to pack them on
        the chance of getting the same bytes would take several times as long as the rest.
        """
        for tag, target in list(self._attested.items()):
            listed = [entry for entry in self._images.platforms.listed(target) if entry.image_id in self._wanted]
            for entry in listed:
                known = self._exact.get(entry.image_id)
                if known is None and self._is_packed(entry):
                    known = self._exact[entry.image_id] = entry.descriptor
                if known is None or known.digest != entry.descriptor.digest:
                    del self._attested[tag]
                    break
            else:
                self._indexes[tag] = [entry.image_id for entry in listed]
        about = {image_id for tag in self._attested for image_id in self._indexes[tag]}
        self._exact = {image_id: entry for image_id, entry in self._exact.items() if image_id in about}

    def _is_packed(self, entry: Listed) -> bool:
        """Whether the layers of an image are here as its manifest in an index names them."""
        manifest = self._images.manifests.manifest(entry.descriptor.digest)
        image = self._images.describe(entry.image_id)
        chains = chains_of(image.config.rootfs.diff_ids)
        if manifest is None or len(manifest.layers) != len(chains):
            return False
        if any(self._images.packed.by_digest(blob.digest) is None for blob in manifest.layers):
            return False
        for blob in manifest.layers:
            self._images.packed.hold(blob.digest)
            self._held.append(blob.digest)
        return True

    async def _stream(self) -> AsyncIterator[bytes]:
        entries: list[SavedImage] = []
        index: list[Descriptor] = []
        repositories: dict[str, dict[str, str]] = {}
        written: set[str] = set()
        described: dict[str, Descriptor] = {}
        for image_id, tags in self._wanted.items():
            image = self._images.find(image_id)
            made = max(image.created_ns or 0, 0) // 10**9 * 10**9
            if not written:
                yield _directory("blobs/", made) + _directory("blobs/sha256/", made)
            layers: list[Descriptor] = []
            async with self._images.layers.held(image.chain_id):
                for chain_id, blob in await self._layers_of(image):
                    layers.append(blob)
                    if blob.digest in written:
                        continue
                    written.add(blob.digest)
                    yield tar_format.header(Entry(blob_path(blob.digest), size=blob.size, mtime_ns=made))
                    packed = blob.digest != self._images.layers.get(chain_id).diff_id
                    source = self._images.packed.pieces(blob.digest) if packed else self._images.layers.pack(chain_id)
                    async with closing(source) as pieces:
                        async for piece in pieces:
                            yield piece
                    yield bytes(tar_format.padding(blob.size))
            manifest, about = self._manifest(image, layers)
            for document, time_ns in ((image.raw, made), (manifest, 0)):
                digest = digest_of(document)
                if digest not in written:
                    written.add(digest)
                    yield _file(blob_path(digest), document, time_ns)
            described[image_id] = about
            index += self._index_entries(image_id, described[image_id], tags)
            sources = dict(zip(image.config.rootfs.diff_ids, layers, strict=True))
            entries.append(
                SavedImage(
                    blob_path(image.id),
                    [tag.familiar() for tag in tags] or None,
                    [blob_path(layer.digest) for layer in layers],
                    sources or None,
                )
            )
            _note_repositories(repositories, image, tags)
            self._images.emit("save", image.id, image.id)
        for target in dict.fromkeys(self._attested.values()):
            for content in await self._said(target):
                if digest_of(content) not in written:
                    written.add(digest_of(content))
                    yield _file(blob_path(digest_of(content)), content)
        for tag, image_ids in self._indexes.items():
            if tag in self._attested:
                index.append(_named(self._index_of(self._attested[tag]), tag))
                continue
            document = _encode(
                {
                    "schemaVersion": 2,
                    "mediaType": oci.OCI_INDEX,
                    "manifests": [described[image_id] for image_id in image_ids],
                }
            )
            index.append(_named(Descriptor(oci.OCI_INDEX, digest_of(document), len(document)), tag))
            if digest_of(document) not in written:
                written.add(digest_of(document))
                yield _file(blob_path(digest_of(document)), document)
        if repositories:
            yield _file("repositories", _encode(repositories))
        yield _file("index.json", _encode({"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": index}))
        yield _file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        yield _file("manifest.json", _encode([_saved(entry) for entry in entries]))
        yield tar_format.END

    async def _layers_of(self, image: Image) -> list[tuple[str, Descriptor]]:
        """(chain ID, blob) of an image's layers: those of its manifest if that is kept, else as they are."""
        chains = chains_of(image.config.rootfs.diff_ids)
        known = self._images.manifests.manifest(self._exact[image.id].digest) if image.id in self._exact else None
        if known is not None:
            return list(zip(chains, known.layers, strict=True))
        found = []
        for chain_id in chains:
            size = await self._images.layers.packed_size(chain_id)
            found.append((chain_id, Descriptor(oci.OCI_LAYER, self._images.layers.get(chain_id).diff_id, size)))
        return found

    def _manifest(self, image: Image, layers: Sequence[Descriptor]) -> tuple[bytes, Descriptor]:
        """An image's manifest, and what points to it."""
        kept = self._images.manifests.get(self._exact[image.id].digest) if image.id in self._exact else None
        if kept is not None:
            return kept.raw, self._exact[image.id]
        document = _encode(
            {
                "schemaVersion": 2,
                "mediaType": oci.OCI_MANIFEST,
                "config": Descriptor(oci.OCI_CONFIG, image.id, len(image.raw)),
                "layers": layers,
            }
        )
        return document, Descriptor(oci.OCI_MANIFEST, digest_of(document), len(document), platform=image.platform)

    async def _said(self, target: str) -> list[bytes]:
        """An index and the attestations that it lists, with their blobs, as far as they are here."""
        store = self._images.manifests
        found = []
        for entry in self._images.platforms.listed(target):
            kept = store.get(entry.descriptor.digest) if entry.statements else None
            blobs = [await asyncio.to_thread(store.statements.get, blob.digest) for blob in entry.statements]
            if kept is not None and None not in blobs:
                found += [*(blob for blob in blobs if blob is not None), kept.raw]
        index = store.get(target)
        assert index is not None
        return [*found, index.raw]

    def _index_of(self, target: str) -> Descriptor:
        kept = self._images.manifests.get(target)
        assert kept is not None
        return Descriptor(kept.media_type, target, len(kept.raw))

    def _index_entries(self, image_id: str, entry: Descriptor, tags: Sequence[Reference]) -> list[Descriptor]:
        """An image in the archive's index.json: once for each tag, but for those that stand for several images."""
        entries = [_named(entry, tag) for tag in tags if tag not in self._indexes]
        if entries or any(image_id in image_ids for image_ids in self._indexes.values()):
            return entries
        return [Descriptor(entry.media_type, entry.digest, entry.size)]


def _saved(entry: SavedImage) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(entry)
    # Docker writes null, not nothing, for an image without a name.
    return {"Config": entry.config, "RepoTags": entry.repo_tags, "Layers": entry.layers or [], **document}


def _named(entry: Descriptor, tag: Reference) -> Descriptor:
    annotations = {IMAGE_NAME: tag.full(), REFERENCE_NAME: tag.tag or "latest"}
    return Descriptor(entry.media_type, entry.digest, entry.size, annotations=annotations)


def _note_repositories(repositories: dict[str, dict[str, str]], image: Image, tags: Sequence[Reference]) -> None:
    """The oldest form of the archive's table: repository -> tag -> top layer."""
    for tag in tags:
        if image.chain_id is not None:
            top = chains_of(image.config.rootfs.diff_ids)[-1].removeprefix("sha256:")
            repositories.setdefault(tag.familiar_name(), {})[tag.tag or "latest"] = top


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


def _directory(name: str, time_ns: int) -> bytes:
    return tar_format.header(Entry(name, tar_format.DIRECTORY, mode=0o755, mtime_ns=time_ns))


def _file(name: str, content: bytes, time_ns: int = 0) -> bytes:
    head = tar_format.header(Entry(name, size=len(content), mtime_ns=time_ns))
    return head + content + bytes(tar_format.padding(len(content)))
