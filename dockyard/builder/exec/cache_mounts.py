"""`RUN --mount=type=cache`: directories that outlive the steps that use them, and are no part of any layer.

One directory belongs to an ID; with sharing `private` there may be several, one for each step that uses it at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from dockyard.engine.state.database import Database
from dockyard.folders import own_folder

SHARING = ("shared", "private", "locked")


class CacheMountRow(msgspec.Struct, frozen=True):
    """A directory as the database keeps it, under its folder's name. Times are UNIX s."""

    key: str
    id: str
    made: float
    used: float
    uses: int = 0


class CacheMounts:
    """The directories, and who uses them."""

    def __init__(self, database: Database, root: Path) -> None:
        """Take up what the database knows; folders that it does not know are removed."""
        self._root = own_folder(root)
        self._rows = database.collection("build_cache_mounts", CacheMountRow)
        self._known = dict(self._rows.all())
        self._users: dict[str, int] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        for folder in self._root.iterdir():
            if folder.name not in self._known:
                shutil.rmtree(folder, ignore_errors=True)

    @asynccontextmanager
    async def use(
        self, id: str, sharing: str, *, mode: int, uid: int, gid: int, anew: bool = False
    ) -> AsyncIterator[tuple[Path, bool]]:
        """The directory of `id` for the time of the block, and whether it is new (then empty, `mode` and owned so).

        `anew`: it has to be. What was there before stays until it is pruned, but the new one is used from here on.
        """
        key = hashlib.sha256(id.encode()).hexdigest()
        if sharing != "locked":
            async with self._using(key, id, sharing == "private", mode, uid, gid, anew) as found:
                yield found
            return
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock, self._using(key, id, False, mode, uid, gid, anew) as found:
            yield found

    @asynccontextmanager
    async def _using(
        self, key: str, id: str, private: bool, mode: int, uid: int, gid: int, anew: bool
    ) -> AsyncIterator[tuple[Path, bool]]:
        name = None if anew else self._choose(key, private)
        fresh = name is None
        if name is None:
            name = secrets.token_hex(16)
            folder = self._root / name
            folder.mkdir()
            os.chown(folder, uid, gid)
            os.chmod(folder, mode)
            self._known[name] = CacheMountRow(key, id, time.time(), time.time())
        row = self._known[name]
        self._known[name] = msgspec.structs.replace(row, used=time.time(), uses=row.uses + 1)
        self._rows.put(name, self._known[name], lazy=True)
        self._users[name] = self._users.get(name, 0) + 1
        try:
            yield self._root / name, fresh
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name]

    def _choose(self, key: str, private: bool) -> str | None:
        fitting = [
            (row.made, name)
            for name, row in self._known.items()
            if row.key == key and not (private and name in self._users)
        ]
        return max(fitting)[1] if fitting else None

    def rows(self) -> list[tuple[str, CacheMountRow, bool]]:
        """(folder's name, row, whether it is in use) of every directory."""
        return [(name, row, name in self._users) for name, row in self._known.items()]

    def size(self, name: str) -> int:
        """Bytes on the disk; to be called in a thread."""
        total = 0
        for folder, _, files in os.walk(self._root / name):
            for entry in [folder, *(os.path.join(folder, file) for file in files)]:
                try:
                    total += os.lstat(entry).st_blocks * 512
                except OSError:
                    continue
        return total

    async def remove(self, name: str) -> None:
        """Remove a directory that is not in use."""
        if name in self._users or self._known.pop(name, None) is None:
            return
        self._rows.delete(name)
        await asyncio.to_thread(shutil.rmtree, self._root / name, True)
