"""Which names point to which image: tags (`docker.io/library/busybox:latest`) and digests (`…/busybox@sha256:…`).

A name points to one image. If it stands for an index of several platforms' images, it also keeps those of them that
are here beside that one, and knows the index (or the manifest) that the registry or archive had under it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from dockyard.engine.state.database import Database
from dockyard.engine.state.documents import Documents
from dockyard.errors import NotFound
from dockyard.oci.reference import Reference

DOCUMENT = "names.json"
TARGETS_DOCUMENT = "targets.json"


class NameRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the database keeps under a full reference.

    `target`: the digest of the index or manifest that the name stands for, as it came; "": none came. `beside`: the
    IDs of its images for further platforms.
    """

    image_id: str
    target: str = ""
    beside: list[str] = []


class ImageNames:
    """The reference store. A name points to at most one image; an image may have any number of names."""

    def __init__(self, database: Database, folder: Path) -> None:
        """`folder` gets a document of all names, and one of what stands behind them."""
        self._rows = database.collection("image_names", NameRow)
        self._document = Documents(lambda _: folder / DOCUMENT, dict[str, str])
        self._targets = Documents(lambda _: folder / TARGETS_DOCUMENT, dict[str, NameRow])
        self._kept: dict[str, NameRow] = {}
        self._names: dict[str, dict[str, Reference]] = {}
        self._beside: dict[str, dict[str, Reference]] = {}
        for full, row in self._rows.all():
            self._enter(full, Reference.parse(full), row)
        # Those that the database has lost, if it has: they are not forgotten for its sake.
        written = self._document.read(folder / DOCUMENT) or {}
        self._lost = {full: image_id for full, image_id in written.items() if full not in self._kept}
        behind = self._targets.read(folder / TARGETS_DOCUMENT) or {}
        self._lost_rows = {full: row for full, row in behind.items() if full in self._lost}
        self._write_down()

    def _write_down(self, *, but: str = "") -> None:
        known = {full: row.image_id for full, row in self._kept.items()}
        names = {full: image_id for full, image_id in {**self._lost, **known}.items() if full != but}
        self._document.put("names", names)
        behind = {**self._lost_rows, **{full: row for full, row in self._kept.items() if row.target}}
        self._targets.put("targets", {full: row for full, row in behind.items() if full in names})

    def _enter(self, full: str, name: Reference, row: NameRow) -> None:
        self._kept[full] = row
        self._names.setdefault(row.image_id, {})[full] = name
        for image_id in row.beside:
            self._beside.setdefault(image_id, {})[full] = name

    def resolve(self, name: Reference) -> str | None:
        """The ID of the image `name` points to; the tag defaults to latest, and a digest goes before a tag."""
        row = self._kept.get(key_of(name))
        return row.image_id if row is not None else None

    def row(self, name: Reference) -> NameRow | None:
        """All that is kept under a name, if it is known."""
        return self._kept.get(key_of(name))

    def targets(self) -> dict[str, list[Reference]]:
        """{digest of an index or manifest: the names that stand for it}."""
        found: dict[str, list[Reference]] = {}
        for full, row in self._kept.items():
            if row.target:
                found.setdefault(row.target, []).append(self._names[row.image_id][full])
        return found

    def targets_of(self, image_id: str) -> list[str]:
        """What names of the image stand for, tags before digests."""
        names = sorted(self._names.get(image_id, {}).items(), key=lambda one: (one[1].digest is not None, one[0]))
        return list(dict.fromkeys(target for full, _ in names if (target := self._kept[full].target)))

    def beside(self, image_id: str) -> list[Reference]:
        """The names that keep an image for a further platform."""
        return [name for _, name in sorted(self._beside.get(image_id, {}).items())]

    def of(self, image_id: str) -> list[Reference]:
        """Every name of an image, in order."""
        return [name for _, name in sorted(self._names.get(image_id, {}).items())]

    def tags_of(self, image_id: str) -> list[str]:
        """The image's tags as users write them: busybox:latest."""
        return [name.familiar() for name in self.of(image_id) if name.digest is None]

    def digests_of(self, image_id: str) -> list[str]:
        """The image's digests as users write them: busybox@sha256:…"""
        return [name.familiar() for name in self.of(image_id) if name.digest is not None]

    def in_repository(self, repository: Reference) -> list[tuple[Reference, str]]:
        """(name, image ID) of every tag in the repository of `repository`, in order."""
        return [
            (name, image_id)
            for full, image_id in sorted((full, row.image_id) for full, row in self._kept.items())
            if (name := self._names[image_id][full]).digest is None
            and (name.domain, name.path) == (repository.domain, repository.path)
        ]

    def put(self, name: Reference, image_id: str, target: str = "", beside: Sequence[str] = ()) -> str | None:
        """Point `name` at an image; returns the ID of the image it pointed to before, if another."""
        full = key_of(name)
        before = self._kept.get(full)
        row = NameRow(image_id, target, [other for other in beside if other != image_id])
        if before == row:
            return None
        self._rows.put(full, row)
        self._lost.pop(full, None)
        self._lost_rows.pop(full, None)
        if before is not None:
            self._leave(full)
        self._enter(full, Reference.parse(full), row)
        self._write_down()
        return before.image_id if before is not None and before.image_id != image_id else None

    def leave_out(self, image_id: str) -> None:
        """Have no name keep the image for a further platform; names that point to it point to another, if they can."""
        for name in self.beside(image_id):
            row = self._kept[key_of(name)]
            self.put(name, row.image_id, row.target, [other for other in row.beside if other != image_id])
        for name in self.of(image_id):
            row = self._kept[key_of(name)]
            if row.beside:
                self.put(name, row.beside[0], row.target, row.beside[1:])

    def forget_target(self, digest: str) -> None:
        """Have the names that stand for an index or manifest stand for their image alone."""
        for name in self.targets().get(digest, []):
            self.put(name, self._kept[key_of(name)].image_id)

    def delete(self, name: Reference) -> Reference:
        """Take `name` away and return it as it was kept. Raises NotFound."""
        full = key_of(name)
        row = self._kept.get(full)
        if row is None:
            raise NotFound(f"No such image: {name.familiar()}")
        kept = self._names[row.image_id][full]
        self._write_down(but=full)
        self._rows.delete(full)
        self._leave(full)
        return kept

    def _leave(self, full: str) -> None:
        row = self._kept.pop(full)
        for table, image_id in [(self._names, row.image_id), *((self._beside, other) for other in row.beside)]:
            names = table[image_id]
            del names[full]
            if not names:
                del table[image_id]


def key_of(name: Reference) -> str:
    """The one spelling under which a name is kept: a digest wins over a tag, no tag means latest."""
    return name.with_digest(name.digest).full() if name.digest is not None else name.or_latest().full()
