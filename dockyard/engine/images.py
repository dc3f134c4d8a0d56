"""Images: what is here, what it is called, and when it may go.

An image is its configuration: the ID is the digest of that JSON document, which is kept byte for byte as it came.
The documents are small and stay in memory; the layers they name are in the layer store, held by the image.
Pulling, pushing and archives are apart: `image_pull.py`, `image_push.py`, `image_archive.py`.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec

from dockyard.content.registry import Credentials, RegistryClient
from dockyard.engine.config_changes import apply_changes
from dockyard.engine.database import Database
from dockyard.engine.events import Events
from dockyard.engine.image_archive import Loader, Saver
from dockyard.engine.image_names import ImageNames
from dockyard.engine.image_progress import Progress, Send
from dockyard.engine.image_pull import DOWNLOADED, UP_TO_DATE, Puller
from dockyard.engine.image_push import Pusher
from dockyard.engine.layer_blobs import LayerBlobs
from dockyard.engine.layers import Layer, LayerStore, chains_of
from dockyard.errors import Conflict, Forbidden, InvalidParameter, NotFound, Unavailable
from dockyard.oci.descriptor import Platform
from dockyard.oci.image_config import ContainerConfig, History, ImageConfig
from dockyard.oci.manifest import Index, Manifest, host, parse_platform
from dockyard.oci.reference import DEFAULT_DOMAIN, Reference

LIST_FILTERS = ("dangling", "label", "before", "since", "reference", "until")
PRUNE_FILTERS = ("dangling", "label", "label!", "until")
NEVER = "0001-01-01T00:00:00Z"


class ImageRow(msgspec.Struct, frozen=True):
    """An image as the database keeps it, under its ID."""

    config: bytes
    parent: str | None = None
    last_tag_ns: int = 0


@dataclass(frozen=True, slots=True)
class Image:
    """An image and what the engine knows of it at this moment; sizes are bytes, `size` with all layers."""

    id: str
    config: ImageConfig
    raw: bytes
    chain_id: str | None
    parent: str | None
    repo_tags: list[str]
    repo_digests: list[str]
    size: int
    last_tag_ns: int

    @property
    def labels(self) -> Mapping[str, str]:
        """The image's labels; empty when it has none."""
        return (self.config.config.labels if self.config.config else None) or {}

    @property
    def created_ns(self) -> int | None:
        """When it was made, UNIX ns; None when the image does not say."""
        return parse_time(self.config.created)


