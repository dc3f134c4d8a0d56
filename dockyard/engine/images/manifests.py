"""Manifests and indexes as registries and archives gave them, byte for byte, for as long as a name stands for one.

An image is its configuration, and the engine keeps its layers unpacked: what is here says under which manifest of
which index they came, so that an index stays whole when it is listed, pushed or signed for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from dockyard.engine.images.statements import Statements
from dockyard.engine.state.database import Database
from dockyard.engine.state.documents import Documents
from dockyard.errors import InvalidParameter
from dockyard.folders import own_folder
from dockyard.oci.descriptor import Descriptor
from dockyard.oci.digest import digest_of
from dockyard.oci.manifest import INDEXES, Index, Manifest

# A build's attestations are manifests of this kind, told by what the index says of them.
REFERENCE_TYPE = "vnd.docker.reference.type"
REFERENCE_DIGEST = "vnd.docker.reference.digest"
ATTESTATION = "attestation-manifest"
DEEPEST = 8  # indexes in one another


class ManifestRow(msgspec.Struct, frozen=True):
    """A document as the database keeps it, under its digest."""

    raw: bytes
    media_type: str


class ManifestStore:
    """The documents by digest."""

    def __init__(self, database: Database, folder: Path, statements: Statements) -> None:
        """`folder` gets a copy of each, from which the database can be made again."""
        self.statements = statements
        self._rows = database.collection("manifests", ManifestRow)
        self._folder = own_folder(folder)
        self._documents = Documents(lambda digest: path_of(self._folder, digest), ManifestRow)
        self._known: dict[str, ManifestRow] = {}
        for digest, row in self._rows.all():
            if digest == digest_of(row.raw):
                self._known[digest] = row
            else:
                self._rows.note(digest, "it is not what its digest stands for")
        self._documents.put_all(self._known.items())
        self._undocumented: set[str] = set()
        self._gathering = 0

    def put(self, raw: bytes, media_type: str) -> str:
        """Keep a document; its digest. It stays while a name stands for it, or for an index that lists it."""
        digest = digest_of(raw)
        if digest not in self._known or self._known[digest].media_type != media_type:
            row = ManifestRow(raw, media_type)
            self._rows.put(digest, row)
            self._known[digest] = row
            self._undocumented.add(digest)
        return digest

    def get(self, digest: str) -> ManifestRow | None:
        """The document, if it is kept."""
        return self._known.get(digest)

    def index(self, digest: str) -> Index | None:
        """The index of that digest; None when it is not kept, or is none."""
        row = self._known.get(digest)
        if row is None or row.media_type not in INDEXES:
            return None
        try:
            return Index.decode(row.raw)
        except InvalidParameter:
            return None

    def manifest(self, digest: str) -> Manifest | None:
        """The manifest of that digest; None when it is not kept, or is none of an image."""
        row = self._known.get(digest)
        if row is None or row.media_type in INDEXES:
            return None
        try:
            return Manifest.decode(row.raw)
        except InvalidParameter:
            return None

    def entries(self, target: str, depth: int = DEEPEST) -> list[Descriptor]:
        """The manifests that `target` leads to, through the indexes that are kept; itself when it is one."""
        row = self._known.get(target)
        if row is None:
            return []
        found = self.index(target)
        if found is None:
            return [Descriptor(row.media_type, target, len(row.raw))]
        entries: list[Descriptor] = []
        for entry in found.manifests:
            inner = self.entries(entry.digest, depth - 1) if entry.media_type in INDEXES and depth else []
            entries += inner or [entry]
        return entries

    def statements_of(self, digest: str) -> list[Descriptor] | None:
        """The blobs that an attestation's manifest names; None when not all of that is here."""
        manifest = self.manifest(digest)
        if manifest is None:
            return None
        blobs = [manifest.config, *manifest.layers]
        return blobs if all(blob.digest in self.statements for blob in blobs) else None

    def documented(self) -> None:
        """What has been put so far is in the database, on the disk: give each its copy."""
        fresh, self._undocumented = self._undocumented, set()
        for digest in fresh & set(self._known):
            self._documents.put(digest, self._known[digest])

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Keep what is put in the block until it is left, although no name stands for it yet."""
        self._gathering += 1
        try:
            yield
        finally:
            self._gathering -= 1

    def sweep(self, targets: Iterable[str]) -> None:
        """Drop what no target leads to."""
        if self._gathering:
            return  # the next sweep will see
        wanted: set[str] = set()
        statements: set[str] = set()
        waiting = list(targets)
        while waiting:
            digest = waiting.pop()
            if digest not in wanted:
                wanted.add(digest)
                found = self.index(digest)
                for entry in found.manifests if found is not None else ():
                    waiting.append(entry.digest)
                    if attested(entry) and (about := self.manifest(entry.digest)) is not None:
                        statements.update(blob.digest for blob in (about.config, *about.layers))
        for digest in set(self._known) - wanted:
            del self._known[digest]
            self._rows.delete(digest)
            self._documents.delete(digest)
        self.statements.sweep(statements)


def path_of(folder: Path, digest: str) -> Path:
    """Where the copy of a document lies."""
    return folder / f"{digest.partition(':')[2]}.json"


def attested(entry: Descriptor) -> str:
    """The digest of the manifest that an entry of an index is an attestation for; "" when it is none."""
    if entry.annotations.get(REFERENCE_TYPE) != ATTESTATION:
        return ""
    return entry.annotations.get(REFERENCE_DIGEST, "unknown")
