"""The shape of what the state database holds, as a number in its header (PRAGMA user_version).

Fields that a document lacks have their defaults, and unknown ones are ignored: the number grows only when an older
daemon would misread what a newer one has written, or when a newer one must change what is there.
"""

import json
import logging
import sqlite3
from collections.abc import Callable
from typing import Any

from dockyard.errors import SystemFailure

log = logging.getLogger("dockyard.database")


def bring_up_to_date(connection: sqlite3.Connection, path: str) -> None:
    """Take older state to today's shape, all of it or nothing. Raises SystemFailure for a newer daemon's."""
    found = version_of(connection)
    if found > VERSION:
        raise SystemFailure(
            f"the state database {path} was written by a newer Dockyard (schema {found}; this one knows up to "
            f"{VERSION}): install that version again"
        )
    if found == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for migrate in MIGRATIONS[found:]:
            migrate(connection)
        connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    log.info("the state database is now of schema %d (it was of %d)", VERSION, found)


def version_of(connection: sqlite3.Connection) -> int:
    """The schema of an open database."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _change(connection: sqlite3.Connection, collection: str, change: Callable[[dict[str, Any]], bool]) -> None:
    """Let `change` see every document of a collection, if there is one, and keep those that it says it has changed."""
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (collection,))
    if known.fetchone() is None:
        return
    for key, document in connection.execute(f"SELECT key, document FROM {collection}").fetchall():
        try:
            decoded = json.loads(document)
        except (ValueError, TypeError):
            continue  # it is told of when it is read
        if isinstance(decoded, dict) and change(decoded):
            text = json.dumps(decoded, separators=(",", ":")).encode()
            connection.execute(f"UPDATE {collection} SET document = ? WHERE key = ?", (text, key))


def _swappiness_unset(connection: sqlite3.Connection) -> None:
    """Clients say -1 for "as it is", and engines before limits were checked kept that: no container could start."""

    def change(record: dict[str, Any]) -> bool:
        host = record.get("host_config")
        if not isinstance(host, dict) or host.get("MemorySwappiness") != -1:
            return False
        host["MemorySwappiness"] = None
        return True

    _change(connection, "containers", change)


# What takes state of the schema before to the one after, from 0 on.
MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_swappiness_unset,)
VERSION = len(MIGRATIONS)
