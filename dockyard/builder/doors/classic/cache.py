"""The build cache: which image came of which step on which image.

A step is known by what it would make: its base, what its line says after variables are replaced (for files, their
checksum), and the configuration that results. So a hit needs no comparing of images.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from dockyard.engine.images.image import Image
from dockyard.engine.images.service import ImageService
from dockyard.engine.state.database import Database
from dockyard.errors import DockyardError
from dockyard.oci.image_config import ContainerConfig, History


class CacheRow(msgspec.Struct, frozen=True):
    """What the database keeps under a step's key."""

    image_id: str


def key_of(base: str, created_by: str, config: ContainerConfig) -> str:
    """The key of a step on the image `base` (an ID, or "" for scratch)."""
    known = msgspec.json.encode(config, order="deterministic")
    return hashlib.sha256(b"\0".join((base.encode(), created_by.encode(), known))).hexdigest()


class BuildCache:
    """Remembers steps; forgets those whose images are gone."""

    def __init__(self, images: ImageService, database: Database) -> None:
        self._images = images
        self._rows = database.collection("build_cache", CacheRow)
        self._making: dict[str, asyncio.Event] = {}

    def find(self, key: str) -> Image | None:
        """The image that this step made before, if it is still here."""
        row = self._rows.get(key)
        if row is None:
            return None
        try:
            image = self._images.find(row.image_id)
        except DockyardError:
            self._rows.delete(key)
            return None
        # what is damaged is made anew, by which it is whole again
        return None if self._images.layers.is_damaged(image.chain_id) else image

    def put(self, key: str, image_id: str) -> None:
        """Remember what a step made."""
        self._rows.put(key, CacheRow(image_id))

    @contextmanager
    def making(self, key: str) -> Iterator[None]:
        """Tell others that the step is being made, for the time of the block."""
        if key in self._making:  # by a build that takes nothing from the cache
            yield
            return
        made = self._making[key] = asyncio.Event()
        try:
            yield
        finally:
            del self._making[key]
            made.set()

    async def made_elsewhere(self, key: str) -> bool:
        """Wait for who is making the step; False when nobody is."""
        made = self._making.get(key)
        if made is None:
            return False
        await made.wait()
        return True

    def prune(self) -> int:
        """Forget everything; how many steps were known."""
        known = [key for key, _ in self._rows.all()]
        for key in known:
            self._rows.delete(key)
        return len(known)


class CacheSources:
    """Images named by `--cache-from`: their history tells what step made which of their layers."""

    def __init__(self, images: Sequence[Image]) -> None:
        self._images = images

    def descend_from(self, image: Image, images: ImageService) -> bool:
        """Whether one of them is `image` or was built on it here."""
        for source in self._images:
            current: Image | None = source
            while current is not None:
                if current.id == image.id:
                    return True
                try:
                    current = images.find(current.parent) if current.parent else None
                except DockyardError:
                    current = None
        return False

    def find(self, base: Image | None, created_by: str) -> tuple[Image, History, str | None] | None:
        """(image, history entry, its layer's diff ID or None) of the step `created_by` after all that `base` has."""
        history = list(base.config.history or ()) if base is not None else []
        diff_ids = list(base.config.rootfs.diff_ids) if base is not None else []
        for image in self._images:
            theirs = list(image.config.history or ())
            if len(theirs) <= len(history) or image.config.rootfs.diff_ids[: len(diff_ids)] != diff_ids:
                continue
            before = theirs[: len(history)]
            if any(a.created_by != b.created_by for a, b in zip(before, history, strict=True)):
                continue
            step = theirs[len(history)]
            if step.created_by != created_by:
                continue
            if step.empty_layer:
                return image, step, None
            if len(image.config.rootfs.diff_ids) > len(diff_ids):
                return image, step, image.config.rootfs.diff_ids[len(diff_ids)]
        return None
