"""Which names point to which image: tags (`docker.io/library/busybox:latest`) and digests (`…/busybox@sha256:…`)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from dockyard.engine.state.database import Database
from dockyard.engine.state.documents import Documents
from dockyard.errors import NotFound
from dockyard.oci.reference import Reference

DOCUMENT = "names.json"


class NameRow(msgspec.Struct, frozen=True):
    """What the database keeps under a full reference."""

    image_id: str


class ImageNames:
    """The reference store. A name points to at most one image; an image may have any number of names."""

    def __init__(self, database: Database, folder: Path) -> None:
        """`folder` gets a document of all names."""
        self._rows = database.collection("image_names", NameRow)
        self._document = Documents(lambda _: folder / DOCUMENT, dict[str, str])
        self._images: dict[str, str] = {}
        self._names: dict[str, dict[str, Reference]] = {}
        for full, row in self._rows.all():
            self._enter(full, Reference.parse(full), row.image_id)
        # Those that the database has lost, if it has: they are not forgotten for its sake.
        written = self._document.read(folder / DOCUMENT) or {}
        self._lost = {full: image_id for full, image_id in written.items() if full not in self._images}
        self._write_down()

    def _write_down(self, *, but: str = "") -> None:
        names = {full: image_id for full, image_id in {**self._lost, **self._images}.items() if full != but}
        self._document.put("names", names)

    def _enter(self, full: str, name: Reference, image_id: str) -> None:
        self._images[full] = image_id
        self._names.setdefault(image_id, {})[full] = name

    def resolve(self, name: Reference) -> str | None:
        """The ID of the image `name` points to; the tag defaults to latest, and a digest goes before a tag."""
        return self._images.get(key_of(name))

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
            for full, image_id in sorted(self._images.items())
            if (name := self._names[image_id][full]).digest is None
            and (name.domain, name.path) == (repository.domain, repository.path)
        ]

    def put(self, name: Reference, image_id: str) -> str | None:
        """Point `name` at an image; returns the ID of the image it pointed to before, if another."""
        full = key_of(name)
        before = self._images.get(full)
        if before == image_id:
            return None
        self._rows.put(full, NameRow(image_id))
        self._lost.pop(full, None)
        if before is not None:
            self._leave(full, before)
        self._enter(full, Reference.parse(full), image_id)
        self._write_down()
        return before

    def delete(self, name: Reference) -> Reference:
        """Take `name` away and return it as it was kept. Raises NotFound."""
        full = key_of(name)
        image_id = self._images.get(full)
        if image_id is None:
            raise NotFound(f"No such image: {name.familiar()}")
        kept = self._names[image_id][full]
        self._write_down(but=full)
        self._rows.delete(full)
        self._leave(full, image_id)
        return kept

    def _leave(self, full: str, image_id: str) -> None:
        self._images.pop(full, None)
        names = self._names[image_id]
        del names[full]
        if not names:
            del self._names[image_id]


def key_of(name: Reference) -> str:
    """The one spelling under which a name is kept: a digest wins over a tag, no tag means latest."""
    return name.with_digest(name.digest).full() if name.digest is not None else name.or_latest().full()
