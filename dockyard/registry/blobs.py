"""Blobs: each is kept once, and a repository has those that it links to."""

import asyncio
import hashlib

from dockyard.registry import layout
from dockyard.registry.errors import Refused
from dockyard.registry.storage import Missing, Storage
from dockyard.registry.storage.filesystem import FileSystem

# Who asks about a blob may soon name it in a manifest: the collector is told, at most every so many seconds.
TOUCH_INTERVAL = 300.0


class Blobs:
    """The blobs of all repositories."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    async def has(self, name: str, digest: str) -> bool:
        """Whether the repository `name` has the blob."""
        try:
            await self.storage.size(layout.layer_link(name, digest))
        except Missing:
            return False
        return True

    async def size(self, name: str, digest: str, *, wanted: bool = False) -> int:
        """A blob's length. Raises Refused when the repository does not have it.

        `wanted`: whoever asks may go on to name it in a manifest, so that it must not be collected soon.
        """
        path = layout.blob_data(digest)
        try:
            await self.storage.size(layout.layer_link(name, digest))
            if wanted:
                await self.storage.touch(path, TOUCH_INTERVAL)
            return await self.storage.size(path)
        except Missing:
            raise Refused("BLOB_UNKNOWN", {"digest": digest}) from None

    async def want(self, name: str, digest: str) -> None:
        """Note that a manifest is about to name the blob: it will not be collected. Raises Refused if it is gone."""
        try:
            await self.storage.size(layout.layer_link(name, digest))
            await self.storage.touch(layout.blob_data(digest))
        except Missing:
            raise Refused("BLOB_UNKNOWN", {"digest": digest}) from None

    async def mount(self, name: str, source: str, digest: str) -> int | None:
        """Have a blob of the repository `source` in `name`, too: its size; None when it is not there."""
        try:
            size = await self.size(source, digest, wanted=True)
        except Refused:
            return None
        await self.link(name, digest)
        return size

    async def mount_from_anywhere(self, name: str, digest: str) -> int | None:
        """Have a blob of any repository in `name`, too. Only where everybody may read all."""
        path = layout.blob_data(digest)
        try:
            await self.storage.touch(path)
            size = await self.storage.size(path)
        except Missing:
            return None
        await self.link(name, digest)
        return size

    async def link(self, name: str, digest: str) -> None:
        """Note that the repository has a blob."""
        if not await self.has(name, digest):
            await self.storage.write(layout.layer_link(name, digest), digest.encode())

    async def delete(self, name: str, digest: str) -> None:
        """Take a blob out of a repository; the content goes with the next collection. Raises Refused."""
        try:
            await self.storage.remove(layout.layer_link(name, digest).removesuffix("/link"))
        except Missing:
            raise Refused("BLOB_UNKNOWN", {"digest": digest}) from None

    async def keep(self, digest: str, data: bytes) -> None:
        """Keep a small blob whose digest has been checked."""
        path = layout.blob_data(digest)
        try:
            await self.storage.touch(path)
        except Missing:
            await self.storage.write(path, data)


async def digest_of_file(storage: Storage, path: str, algorithm: str) -> str:
    """The digest of a file in the storage."""
    if isinstance(storage, FileSystem):
        fd, _ = await storage.open(path)

        def read() -> str:
            with open(fd, "rb", buffering=0) as file:
                return hashlib.file_digest(file, algorithm).hexdigest()

        return f"{algorithm}:{await asyncio.get_running_loop().run_in_executor(None, read)}"
    hasher = hashlib.new(algorithm)
    async for piece in storage.pieces(path):
        hasher.update(piece)
    return f"{algorithm}:{hasher.hexdigest()}"