@dataclass(frozen=True, slots=True)
class ImageUser:
    """A container that keeps an image in use."""

    container_id: str
    running: bool


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One line of `docker history`, newest first; `created` is UNIX seconds, `size` bytes."""

    id: str
    created: int
    created_by: str
    tags: list[str] | None
    size: int
    comment: str


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
        self.names = ImageNames(database)
        self.layer_blobs = LayerBlobs(database)
        # asked before an image is removed; the container service adds itself
        self.users: list[Callable[[str], Sequence[ImageUser]]] = []
        self._rows = database.collection("images", ImageRow)
        self._images: dict[str, _Stored] = {}
        self._children: dict[str, set[str]] = {}
        self._pruning = False
        for image_id, row in list(self._rows.all()):
            stored = self._read(row)
            if stored.chain_id is not None and stored.chain_id not in layers:
                continue  # of another storage driver, or a layer was lost: the image comes back with its layers
            self._take_up(image_id, stored)
        layers.sweep()

    @staticmethod
    def decode(raw: bytes) -> ImageConfig:
        """An image's configuration document. Raises InvalidParameter when it is none."""
        return decode_config(raw)

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

    # -- finding

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._images

    async def get(self, name: str) -> Image:
        """The image by ID, unambiguous ID prefix, tag or digest. Raises NotFound, or InvalidParameter for no name."""
        return self.find(name)

    def find(self, name: str) -> Image:
        """As `get`, for callers that are not coroutines."""
        return self._describe(self.resolve(name))

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

    def _describe(self, image_id: str) -> Image:
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
        return [self._describe(image_id) for image_id in self._images]

    def children(self, image_id: str) -> list[str]:
        """IDs of the images that were built on this one here."""
        return sorted(self._children.get(image_id, ()))

    def users_of(self, image_id: str) -> list[ImageUser]:
        """The containers that use an image."""
        return [user for users in self.users for user in users(image_id)]

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
            self._rows.put(image_id, row)
            self._take_up(image_id, stored)
        elif parent is not None and self._images[image_id].parent is None and parent != image_id:
            self.set_parent(image_id, parent)
        return image_id

    def set_parent(self, image_id: str, parent: str) -> None:
        """Note that the image was built on `parent`, which then can't be removed before it."""
        stored = self._images[image_id]
        row = ImageRow(stored.raw, parent, stored.last_tag_ns)
        self._rows.put(image_id, row)
        self._images[image_id] = self._read(row)
        if stored.parent is not None:
            self._children[stored.parent].discard(image_id)
        self._children.setdefault(parent, set()).add(image_id)

    async def create(
        self, config: ImageConfig, parent: Image | None, layer: Layer | None, *, tag: str | None = None
    ) -> Image:
        """Make an image of `config` (complete but for rootfs) from `parent`'s layers and one more on top.

        `layer` must be registered on the parent's; the caller's hold on it stays the caller's. For commit and build.
        """
        diff_ids = list(parent.config.rootfs.diff_ids) if parent is not None else []
        if layer is not None:
            diff_ids.append(layer.diff_id)
        config = msgspec.structs.replace(config, rootfs=msgspec.structs.replace(config.rootfs, diff_ids=diff_ids))
        image_id = self.put(encode_config(config), parent=parent.id if parent is not None else None)
        if tag is not None:
            self.tag(image_id, Reference.parse(tag))
        return self._describe(image_id)

    # -- names

    def tag(self, image_id: str, name: Reference) -> None:
        """Give an image one more name, taking it from whichever image had it."""
        if name.digest is not None:
            raise InvalidParameter("refusing to create a tag with a digest reference")
        name = name.or_latest()
        self.names.put(name, image_id)
        self._tagged_now(image_id)
        self.emit("tag", image_id, name.familiar())

    def _tagged_now(self, image_id: str) -> None:
        stored = self._images[image_id]
        row = ImageRow(stored.raw, stored.parent, time.time_ns())
        self._rows.put(image_id, row)
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

    async def push(self, name: Reference, *, auth: Credentials | None = None, progress: Send) -> None:
        """Push a tag, or all tags of a repository when `name` has none. Raises NotFound, Unauthorized, Unavailable."""
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
        for tag, image_id in tags:
            await pusher.push(self._describe(image_id), tag.tag or "latest")
        self.events.emit("image", "push", name.familiar(), {"name": name.familiar_name()})

    async def login(self, server: str, username: str, password: str, identity_token: str = "") -> str:
        """Check credentials with the registry at `server` (a host or a URL; "": Docker Hub); its identity token or "".

        Raises Unauthorized, Unavailable.
        """
        domain = server.removeprefix("https://").removeprefix("http://").partition("/")[0]
        if domain in ("", "index.docker.io", "registry-1.docker.io"):
            domain = DEFAULT_DOMAIN
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

    async def download(self, url: str, progress: Send) -> AsyncIterator[bytes]:
        """The pieces of what lies at a URL, for `import_`. Raises InvalidParameter or Unavailable."""
        address = url if "://" in url else f"http://{url}"
        if not address.startswith(("http://", "https://")):
            raise InvalidParameter(f"cannot download {url}: only http and https are known")
        Progress(progress).status(f"Downloading from {address}")
        return _downloaded(self.registry.session, address, Progress(progress))

    # -- archives

    async def load(self, pieces: AsyncIterator[bytes], *, quiet: bool, progress: Send) -> None:
        """Bring in the images of an archive that `save` made, or of an OCI layout. Raises InvalidParameter."""
        await Loader(self, Progress(progress), quiet=quiet).load(pieces, str(self.layers.scratch))

    def save(self, names: Sequence[str]) -> AsyncIterator[bytes]:
        """Images as one archive. Raises NotFound for an unknown name, before the first piece."""
        saver = Saver(self)
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
        config = msgspec.convert(apply_changes({}, changes), ContainerConfig)
        layer = await self.layers.register(None, pieces)
        try:
            created = now_text()
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
        self.emit("import", image.id, image.id)
        return self._describe(image.id)

    # -- removing

    async def remove(self, name: str, *, force: bool = False, prune: bool = True) -> list[dict[str, str]]:
        """Take a name away, and the image with its last name; [{"Untagged": …} or {"Deleted": …}] as it happened.

        Raises NotFound, or Conflict when the image is in use (moby daemon/images/image_delete.go has the rules).
        """
        image_id = self.resolve(name)
        records: list[dict[str, str]] = []
        by_name = not (image_id.startswith(name) or image_id.removeprefix("sha256:").startswith(name))
        if by_name:
            if not force and _single(self.names.of(image_id)):
                users = self.users_of(image_id)
                if users:
                    raise Conflict(
                        f'conflict: unable to remove repository reference "{name}" (must force) - container '
                        f"{users[0].container_id[:12]} is using its referenced image {short(image_id)}"
                    )
            self._untag(Reference.parse(name), image_id, records)
            if self.names.of(image_id):
                return records
        elif _single(self.names.of(image_id)):
            self._check(image_id, stopped_too=not force, names_too=False)
            for reference in self.names.of(image_id):
                self.names.delete(reference)
                self.emit("untag", image_id, image_id)
                records.append({"Untagged": reference.familiar()})
        self._delete(image_id, records, force=force, prune=prune, quiet=by_name)
        return records

    def _untag(self, name: Reference, image_id: str, records: list[dict[str, str]]) -> None:
        """Take one name away, and the repository's digests with its last tag."""
        removed = self.names.delete(name)
        self.emit("untag", image_id, image_id)
        records.append({"Untagged": removed.familiar()})
        if removed.digest is not None:
            return
        same = [
            other for other in self.names.of(image_id) if (other.domain, other.path) == (removed.domain, removed.path)
        ]
        if any(other.digest is None for other in same):
            return
        for other in same:
            self.names.delete(other)
            records.append({"Untagged": other.familiar()})

    def _delete(self, image_id: str, records: list[dict[str, str]], *, force: bool, prune: bool, quiet: bool) -> None:
        try:
            self._check(image_id, stopped_too=not force, names_too=not force)
        except ImageInUse as conflict:
            dangling = not self.names.of(image_id) and not self._children.get(image_id)
            if quiet and (conflict.used or not dangling):
                return
            raise
        for reference in self.names.of(image_id):
            self.names.delete(reference)
            self.emit("untag", image_id, image_id)
            records.append({"Untagged": reference.familiar()})
        parent = self._images[image_id].parent
        self._forget(image_id, records)
        if prune and parent is not None and parent in self._images:
            self._delete(parent, records, force=False, prune=True, quiet=True)

    def _forget(self, image_id: str, records: list[dict[str, str]]) -> None:
        stored = self._images.pop(image_id)
        self._rows.delete(image_id)
        if stored.parent is not None and stored.parent in self._children:
            self._children[stored.parent].discard(image_id)
        labels = (stored.config.config.labels if stored.config.config else None) or {}
        self.events.emit("image", "delete", image_id, {**labels, "name": image_id})
        records.append({"Deleted": image_id})
        if stored.chain_id is not None:
            records.extend({"Deleted": layer.chain_id} for layer in self.layers.drop(stored.chain_id))

    def _check(self, image_id: str, *, stopped_too: bool, names_too: bool) -> None:
        """Raise ImageInUse when something forbids that the image goes."""
        if self._children.get(image_id):
            raise ImageInUse(image_id, "image has dependent child images", hard=True)
        users = self.users_of(image_id)
        for user in users:
            if user.running:
                message = f"image is being used by running container {user.container_id[:12]}"
                raise ImageInUse(image_id, message, hard=True, used=True)
        if names_too and self.names.of(image_id):
            raise ImageInUse(image_id, "image is referenced in multiple repositories")
        if stopped_too and users:
            message = f"image is being used by stopped container {users[0].container_id[:12]}"
            raise ImageInUse(image_id, message, used=True)

    async def prune(self, filters: Mapping[str, Sequence[str]]) -> tuple[list[dict[str, str]], int]:
        """Remove images without a tag (`dangling=false`: all unused ones); (records as of `remove`, bytes freed).

        Raises InvalidParameter for a filter that is not known.
        """
        if self._pruning:
            raise Conflict("a prune operation is already running")
        check_filters(filters, PRUNE_FILTERS)
        dangling_only = boolean_filter(filters, "dangling", True)
        if len(filters.get("until", ())) > 1:
            raise InvalidParameter("more than one until filter specified")
        until = [parse_until(text) for text in filters.get("until", ())]
        sizes = {chain_id: layer.size for chain_id, layer in self.layers.all().items()}
        records: list[dict[str, str]] = []
        self._pruning = True
        try:
            for image in self.all():
                if image.id not in self._images or self._spared(image, filters, until, dangling_only):
                    continue
                targets = [name.full() for name in self.names.of(image.id)] or [image.id.removeprefix("sha256:")]
                for target in targets:
                    try:
                        records += await self.remove(target)
                    except (Conflict, NotFound):
                        continue
        finally:
            self._pruning = False
        freed = sum(sizes.get(record.get("Deleted", ""), 0) for record in records)
        self.events.emit("image", "prune", "", {"reclaimed": str(freed)})
        return records, freed

    def _spared(
        self, image: Image, filters: Mapping[str, Sequence[str]], until: Sequence[int], dangling_only: bool
    ) -> bool:
        has_children = bool(self._children.get(image.id))
        if has_children and (dangling_only or not self.names.of(image.id)):
            return True
        if until and (image.created_ns is None or image.created_ns > until[0]):
            return True
        if not matches_labels(filters.get("label", ()), image.labels):
            return True
        if filters.get("label!") and matches_labels(filters["label!"], image.labels):
            return True
        return dangling_only and bool(image.repo_tags)

    # -- listing

    async def list(self, filters: Mapping[str, Sequence[str]] | None = None, *, all: bool = False) -> list[Image]:
        """The images that match, newest first; without `all`, none that is only the parent of another.

        Raises InvalidParameter for an unknown filter, NotFound when `before` or `since` name no image.
        """
        filters = filters or {}
        check_filters(filters, LIST_FILTERS)
        dangling = boolean_filter(filters, "dangling", False)
        before = [self.find(name).created_ns or 0 for name in filters.get("before", ())]
        before += [parse_until(text) for text in filters.get("until", ())]
        since = [self.find(name).created_ns or 0 for name in filters.get("since", ())]
        selected = []
        for image in self.all():
            created = image.created_ns
            if before and (created is None or created >= min(before)):
                continue
            if since and (created is None or created <= max(since)):
                continue
            if not matches_labels(filters.get("label", ()), image.labels):
                continue
            if dangling and self._children.get(image.id):
                continue
            patterns = filters.get("reference")
            tags, digests = image.repo_tags, image.repo_digests
            if patterns:
                names = [name for name in self.names.of(image.id) if _matches_reference(name, patterns)]
                tags = [name.familiar() for name in names if name.digest is None]
                digests = [name.familiar() for name in names if name.digest is not None]
            if not tags and not digests:
                if self._children.get(image.id) and not all:
                    continue
                if ("dangling" in filters and not dangling) or patterns:
                    continue
            elif dangling and tags:
                continue
            selected.append(_with_names(image, tags, digests))
        selected.sort(key=lambda image: image.created_ns or 0, reverse=True)
        return selected

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

    async def history(self, name: str) -> Sequence[HistoryEntry]:
        """How the image came to be, newest first. Raises NotFound."""
        image = self.find(name)
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


