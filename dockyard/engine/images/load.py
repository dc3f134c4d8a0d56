"""`load`: images out of an archive, which is first unpacked into a directory of its own by the archive process."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from dockyard.engine.images.archive import Group, SavedImage, Unpacked, contents
from dockyard.engine.images.layer_store import LayerSource
from dockyard.engine.images.layers import register_layers
from dockyard.engine.images.progress import Progress
from dockyard.errors import InvalidParameter, NotFound
from dockyard.oci.descriptor import Platform
from dockyard.oci.manifest import runs_on
from dockyard.oci.reference import Reference
from dockyard.snapshots import trees

if TYPE_CHECKING:
    from dockyard.engine.images.service import ImageService


class Loader:
    """One `load`."""

    def __init__(
        self, images: ImageService, progress: Progress, *, quiet: bool, platforms: Sequence[Platform] = ()
    ) -> None:
        """With `platforms`, images for others are left out."""
        self._images = images
        self._platforms = platforms
        self._progress = progress
        self._quiet = quiet
        self._stages = False
        self._wanted: Counter[int] = Counter()  # how often each file of the archive is still to be a layer

    async def load(self, pieces: AsyncIterator[bytes], scratch: str, *, stages: bool = False) -> list[str]:
        """Bring in every image of the archive and return their IDs; `scratch` is on the data root's file system.

        With `stages` the layers are told of as those of a pull, and names are left to the caller. Raises
        InvalidParameter for what is no image archive, or a broken one.
        """
        self._stages = stages
        place = tempfile.mkdtemp(prefix="load-", dir=scratch)
        try:
            await self._images.layers.archives.unpack(pieces, place)
            unpacked = Unpacked(place)
            try:
                return await self._load(unpacked)
            finally:
                unpacked.close()
        finally:
            # whatever else is cancelled: else what waits for a thread would never be done
            await asyncio.shield(asyncio.to_thread(trees.remove_tree, place))

    async def _load(self, archive: Unpacked) -> list[str]:
        saved, groups = contents(archive)
        loaded = []
        named = False
        saved = [item for item in saved if self._fits(archive, item)]
        for group in groups:
            images = [item for item in saved if item.config in group.images]
            if images and not any(item.repo_tags for item in images):  # the one that had the name is not wanted
                images[0].repo_tags = group.tags
        self._wanted.update(file for item in saved for file in _files(archive, item.layers or ()).values())
        indexed = {Reference.parse(tag) for group in groups for tag in group.tags}
        later: list[tuple[Reference, str]] = []
        for item in saved:
            image_id = await self._image(archive, item)
            loaded.append(image_id)
            if self._stages:
                continue
            for tag in map(Reference.parse, item.repo_tags or ()):
                named = True
                if tag in indexed:  # a kill before all its images are here must not leave it with one of them
                    later.append((tag, image_id))
                else:
                    await self._tag(tag, image_id)
            await self._images.on_disk()
            self._images.emit("load", image_id, image_id)
        if groups and not self._stages:
            await self._stand_for(groups, later)
        if not named and not self._stages:
            self._progress.stream("".join(f"Loaded image ID: {image_id}\n" for image_id in loaded))
        return loaded

    def _fits(self, archive: Unpacked, item: SavedImage) -> bool:
        if not self._platforms:
            return True
        config = self._images.decode(archive.read(item.config))
        found = Platform(config.architecture, config.os, config.variant)
        return any(runs_on(found, wanted) for wanted in self._platforms)

    async def _stand_for(self, groups: Sequence[Group], names: Sequence[tuple[Reference, str]]) -> None:
        """Have names, with the images that they mean, stand for the indexes that the archive has under them."""
        images = self._images
        with images.manifests.gathering():
            targets: dict[Reference, str] = {}
            for group in groups:
                for statement in group.statements:
                    await asyncio.to_thread(images.manifests.statements.put, statement)
                digests = [images.manifests.put(raw, media_type) for raw, media_type in group.documents]
                targets.update((Reference.parse(tag), digests[0]) for tag in group.tags)
            for name, image_id in names:
                here = images.platforms.here(targets[name])
                if image_id in here:
                    await self._tag(name, image_id, targets[name], here)
                else:
                    await self._tag(name, image_id)

    async def _tag(self, name: Reference, image_id: str, target: str = "", beside: Sequence[str] = ()) -> None:
        if name.tag is None:
            raise InvalidParameter(f'invalid tag "{name.familiar()}"')
        before = self._images.names.resolve(name)
        if before is not None and before != image_id:
            self._progress.stream(
                f"The image {name.familiar()} already exists, renaming the old one with ID {before} to empty string\n"
            )
        self._images.names.put(name, image_id, target, beside)
        await self._images.on_disk()
        self._progress.stream(f"Loaded image: {name.familiar()}\n")

    async def _image(self, archive: Unpacked, item: SavedImage) -> str:
        raw = archive.read(item.config)
        diff_ids = self._images.decode(raw).rootfs.diff_ids
        paths = item.layers or []
        if len(paths) != len(diff_ids):
            raise InvalidParameter(
                f"invalid manifest, layers length mismatch: expected {len(paths)}, got {len(diff_ids)}"
            )

        def source(index: int, diff_id: str) -> Callable[[], Awaitable[LayerSource]]:
            async def opened() -> LayerSource:
                file = archive.open(paths[index])
                if not self._quiet:
                    watch = asyncio.ensure_future(self._watch(file, diff_id))
                    watching.add(watch)
                return file

            return opened

        def stage(text: str) -> Callable[[int], None]:
            def tell(index: int) -> None:
                if self._stages:
                    self._progress.stage(text, _short(diff_ids[index]))

            return tell

        watching: set[asyncio.Future[None]] = set()
        try:
            layers = await register_layers(
                self._images,
                diff_ids,
                source,
                present=stage("Already exists"),
                missing=stage("Pulling fs layer"),
                done=stage("Pull complete"),
            )
        finally:
            for watch in watching:
                watch.cancel()
        try:
            await asyncio.to_thread(self._done_with, archive, paths)
            await self._images.layers.settle()
            return self._images.put(raw)
        finally:
            for layer in layers:
                self._images.layers.drop(layer.chain_id)

    def _done_with(self, archive: Unpacked, paths: Sequence[str]) -> None:
        """Empty the layers that no further image has: `settle` would write them to the disk a second time."""
        for path, file in _files(archive, paths).items():
            self._wanted[file] -= 1
            if not self._wanted[file]:
                archive.empty(path)

    async def _watch(self, file: BinaryIO, diff_id: str) -> None:
        """Tell how far the unpacker, which shares the file's position, has come."""
        total = os.fstat(file.fileno()).st_size
        short = _short(diff_id)
        while not file.closed:
            current = os.lseek(file.fileno(), 0, os.SEEK_CUR)
            self._progress.bar("Loading layer", short, current, total, final=current >= total)
            if current >= total:
                return
            await asyncio.sleep(0.1)
        self._progress.bar("Loading layer", short, total, total, final=True)


def _files(archive: Unpacked, paths: Sequence[str]) -> dict[str, int]:
    """The identities of those that are there: layers that the engine has already may be left out of an archive."""
    found = {}
    for path in paths:
        with suppress(NotFound, InvalidParameter):
            found[path] = archive.identity(path)
    return found


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
