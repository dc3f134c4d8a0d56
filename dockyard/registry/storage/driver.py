"""What a registry asks of its storage. Paths are relative, with slashes; several processes may share one storage."""

from collections.abc import AsyncIterator
from typing import Protocol


class Missing(Exception):
    """There is nothing at that path."""


class Writer(Protocol):
    """Appends to a file that nobody else reads yet."""

    size: int

    async def write(self, data: bytes) -> None:
        """Append `data`."""

    async def close(self) -> None:
        """Keep what has been written, for a later Writer to go on with."""

    async def commit(self) -> None:
        """The content is whole: have it on the disk; then it may be moved to its place."""


class Storage(Protocol):
    """A tree of files."""

    async def check(self, path: str) -> None:
        """Raise OSError when the storage does not answer."""

    async def read(self, path: str) -> bytes:
        """A small file's content. Raises Missing."""

    async def size(self, path: str) -> int:
        """A file's length in bytes. Raises Missing."""

    async def write(self, path: str, data: bytes) -> None:
        """Make or replace a small file: it is there as a whole, and on the disk, or not at all."""

    async def names(self, folder: str) -> list[str]:
        """What a folder holds, sorted; nothing when it is not there."""

    async def remove(self, path: str) -> None:
        """Remove a file, or a folder and all in it. Raises Missing."""

    async def discard(self, path: str, older_than: float) -> bool:
        """Remove a file, unless it has been written or wanted since (seconds since the epoch); whether it is gone."""

    async def move(self, source: str, target: str) -> None:
        """Move a file, over one that is there. Raises Missing."""

    async def append(self, path: str) -> Writer:
        """Go on writing a file, or begin it."""

    async def touch(self, path: str, unless_newer: float = 0) -> None:
        """Note that a file is wanted now, unless that was noted less than so many seconds ago. Raises Missing."""

    async def touched(self, path: str) -> float:
        """When a file was last written or wanted, in seconds since the epoch. Raises Missing."""

    async def open(self, path: str) -> tuple[int, int] | None:
        """(A descriptor of the file for the caller to close, its size); None: use `pieces`. Raises Missing."""

    async def url(self, path: str) -> str:
        """Where a client can get the file by itself; "" when only we can give it."""

    def pieces(self, path: str, offset: int = 0, count: int = -1) -> AsyncIterator[bytes]:
        """`count` bytes of a file from `offset` on, piece by piece; all if it is negative. Raises Missing."""
