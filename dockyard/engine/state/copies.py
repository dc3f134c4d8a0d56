"""Copies of the state database, taken while the daemon runs: what is left to go on from when the database is lost.

    <data root>/backups/dockyard.db.1     the newest, at most a minute behind
    <data root>/backups/dockyard.db.2     the newest of an hour before it, and so on

A copy takes its place only when it has been read and found whole.
"""

import asyncio
import logging
import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dockyard.errors import SystemFailure
from dockyard.folders import own_folder

if TYPE_CHECKING:  # which tells of our copies when it is damaged
    from dockyard.engine.state.database import Database

log = logging.getLogger("dockyard.database")

INTERVAL = 60.0  # seconds between two copies, at least
AGE = 3600.0  # seconds between two that are kept beside the newest
KEPT = 3
PAGES = 64  # copied at a time; writers wait for no more


def folder_of(database: str) -> Path:
    """Where the copies of the database at that path are."""
    return Path(database).with_name("backups")


def copies(database: str) -> list[Path]:
    """Those there are, the newest first."""
    found = (folder_of(database) / f"{Path(database).name}.{number}" for number in range(1, KEPT + 1))
    return [path for path in found if path.is_file()]


def last_good(database: str) -> Path | None:
    """The newest that is whole."""
    return next((path for path in copies(database) if problem_of(path) is None), None)


def problem_of(path: Path) -> str | None:
    """What is wrong with the copy at `path`, if anything is."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as copy:
            return problem_in(copy)
    except sqlite3.Error as error:
        return str(error)


def problem_in(connection: sqlite3.Connection) -> str | None:
    """What SQLite finds wrong with an open database, if anything."""
    found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    return None if found == "ok" else found.splitlines()[-1]


def advice(database: str) -> str:
    """How to go on without the database, as the second half of a line that says why it must be."""
    good = last_good(database)
    if good is None:
        copy = "there is no good copy of it"
    else:
        taken = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(good.stat().st_mtime))
        copy = f"the last good copy is {good} of {taken}"
    return f"{copy}; run dockyardd --recover, with the daemon's other options, to rebuild it from that and the folders"


class StateCopies:
    """Takes the copies."""

    def __init__(self, database: "Database") -> None:
        self._database = database
        self._copied = -1  # how many changes the newest copy has
        self._task: asyncio.Task[None] | None = None
        self._taking = asyncio.Lock()

    def open(self) -> None:
        """Copy at once and, a minute after the last time, whenever something has changed."""
        self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """Copy what has changed since, and stop."""
        if self._task is not None:
            self._task.cancel()
        await asyncio.shield(self._take_if_changed())

    async def _run(self) -> None:
        while True:
            # not to be cut short: the thread that copies would go on with a database that is closed
            await asyncio.shield(self._take_if_changed())
            await asyncio.sleep(INTERVAL)

    async def _take_if_changed(self) -> None:
        async with self._taking:
            if self._database.written == self._copied:
                return
            written = self._database.written
            try:
                await asyncio.to_thread(self.take)
                self._copied = written
            except (OSError, sqlite3.Error, SystemFailure) as error:
                log.warning("cannot copy the state database: %s", error)

    def take(self) -> None:
        """Take a copy. May run in another thread than the database's. Raises OSError, sqlite3.Error, SystemFailure."""
        folder = folder_of(self._database.path)
        own_folder(folder)
        newest = folder / f"{Path(self._database.path).name}.1"
        fresh = newest.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            with closing(sqlite3.connect(fresh)) as copy:
                copy.execute("PRAGMA synchronous=OFF")  # it is synced below
                self._database.connection.backup(copy, pages=PAGES, sleep=0.005)
                copy.execute("PRAGMA journal_mode=DELETE")  # one file, whole by itself
                problem = problem_in(copy)
            if problem is not None:
                raise SystemFailure(f"the state database {self._database.path} is damaged: {problem}")
            _sync(fresh)
            self._make_room(newest)
            fresh.rename(newest)
            _sync(folder)
        finally:
            for path in (fresh, fresh.with_name(f"{fresh.name}-journal")):
                with suppress(FileNotFoundError):
                    path.unlink()

    @staticmethod
    def _make_room(newest: Path) -> None:
        """Keep the newest so far, unless the one behind it is young enough."""
        behind = newest.with_suffix(".2")
        if not newest.exists() or (behind.exists() and newest.stat().st_mtime - behind.stat().st_mtime < AGE):
            return
        for number in range(KEPT, 1, -1):
            source = newest.with_suffix(f".{number - 1}")
            if source.exists():
                source.rename(newest.with_suffix(f".{number}"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
