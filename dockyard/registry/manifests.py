"""Manifests and indexes, the tags that mean them, and what refers to what."""

import hashlib
from collections import OrderedDict
from typing import Any

import msgspec

from dockyard.oci.digest import is_digest
from dockyard.oci.manifest import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from dockyard.oci.reference import is_tag
from dockyard.registry import layout
from dockyard.registry.blobs import Blobs
from dockyard.registry.errors import Refused
from dockyard.registry.storage import Missing, Storage

LARGEST = 8 << 20  # bytes; every registry has to take 4 MiB
TRIES = 20
USE_NOTED = 600.0  # seconds: how often at most it is noted that a manifest of a cache is in use
CACHED = 64 << 20  # bytes of manifests that are kept in memory
ARTIFACT_MANIFEST = "application/vnd.oci.artifact.manifest.v1+json"  # of image-spec 1.1's release candidates
SCHEMA_1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
KINDS = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX, ARTIFACT_MANIFEST)
# Layers that a registry need not have: they are to be had elsewhere.
_ELSEWHERE = ("application/vnd.docker.image.rootfs.foreign.", "application/vnd.oci.image.layer.nondistributable.")


class Link(msgspec.Struct, rename="camel"):
    """A descriptor, as far as it matters here."""

    digest: str
    size: int = 0
    media_type: str = ""
    urls: list[str] | None = None

    @property
    def elsewhere(self) -> bool:
        """Whether a registry need not have it."""
        return bool(self.urls) or self.media_type.startswith(_ELSEWHERE)


class Content(msgspec.Struct, rename="camel"):
    """A manifest or an index, as far as it matters here."""

    schema_version: int = 2
    media_type: str = ""
    artifact_type: str = ""
    config: Link | None = None
    layers: list[Link] | None = None
    blobs: list[Link] | None = None
    manifests: list[Link] | None = None
    subject: Link | None = None
    annotations: dict[str, str] | None = None
    fs_layers: Any = None

    @property
    def kind(self) -> str:
        """Its media type, by its form where it does not say so."""
        if self.media_type:
            return self.media_type
        return OCI_INDEX if self.manifests is not None else OCI_MANIFEST

    def needed(self, *, everything: bool = False) -> list[str]:
        """The digests of the blobs that have to be there; or of `everything` that is named, had elsewhere or not."""
        found = [self.config] if self.config is not None else []
        found += [one for one in self.layers or [] if everything or not one.elsewhere]
        found += self.blobs or []
        return list(dict.fromkeys(one.digest for one in found))

    def children(self) -> list[str]:
        """The digests of the manifests in an index."""
        return list(dict.fromkeys(one.digest for one in self.manifests or []))


def decode(data: bytes, content_type: str = "") -> Content:
    """Parse a manifest. Raises Refused, also when it says to be something else than `content_type`."""
    if content_type in SCHEMA_1:
        raise _invalid("manifests of schema version 1 are not taken: they have been given up by all who made them")
    try:
        found = msgspec.json.decode(data, type=Content)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _invalid(str(error)) from None
    if found.schema_version != 2 or found.fs_layers is not None:
        raise _invalid("manifests of schema version 1 are not taken")
    if content_type and found.media_type and content_type != found.media_type:
        raise _invalid(f"it calls itself {found.media_type} and is sent as {content_type}")
    kind = found.media_type or content_type or found.kind
    if kind not in KINDS:
        raise _invalid(f"unknown media type {kind}")
    if kind in (OCI_INDEX, DOCKER_INDEX):
        # what was signed or scanned as one thing must not run as another (CVE-2021-41190)
        if found.manifests is None or found.layers is not None or found.config is not None:
            raise _invalid("an index has manifests, and neither config nor layers")
    elif found.manifests is not None:
        raise _invalid("an image manifest has no manifests")
    elif kind != ARTIFACT_MANIFEST and (found.config is None or b'"layers"' not in data):
        # (Go writes null for an image without layers)
        raise _invalid("an image manifest has a config and layers")
    for digest in (*found.needed(), *found.children(), *([found.subject.digest] if found.subject else [])):
        if not is_digest(digest):
            raise _invalid(f"invalid digest {digest!r}")
    return found


