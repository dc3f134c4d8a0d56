"""Packages of RPM: headers (rpm, docs/manual/hregions.md) in an SQLite database, or in one of its own, `ndb`."""

from __future__ import annotations

import os
import sqlite3
import struct
import tempfile
import time
from collections.abc import Iterator

from dockyard.builder.attestations.sbom.package import Package, content, distribution, os_release
from dockyard.builder.trees import Tree

SQLITE = ("var/lib/rpm/rpmdb.sqlite", "usr/lib/sysimage/rpm/rpmdb.sqlite")
NDB = ("var/lib/rpm/Packages.db", "usr/lib/sysimage/rpm/Packages.db")
NAME, VERSION, RELEASE, EPOCH, VENDOR, LICENSE, URL, ARCH, SOURCE = 1000, 1001, 1002, 1003, 1011, 1014, 1020, 1022, 1044
_INT32, _STRING, _STRING_ARRAY, _I18N = 4, 6, 8, 9
_SLOT = struct.Struct("<4sIII")
LARGEST_HEADER = 64 << 20
PATIENCE = 30.0  # s for a whole database
STEPS = 100_000  # of SQLite's machine, between looks at the clock
_MOST_ENTRIES = 1 << 16


def rpm_packages(tree: Tree) -> Iterator[Package]:
    """Fedora's, RHEL's and SUSE's."""
    release = os_release(tree)
    for place in (*SQLITE, *NDB):
        data = content(tree, place)
        for header in _of_sqlite(data) if place in SQLITE else _of_ndb(data):
            tags = tags_of(header)
            name = str(tags.get(NAME, ""))
            if not name or name == "gpg-pubkey":
                continue
            epoch = tags.get(EPOCH)
            yield Package(
                "rpm",
                name,
                f"{tags.get(VERSION, '')}-{tags.get(RELEASE, '')}",
                place,
                release.get("ID", ""),
                str(tags.get(LICENSE, "")),
                str(tags.get(VENDOR, "")),
                str(tags.get(URL, "")),
                {
                    "arch": str(tags.get(ARCH, "")),
                    "epoch": "" if epoch is None else str(epoch),
                    "distro": distribution(release),
                    "upstream": str(tags.get(SOURCE, "")),
                },
            )


def _of_sqlite(data: bytes) -> Iterator[bytes]:
    """The headers in an SQLite database, of which only a copy is opened."""
    if not data.startswith(b"SQLite format 3\0"):
        return
    with tempfile.TemporaryDirectory(prefix="dockyard-rpmdb-") as folder:
        path = os.path.join(folder, "db")
        with open(path, "xb") as file:
            # what is still in a write-ahead log is none of a finished image's; say that there is no log
            file.write(data[:18] + b"\x01\x01" + data[20:])
        try:
            database = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
            try:
                # an image's database may be made to take for ever, or all memory
                database.execute("PRAGMA trusted_schema = OFF")
                database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_HEADER)
                end = time.monotonic() + PATIENCE
                database.set_progress_handler(lambda: int(time.monotonic() > end), STEPS)
                for (blob,) in database.execute("SELECT blob FROM Packages ORDER BY hnum"):
                    yield bytes(blob)
            finally:
                database.close()
        except (sqlite3.Error, TypeError):
            return


def _of_ndb(data: bytes) -> Iterator[bytes]:
    """The headers in an `ndb` database: pages of slots that point to blobs."""
    if not data.startswith(b"RpmP") or len(data) < 4096:
        return
    pages = min(struct.unpack_from("<I", data, 12)[0], len(data) // 4096)
    for place in range(32, pages * 4096, _SLOT.size):
        magic, package, block, _ = _SLOT.unpack_from(data, place)
        start = block * 16
        if magic != b"Slot" or not package or start + 16 > len(data):
            continue
        if data[start : start + 4] == b"BlbS":
            size = struct.unpack_from("<I", data, start + 12)[0]
            yield data[start + 16 : start + 16 + size]


def tags_of(header: bytes) -> dict[int, str | int]:
    """The tags of a header that are text or numbers: the first value of each."""
    if len(header) < 8:
        return {}
    count, size = struct.unpack_from(">II", header)
    store = 8 + 16 * count
    if count > _MOST_ENTRIES or store + size > len(header):
        return {}
    found: dict[int, str | int] = {}
    for place in range(8, store, 16):
        tag, kind, offset, values = struct.unpack_from(">iIiI", header, place)
        start = store + offset
        if not values or not store <= start < len(header):
            continue
        if kind in (_STRING, _STRING_ARRAY, _I18N):
            found[tag] = header[start : header.find(b"\0", start)].decode(errors="replace")
        elif kind == _INT32 and start + 4 <= len(header):
            found[tag] = struct.unpack_from(">I", header, start)[0]
    return found
