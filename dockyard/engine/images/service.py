"""Images: what is here, what it is called, and when it may go.

An image is its configuration: the ID is the digest of that JSON document, which is kept byte for byte as it came.
The documents are small and stay in memory; the layers they name are in the layer store, held by the image.
Pulling, pushing, archives, lists and removal are apart: `pull.py`, `push.py`, `load.py`, `save.py`, `filters.py`,
`removal.py`; what indexes list is in `manifests.py` and `platforms.py`.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from dockyard.content import download
from dockyard.content.kept_downloads import KeptDownloads
from dockyard.content.registry import RegistryClient
from dockyard.content.registry_auth import Credentials
from dockyard.content.signatures.gate import SignatureGate
from dockyard.dockerfile.image_config import changed
from dockyard.engine.events.service import Events
from dockyard.engine.images.documents import check_config, decode_config, encode_config
from dockyard.engine.images.filters import select
from dockyard.engine.images.image import HistoryEntry, Image, ImageUser, is_id
from dockyard.engine.images.layer_blobs import LayerBlobs
from dockyard.engine.images.layer_store import EMPTY, Layer, LayerStore, chains_of
from dockyard.engine.images.load import Loader
from dockyard.engine.images.manifests import ManifestStore
from dockyard.engine.images.names import ImageNames
from dockyard.engine.images.packed_blobs import PackedBlobs
from dockyard.engine.images.platforms import Platforms
from dockyard.engine.images.progress import Progress, Send
from dockyard.engine.images.pull import DOWNLOADED, UP_TO_DATE, Puller
from dockyard.engine.images.push import Pusher
from dockyard.engine.images.removal import ImageRemover
from dockyard.engine.images.save import Saver
from dockyard.engine.images.statements import Statements
from dockyard.engine.state.database import Database
from dockyard.engine.state.documents import Documents
from dockyard.errors import Conflict, DockyardError, Forbidden, InvalidParameter, NotFound
from dockyard.folders import own_folder
from dockyard.oci.descriptor import Platform
from dockyard.oci.image_config import ContainerConfig, History, ImageConfig
from dockyard.oci.manifest import Index, Manifest, host, parse_platform
from dockyard.oci.reference import DEFAULT_DOMAIN, Reference, is_domain
from dockyard.timestamps import parse_time, timestamp

log = logging.getLogger("dockyard.images")

USE_NOTED_EVERY = 1.0  # s


class ImageRow(msgspec.Struct, frozen=True):
    """An image as the database keeps it, under its ID."""

    config: bytes
    parent: str | None = None
    last_tag_ns: int = 0


@dataclass(frozen=True, slots=True)
class _Stored:
    raw: bytes
    config: ImageConfig
    chain_id: str | None
    parent: str | None
    last_tag_ns: int


class ImageService:
    """The images of this engine."""

    def __init__(
        self,
        layers: LayerStore,
        registry: RegistryClient,
        database: Database,
        events: Events,
    ) -> None:
        self.layers = layers
        self.registry = registry
        self.events = events
        self.names = ImageNames(database, layers.images_root)
        statements = Statements(layers.images_root / "statements")
        self.manifests = ManifestStore(database, layers.images_root / "manifests", statements)
        self.platforms = Platforms(self)
        self.layer_blobs = LayerBlobs(database)
        self.packed = PackedBlobs(
            database, layers.images_root / "packed", lambda: {layer.diff_id for layer in layers.all().values()}
        )
        self.gate = SignatureGate()
        self._uses = database.collection("image_uses", float)
        self._used: dict[str, float] = dict(self._uses.all())
        # asked before an image is removed; the container service adds itself
        self.users: list[Callable[[str], Sequence[ImageUser]]] = []
        self._database = database
        self._rows = database.collection("images", ImageRow)
        self._folder = own_folder(layers.images_root / "imagedb")
        self.downloads = KeptDownloads(own_folder(layers.images_root / "downloads"))
        self._documents = Documents(
            lambda image_id: self._folder / f"{image_id.removeprefix('sha256:')}.json", ImageRow
        )
        self._undocumented: set[str] = set()
        self._images: dict[str, _Stored] = {}
        self._children: dict[str, set[str]] = {}
        self._remover = ImageRemover(self)
        rows = dict(self._rows.all())
        for image_id, row in rows.items():
            if image_id != f"sha256:{hashlib.sha256(row.config).hexdigest()}":
                self._rows.note(image_id, "its configuration is not the one that its ID stands for")
                continue
            stored = self._read(row)
            if stored.chain_id is not None and stored.chain_id not in layers:
                continue  # of another storage driver, or a layer was lost: the image comes back with its layers
            self._take_up(image_id, stored)
        for path, row in self._documents.read_all(self._folder.glob("*.json")):
            if f"sha256:{path.stem}" not in rows:
                log.warning("image sha256:%s is not known to the database any more: its layers are kept", path.stem)
                self._hold_layers_of(row)
        layers.sweep()
        self.packed.sweep()
        if not database.unreadable:
            self.manifests.sweep(self.names.targets())
        self._documents.put_all((image_id, rows[image_id]) for image_id in self._images)

    def _hold_layers_of(self, row: ImageRow) -> None:
        """Keep the layers of an image that the database has lost."""
        with suppress(DockyardError):
            for chain_id in reversed(chains_of(decode_config(row.config).rootfs.diff_ids)):
                if chain_id in self.layers:
                    self.layers.hold(chain_id)
                    return

    def _keep(self, image_id: str, row: ImageRow) -> None:
        self._rows.put(image_id, row)
        self._undocumented.add(image_id)  # its document comes when the disk has its row

    @staticmethod
    def decode(raw: bytes) -> ImageConfig:
        """The configuration of an image that is to come in. Raises InvalidParameter when it is of no use here."""
        config = decode_config(raw)
        check_config(config)
        return config

    @staticmethod
    def _read(row: ImageRow) -> _Stored:
        config = decode_config(row.config)
        chains = chains_of(config.rootfs.diff_ids)
        return _Stored(row.config, config, chains[-1] if chains else None, row.parent, row.last_tag_ns)

    def _take_up(self, image_id: str, stored: _Stored) -> None:
        if stored.chain_id is not None:
            self.layers.hold(stored.chain_id)
        self._images[image_id] = stored
        if stored.parent is not None:
            self._children.setdefault(stored.parent, set()).add(image_id)

    def stacks(self) -> list[tuple[str, str, list[str]]]:
        """(ID, a name or the ID, chain IDs from the bottom up) of every image of the database, whole or not."""
        found = []
        for image_id, row in self._rows.all():
            with suppress(InvalidParameter):
                chains = chains_of(decode_config(row.config).rootfs.diff_ids)
                names = self.names.tags_of(image_id)
                found.append((image_id, names[0] if names else image_id, chains))
        return found

    def forget_lost(self, image_id: str) -> None:
        """Drop the row and the names of an image whose layers are not all there. Raises Conflict for one that is."""
        if image_id in self._images:
            raise Conflict(f"image {image_id} is whole")
        self._documents.delete(image_id)
        self._rows.delete(image_id)
        self.names.leave_out(image_id)
        for name in self.names.of(image_id):
            self.names.delete(name)

    async def on_disk(self) -> None:
        """Until all images, their layers and names are on the disk as they are now. Raises SystemFailure."""
        await self.layers.settle()
        undocumented, self._undocumented = self._undocumented, set()
        await self._database.on_disk()
        for image_id in undocumented & set(self._images):
            stored = self._images[image_id]
            self._documents.put(image_id, ImageRow(stored.raw, stored.parent, stored.last_tag_ns))
        self.manifests.documented()

    # -- finding

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._images

    async def get(self, name: str) -> Image:
        """The image by ID, unambiguous ID prefix, tag or digest. Raises NotFound, or InvalidParameter for no name."""
        return self.find(name)

    def find(self, name: str) -> Image:
        """As `get`, for callers that are not coroutines."""
        return self.describe(self.resolve(name))

    def resolve(self, name: str) -> str:
        """The ID of the image called `name`. Raises NotFound or InvalidParameter."""
        digest = name if name.startswith("sha256:") else f"sha256:{name}"
        if re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            if digest in self._images:
                return digest
            raise NotFound(f"No such image: {digest}")
        reference = Reference.parse(name)
        found = self.names.resolve(reference)
        if found in self._images:
            return found
        if re.fullmatch(r"sha256:[0-9a-f]+", digest):
            matching = [image_id for image_id in self._images if image_id.startswith(digest)]
            if len(matching) == 1:
                return matching[0]
        raise NotFound(f"No such image: {reference.or_latest().familiar()}")

    def describe(self, image_id: str) -> Image:
        """The image of that ID, which is here."""
        stored = self._images[image_id]
        return Image(
            id=image_id,
            config=stored.config,
            raw=stored.raw,
            chain_id=stored.chain_id,
            parent=stored.parent,
            repo_tags=self.names.tags_of(image_id),
            repo_digests=self.names.digests_of(image_id),
            size=self.layers.total_size(stored.chain_id),
            last_tag_ns=stored.last_tag_ns,
        )

    def all(self) -> list[Image]:
        """Every image, intermediate ones too."""
        return [self.describe(image_id) for image_id in self._images]

    def children(self, image_id: str) -> list[str]:
        """IDs of the images that were built on this one here."""
        return sorted(self._children.get(image_id, ()))

    def parent(self, image_id: str) -> str | None:
        """The ID of the image that this one was built on here."""
        return self._images[image_id].parent

    def users_of(self, image_id: str) -> list[ImageUser]:
        """The containers that use an image."""
        return [user for users in self.users for user in users(image_id)]

    # -- use

    def note_use(self, image_id: str) -> None:
        """The image is used now: by a container that is made of it, or by a build."""
        now = time.time()
        if image_id in self._images and now - self._used.get(image_id, 0) > USE_NOTED_EVERY:
            self._used[image_id] = now
            self._uses.put(image_id, now, lazy=True)

    def last_used(self, image_id: str) -> float:
        """When the image was used or came, UNIX s; 0 when nobody has noted it."""
        return self._used.get(image_id, 0.0)

    # -- making

    def put(self, raw: bytes, *, parent: str | None = None) -> str:
        """Keep an image configuration whose layers are all here and return the image's ID.

        Raises InvalidParameter when it is no image configuration, NotFound when its layers are missing.
        """
        image_id = "sha256:" + hashlib.sha256(raw).hexdigest()
        if image_id not in self._images:
            row = ImageRow(raw, parent)
            stored = self._read(row)
            if stored.chain_id is not None:
                self.layers.get(stored.chain_id)
            self._keep(image_id, row)
            self._take_up(image_id, stored)
            self.note_use(image_id)
        elif parent is not None and self._images[image_id].parent is None and parent != image_id:
            self.set_parent(image_id, parent)
        return image_id

    def set_parent(self, image_id: str, parent: str) -> None:
        """Note that the image was built on `parent`, which then can't be removed before it."""
        stored = self._images[image_id]
        row = ImageRow(stored.raw, parent, stored.last_tag_ns)
        self._keep(image_id, row)
        self._images[image_id] = self._read(row)
        if stored.parent is not None:
            self._children[stored.parent].discard(image_id)
        self._children.setdefault(parent, set()).add(image_id)

    async def create(
        self, config: ImageConfig, parent: Image | None, layer: Layer | None, *, tag: str | None = None
    ) -> Image:
        """Make an image of `config` (complete but for rootfs) from `parent`'s layers and one more on top.

        `layer` must be registered on the parent's; the caller's hold on it stays the caller's. One without any file
        is left out. For commit and build.
        """
        diff_ids = list(parent.config.rootfs.diff_ids) if parent is not None else []
        if layer is not None and layer.diff_id != EMPTY:
            diff_ids.append(layer.diff_id)
        config = msgspec.structs.replace(config, rootfs=msgspec.structs.replace(config.rootfs, diff_ids=diff_ids))
        image_id = self.put(encode_config(config), parent=parent.id if parent is not None else None)
        if tag is not None:
            self.tag(image_id, Reference.parse(tag))
        return self.describe(image_id)

    # -- names

    def tag(self, image_id: str, name: Reference, source: str = "") -> None:
        """Give an image one more name, taking it from whichever image had it.

        `source`: the name by which the image was found; the new one then stands for the same platforms.
        """
        if name.digest is not None:
            raise InvalidParameter("refusing to create a tag with a digest reference")
        name = name.or_latest()
        row = self.names.row(Reference.parse(source)) if source and not is_id(source, image_id) else None
        self.names.put(name, image_id, *(row.target, row.beside) if row is not None else ())
        self._tagged_now(image_id)
        self.emit("tag", image_id, name.familiar())

    def _tagged_now(self, image_id: str) -> None:
        stored = self._images[image_id]
        row = ImageRow(stored.raw, stored.parent, time.time_ns())
        self._keep(image_id, row)
        self._images[image_id] = _Stored(stored.raw, stored.config, stored.chain_id, stored.parent, row.last_tag_ns)

    def emit(self, action: str, image_id: str, name: str) -> None:
        """Tell of something that happened to an image."""
        stored = self._images.get(image_id)
        labels = (stored.config.config.labels if stored is not None and stored.config.config else None) or {}
        self.events.emit("image", action, image_id, {**labels, "name": name})

    # -- registries

    async def pull(
        self,
        name: Reference,
        *,
        auth: Credentials | None = None,
        platform: str = "",
        progress: Send,
        all_tags: bool = False,
    ) -> None:
        """Pull a tag (latest, unless named), a digest or all tags of a repository.

        Raises NotFound, Unauthorized, Unavailable when no registry answers and no embedded image has the name, and
        Forbidden for the name `scratch`.
        """
        if name.familiar_name() == "scratch":
            raise Forbidden("'scratch' is a reserved name")
        told = Progress(progress)
        repository = self.registry.repository(name, auth)
        puller = Puller(self, repository, told, parse_platform(platform) if platform else None)
        if all_tags:
            states = [await puller.pull(name.with_tag(tag)) for tag in await repository.tags()]
            state = DOWNLOADED if DOWNLOADED in states else UP_TO_DATE
        else:
            name = name.or_latest()
            state = await puller.pull(name)
        told.status(f"Status: {state} for {name.familiar()}")
        self.events.emit("image", "pull", name.familiar(), {"name": name.familiar_name()})

    async def push(
        self,
        name: Reference,
        *,
        auth: Credentials | None = None,
        platform: Platform | None = None,
        progress: Send,
    ) -> None:
        """Push a tag, or all tags of a repository when `name` has none: whole indexes, or the images for a platform.

        Raises NotFound, Unauthorized, Unavailable.
        """
        if name.digest is not None:
            raise InvalidParameter("cannot push a digest reference")
        told = Progress(progress)
        told.status(f"The push refers to repository [{name.repository.full()}]")
        tags = self.names.in_repository(name)
        if not tags:
            raise NotFound(f"An image does not exist locally with the tag: {name.familiar_name()}")
        if name.tag is not None:
            tags = [(tag, image_id) for tag, image_id in tags if tag.tag == name.tag]
            if not tags:
                raise NotFound(f"tag does not exist: {name.familiar()}")
        pusher = Pusher(self, self.registry.repository(name, auth, push=True), name, told)
        with self.manifests.gathering():
            for tag, image_id in tags:
                if platform is not None:
                    await pusher.push(self.platforms.choose(tag.familiar(), platform), tag.tag or "latest")
                else:
                    await pusher.push_all(self.describe(image_id), tag)
        self.events.emit("image", "push", name.familiar(), {"name": name.familiar_name()})

    async def login(self, server: str, username: str, password: str, identity_token: str = "") -> str:
        """Check credentials with the registry at `server` (a host or a URL; "": Docker Hub); its identity token or "".

        Raises Unauthorized, Unavailable.
        """
        domain = server.removeprefix("https://").removeprefix("http://").partition("/")[0]
        if domain in ("", "index.docker.io", "registry-1.docker.io"):
            domain = DEFAULT_DOMAIN
        elif not is_domain(domain):
            raise InvalidParameter(f'"{server}" is not a valid registry address')
        return await self.registry.login(domain, Credentials(username, password, identity_token))

    async def distribution(self, text: str, *, auth: Credentials | None = None) -> dict[str, Any]:
        """What the registry says of an image, in the shape of GET /distribution/{name}/json."""
        name = Reference.parse(text).or_latest()
        repository = self.registry.repository(name, auth)
        found = await repository.manifest(name.digest or name.tag or "latest")
        if found.is_index:
            platforms = [entry.platform for entry in Index.decode(found.content).manifests if entry.platform]
        else:
            config = decode_config(await repository.blob_bytes(Manifest.decode(found.content).config))
            platforms = [Platform(config.architecture, config.os, config.variant)]
        descriptor = {"mediaType": found.media_type, "digest": found.digest, "size": len(found.content)}
        return {"Descriptor": descriptor, "Platforms": platforms}

    @asynccontextmanager
    async def download(self, url: str, progress: Send) -> AsyncIterator[AsyncIterator[bytes]]:
        """The pieces of what lies at a URL, for `import_`. Raises InvalidParameter or Unavailable."""
        address = url if "://" in url else f"http://{url}"
        async with download.opened(address) as found:
            Progress(progress).status(f"Downloading from {address}")
            yield _downloaded(found, Progress(progress))

    # -- archives

    async def load(
        self, pieces: AsyncIterator[bytes], *, quiet: bool, progress: Send, platforms: Sequence[Platform] = ()
    ) -> None:
        """Bring in the images of an archive that `save` made, or of an OCI layout: those for `platforms` (none: all).

        Raises InvalidParameter.
        """
        loader = Loader(self, Progress(progress), quiet=quiet, platforms=platforms)
        await loader.load(pieces, str(self.layers.scratch))

    def save(self, names: Sequence[str], platforms: Sequence[Platform] = ()) -> AsyncIterator[bytes]:
        """Images as one archive, for all of their platforms that are here unless some are named.

        Raises NotFound for an unknown name or a platform that is not here, before the first piece.
        """
        saver = Saver(self, platforms)
        for name in names:
            saver.add(name)
        return saver.stream()

    async def import_(
        self,
        pieces: AsyncIterator[bytes],
        *,
        name: Reference | None = None,
        changes: Sequence[str] = (),
        message: str = "",
        platform: str = "",
    ) -> Image:
        """Make an image of one layer from the tar of a root file system. Raises InvalidParameter."""
        where = parse_platform(platform) if platform else host()
        if where.os != "linux":
            raise InvalidParameter("operating system is not supported")
        config = changed(ContainerConfig(), changes) if changes else ContainerConfig()
        layer = await self.layers.register(None, pieces)
        try:
            await self.layers.settle()
            created = timestamp()
            made = ImageConfig(
                architecture=where.architecture,
                variant=where.variant,
                os=where.os,
                created=created,
                comment=message,
                config=config,
                history=[History(created=created, comment=message)],
            )
            image = await self.create(made, None, layer)
        finally:
            self.layers.drop(layer.chain_id)
        if name is not None:
            self.tag(image.id, name)
        await self.on_disk()
        self.emit("import", image.id, image.id)
        return self.describe(image.id)

    # -- removing

    async def remove(
        self, name: str, *, force: bool = False, prune: bool = True, platform: Platform | None = None
    ) -> list[dict[str, str]]:
        """Take a name away, and the image with its last name; [{"Untagged": …} or {"Deleted": …}] as it happened.

        With `platform`, of several platforms' images only that one's goes. The space is free when this returns.
        Raises NotFound, or Conflict when the image is in use.
        """
        try:
            if platform is not None:
                return self._remover.remove_platform(name, platform, force=force, prune=prune)
            return self._remover.remove(name, force=force, prune=prune)
        finally:
            await self._freed()

    async def prune(self, filters: Mapping[str, Sequence[str]]) -> tuple[list[dict[str, str]], int]:
        """Remove images without a tag (`dangling=false`: all unused ones); (records as of `remove`, bytes freed).

        Raises InvalidParameter for a filter that is not known.
        """
        try:
            return self._remover.prune(filters)
        finally:
            await self._freed()

    async def _freed(self) -> None:
        """Until the space of what has gone is free, and no document on the disk speaks of it."""
        self.manifests.sweep(self.names.targets())
        self.packed.sweep()
        await self.layers.freed()
        await self._database.names.reach(self._folder)

    def forget(self, image_id: str) -> list[dict[str, str]]:
        """Drop an image that nothing holds, and the layers only it had: [{"Deleted": …}]."""
        stored = self._images.pop(image_id)
        self.names.leave_out(image_id)
        self._documents.delete(image_id)
        self._rows.delete(image_id)
        if self._used.pop(image_id, None) is not None:
            self._uses.delete(image_id, lazy=True)
        if stored.parent is not None and stored.parent in self._children:
            self._children[stored.parent].discard(image_id)
        self.events.emit("image", "delete", image_id, {"name": image_id})  # its labels have gone with it
        records = [{"Deleted": image_id}]
        if stored.chain_id is not None:
            records.extend({"Deleted": layer.chain_id} for layer in self.layers.drop(stored.chain_id))
        return records

    # -- listing

    async def list(self, filters: Mapping[str, Sequence[str]] | None = None, *, all: bool = False) -> list[Image]:
        """The images that match, newest first; without `all`, none that is only the parent of another.

        Raises InvalidParameter for an unknown filter, NotFound when `before` or `since` name no image.
        """
        return select(self, filters or {}, all=all)

    def shared_size(self, image: Image) -> int:
        """Bytes of the image's layers that other images have, too."""
        counts: dict[str, int] = {}
        for stored in self._images.values():
            for chain_id in chains_of(stored.config.rootfs.diff_ids):
                counts[chain_id] = counts.get(chain_id, 0) + 1
        return sum(
            self.layers.get(chain_id).size
            for chain_id in chains_of(image.config.rootfs.diff_ids)
            if counts.get(chain_id, 0) > 1
        )

    async def history(self, name: str, platform: Platform | None = None) -> Sequence[HistoryEntry]:
        """How the image came to be, newest first. Raises NotFound."""
        image = self.platforms.choose(name, platform)
        chains = chains_of(image.config.rootfs.diff_ids)
        found = []
        height = 0
        for step in image.config.history or ():
            size = 0
            if not step.empty_layer:
                if height >= len(chains):
                    raise InvalidParameter("too many non-empty layers in History section")
                size = self.layers.get(chains[height]).size
                height += 1
            created = parse_time(step.created)
            found.append((created // 1_000_000_000 if created else 0, step.created_by or "", size, step.comment or ""))
        entries = []
        ancestor: str | None = image.id
        for created, created_by, size, comment in reversed(found):
            tags = None
            known = ancestor if ancestor is not None and ancestor in self._images else None
            if known is not None:
                tags = self.names.tags_of(known) or None
                ancestor = self._images[known].parent
            entries.append(HistoryEntry(known or "<missing>", created, created_by, tags, size, comment))
        return entries


async def _downloaded(found: download.Found, progress: Progress) -> AsyncIterator[bytes]:
    received = 0
    async for piece in found.pieces():
        received += len(piece)
        progress.bar("Importing", "", received, found.size)
        yield piece
