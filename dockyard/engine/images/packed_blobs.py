"""Layers as they were compressed once, for the next push, archive or cache export: files under their blobs' digests.

They are a cache: each can be made again from its layer, counts in the build cache's budget and goes with
`builder prune`, or with its layer. What is read from here is held against its digest by whoever reads it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec

from dockyard.engine.state.database import Database
from dockyard.errors import SystemFailure
from dockyard.folders import own_folder

log = logging.getLogger("dockyard.images")

PIECE = 1 << 20
_UNFINISHED = "new-"


class PackedBlob(msgspec.Struct, frozen=True):
    """A layer's blob; `packing`: how it was made, such as `gzip` or `zstd 3`. Times are UNIX s."""

    diff_id: str
    packing: str
    digest: str
    size: int
    made: float
    used: float
    uses: int = 0


def packing_of(kind: str, level: int | None = None) -> str:
    """What a way to compress is known by; None: the fast one of ours."""
    return kind if level is None else f"{kind} {level}"


def cache_budget(folder: str | os.PathLike[str]) -> int:
    """Bytes that caches may have where nobody says otherwise: a tenth of the file system, between 2 and 100 GB."""
    status = os.statvfs(folder)
    return min(max(status.f_blocks * status.f_frsize // 10, 2 << 30), 100 << 30)


class PackedBlobs:
    """The blobs that are here."""

    def __init__(self, database: Database, folder: Path, layers: Callable[[], set[str]]) -> None:
        """`layers`: diff IDs of the layers that are here, without which no blob stays."""
        self._folder = own_folder(folder)
        self._rows = database.collection("packed_blobs", PackedBlob)
        self._layers = layers
        self._known: dict[str, PackedBlob] = {}
        self._held: Counter[str] = Counter()
        for digest, row in list(self._rows.all()):
            if self._is_whole(row):
                self._known[digest] = row
            else:
                self._rows.delete(digest, lazy=True)
        for name in os.listdir(self._folder):
            if f"sha256:{name}" not in self._known:  # unfinished, or of a database that is lost
                (self._folder / name).unlink(missing_ok=True)

    def path(self, digest: str) -> Path:
        """Where a blob lies."""
        return self._folder / digest.partition(":")[2]

    def _is_whole(self, row: PackedBlob) -> bool:
        try:
            return self.path(row.digest).stat().st_size == row.size
        except OSError:
            return False

    # -- using

    def find(self, diff_id: str, packing: str) -> PackedBlob | None:
        """The layer, packed so; it counts as used now."""
        wanted = (diff_id, packing)
        return self._found(next((row for row in self._known.values() if (row.diff_id, row.packing) == wanted), None))

    def by_digest(self, digest: str) -> PackedBlob | None:
        """The blob of that digest; it counts as used now."""
        return self._found(self._known.get(digest))

    def _found(self, row: PackedBlob | None) -> PackedBlob | None:
        if row is None:
            return None
        if not self._is_whole(row):
            self.forget(row.digest)
            return None
        row = msgspec.structs.replace(row, used=time.time(), uses=row.uses + 1)
        self._known[row.digest] = row
        self._rows.put(row.digest, row, lazy=True)
        return row

    def hold(self, digest: str) -> None:
        """Keep a blob until it is dropped as often."""
        self._held[digest] += 1

    def drop(self, digest: str) -> None:
        """Let go of a blob that was held."""
        self._held[digest] -= 1
        if self._held[digest] <= 0:
            del self._held[digest]

    async def pieces(self, digest: str) -> AsyncIterator[bytes]:
        """A blob's bytes. Raises SystemFailure at the end when they were not what the digest says; it is gone then."""
        hasher = hashlib.sha256()
        self.hold(digest)
        try:
            with self.path(digest).open("rb") as file:
                while piece := await asyncio.to_thread(file.read, PIECE):
                    await asyncio.to_thread(hasher.update, piece)
                    yield piece
        except FileNotFoundError:
            raise SystemFailure(f"the packed layer {digest} is missing: try again") from None
        finally:
            self.drop(digest)
        if f"sha256:{hasher.hexdigest()}" != digest:
            self.forget(digest)
            raise SystemFailure(f"the packed layer {digest} was damaged on the disk, and is removed: try again")

    # -- keeping

    def begin(self, diff_id: str, packing: str) -> Writing | None:
        """Begin to keep a blob that is being made; None when there is no place for it."""
        try:
            return Writing(self, diff_id, packing, self._folder / f"{_UNFINISHED}{secrets.token_hex(8)}")
        except OSError as error:
            log.info("packed layers are not kept: %s", error)
            return None

    def keep(self, path: Path, row: PackedBlob) -> None:
        """Have a finished file as the blob that `row` tells of. Raises OSError."""
        path.rename(self.path(row.digest))
        self._known[row.digest] = row
        self._rows.put(row.digest, row, lazy=True)
        self._fit(cache_budget(self._folder))

    def _fit(self, budget: int) -> None:
        total = sum(row.size for row in self._known.values())
        for row in sorted(self._known.values(), key=lambda row: row.used):
            if total <= budget:
                return
            if row.digest not in self._held:
                total -= row.size
                self.forget(row.digest)

    # -- letting go

    def rows(self) -> Iterator[tuple[PackedBlob, bool]]:
        """(blob, whether it is in use) of all."""
        return iter([(row, row.digest in self._held) for row in self._known.values()])

    def forget(self, digest: str) -> int:
        """Remove a blob; the bytes that are freed."""
        row = self._known.pop(digest, None)
        self._rows.delete(digest, lazy=True)
        self.path(digest).unlink(missing_ok=True)
        return row.size if row is not None else 0

    def sweep(self) -> None:
        """Remove the blobs of layers that are gone."""
        if self._known:
            layers = self._layers()
            for row, held in self.rows():
                if row.diff_id not in layers and not held:
                    self.forget(row.digest)

    def damaged(self, *, content: bool) -> list[str]:
        """Digests of blobs whose files are missing or cut or, read with `content`, not what they should be."""
        found = []
        for row, _ in self.rows():
            if not self._is_whole(row):
                found.append(row.digest)
            elif content:
                with self.path(row.digest).open("rb") as file:
                    if f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" != row.digest:
                        found.append(row.digest)
        return found


class Writing:
    """A blob on its way here. What goes wrong with that is no failure of what it is made for."""

    def __init__(self, blobs: PackedBlobs, diff_id: str, packing: str, path: Path) -> None:
        """Raises OSError."""
        self._blobs = blobs
        self._diff_id = diff_id
        self._packing = packing
        self._path = path
        self._file = path.open("xb")
        self._failed = False

    def write(self, data: bytes) -> None:
        """Add a piece; to be called in a thread."""
        if not self._failed:
            try:
                self._file.write(data)
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        log.info("a packed layer is not kept: %s", error)
        self._failed = True

    def keep(self, digest: str) -> PackedBlob | None:
        """It is finished and has that digest; None when it could not be written."""
        try:
            self._file.close()
            if not self._failed:
                moment, size = time.time(), self._path.stat().st_size
                row = PackedBlob(self._diff_id, self._packing, digest, size, moment, moment)
                self._blobs.keep(self._path, row)
                return row
        except OSError as error:
            self._fail(error)
        return None

    def abandon(self) -> None:
        """It won't be finished; nothing for one that is."""
        self._failed = True
        try:
            self._file.close()
        except OSError as error:
            log.debug("a packed layer that is not kept can't be closed: %s", error)
        self._path.unlink(missing_ok=True)
