"""Durable state: one SQLite file in WAL mode, used as a store of typed documents.

Each service owns one or more collections, keeps their documents in memory and writes every change through
before it acknowledges it. A commit is a write to the page cache (about 50 µs), so it is done in the event
loop's own thread: a kill -9 at any moment loses nothing that was committed, and a power cut may lose the
last moments but never corrupts (https://www.sqlite.org/pragma.html#pragma_synchronous, NORMAL with WAL).
"""

import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from dockyard.errors import SystemFailure

log = logging.getLogger("dockyard.database")

T = TypeVar("T")

# Kept free beside the database, and given to it when the disk is full: that containers end and are removed, which makes
# room, must always be possible to write down.
RESERVE = 4 << 20


class Collection(Generic[T]):
    """Documents of one type, each under a string key."""

    def __init__(self, database: "Database", name: str, kind: type[T]) -> None:
        if not name.isidentifier():
            raise ValueError(f"not a collection name: {name!r}")
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

    def put(self, key: str, document: T) -> None:
        """Insert or replace the document under `key`; durable when this returns. Raises SystemFailure."""
        self._database.write(self._put, (key, self._encode(document)))

    def get(self, key: str) -> T | None:
        """The document under `key`, or None."""
        row = self._database.connection.execute(self._get, (key,)).fetchone()
        return None if row is None else self._decode(row[0])

    def delete(self, key: str) -> None:
        """Remove the document under `key`; no error when there is none."""
        self._database.write(self._delete, (key,))

    def all(self) -> Iterator[tuple[str, T]]:
        """Every (key, document) in the order of first insertion."""
        for key, document in self._database.connection.execute(self._all).fetchall():
            yield key, self._decode(document)


class Database:
    """The engine's SQLite file. Only one process may hold it: a second `Database(path)` raises SystemFailure."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        # autocommit: every statement is its own transaction unless `transaction()` opens a larger one
        self.connection = sqlite3.connect(self.path, isolation_level=None, cached_statements=256)
        try:
            # Kept exclusively, SQLite needs no shared-memory index and no lock per statement.
            self.connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=NORMAL")
            self.connection.execute("BEGIN IMMEDIATE")
            self.connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self.connection.close()
            raise SystemFailure(
                f"cannot open the state database {self.path}: {error}; is another daemon using it?"
            ) from error
        self._reserve = f"{self.path}-reserve"
        self._given_at: float | None = None  # when the reserve was given away, monotonic
        self._set_aside()

    def _set_aside(self) -> None:
        try:
            fd = os.open(self._reserve, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, RESERVE)
            finally:
                os.close(fd)
            self._given_at = None
        except OSError as error:
            self._give()
            log.warning("no room can be kept for the state database: %s", error.strerror)

    def _give(self) -> bool:
        """Make room. False when that has been done already."""
        self._given_at = time.monotonic()
        try:
            os.unlink(self._reserve)
            return True
        except OSError:
            return False

    def write(self, statement: str, values: Sequence[object]) -> None:
        """One change; durable against all but a power cut when this returns. Raises SystemFailure."""
        if self._given_at is not None and time.monotonic() > self._given_at + 30:
            self._set_aside()
        try:
            try:
                self.connection.execute(statement, values)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_FULL or not self._give():
                    raise
                log.error("the disk is full: the last room kept for the state database is taken")
                self.connection.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise SystemFailure(f"cannot write to the state database {self.path}: {error}") from error

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
        """Fold the write-ahead log into the file and let go of it."""
        self.connection.close()