async def _downloaded(session: aiohttp.ClientSession, url: str, progress: Progress) -> AsyncIterator[bytes]:
    received = 0
    try:
        async with session.get(url) as response:
            if response.status >= 400:
                raise InvalidParameter(f"failed to GET {url} with status {response.status} {response.reason}")
            async for piece in response.content.iter_any():
                received += len(piece)
                progress.bar("Importing", "", received, response.content_length or 0)
                yield piece
    except aiohttp.ClientError as error:
        raise Unavailable(f"cannot download {url}: {error}") from error


class ImageInUse(Conflict):
    """The image can't be removed; `hard`: not even by force; `used`: because of a container."""

    def __init__(self, image_id: str, message: str, *, hard: bool = False, used: bool = False) -> None:
        force = "cannot be forced" if hard else "must be forced"
        super().__init__(f"conflict: unable to delete {short(image_id)} ({force}) - {message}")
        self.used = used


def short(image_id: str) -> str:
    """The 12 digits by which people know an image."""
    return image_id.removeprefix("sha256:")[:12]


def decode_config(raw: bytes) -> ImageConfig:
    """An image's configuration document. Raises InvalidParameter when it is none."""
    try:
        return msgspec.json.decode(raw, type=ImageConfig)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        # Go writes null for lists and maps that are empty, which is as good as absent.
        return msgspec.convert(_without_nulls(msgspec.json.decode(raw)), ImageConfig)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"invalid image configuration: {error}") from None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value if item is not None]
    return value


