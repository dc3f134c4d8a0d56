"""Images as archives: `load` and `save` (docker's and OCI's layout, which a saved archive has both at once).

A loaded archive is first unpacked into a directory of its own by the archive process; what it holds is then opened
with that directory as the root of every path, so that no name or symlink in it means anything outside.
"""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from dockyard.content import tar_format
from dockyard.content.tar_format import Entry
from dockyard.engine.images.layer_store import LayerSource, chains_of
from dockyard.engine.images.layers import register_layers
from dockyard.engine.images.progress import Progress
from dockyard.errors import InvalidParameter, NotFound
from dockyard.generators import closing
from dockyard.linux import syscalls
from dockyard.oci import manifest as oci
from dockyard.oci.descriptor import Descriptor, Platform
from dockyard.oci.digest import check_digest, digest_of
from dockyard.oci.manifest import runs_on
from dockyard.oci.reference import Reference
from dockyard.snapshots import trees

if TYPE_CHECKING:
    from dockyard.engine.images.image import Image
    from dockyard.engine.images.service import ImageService

# Documents of an archive are read into memory; none needs more than this.
LARGEST_DOCUMENT = 16 << 20
IMAGE_NAME = "io.containerd.image.name"
REFERENCE_NAME = "org.opencontainers.image.ref.name"


class SavedImage(msgspec.Struct, rename="pascal", omit_defaults=True):
    """An element of manifest.json; paths are relative to the archive."""

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None
    layer_sources: dict[str, Descriptor] | None = None


class Unpacked:
    """The directory an archive was unpacked into."""

    def __init__(self, path: str) -> None:
        self._root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._root)

    def open(self, name: str) -> BinaryIO:
        """A regular file of the archive; symlinks stay inside. Raises NotFound or InvalidParameter."""
        with self._found(name) as found:
            return open(f"/proc/self/fd/{found}", "rb")

    def identity(self, name: str) -> int:
        """The same for all names of a file. Raises as `open`."""
        with self._found(name) as found:
            return os.fstat(found).st_ino

    def empty(self, name: str) -> None:
        """Forget a file's content: what is not there any more need not be written to the disk. Raises as `open`."""
        with self._found(name) as found:
            os.truncate(f"/proc/self/fd/{found}", 0)

    @contextmanager
    def _found(self, name: str) -> Iterator[int]:
        """The file, open for nothing."""
        try:
            found = syscalls.openat2(self._root, name.lstrip("/"), os.O_PATH, resolve=syscalls.RESOLVE_IN_ROOT)
        except FileNotFoundError:
            raise NotFound(f"invalid archive: it has no {name}") from None
        except OSError as error:
            raise InvalidParameter(f"invalid archive: cannot open {name}: {error.strerror}") from None
        try:
            # Looked at before it is opened: to open a device of the archive's making could do something.
            if not stat.S_ISREG(os.fstat(found).st_mode):
                raise InvalidParameter(f"invalid archive: {name} is not a file")
            yield found
        finally:
            os.close(found)

    def read(self, name: str) -> bytes:
        """The content of a document."""
        with self.open(name) as file:
            data = file.read(LARGEST_DOCUMENT + 1)
        if len(data) > LARGEST_DOCUMENT:
            raise InvalidParameter(f"invalid archive: {name} is too large")
        return data

    def blob(self, descriptor: Descriptor) -> bytes:
        """A document by its digest, which it must have."""
        data = self.read(blob_path(descriptor.digest))
        if digest_of(data) != descriptor.digest:
            raise InvalidParameter(f"invalid archive: blob {descriptor.digest} is damaged")
        return data


def blob_path(digest: str) -> str:
    """Where an OCI image layout keeps a blob."""
    return "blobs/" + check_digest(digest).replace(":", "/")


