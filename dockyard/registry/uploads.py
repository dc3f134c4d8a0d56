"""Blobs on their way in: begun, sent in pieces, taken up again after a break, finished or given up."""

import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncIterator

from dockyard.registry import layout
from dockyard.registry.blobs import Blobs, digest_of_file
from dockyard.registry.errors import Refused
from dockyard.registry.storage import Missing, Storage, Writer

DIGESTS = ("sha256", "sha512")
# An upload of which nothing is heard for so long is forgotten by this process, in seconds; its files stay.
FORGOTTEN_AFTER = 600.0


class Upload:
    """One upload, as far as this process knows it."""

    def __init__(self, name: str, id: str, writer: Writer, algorithm: str) -> None:
        self.name = name
        self.id = id
        self.lock = asyncio.Lock()
        self.used = time.monotonic()
        self._writer = writer
        # what has been written by another process, or before a restart, is read again at the end
        self._hasher = hashlib.new(algorithm) if writer.size == 0 else None
        self._algorithm = algorithm

    @property
    def size(self) -> int:
        """How many bytes have come."""
        return self._writer.size

    async def write(self, data: bytes) -> None:
        """Append `data`."""
        if self._hasher is not None:
            loop = asyncio.get_running_loop()
            hashed = loop.run_in_executor(None, self._hasher.update, data) if len(data) > 1 << 16 else None
            if hashed is None:
                self._hasher.update(data)
            try:
                await self._writer.write(data)
            finally:
                if hashed is not None:
                    await hashed
        else:
            await self._writer.write(data)
        self.used = time.monotonic()

    def digest(self, algorithm: str) -> str | None:
        """The digest of all that has come, if it is known."""
        if self._hasher is None or algorithm != self._algorithm:
            return None
        return f"{algorithm}:{self._hasher.hexdigest()}"

    async def commit(self) -> None:
        """All has come: have it on the disk."""
        await self._writer.commit()

    async def close(self) -> None:
        """Let go of the file."""
        await self._writer.close()


class Uploads:
    """The uploads to all repositories."""

    def __init__(self, storage: Storage, blobs: Blobs) -> None:
        self._storage = storage
        self._blobs = blobs
        self._open: dict[str, Upload] = {}

    async def begin(self, name: str, algorithm: str = "sha256") -> Upload:
        """A new upload. Raises Refused for an algorithm that is not known."""
        if algorithm not in DIGESTS:
            raise Refused("DIGEST_INVALID", f"unsupported digest algorithm {algorithm}")
        key = str(uuid.uuid4())
        folder = layout.upload(name, key)
        writer = await self._storage.append(f"{folder}/data")
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        await self._storage.write(f"{folder}/startedat", started.encode())
        await self._forget_idle()
        upload = self._open[key] = Upload(name, key, writer, algorithm)
        return upload

    async def find(self, name: str, id: str) -> Upload:
        """An upload that has begun, here or in another process. Raises Refused."""
        upload = self._open.get(id)
        if upload is not None and upload.name != name:
            raise Refused("BLOB_UPLOAD_UNKNOWN")
        path = f"{layout.upload(name, id)}/data"
        try:
            size = await self._storage.size(path)
        except Missing:
            self._open.pop(id, None)
            raise Refused("BLOB_UPLOAD_UNKNOWN") from None
        if upload is not None and not upload.lock.locked() and upload.size != size:
            await self._forget(upload)  # another process has gone on with it
            upload = None
        if upload is None:
            upload = self._open[id] = Upload(name, id, await self._storage.append(path), "sha256")
        return upload

    async def receive(self, upload: Upload, pieces: AsyncIterator[bytes], start: int | None = None) -> None:
        """Append what comes. `start`: where the client believes that it begins. Raises Refused."""
        async with upload.lock:
            if start is not None and start != upload.size:
                raise Refused("RANGE_INVALID", headers=self.headers(upload))
            async for data in pieces:
                await upload.write(data)

    async def finish(self, upload: Upload, digest: str) -> int:
        """All has come: keep it as the blob `digest` of the repository; its size. Raises Refused."""
        async with upload.lock:
            algorithm = digest.partition(":")[0]
            folder = layout.upload(upload.name, upload.id)
            size = upload.size
            await upload.commit()
            found = upload.digest(algorithm) or await digest_of_file(self._storage, f"{folder}/data", algorithm)
            if found != digest:
                await self._cancel(upload)
                raise Refused("DIGEST_INVALID", {"Digest": digest, "Reason": "content does not match digest"})
            target = layout.blob_data(digest)
            try:
                await self._storage.touch(target)
            except Missing:
                await self._storage.move(f"{folder}/data", target)
                await self._storage.touch(target)  # it is as new as its link
            await self._blobs.link(upload.name, digest)
            await self._cancel(upload)
            return size

    async def cancel(self, upload: Upload) -> None:
        """Give an upload up."""
        async with upload.lock:
            await self._cancel(upload)

    async def _cancel(self, upload: Upload) -> None:
        await self._forget(upload)
        try:
            await self._storage.remove(layout.upload(upload.name, upload.id))
        except Missing:
            pass

    async def _forget(self, upload: Upload) -> None:
        self._open.pop(upload.id, None)
        await upload.close()

    async def _forget_idle(self) -> None:
        due = time.monotonic() - FORGOTTEN_AFTER
        for upload in [one for one in self._open.values() if one.used < due and not one.lock.locked()]:
            await self._forget(upload)

    async def close(self) -> None:
        """Let go of every file; each upload can be taken up again."""
        for upload in list(self._open.values()):
            await self._forget(upload)

    @staticmethod
    def headers(upload: Upload) -> dict[str, str]:
        """What is said of an upload that goes on."""
        return {
            "Location": f"/v2/{upload.name}/blobs/uploads/{upload.id}",
            "Range": f"0-{max(0, upload.size - 1)}",
            "Docker-Upload-UUID": upload.id,
        }
