"""Storage in a bucket of an S3-compatible service, by obstore.

Uploads are gathered in a local folder, where they can be appended to and taken up again, and go to the bucket when they
are whole; registries that share a bucket each have a folder of their own, and an upload's requests have to come to the
same one. That a blob is wanted is noted in an object beside it: what S3 knows of an object's age cannot be changed.
"""

import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from dockyard.errors import InvalidParameter
from dockyard.registry.settings import S3Settings
from dockyard.registry.storage.driver import Missing, Writer
from dockyard.registry.storage.filesystem import FileSystem

WANTED = ".wanted"  # the object beside another that says when it was last wanted
PIECE = 4 << 20
PRESIGNED_FOR = timedelta(minutes=20)
SMALLEST_PART = 5 << 20  # of an upload in parts, as S3 has it


class S3:
    """Storage in a bucket."""

    def __init__(self, options: S3Settings, staging: str) -> None:
        """`staging`: the local folder for uploads. Raises InvalidParameter."""
        if not options.bucket:
            raise InvalidParameter("storage.s3.bucket is missing")
        settings: dict[str, Any] = {"bucket": options.bucket, "region": options.region or "us-east-1"}
        if options.regionendpoint:
            endpoint = options.regionendpoint
            if "://" not in endpoint:
                endpoint = f"{'https' if options.secure else 'http'}://{endpoint}"
            settings["endpoint"] = endpoint
            settings["virtual_hosted_style_request"] = not options.forcepathstyle
        for name, value in (
            ("access_key_id", options.accesskey),
            ("secret_access_key", options.secretkey),
            ("session_token", options.sessiontoken),
        ):
            if value:
                settings[name] = value
        if options.encrypt or options.keyid or options.storageclass:
            raise InvalidParameter("storage.s3: encrypt, keyid and storageclass are not here: set them for the bucket")
        client: Any = {"allow_http": not options.secure or settings.get("endpoint", "").startswith("http:")}
        if options.skipverify:
            client["allow_invalid_certificates"] = True
        root = options.rootdirectory.strip("/")
        try:
            self._store = S3Store(prefix=root or None, client_options=client, **settings)
        except (BaseError, ValueError) as error:
            raise InvalidParameter(f"storage.s3: {error}") from None
        self._part = max(options.chunksize, SMALLEST_PART)
        self._local = FileSystem(staging)
        self._touched: dict[str, float] = {}

    def _is_local(self, path: str) -> bool:
        return "/_uploads/" in f"{path}/"

    async def check(self, path: str) -> None:
        """Raise OSError when the bucket does not answer."""
        try:
            await obstore.list_with_delimiter_async(self._store, path)
        except BaseError as error:
            raise OSError(str(error)) from None

    async def read(self, path: str) -> bytes:
        """A small object's content. Raises Missing."""
        if self._is_local(path):
            return await self._local.read(path)
        try:
            found = await obstore.get_async(self._store, path)
            return bytes(await found.bytes_async())
        except (NotFoundError, FileNotFoundError):
            raise Missing(path) from None
        except BaseError as error:
            raise OSError(str(error)) from None

    async def _head(self, path: str) -> Any:
        try:
            return await obstore.head_async(self._store, path)
        except (NotFoundError, FileNotFoundError):
            raise Missing(path) from None
        except BaseError as error:
            raise OSError(str(error)) from None

    async def size(self, path: str) -> int:
        """An object's length. Raises Missing."""
        if self._is_local(path):
            return await self._local.size(path)
        return int((await self._head(path))["size"])

    async def write(self, path: str, data: bytes) -> None:
        """Make or replace an object."""
        if self._is_local(path):
            await self._local.write(path, data)
            return
        try:
            await obstore.put_async(self._store, path, data)
        except BaseError as error:
            raise OSError(str(error)) from None

    async def names(self, folder: str) -> list[str]:
        """What a folder holds."""
        if folder.endswith("/_uploads"):
            return await self._local.names(folder)
        try:
            found = await obstore.list_with_delimiter_async(self._store, folder)
        except BaseError as error:
            raise OSError(str(error)) from None
        paths = [*found["common_prefixes"], *(one["path"] for one in found["objects"])]
        names = {path.rstrip("/").rpartition("/")[2] for path in paths}
        return sorted(name for name in names if not name.endswith(WANTED))

    async def remove(self, path: str) -> None:
        """Remove an object, or all below a folder. Raises Missing."""
        if self._is_local(path):
            await self._local.remove(path)
            return
        try:
            found = [path] if await self._is_there(path) else []
            async for batch in obstore.list(self._store, f"{path}/"):
                found += [one["path"] for one in batch]
            if not found:
                raise Missing(path)
            await obstore.delete_async(self._store, found)
        except BaseError as error:
            raise OSError(str(error)) from None

    async def _is_there(self, path: str) -> bool:
        try:
            await self._head(path)
        except Missing:
            return False
        return True

    async def discard(self, path: str, older_than: float) -> bool:
        """Remove an object, unless it has been written or wanted since; whether it is gone."""
        try:
            if await self.touched(path) > older_than:
                return False
            await obstore.delete_async(self._store, [path])
            # Who wanted it in between finds it missing when it looks again, and sends it again.
            if await self._is_there(path + WANTED):
                await obstore.delete_async(self._store, [path + WANTED])
        except Missing:
            return True
        except BaseError as error:
            raise OSError(str(error)) from None
        return True

    async def move(self, source: str, target: str) -> None:
        """Bring an upload to its place. Raises Missing."""
        assert self._is_local(source), "only uploads are moved"
        assert not self._is_local(target), "uploads are moved into the bucket"
        size = await self._local.size(source)
        try:
            await obstore.put_async(
                self._store,
                target,
                self._local.pieces(source),
                use_multipart=size > self._part,
                chunk_size=self._part,
            )
        except BaseError as error:
            raise OSError(str(error)) from None

    async def append(self, path: str) -> Writer:
        """Go on writing an upload, or begin it."""
        assert self._is_local(path), "only uploads are appended to"
        return await self._local.append(path)

    async def touch(self, path: str, unless_newer: float = 0) -> None:
        """Note that an object is wanted now. Raises Missing."""
        now = time.monotonic()
        if unless_newer and now - self._touched.get(path, -unless_newer) < unless_newer:
            return
        await self._head(path)
        await self.write(path + WANTED, b"")
        await self._head(path)  # it may have been collected in between
        if len(self._touched) > 100_000:
            self._touched.clear()
        self._touched[path] = now

    async def touched(self, path: str) -> float:
        """When an object was last written or wanted. Raises Missing."""
        if self._is_local(path):
            return await self._local.touched(path)
        found = [await self._head(path)]
        try:
            found.append(await self._head(path + WANTED))
        except Missing:
            pass
        return max(float(one["last_modified"].timestamp()) for one in found)

    async def open(self, path: str) -> tuple[int, int] | None:
        """None but for uploads: there are no files."""
        return await self._local.open(path) if self._is_local(path) else None

    async def pieces(self, path: str, offset: int = 0, count: int = -1) -> AsyncIterator[bytes]:
        """A part of an object. Raises Missing."""
        if self._is_local(path):
            async for piece in self._local.pieces(path, offset, count):
                yield piece
            return
        if count == 0:
            return
        where: Any = (offset, offset + count) if count > 0 else {"offset": offset}
        try:
            found = await obstore.get_async(self._store, path, options={"range": where})
            async for data in found.stream(min_chunk_size=PIECE):
                yield bytes(data)
        except (NotFoundError, FileNotFoundError):
            raise Missing(path) from None
        except BaseError as error:
            raise OSError(str(error)) from None

    async def url(self, path: str) -> str:
        """Where a client can get the object by itself, for a while."""
        return str(await obstore.sign_async(self._store, "GET", path, PRESIGNED_FOR))
