"""Garbage collection while the registry goes on: blobs that no manifest names go, and uploads that nobody finishes.

Nothing waits for it, and nobody has to stop writing. Whoever is about to name a blob in a manifest notes on the blob
that it is wanted (Blobs.want), links the manifest, and looks again. The collector finds out what is named, and then
puts each other blob aside, looks whether it has been wanted since it began, and puts it back if so. Whichever comes
first: either the blob stays, or who pushes is told that it is not there and sends it again.
"""

import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from dockyard.oci.digest import PATTERN
from dockyard.registry import layout
from dockyard.registry.catalog import Catalog
from dockyard.registry.errors import Refused
from dockyard.registry.manifests import Content, Link, Manifests, decode
from dockyard.registry.storage import Missing, Storage

log = logging.getLogger("dockyard.registry")


@dataclass
class Report:
    """What a collection came to."""

    repositories: int = 0
    manifests: int = 0  # that stay
    untagged: list[str] = field(default_factory=list)  # name@digest of manifests that went
    blobs: int = 0  # that stay
    collected: list[str] = field(default_factory=list)  # digests of blobs that went
    young: int = 0  # blobs that would have gone, were they older
    freed: int = 0  # bytes
    uploads: int = 0  # that were given up

    def __str__(self) -> str:
        return (
            f"{len(self.collected)} blobs and {len(self.untagged)} untagged manifests collected, "
            f"{self.freed} bytes freed; "
            f"{self.blobs} blobs and {self.manifests} manifests of {self.repositories} repositories stay; "
            f"{self.young} blobs are not old enough; {self.uploads} unfinished uploads given up"
        )


