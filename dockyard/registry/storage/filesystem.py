"""Storage in a folder. What is written appears by rename(2), so that processes and hosts may share the folder."""

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator

from dockyard.linux.durability import sync_path
from dockyard.registry.storage.driver import Missing

PIECE = 1 << 20
TRIES = 100
COLLECTED = ".collected"  # on its way out; put back when it turns out to be wanted
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class FileWriter:
    """Appends to a file; the writing is done in a thread, for it may wait for the disk."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path
        self.size = os.fstat(fd).st_size

    async def write(self, data: bytes) -> None:
        """Append `data`."""
        await asyncio.get_running_loop().run_in_executor(None, self.write_now, data)

    def write_now(self, data: bytes) -> None:
        """Append `data`, waiting for it."""
        view = memoryview(data)
        while view:
            written = os.write(self._fd, view)
            self.size += written
            view = view[written:]

    async def close(self) -> None:
        """Keep what has been written."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def commit(self) -> None:
        """The content is whole."""
        await asyncio.get_running_loop().run_in_executor(None, os.fsync, self._fd)
        await self.close()


def _make_folders(folder: str) -> list[str]:
    """Make `folder` and those above it that are missing; the folders that have got a new one in them."""
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for one in reversed(missing):
        try:
            os.mkdir(one, 0o755)
        except FileExistsError:  # made by somebody else, who may not have synced it yet
            continue
    return [os.path.dirname(one) for one in missing]


def _sync(folders: set[str]) -> None:
    """Have the names in `folders` on the disk, the innermost first."""
    for folder in sorted(folders, key=len, reverse=True):
        try:
            sync_path(folder)
        except FileNotFoundError:  # removed again
            continue


def _put(target: str, data: bytes) -> None:
    """Write a file beside its place and move it there. Raises FileNotFoundError when the folder is gone."""
    temporary = f"{os.path.dirname(target)}/.{secrets.token_hex(8)}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        try:
            os.write(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


class FileSystem:
    """Storage below the folder `root`."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}"

    async def check(self, path: str) -> None:
        """Raise OSError when the folder cannot be looked at."""
        await asyncio.get_running_loop().run_in_executor(None, os.statvfs, self.root)

    async def read(self, path: str) -> bytes:
        """A small file's content. Raises Missing."""
        try:
            with open(self._at(path), "rb", buffering=0) as file:
                return file.readall()
        except _MISSING:
            raise Missing(path) from None

    async def size(self, path: str) -> int:
        """A file's length. Raises Missing."""
        try:
            return os.stat(self._at(path)).st_size
        except _MISSING:
            raise Missing(path) from None

    async def write(self, path: str, data: bytes) -> None:
        """Make or replace a small file, at once and durably."""
        await asyncio.get_running_loop().run_in_executor(None, self._write, self._at(path), data)

    def _write(self, target: str, data: bytes) -> None:
        folder = os.path.dirname(target)
        changed = {folder}
        for _ in range(TRIES):
            changed.update(_make_folders(folder))
            try:
                _put(target, data)
                break
            except FileNotFoundError:
                continue  # somebody has removed the folder meanwhile
        else:
            raise OSError(errno.EBUSY, "the folder is removed all the time", folder)
        _sync(changed)

    async def names(self, folder: str) -> list[str]:
        """What a folder holds."""
        try:
            return sorted(name for name in os.listdir(self._at(folder)) if not name.startswith("."))
        except _MISSING:
            return []

    async def remove(self, path: str) -> None:
        """Remove a file, or a folder and all in it. Raises Missing."""
        await asyncio.get_running_loop().run_in_executor(None, self._remove, self._at(path))

    def _remove(self, path: str) -> None:
        folder = os.path.dirname(path)
        # a folder goes all at once, whoever writes into it
        aside = f"{folder}/.{secrets.token_hex(8)}.gone"
        try:
            os.rename(path, aside)
        except _MISSING:
            raise Missing(path) from None
        try:
            os.unlink(aside)
        except IsADirectoryError:
            shutil.rmtree(aside, ignore_errors=True)
        _sync({folder})

    async def discard(self, path: str, older_than: float) -> bool:
        """Remove a file, unless it has been written or wanted since; whether it is gone."""
        return await asyncio.get_running_loop().run_in_executor(None, self._discard, self._at(path), older_than)

    def _discard(self, path: str, older_than: float) -> bool:
        aside = path + COLLECTED
        try:
            if os.stat(path).st_mtime > older_than:
                return False
            os.rename(path, aside)
            # Who wanted it before it was put aside has changed its time; who comes after does not find it.
            if os.stat(aside).st_mtime > older_than:
                os.rename(aside, path)
                return False
            os.unlink(aside)
        except FileNotFoundError:
            return True
        try:
            os.rmdir(os.path.dirname(path))
        except OSError:
            pass  # there is something in it again
        return True

    async def move(self, source: str, target: str) -> None:
        """Move a file. Raises Missing."""
        await asyncio.get_running_loop().run_in_executor(None, self._move, self._at(source), self._at(target))

    def _move(self, source: str, target: str) -> None:
        folder = os.path.dirname(target)
        changed = {folder}
        while True:
            changed.update(_make_folders(folder))
            try:
                os.rename(source, target)
                break
            except _MISSING:
                if not os.path.exists(source):
                    raise Missing(source) from None
                # else the folder has been removed meanwhile
        _sync(changed)

    async def append(self, path: str) -> FileWriter:
        """Go on writing a file, or begin it."""
        place = self._at(path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        return FileWriter(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644), place)

    async def touch(self, path: str, unless_newer: float = 0) -> None:
        """Note that a file is wanted now. Raises Missing."""
        place = self._at(path)
        try:
            if not unless_newer or os.stat(place).st_mtime < time.time() - unless_newer:
                os.utime(place)
        except _MISSING:
            raise Missing(path) from None
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EPERM, errno.EACCES):  # then nothing can be collected either
                raise

    async def touched(self, path: str) -> float:
        """When a file was last written or wanted. Raises Missing."""
        try:
            return os.stat(self._at(path)).st_mtime
        except _MISSING:
            raise Missing(path) from None

    async def open(self, path: str) -> tuple[int, int]:
        """(A descriptor of the file, its size). Raises Missing."""
        try:
            fd = os.open(self._at(path), os.O_RDONLY | os.O_CLOEXEC)
        except _MISSING:
            raise Missing(path) from None
        return fd, os.fstat(fd).st_size

    async def url(self, path: str) -> str:
        """Only we can give it."""
        return ""

    async def pieces(self, path: str, offset: int = 0, count: int = -1) -> AsyncIterator[bytes]:
        """A part of a file. Raises Missing."""
        loop = asyncio.get_running_loop()
        fd, size = await self.open(path)
        end = size if count < 0 else min(size, offset + count)
        try:
            while offset < end:
                data = await loop.run_in_executor(None, os.pread, fd, min(PIECE, end - offset), offset)
                if not data:
                    return
                offset += len(data)
                yield data
        finally:
            os.close(fd)
