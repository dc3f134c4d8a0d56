"""Durable state: one SQLite file in WAL mode, used as a store of typed documents.

Each service owns one or more collections, keeps their documents in memory and writes every change through
before it acknowledges it. A commit is a write to the page cache (about 50 µs), so it is done in the event
loop's own thread: a kill -9 at any moment loses nothing that was committed. A power cut may take the last moments back
but never corrupts (https://www.sqlite.org/pragma.html#pragma_synchronous, NORMAL with WAL), so nothing is acknowledged
before `on_disk` says that it has reached the disk: the API waits for that with every answer to a change. Only what is
`lazy`, of things that end with the power anyway (containers with `--rm`), is not waited for.
"""

import asyncio
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from dockyard.engine.state import copies as state_copies
from dockyard.engine.state import schema
from dockyard.engine.state.directory_sync import DirectorySync
from dockyard.errors import SystemFailure, words
from dockyard.linux import syscalls
from dockyard.linux.durability import loses_writes

log = logging.getLogger("dockyard.database")

T = TypeVar("T")

# Room that the database's files have beyond their ends, whoever fills the disk: that containers end and are removed,
# which makes room again, must always be possible to write down. The log is begun anew at every 4 MB.
RESERVE = 8 << 20
RESERVE_FILE = "-reserve"  # has it while no daemon runs


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that is there and is no document of its collection's type."""

    collection: str
    key: str
    reason: str


class Collection(Generic[T]):
    """Documents of one type, each under a string key."""

    def __init__(self, database: "Database", name: str, kind: type[T]) -> None:
        if not name.isidentifier():
            raise ValueError(f"not a collection name: {name!r}")
        self.name = name
        self._database = database
        self._decode = msgspec.json.Decoder(kind).decode
        self._encode = msgspec.json.Encoder().encode
        self._put = (
            f"INSERT INTO {name} (key, document) VALUES (?, ?)"
            " ON CONFLICT (key) DO UPDATE SET document = excluded.document"
        )
        self._get = f"SELECT document FROM {name} WHERE key = ?"
        self._delete = f"DELETE FROM {name} WHERE key = ?"
        self._all = f"SELECT key, document FROM {name} ORDER BY rowid"
        database.connection.execute(
            f"CREATE TABLE IF NOT EXISTS {name} (key TEXT PRIMARY KEY NOT NULL, document BLOB NOT NULL)"
        )

    def put(self, key: str, document: T, *, lazy: bool = False) -> None:
        """Insert or replace the document under `key`; see `Database.write`. Raises SystemFailure."""
        self._database.write(self._put, (key, self._encode(document)), lazy=lazy)
        if self._database.unreadable:
            self._database.unreadable.pop((self.name, key), None)

    def get(self, key: str) -> T | None:
        """The document under `key`, or None; what can't be read is noted in `unreadable`, and None."""
        row = self._database.connection.execute(self._get, (key,)).fetchone()
        try:
            return None if row is None else self._decode(row[0])
        except (msgspec.DecodeError, TypeError) as error:
            self.note(key, error)
            return None

    def delete(self, key: str, *, lazy: bool = False) -> None:
        """Remove the document under `key`; no error when there is none."""
        self._database.write(self._delete, (key,), lazy=lazy)

    def all(self) -> Iterator[tuple[str, T]]:
        """Every (key, document) in the order of first insertion; what can't be read is noted in `unreadable`."""
        for key, document in self._database.connection.execute(self._all).fetchall():
            try:
                decoded = self._decode(document)
            except (msgspec.DecodeError, TypeError) as error:
                self.note(key, error)
                continue
            yield key, decoded

    def note(self, key: object, error: Exception | str) -> None:
        """What is under `key` can't be used."""
        row = Unreadable(self.name, str(key), str(error))
        if self._database.unreadable.get((row.collection, row.key)) != row:
            self._database.unreadable[row.collection, row.key] = row
            log.error("what the state database has under %s in %s cannot be read: %s", key, self.name, error)


