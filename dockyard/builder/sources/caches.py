"""`--cache-from`: caches in registries and on the client's side. Layers are fetched when something needs them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import msgspec

from dockyard.builder.cache.config import MEDIA_TYPE, ImportedStep, layers_of, read_config, steps_of
from dockyard.builder.cache.inline import steps_in
from dockyard.builder.graph.client import ContentStore
from dockyard.content.registry import Repository
from dockyard.engine.images.documents import decode_config
from dockyard.errors import InvalidParameter, NotFound
from dockyard.generators import closing
from dockyard.oci import manifest as oci
from dockyard.oci.descriptor import Descriptor

LARGEST_CONFIG = 64 << 20
Layer = Callable[[], AsyncIterator[bytes]]  # its blob, in pieces


@dataclass(frozen=True, slots=True)
class CacheContent:
    """What a cache has: steps by their keys, layers by their diff IDs. `kind`: the media type it was found as."""

    kind: str
    steps: dict[str, ImportedStep]
    layers: dict[str, Layer]


class Place(Protocol):
    """Where a cache is."""

    async def top(self) -> tuple[bytes, str]:
        """Its index or manifest, and the media type, "" for unknown."""

    async def document(self, descriptor: Descriptor) -> bytes:
        """A small blob."""

    def layer(self, descriptor: Descriptor) -> AsyncIterator[bytes]:
        """A layer's bytes."""

    async def manifest(self, descriptor: Descriptor) -> bytes:
        """A manifest that an index lists."""


class RegistryPlace:
    """A cache, or an image with one inside, in a registry."""

    def __init__(self, repository: Repository, reference: str) -> None:
        self._repository = repository
        self._reference = reference

    async def top(self) -> tuple[bytes, str]:
        found = await self._repository.manifest(self._reference)
        return found.content, found.media_type

    async def document(self, descriptor: Descriptor) -> bytes:
        return await self._repository.blob_bytes(descriptor)

    async def manifest(self, descriptor: Descriptor) -> bytes:
        return (await self._repository.manifest(descriptor.digest)).content

    def layer(self, descriptor: Descriptor) -> AsyncIterator[bytes]:
        return self._repository.blob(descriptor)


class StorePlace:
    """A cache in a directory of the client's."""

    def __init__(self, store: ContentStore, digest: str) -> None:
        self._store = store
        self._digest = digest

    async def top(self) -> tuple[bytes, str]:
        return await self._read(self._digest), ""

    async def document(self, descriptor: Descriptor) -> bytes:
        return await self._read(descriptor.digest)

    async def manifest(self, descriptor: Descriptor) -> bytes:
        return await self._read(descriptor.digest)

    def layer(self, descriptor: Descriptor) -> AsyncIterator[bytes]:
        return self._store.read(descriptor.digest)

    async def _read(self, digest: str) -> bytes:
        size = await self._store.size(digest)
        if size is None:
            raise NotFound(f"the client's content store has no {digest}")
        found = bytearray()
        async with closing(self._store.read(digest)) as pieces:
            async for piece in pieces:
                found += piece
                if max(size, len(found)) > LARGEST_CONFIG:  # whatever size the client has said
                    raise InvalidParameter(f"{digest} of the client's content store is too large")
        return bytes(found)


async def read_cache(place: Place) -> CacheContent:
    """What is in a cache. Raises NotFound, Unavailable, InvalidParameter."""
    raw, kind = await place.top()
    kind = kind or kind_of(raw)
    if kind in oci.INDEXES:
        entries = oci.Index.decode(raw).manifests
        config = next((entry for entry in entries if entry.media_type == MEDIA_TYPE), None)
        if config is not None:
            return await _of_cache(place, kind, config, entries)
        return await _of_index(place, entries)
    manifest = oci.Manifest.decode(raw)
    if manifest.config.media_type == MEDIA_TYPE:
        return await _of_cache(place, kind, manifest.config, manifest.layers)
    return await _of_image(place, kind, manifest)


def kind_of(raw: bytes) -> str:
    """Whether a document without a type is an index or a manifest: the media type. Raises InvalidParameter."""
    try:
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:
        raise InvalidParameter(f"invalid cache: {error}") from None
    return oci.OCI_INDEX if "manifests" in fields else oci.OCI_MANIFEST


async def _of_cache(place: Place, kind: str, config: Descriptor, layers: Sequence[Descriptor]) -> CacheContent:
    steps = steps_of(read_config(await place.document(config)))
    found: dict[str, Layer] = {}
    for diff_id, descriptor in layers_of(layers).items():
        found[diff_id] = partial(place.layer, descriptor)
    return CacheContent(kind, steps, found)


async def _of_index(place: Place, entries: Sequence[Descriptor]) -> CacheContent:
    """The caches inside an index's images, together."""
    found = CacheContent(oci.OCI_INDEX, {}, {})
    for entry in entries:
        if entry.media_type in oci.MANIFESTS and (entry.platform is None or entry.platform.os != "unknown"):
            inner = await _of_image(place, entry.media_type, oci.Manifest.decode(await place.manifest(entry)))
            found.steps.update(inner.steps)
            found.layers.update(inner.layers)
    return found


async def _of_image(place: Place, kind: str, manifest: oci.Manifest) -> CacheContent:
    raw = await place.document(manifest.config)
    diff_ids = decode_config(raw).rootfs.diff_ids
    if len(diff_ids) != len(manifest.layers):
        raise InvalidParameter("the image of the cache has not as many layers as it says")
    layers: dict[str, Layer] = {}
    for diff_id, layer in zip(diff_ids, manifest.layers, strict=True):
        layers[diff_id] = partial(place.layer, layer)
    return CacheContent(kind, steps_in(raw, diff_ids), layers)
