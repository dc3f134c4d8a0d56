"""What has come of large blobs before their download was broken off: a later one goes on from there.

The daemon may be killed, or the user gives up and tries again. What was kept is not synced and so is good for this boot
only; it is verified with the rest, and goes as soon as the blob has come whole.
"""

import asyncio
import contextlib
import fcntl
import itertools
import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

log = logging.getLogger("dockyard.images")

SMALLEST = 4 << 20  # bytes: a smaller blob is fetched anew
KEPT_FOR = 86400.0  # seconds
PIECE = 1 << 20
MOST_VECTORS = 1024  # of one writev(2), IOV_MAX


class KeptDownloads:
    """The folder of what has come of blobs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        self.sweep()

    def sweep(self) -> None:
        """Forget what is of an earlier boot, or old."""
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):
                if not path.name.endswith(f".{self._boot}") or path.stat().st_mtime < time.time() - KEPT_FOR:
                    path.unlink()

    def begin(self, digest: str, size: int) -> "KeptDownload | None":
        """What there is of a blob, and where more of it goes; None when it is not worth it, or others are at it."""
        if size < SMALLEST:
            return None
        path = self._folder / f"{digest.partition(':')[2]}.{self._boot}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            log.warning("what comes of %s is not kept: %s", digest, error)
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        found = KeptDownload(path, fd)
        if found.size > size:
            found.forget()
            return None
        return found


class KeptDownload:
    """What has come of one blob."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self.size = os.fstat(fd).st_size

    async def pieces(self) -> AsyncIterator[bytes]:
        """What was kept earlier."""
        loop = asyncio.get_running_loop()
        offset, end = 0, self.size
        while offset < end:
            data = await loop.run_in_executor(None, os.pread, self._fd, min(PIECE, end - offset), offset)
            if not data:
                return
            offset += len(data)
            yield data

    async def add(self, data: bytes) -> None:
        """More has come. It is written when there is enough of it; a full disk ends the keeping, not the download."""
        if self._fd < 0:
            return
        self._waiting.append(data)
        self._waiting_size += len(data)
        if self._waiting_size >= PIECE:
            pieces, self._waiting = self._waiting, []
            self._waiting_size = 0
            try:
                await asyncio.get_running_loop().run_in_executor(None, _write, self._fd, pieces)
            except OSError as error:
                log.warning("what comes of a blob is not kept any more: %s", error)
                self.forget()

    def forget(self) -> None:
        """It has come whole, or is wrong."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        self._waiting.clear()
        self.close()

    def close(self) -> None:
        """It was broken off: keep it for later."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                _write(self._fd, self._waiting)
            os.close(self._fd)
            self._fd = -1


def _write(fd: int, pieces: Sequence[bytes]) -> None:
    views: deque[memoryview] = deque(memoryview(piece) for piece in pieces)
    while views:
        written = os.writev(fd, list(itertools.islice(views, MOST_VECTORS)))
        while views and written >= len(views[0]):
            written -= len(views.popleft())
        if written:
            views[0] = views[0][written:]