class Database:
    """The engine's SQLite file. Only one process may hold it: a second `Database(path)` raises SystemFailure."""

    def __init__(self, path: str | Path) -> None:
        """Open it, or make it. Raises SystemFailure for one that is in use, damaged, or a newer daemon's."""
        self.path = str(path)
        self.fresh = not os.path.exists(self.path)  # made just now
        # What is in it and could not be read; while there is anything, nothing may be removed for not being in it.
        self.unreadable: dict[tuple[str, str], Unreadable] = {}
        self.connection = _opened(self.path)
        # Held open to the end: closing a file of the database lets go of SQLite's locks on it (fcntl(2), F_SETLK).
        self._files = [os.open(path, os.O_RDWR | os.O_CLOEXEC) for path in (self.path, f"{self.path}-wal")]
        # how many changes have been made, up to which one somebody waits for the disk, and how many are there
        self.written = self._promised = self._synced = 0
        self._syncing: asyncio.Future[None] | None = None
        self.names = DirectorySync(self.sync_failed)  # of what rows speak of: to be on the disk before them
        self._failure = ""  # of a sync: what it was for may be lost, although the next one succeeds
        Path(f"{self.path}{RESERVE_FILE}").unlink(missing_ok=True)
        self._reserve()

    def _reserve(self) -> None:
        """Have room of our own behind the ends of the files."""
        try:
            for fd in self._files:
                syscalls.fallocate(fd, syscalls.FALLOC_FL_KEEP_SIZE, 0, os.fstat(fd).st_size + RESERVE)
        except OSError as error:  # full already, or a file system that can't
            log.debug("no room can be reserved for the state database: %s", error.strerror)

    def write(self, statement: str, values: Sequence[object], *, lazy: bool = False) -> None:
        """One change; a kill -9 does not undo it when this returns. `lazy`: `on_disk` need not wait for it.

        Raises SystemFailure.
        """
        try:
            self.connection.execute(statement, values)
        except sqlite3.OperationalError as error:
            full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
            raise SystemFailure(
                f"cannot write to the state database {self.path}: {'no space left on device' if full else error}"
            ) from error
        self.written += 1
        if not lazy:
            self._promised = self.written
        if self.written % 1000 == 0:
            self._reserve()

    async def on_disk(self) -> None:
        """Until all that has been written so far survives a power cut. Those who wait at one time share one sync.

        Raises SystemFailure when the disk fails, from then on always.
        """
        wanted = self._promised
        while self._synced < wanted:
            if self._syncing is None:
                self._syncing = asyncio.ensure_future(self._sync())
            await asyncio.shield(self._syncing)

    def hasten(self) -> None:
        """Let what has been written so far reach the disk soon, though nobody waits for it."""
        if self._synced < self._promised and self._syncing is None:
            self._syncing = asyncio.ensure_future(self._sync())
            self._syncing.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _sync(self) -> None:
        reached = self.written
        try:
            self.check_disk()
            # SQLite has it all in the write-ahead log, and syncs that itself before it moves it to the database.
            await asyncio.to_thread(os.fdatasync, self._files[1])
        except OSError as error:
            raise self.sync_failed("the state database", error) from error
        finally:
            self._syncing = None
        self._synced = reached

    def sync_failed(self, what: str, error: OSError) -> SystemFailure:
        """What to raise when `what`, of the data root, could not be synced.

        A disk that has lost a write is not trusted any more: `check_disk` says so from then on, and `on_disk` of every
        change.
        """
        failure = f"cannot write {what} to the disk: {error.strerror}"
        if loses_writes(error):
            self._failure = failure = f"{failure}; restart the daemon"
        return SystemFailure(failure)

    def check_disk(self) -> None:
        """Raise SystemFailure when the disk has lost a write: that a sync succeeds says nothing any more."""
        if self._failure:
            raise SystemFailure(self._failure)

    def is_new(self) -> bool:
        """Whether nothing has ever been kept in it."""
        tables = self.connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return not any(self.connection.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() for (name,) in tables)

    def raw(self, row: Unreadable) -> bytes:
        """What a row that can't be read holds."""
        found = self.connection.execute(f"SELECT document FROM {row.collection} WHERE key = ?", (row.key,)).fetchone()
        held = found[0] if found is not None else b""
        return held if isinstance(held, bytes) else str(held).encode()

    def remove(self, row: Unreadable) -> None:
        """Remove a row that can't be read. Raises SystemFailure."""
        self.write(f"DELETE FROM {row.collection} WHERE key = ?", (row.key,))
        self.unreadable.pop((row.collection, row.key), None)

    def collection(self, name: str, kind: type[T]) -> Collection[T]:
        """The collection `name` of documents of type `kind` (a msgspec struct), created when missing."""
        return Collection(self, name, kind)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all writes inside the block one atomic change. Must not be held across an await."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self.connection.in_transaction:  # some errors end it
                self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def close(self) -> None:
        """Fold the write-ahead log into the file and let go of it; its room is kept for the next one's."""
        self.connection.close()
        while self._files:
            os.close(self._files.pop())
        try:
            descriptor = os.open(f"{self.path}{RESERVE_FILE}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, 2 * RESERVE)  # each file has one
            finally:
                os.close(descriptor)
        except OSError as error:  # full already, or read-only
            log.debug("no room can be kept for the state database: %s", error.strerror)


def _opened(path: str) -> sqlite3.Connection:
    """The database at `path`, ours alone, found whole and brought up to date."""
    _make_private(path)
    try:
        # autocommit: every statement is its own transaction unless `transaction()` opens a larger one
        # copies of it are taken in another thread; SQLite lets one thread in at a time
        connection = sqlite3.connect(path, isolation_level=None, cached_statements=256, check_same_thread=False)
    except sqlite3.OperationalError as error:
        raise SystemFailure(f"cannot open the state database {path}: {_what_is_wrong(path, error)}") from error
    try:
        # Kept exclusively, SQLite needs no shared-memory index and no lock per statement.
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("COMMIT")
        problem = state_copies.problem_in(connection)
        if problem is not None:
            raise sqlite3.DatabaseError(problem)
        schema.bring_up_to_date(connection, path)
    except sqlite3.OperationalError as error:
        connection.close()
        raise SystemFailure(f"cannot open the state database {path}: {_what_is_wrong(path, error)}") from error
    except sqlite3.DatabaseError as error:
        connection.close()
        raise SystemFailure(f"the state database {path} is damaged ({error}); {state_copies.advice(path)}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _make_private(path: str) -> None:
    """Have the file, for root's eyes only: SQLite would make it for everyone's. Its further files are made like it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SystemFailure(f"cannot open the state database {words(error)}") from error
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.chmod(f"{path}{suffix}", 0o600)


def _what_is_wrong(path: str, error: sqlite3.OperationalError) -> str:
    for name in (path, f"{path}-wal"):
        if os.path.isdir(name):
            return f"{name} is a directory"
    if error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"{error}; is another daemon using it?"
    return str(error)