def encode_config(config: ImageConfig) -> bytes:
    """The document of an image made here; what is empty is left out."""
    document: dict[str, Any] = msgspec.to_builtins(config)
    kept = {key: value for key, value in document.items() if value or key in ("architecture", "os", "rootfs")}
    for key in ("config", "container_config"):
        if document.get(key):
            # a StopTimeout of 0 says something
            kept[key] = {k: v for k, v in document[key].items() if v or (k == "StopTimeout" and v is not None)}
    return msgspec.json.encode(kept)


def parse_time(text: str | datetime | None) -> int | None:
    """RFC 3339 with up to nine decimals as UNIX ns; None for none and for year one, which means the same."""
    if not text:
        return None
    if isinstance(text, datetime):
        return int(text.timestamp()) * 1_000_000_000 + text.microsecond * 1000
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?\d*(Z|z|[+-]\d\d:\d\d)", text)
    if found is None or text.startswith("0001-"):
        return None
    zone = "+00:00" if found[3] in "Zz" else found[3]
    try:
        seconds = int(datetime.fromisoformat(found[1] + zone).timestamp())
    except (ValueError, OverflowError):
        return None
    return seconds * 1_000_000_000 + int((found[2] or "0").ljust(9, "0"))


def now_text() -> str:
    """This moment as image configurations write it."""
    now = time.time_ns()
    moment = datetime.fromtimestamp(now // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{now % 1_000_000_000:09d}Z"


_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def parse_until(text: str) -> int:
    """The moment a filter means, in UNIX ns: a duration back from now (1h30m), a UNIX time, a date.

    Raises InvalidParameter.
    """
    if re.fullmatch(r"(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+", text):
        parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", text)
        back = sum(float(number) * _UNITS[unit] for number, unit in parts)
        return time.time_ns() - int(back)
    if found := re.fullmatch(r"(\d+)(?:\.(\d{1,9}))?", text):
        return int(found[1]) * 1_000_000_000 + int((found[2] or "0").ljust(9, "0"))
    exact = parse_time(text)
    if exact is not None:
        return exact
    try:
        return int(datetime.fromisoformat(text).timestamp()) * 1_000_000_000
    except ValueError:
        raise InvalidParameter(
            f"invalid value for 'until' filter: failed to parse value as time or duration: {text!r}"
        ) from None


def check_filters(filters: Mapping[str, Sequence[str]], known: Sequence[str]) -> None:
    """Raise InvalidParameter when a filter is not one of `known`."""
    for name in filters:
        if name not in known:
            raise InvalidParameter(f"invalid filter '{name}'")


def boolean_filter(filters: Mapping[str, Sequence[str]], name: str, default: bool) -> bool:
    """The value of a filter that says yes or no. Raises InvalidParameter when it says neither, or both."""
    values = filters.get(name)
    if not values:
        return default
    truths = {value.lower() in ("1", "true") for value in values}
    if len(truths) > 1 or any(value.lower() not in ("0", "1", "true", "false") for value in values):
        raise InvalidParameter(f"invalid filter '{name}={list(values)}'")
    return truths.pop()


def matches_labels(wanted: Sequence[str], labels: Mapping[str, str]) -> bool:
    """Whether `labels` has every key, or key=value, of `wanted`."""
    for item in wanted:
        key, separator, value = item.partition("=")
        if key not in labels or (separator and labels[key] != value):
            return False
    return True


def _matches_reference(name: Reference, patterns: Sequence[str]) -> bool:
    targets = (name.familiar(), name.familiar_name(), name.full(), name.repository.full())
    return any(_path_match(pattern, target) for pattern in patterns for target in targets)


def _path_match(pattern: str, target: str) -> bool:
    """Go's path.Match: a star does not reach over a slash."""
    wanted, given = pattern.split("/"), target.split("/")
    return len(wanted) == len(given) and all(map(fnmatch.fnmatchcase, given, wanted))


def _single(names: Sequence[Reference]) -> bool:
    """Whether all names are of one repository with at most one tag; no name at all is not."""
    if len(names) <= 1:
        return len(names) == 1
    tags = [name for name in names if name.digest is None]
    repositories = {(name.domain, name.path) for name in names if name.digest is not None}
    if len(tags) > 1 or len(repositories) != 1:
        return False
    only = tags[0] if tags else names[0]
    return (only.domain, only.path) in repositories


def _with_names(image: Image, tags: list[str], digests: list[str]) -> Image:
    return Image(
        image.id,
        image.config,
        image.raw,
        image.chain_id,
        image.parent,
        tags,
        digests,
        image.size,
        image.last_tag_ns,
    )