class Collector:
    """One collection."""

    def __init__(
        self,
        storage: Storage,
        manifests: Manifests,
        *,
        grace: float,
        untagged: bool = False,
        unused: bool = False,
        dry_run: bool = False,
    ) -> None:
        """What is younger than `grace` seconds stays; with `untagged`, manifests that no tag leads to go as well.

        `unused`: so do manifests of a cache that nobody has asked for during that time.
        """
        self._unused = unused
        self._storage = storage
        self._manifests = manifests
        self._catalog = Catalog(storage)
        self._limit = time.time() - grace
        self._untagged = untagged
        self._dry_run = dry_run
        self.report = Report()

    async def run(self) -> Report:
        """Collect."""
        named: set[str] = set()
        repositories = await self._catalog.repositories(with_uploads=True)
        for name in repositories:
            named |= await self._mark(name)
        self.report.repositories = len(repositories)
        await self._sweep(named)
        if self.report.collected and not self._dry_run:
            gone = set(self.report.collected)
            for name in repositories:
                await self._unlink(name, gone)
        return self.report

    async def purge_uploads(self, age: float) -> None:
        """Give up uploads to which nothing has been added for `age` seconds."""
        due = time.time() - age
        for name in await self._catalog.repositories(with_uploads=True):
            for one in await self._storage.names(layout.uploads(name)):
                folder = layout.upload(name, one)
                try:
                    touched = await self._storage.touched(f"{folder}/data")
                except Missing:
                    touched = 0.0
                if touched < due:
                    self.report.uploads += 1
                    if not self._dry_run:
                        await self._remove(folder)

    # -- what is named

    async def _mark(self, name: str) -> set[str]:
        """The digests of all that the manifests of a repository are and name."""
        found = await self._contents(name)
        if self._unused:
            found = await self._used(name, found)
        if self._untagged:
            kept = await self._reachable(name, found)
            for digest in found.keys() - kept:
                if not await self._drop(name, digest, found[digest]):
                    kept.add(digest)
            found = {digest: found[digest] for digest in found if digest in kept}
        self.report.manifests += len(found)
        named = set(found)
        for content in found.values():
            named.update(content.needed(everything=True), content.children())
        return named

    async def _contents(self, name: str) -> dict[str, Content]:
        """What each manifest of a repository says."""
        found = {}
        folder = layout.revisions(name)
        for algorithm in await self._storage.names(folder):
            for value in await self._storage.names(f"{folder}/{algorithm}"):
                digest = f"{algorithm}:{value}"
                try:
                    await self._storage.size(layout.revision_link(name, digest))
                    data = await self._storage.read(layout.blob_data(digest))
                except Missing:
                    continue  # deleted meanwhile, or long gone: it keeps nothing
                found[digest] = _content(data)
        return found

    async def _reachable(self, name: str, found: dict[str, Content]) -> set[str]:
        """Those that a tag leads to, or that are too young, with what is in them and what refers to them."""
        waiting = set()
        for tag in await self._storage.names(layout.tags(name)):
            try:
                waiting.add(await self._manifests.resolve(name, tag))
            except Refused:
                continue
        for digest in found:
            try:
                if await self._storage.touched(layout.revision_link(name, digest)) > self._limit:
                    waiting.add(digest)
            except Missing:
                continue
        referring: dict[str, list[str]] = {}
        for digest, content in found.items():
            if content.subject is not None:
                referring.setdefault(content.subject.digest, []).append(digest)
        kept: set[str] = set()
        while waiting:
            digest = waiting.pop()
            if digest in kept or digest not in found:
                continue
            kept.add(digest)
            waiting.update(found[digest].children(), referring.get(digest, ()))
        return kept

    async def _used(self, name: str, found: dict[str, Content]) -> dict[str, Content]:
        """Those that somebody has asked for, or whose parts somebody has; the others are taken out."""
        kept = {}
        for digest, content in found.items():
            if not await self._drop(name, digest, content):
                kept[digest] = content
        for tag in await self._storage.names(layout.tags(name)) if len(kept) < len(found) else ():
            try:
                if await self._manifests.resolve(name, tag) not in kept and not self._dry_run:
                    await self._storage.discard(layout.tag_link(name, tag), self._limit)
            except Refused:
                continue
        return kept

    async def _drop(self, name: str, digest: str, content: Content) -> bool:
        """Take a manifest out of a repository, unless it has been pushed again meanwhile; whether it is out."""
        link = layout.revision_link(name, digest)
        if not self._dry_run and not await self._storage.discard(link, self._limit):
            return False
        self.report.untagged.append(f"{name}@{digest}")
        if content.subject is not None and not self._dry_run:
            await self._storage.discard(layout.referrer_link(name, content.subject.digest, digest), self._limit)
        return True

    # -- what goes

    async def _sweep(self, named: set[str]) -> None:
        async for digest in self._all_blobs():
            if digest in named:
                self.report.blobs += 1
                continue
            path = layout.blob_data(digest)
            try:
                size = await self._storage.size(path)
                old = await self._storage.touched(path) <= self._limit
            except Missing:
                continue
            if old and (self._dry_run or await self._storage.discard(path, self._limit)):
                self.report.collected.append(digest)
                self.report.freed += size
            else:
                self.report.young += 1

    async def _all_blobs(self) -> AsyncIterator[str]:
        for algorithm in await self._storage.names(layout.BLOBS):
            for start in await self._storage.names(f"{layout.BLOBS}/{algorithm}"):
                for value in await self._storage.names(f"{layout.BLOBS}/{algorithm}/{start}"):
                    yield f"{algorithm}:{value}"

    async def _unlink(self, name: str, gone: set[str]) -> None:
        """Take links to blobs that are gone out of a repository."""
        folder = layout.layers(name)
        for algorithm in await self._storage.names(folder):
            for value in await self._storage.names(f"{folder}/{algorithm}"):
                digest = f"{algorithm}:{value}"
                if digest not in gone or await self._is_there(digest):
                    continue
                await self._remove(f"{folder}/{algorithm}/{value}")
                if await self._is_there(digest):  # it has been sent anew in between
                    await self._storage.write(layout.layer_link(name, digest), digest.encode())

    async def _is_there(self, digest: str) -> bool:
        try:
            await self._storage.size(layout.blob_data(digest))
        except Missing:
            return False
        return True

    async def _remove(self, path: str) -> None:
        try:
            await self._storage.remove(path)
        except Missing:
            pass


def _content(data: bytes) -> Content:
    """What a manifest says; of one that we do not read (schema 1, say), that it needs whatever it mentions."""
    try:
        return decode(data)
    except Refused:
        return Content(layers=[Link(digest) for digest in PATTERN.findall(data.decode("utf-8", "replace"))])