def _invalid(why: str) -> Refused:
    return Refused("MANIFEST_INVALID", why)


class Manifests:
    """The manifests of all repositories."""

    def __init__(self, storage: Storage, blobs: Blobs) -> None:
        self._storage = storage
        self._blobs = blobs
        self._cache: OrderedDict[str, tuple[bytes, str]] = OrderedDict()
        self._cached = 0

    async def resolve(self, name: str, reference: str) -> str:
        """The digest that a tag (or a digest) means. Raises Refused."""
        if is_digest(reference):
            return reference
        if not is_tag(reference):
            raise Refused("TAG_INVALID" if ":" not in reference else "DIGEST_INVALID", reference)
        try:
            return (await self._storage.read(layout.tag_link(name, reference))).decode().strip()
        except Missing:
            raise await self._unknown(name, reference) from None

    async def get(self, name: str, reference: str) -> tuple[str, str, bytes]:
        """(Digest, media type, content) of what a tag or digest means. Raises Refused."""
        digest = await self.resolve(name, reference)
        try:
            await self._storage.size(layout.revision_link(name, digest))
            data, kind = await self._content(digest)
        except Missing:
            raise await self._unknown(name, reference) from None
        return digest, kind, data

    async def _content(self, digest: str) -> tuple[bytes, str]:
        """(Content, media type) of a manifest. Raises Missing."""
        known = self._cache.get(digest)
        if known is not None:
            self._cache.move_to_end(digest)
            return known
        data = await self._storage.read(layout.blob_data(digest))
        found = (data, decode(data).kind)
        self._cache[digest] = found
        self._cached += len(data)
        while self._cached > CACHED:
            _, (old, _) = self._cache.popitem(last=False)
            self._cached -= len(old)
        return found

    async def _unknown(self, name: str, reference: str) -> Refused:
        if not await self.exists(name):
            return Refused("NAME_UNKNOWN", {"name": name})
        detail = {"Digest": reference} if ":" in reference else {"Tag": reference}
        return Refused("MANIFEST_UNKNOWN", detail, message=f"manifest unknown: {reference}")

    async def exists(self, name: str) -> bool:
        """Whether there is such a repository."""
        return bool(await self._storage.names(f"{layout.repository(name)}/_manifests"))

    async def put(
        self, name: str, reference: str, content_type: str, data: bytes, tags: list[str], *, whole: bool = True
    ) -> tuple[str, Content]:
        """Keep a manifest, under a tag or by its digest alone: (its digest, what it says). Raises Refused.

        What it names has to be there if it is to be `whole`.
        """
        by_digest = is_digest(reference)
        if not by_digest and not is_tag(reference):
            raise Refused("TAG_INVALID" if ":" not in reference else "DIGEST_INVALID", reference)
        for tag in tags:
            if not is_tag(tag):
                raise Refused("TAG_INVALID", tag)
        algorithm = reference.partition(":")[0] if by_digest else "sha256"
        digest = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
        if by_digest and digest != reference:
            raise Refused("DIGEST_INVALID", {"Digest": reference})
        content = decode(data, content_type)
        for _ in range(TRIES):
            await self._blobs.keep(digest, data)
            await self._link(name, digest, content, whole)
            for tag in tags if by_digest else [reference, *tags]:
                await self._storage.write(layout.tag_index_link(name, tag, digest), digest.encode())
                await self._storage.write(layout.tag_link(name, tag), digest.encode())
            try:
                # a collector that has seen the manifest and no tag takes what is older than itself
                await self._storage.touch(layout.revision_link(name, digest))
                break
            except Missing:
                continue
        else:
            raise Refused("UNAVAILABLE", "the manifest is deleted all the time")
        return digest, content

    async def _link(self, name: str, digest: str, content: Content, whole: bool) -> None:
        """Note that the repository has the manifest. Raises Refused when a part of it is not there."""
        if whole:
            await self._check(name, content)
        await self._storage.write(layout.revision_link(name, digest), digest.encode())
        try:
            if whole:
                await self._check(name, content)  # the collector may have gone by meanwhile
        except Refused:
            await self._storage.remove(layout.revision_link(name, digest).removesuffix("/link"))
            raise
        if content.subject is not None:
            await self._storage.write(layout.referrer_link(name, content.subject.digest, digest), digest.encode())

    async def _has_child(self, name: str, digest: str) -> bool:
        """Whether the repository has a manifest, or a blob: BuildKit keeps caches as indexes of blobs."""
        try:
            await self._storage.size(layout.revision_link(name, digest))
            return True
        except Missing:
            pass
        try:
            await self._blobs.want(name, digest)
        except Refused:
            return False
        return True

    async def _check(self, name: str, content: Content) -> None:
        """Raise Refused when a part of the manifest is not there; those that are will not be collected soon."""
        missing = []
        for digest in content.needed():
            try:
                await self._blobs.want(name, digest)
            except Refused:
                missing.append(digest)
        for digest in content.children():
            if not await self._has_child(name, digest):
                missing.append(digest)
        if missing:
            raise Missed(missing)

    async def delete(self, name: str, digest: str) -> None:
        """Take a manifest out of a repository, with all tags that mean it. Raises Refused."""
        try:
            content = decode((await self._content(digest))[0])
            await self._storage.size(layout.revision_link(name, digest))
        except Missing:
            raise await self._unknown(name, digest) from None
        for tag in await self.tags(name):
            try:
                if await self.resolve(name, tag) == digest:
                    await self._storage.remove(layout.tag(name, tag))
            except (Refused, Missing):
                continue
        if content.subject is not None:
            try:
                link = layout.referrer_link(name, content.subject.digest, digest)
                await self._storage.remove(link.removesuffix("/link"))
            except Missing:
                pass
        try:
            await self._storage.remove(layout.revision_link(name, digest).removesuffix("/link"))
        except Missing:
            pass

    async def use(self, name: str, digest: str) -> None:
        """Note that a manifest of a cache has been asked for."""
        try:
            await self._storage.touch(layout.revision_link(name, digest), USE_NOTED)
        except Missing:
            pass

    async def untag(self, name: str, tag: str) -> None:
        """Take a tag away; the manifest stays. Raises Refused."""
        await self.resolve(name, tag)
        try:
            await self._storage.remove(layout.tag(name, tag))
        except Missing:
            raise await self._unknown(name, tag) from None

    async def tags(self, name: str) -> list[str]:
        """A repository's tags, sorted. Raises Refused."""
        found = await self._storage.names(layout.tags(name))
        if not found and not await self.exists(name):
            raise Refused("NAME_UNKNOWN", {"name": name})
        return found

    async def referrers(self, name: str, subject: str, artifact_type: str = "") -> list[dict[str, Any]]:
        """Descriptors of the manifests that refer to `subject`, all or those of one type."""
        folder = layout.referrers(name, subject)
        found = []
        for algorithm in await self._storage.names(folder):
            for value in await self._storage.names(f"{folder}/{algorithm}"):
                digest = f"{algorithm}:{value}"
                try:
                    await self._storage.size(layout.revision_link(name, digest))
                    data, kind = await self._content(digest)
                except Missing:
                    continue
                content = decode(data)
                type_ = content.artifact_type
                if not type_ and content.config is not None:
                    type_ = content.config.media_type
                if artifact_type and type_ != artifact_type:
                    continue
                one: dict[str, Any] = {"mediaType": kind, "size": len(data), "digest": digest}
                if type_:
                    one["artifactType"] = type_
                if content.annotations:
                    one["annotations"] = content.annotations
                found.append(one)
        return found


class Missed(Refused):
    """A manifest names what the repository does not have."""

    def __init__(self, digests: list[str]) -> None:
        super().__init__("MANIFEST_BLOB_UNKNOWN", {"digest": digests[0]})
        self.digests = digests