class Loader:
    """One `load`."""

    def __init__(
        self, images: ImageService, progress: Progress, *, quiet: bool, platform: Platform | None = None
    ) -> None:
        """With `platform`, images for others are left out."""
        self._images = images
        self._platform = platform
        self._progress = progress
        self._quiet = quiet
        self._stages = False
        self._wanted: Counter[int] = Counter()  # how often each file of the archive is still to be a layer

    async def load(self, pieces: AsyncIterator[bytes], scratch: str, *, stages: bool = False) -> list[str]:
        """Bring in every image of the archive and return their IDs; `scratch` is on the data root's file system.

        With `stages` the layers are told of as those of a pull, and names are left to the caller. Raises
        InvalidParameter for what is no image archive, or a broken one.
        """
        self._stages = stages
        place = tempfile.mkdtemp(prefix="load-", dir=scratch)
        try:
            await self._images.layers.archives.unpack(pieces, place)
            unpacked = Unpacked(place)
            try:
                return await self._load(unpacked)
            finally:
                unpacked.close()
        finally:
            # whatever else is cancelled: else what waits for a thread would never be done
            await asyncio.shield(asyncio.to_thread(trees.remove_tree, place))

    async def _load(self, archive: Unpacked) -> list[str]:
        try:
            document = archive.read("manifest.json")
        except NotFound:
            try:
                saved = _of_layout(archive, archive.read("index.json"))
            except NotFound:
                raise InvalidParameter("invalid archive: does not contain a manifest.json") from None
        else:
            try:
                saved = msgspec.json.decode(document, type=list[SavedImage])
            except msgspec.DecodeError as error:
                raise InvalidParameter(f"invalid archive: failed to decode manifest.json: {error}") from None
        loaded = []
        named = False
        saved = [item for item in saved if self._fits(archive, item)]
        self._wanted.update(file for item in saved for file in _files(archive, item.layers or ()).values())
        for item in saved:
            image_id = await self._image(archive, item)
            loaded.append(image_id)
            if self._stages:
                continue
            for tag in item.repo_tags or ():
                await self._tag(Reference.parse(tag), image_id)
                named = True
            await self._images.on_disk()
            self._images.emit("load", image_id, image_id)
        if not named and not self._stages:
            self._progress.stream("".join(f"Loaded image ID: {image_id}\n" for image_id in loaded))
        return loaded

    def _fits(self, archive: Unpacked, item: SavedImage) -> bool:
        if self._platform is None:
            return True
        config = self._images.decode(archive.read(item.config))
        return runs_on(Platform(config.architecture, config.os, config.variant), self._platform)

    async def _tag(self, name: Reference, image_id: str) -> None:
        if name.tag is None:
            raise InvalidParameter(f'invalid tag "{name.familiar()}"')
        before = self._images.names.resolve(name)
        if before is not None and before != image_id:
            self._progress.stream(
                f"The image {name.familiar()} already exists, renaming the old one with ID {before} to empty string\n"
            )
        self._images.names.put(name, image_id)
        await self._images.on_disk()
        self._progress.stream(f"Loaded image: {name.familiar()}\n")

    async def _image(self, archive: Unpacked, item: SavedImage) -> str:
        raw = archive.read(item.config)
        diff_ids = self._images.decode(raw).rootfs.diff_ids
        paths = item.layers or []
        if len(paths) != len(diff_ids):
            raise InvalidParameter(
                f"invalid manifest, layers length mismatch: expected {len(paths)}, got {len(diff_ids)}"
            )

        def source(index: int, diff_id: str) -> Callable[[], Awaitable[LayerSource]]:
            async def opened() -> LayerSource:
                file = archive.open(paths[index])
                if not self._quiet:
                    watch = asyncio.ensure_future(self._watch(file, diff_id))
                    watching.add(watch)
                return file

            return opened

        def stage(text: str) -> Callable[[int], None]:
            def tell(index: int) -> None:
                if self._stages:
                    self._progress.stage(text, _short(diff_ids[index]))

            return tell

        watching: set[asyncio.Future[None]] = set()
        try:
            layers = await register_layers(
                self._images,
                diff_ids,
                source,
                present=stage("Already exists"),
                missing=stage("Pulling fs layer"),
                done=stage("Pull complete"),
            )
        finally:
            for watch in watching:
                watch.cancel()
        try:
            await asyncio.to_thread(self._done_with, archive, paths)
            await self._images.layers.settle()
            return self._images.put(raw)
        finally:
            for layer in layers:
                self._images.layers.drop(layer.chain_id)

    def _done_with(self, archive: Unpacked, paths: Sequence[str]) -> None:
        """Empty the layers that no further image has: `settle` would write them to the disk a second time."""
        for path, file in _files(archive, paths).items():
            self._wanted[file] -= 1
            if not self._wanted[file]:
                archive.empty(path)

    async def _watch(self, file: BinaryIO, diff_id: str) -> None:
        """Tell how far the unpacker, which shares the file's position, has come."""
        total = os.fstat(file.fileno()).st_size
        short = _short(diff_id)
        while not file.closed:
            current = os.lseek(file.fileno(), 0, os.SEEK_CUR)
            self._progress.bar("Loading layer", short, current, total, final=current >= total)
            if current >= total:
                return
            await asyncio.sleep(0.1)
        self._progress.bar("Loading layer", short, total, total, final=True)


def _files(archive: Unpacked, paths: Sequence[str]) -> dict[str, int]:
    """The identities of those that are there: layers that the engine has already may be left out of an archive."""
    found = {}
    for path in paths:
        with suppress(NotFound, InvalidParameter):
            found[path] = archive.identity(path)
    return found


def _of_layout(archive: Unpacked, index: bytes) -> list[SavedImage]:
    """The images of an OCI image layout for this machine (image-spec image-layout.md)."""
    saved = []
    for entry in oci.Index.decode(index).manifests:
        descriptor = entry
        document = archive.blob(descriptor)
        if descriptor.media_type in oci.INDEXES:
            chosen = oci.Index.decode(document).choose(oci.host())
            if chosen is None:
                continue
            document = archive.blob(chosen)
        manifest = oci.Manifest.decode(document)
        name = entry.annotations.get(IMAGE_NAME) or entry.annotations.get(REFERENCE_NAME, "")
        tags = [name] if ":" in name else []
        archive.blob(manifest.config)
        layers = [blob_path(layer.digest) for layer in manifest.layers]
        saved.append(SavedImage(blob_path(manifest.config.digest), tags, layers))
    return saved


