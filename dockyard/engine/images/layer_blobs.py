"""Which blobs of which registries hold which layer, so that a push need not send what is already there."""

from __future__ import annotations

import msgspec

from dockyard.engine.state.database import Database
from dockyard.oci.reference import Reference

# Older knowledge is of little use, and a layer pushed to thousands of repositories should not fill the database.
REMEMBERED = 50


class BlobRow(msgspec.Struct, frozen=True):
    """A compressed form of a layer; `repository` is domain/path of where it was seen."""

    digest: str
    size: int
    media_type: str
    repository: str


class LayerBlobs:
    """Per layer (by diff ID) the blobs that are known, newest first."""

    def __init__(self, database: Database) -> None:
        self._rows = database.collection("layer_blobs", list[BlobRow])

    def of(self, diff_id: str) -> list[BlobRow]:
        """The known blobs of a layer, newest first."""
        return self._rows.get(diff_id) or []

    def note(self, diff_id: str, row: BlobRow) -> None:
        """Remember that `row` was seen just now."""
        same = (row.digest, row.repository)
        others = [other for other in self.of(diff_id) if (other.digest, other.repository) != same]
        self._rows.put(diff_id, [row, *others][:REMEMBERED])

    def forget(self, diff_id: str, digest: str, repository: str) -> None:
        """The blob turned out not to be there any more."""
        kept = [row for row in self.of(diff_id) if (row.digest, row.repository) != (digest, repository)]
        self._rows.put(diff_id, kept)

    def for_push(self, diff_id: str, target: Reference) -> list[BlobRow]:
        """Candidates for a push to `target`: its own repository's first, then those of the same registry."""
        here = f"{target.domain}/{target.path}"
        rows = [row for row in self.of(diff_id) if row.repository.partition("/")[0] == target.domain]
        return sorted(rows, key=lambda row: row.repository != here)
