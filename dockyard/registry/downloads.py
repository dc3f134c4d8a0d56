"""Blobs on their way from another registry into the cache: one download, however many clients wait for it."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator

from dockyard.content.registry import Repository
from dockyard.errors import DockyardError
from dockyard.generators import closing
from dockyard.oci.descriptor import Descriptor
from dockyard.registry import layout
from dockyard.registry.errors import Refused
from dockyard.registry.metrics import Metrics
from dockyard.registry.storage import Storage
from dockyard.registry.uploads import Uploads

log = logging.getLogger("dockyard.registry")

PIECE = 1 << 18


class Download:
    """One blob. Clients read what has come of it; it goes on when they have gone."""

    def __init__(self, storage: Storage, repository: Repository, name: str, digest: str, size: int) -> None:
        self.size = size
        self.name = name
        self.digest = digest
        self._storage = storage
        self._repository = repository
        self._received = 0
        self._fd = -1  # of what has come, if the storage has files
        self._readers = 0
        self._ended = False
        self._failure: Exception | None = None
        self._waiting: list[asyncio.Future[None]] = []

    async def run(self, uploads: Uploads, metrics: Metrics) -> None:
        """Fetch it and keep it."""
        try:
            upload = await uploads.begin(self.name, self.digest.partition(":")[0])
            try:
                opened = await self._storage.open(f"{layout.upload(self.name, upload.id)}/data")
                self._fd = opened[0] if opened is not None else -1
                blob = Descriptor(digest=self.digest, size=self.size)
                async with closing(self._repository.blob(blob)) as pieces:
                    async for piece in pieces:
                        await upload.write(piece)
                        self._received = upload.size
                        metrics.count("registry_proxy_pulled_bytes_total", len(piece))
                        self._wake()
                await uploads.finish(upload, self.digest)
            except BaseException:
                await uploads.cancel(upload)
                raise
        except (DockyardError, OSError) as error:
            log.error("proxy: %s of %s: %s", self.digest, self.name, error)
            self._failure = error
        finally:
            self._ended = True
            self._wake()
            self._close()

    async def pieces(self, offset: int, count: int) -> AsyncIterator[bytes]:
        """`count` bytes from `offset` on, as they come. Raises OSError when they will not."""
        self._readers += 1
        try:
            end = offset + count
            while offset < end:
                if self._ended and (self._failure is not None or self._fd < 0):
                    break
                available = self._received if self._fd >= 0 else 0
                if available <= offset:
                    await self._more()
                    continue
                data = os.pread(self._fd, min(PIECE, available - offset, end - offset), offset)
                offset += len(data)
                yield data
            if offset == end:
                return
            if self._failure is not None:
                raise OSError(f"the other registry has not given all of {self.digest}: {self._failure}")
            async for data in self._storage.pieces(layout.blob_data(self.digest), offset, end - offset):
                yield data
        finally:
            self._readers -= 1
            self._close()

    async def wait(self) -> None:
        """Wait for its end. Raises Refused when it has failed."""
        while not self._ended:
            await self._more()
        if self._failure is not None:
            raise Refused("UNAVAILABLE", str(self._failure))

    async def _more(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    def _close(self) -> None:
        if self._ended and not self._readers and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
