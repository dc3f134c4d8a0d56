"""When the names of files and directories are on the disk, for all who ask at one time at once."""

import asyncio
import os
from collections.abc import Callable

from dockyard.errors import SystemFailure
from dockyard.linux.durability import sync_names


class DirectorySync:
    """Sees names to the disk that were made, changed or removed: one sync for each file system and all who wait."""

    def __init__(self, failed: Callable[[str, OSError], SystemFailure]) -> None:
        """`failed`, see Database.sync_failed."""
        self._failed = failed
        # by device: how often has been asked, up to which of these it has been done, and what is at it
        self._asked: dict[int, int] = {}
        self._done: dict[int, int] = {}
        self._syncing: dict[int, asyncio.Future[None]] = {}

    async def reach(self, *folders: str | os.PathLike[str]) -> None:
        """Until whatever has happened to names on the file systems of `folders` survives a power cut.

        A file's content is another matter. Raises SystemFailure.
        """
        for device, folder in {os.stat(folder).st_dev: os.fspath(folder) for folder in folders}.items():
            wanted = self._asked[device] = self._asked.get(device, 0) + 1
            while self._done.get(device, 0) < wanted:
                if device not in self._syncing:
                    self._syncing[device] = asyncio.ensure_future(self._sync(device, folder))
                await asyncio.shield(self._syncing[device])

    async def _sync(self, device: int, folder: str) -> None:
        reached = self._asked[device]
        try:
            await asyncio.to_thread(sync_names, folder)
        except OSError as error:
            raise self._failed(folder, error) from error
        finally:
            del self._syncing[device]
        self._done[device] = reached