class Saver:
    """One `save`: lays several images out as one archive."""

    def __init__(self, images: ImageService, platform: Platform | None = None) -> None:
        """With `platform`, images for others are refused."""
        self._images = images
        self._platform = platform
        # image ID -> its tags that were asked for
        self._wanted: dict[str, list[Reference]] = {}

    def add(self, name: str) -> None:
        """Have `name` saved: an ID, a tag, or a repository, which means all its tags. Raises NotFound."""
        try:
            image_id = self._images.resolve(name)
        except NotFound:
            image_id = None
        if image_id is not None and image_id.removeprefix("sha256:").startswith(name.removeprefix("sha256:")):
            self._wanted.setdefault(image_id, [])
            return
        reference = Reference.parse(name)
        tags = self._images.names.in_repository(reference) if reference.tag is None and reference.digest is None else []
        if not tags:
            image_id = self._images.resolve(name)
            self._wanted.setdefault(image_id, [])
            if reference.digest is not None:
                return
            tags = [(reference.or_latest(), image_id)]
        for tag, owner in tags:
            known = self._wanted.setdefault(owner, [])
            if tag not in known:
                known.append(tag)

    async def stream(self) -> AsyncIterator[bytes]:
        """The archive: the blobs of an OCI layout, its index, and docker's manifest.json beside it."""
        entries: list[SavedImage] = []
        index: list[Descriptor] = []
        repositories: dict[str, dict[str, str]] = {}
        written: set[str] = set()
        for image_id, tags in self._wanted.items():
            image = self._images.find(image_id)
            made = max(image.created_ns or 0, 0) // 10**9 * 10**9
            if not written:
                yield _directory("blobs/", made) + _directory("blobs/sha256/", made)
            if self._platform is not None and not runs_on(image.platform, self._platform):
                raise NotFound(f"no suitable export target found for platform {self._platform}")
            layers: list[Descriptor] = []
            async with self._images.layers.held(image.chain_id):
                for chain_id in chains_of(image.config.rootfs.diff_ids):
                    layer = self._images.layers.get(chain_id)
                    size = await self._images.layers.packed_size(chain_id)
                    layers.append(Descriptor(oci.OCI_LAYER, layer.diff_id, size))
                    if layer.diff_id in written:
                        continue
                    written.add(layer.diff_id)
                    yield tar_format.header(Entry(blob_path(layer.diff_id), size=size, mtime_ns=made))
                    async with closing(self._images.layers.pack(chain_id)) as pieces:
                        async for piece in pieces:
                            yield piece
                    yield bytes(tar_format.padding(size))
            manifest = _encode(
                {
                    "schemaVersion": 2,
                    "mediaType": oci.OCI_MANIFEST,
                    "config": Descriptor(oci.OCI_CONFIG, image.id, len(image.raw)),
                    "layers": layers,
                }
            )
            for document, time_ns in ((image.raw, made), (manifest, 0)):
                digest = digest_of(document)
                if digest not in written:
                    written.add(digest)
                    yield _file(blob_path(digest), document, time_ns)
            index += _index_entries(manifest, tags)
            sources = {layer.digest: layer for layer in layers}
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
        if repositories:
            yield _file("repositories", _encode(repositories))
        yield _file("index.json", _encode({"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": index}))
        yield _file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        yield _file("manifest.json", _encode([_saved(entry) for entry in entries]))
        yield tar_format.END


def _saved(entry: SavedImage) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(entry)
    # Docker writes null, not nothing, for an image without a name.
    return {"Config": entry.config, "RepoTags": entry.repo_tags, "Layers": entry.layers or [], **document}


def _index_entries(manifest: bytes, tags: Sequence[Reference]) -> list[Descriptor]:
    digest, size = digest_of(manifest), len(manifest)
    if not tags:
        return [Descriptor(oci.OCI_MANIFEST, digest, size)]
    return [
        Descriptor(
            oci.OCI_MANIFEST,
            digest,
            size,
            annotations={IMAGE_NAME: tag.full(), REFERENCE_NAME: tag.tag or "latest"},
        )
        for tag in tags
    ]


def _note_repositories(repositories: dict[str, dict[str, str]], image: Image, tags: Sequence[Reference]) -> None:
    """The oldest form of the archive's table: repository -> tag -> top layer."""
    for tag in tags:
        if image.chain_id is not None:
            top = chains_of(image.config.rootfs.diff_ids)[-1].removeprefix("sha256:")
            repositories.setdefault(tag.familiar_name(), {})[tag.tag or "latest"] = top


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


def _directory(name: str, time_ns: int) -> bytes:
    return tar_format.header(Entry(name, tar_format.DIRECTORY, mode=0o755, mtime_ns=time_ns))


def _file(name: str, content: bytes, time_ns: int = 0) -> bytes:
    head = tar_format.header(Entry(name, size=len(content), mtime_ns=time_ns))
    return head + content + bytes(tar_format.padding(len(content)))
