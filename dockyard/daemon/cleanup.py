"""One budget for what may be had again: images, the build cache and logs. What was used longest ago goes first.

Nothing in use goes: no image of a container, running or not, or of a build; no cache of a build under way; no log that
a process still writes. Neither does what was used a short while ago, which somebody may be about to use.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dockyard.builder.cache.usage import STEP, CacheEntry, CacheUsage
from dockyard.engine.containers.index import ContainerIndex
from dockyard.engine.containers.logs.options import REMOTE
from dockyard.engine.images.layer_store import chains_of
from dockyard.engine.images.service import ImageService
from dockyard.errors import DockyardError, words

log = logging.getLogger("dockyard.cleanup")

EVERY = 60.0  # s
# Growing a little over the budget does not cost what was built for hours, all at once and time and again.
SHARE_KEPT = 0.9
IMAGE = "image"


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that may go; `used` is UNIX s, `remove` gives back the bytes of what no sum of layers tells of."""

    kind: str
    name: str
    used: float
    remove: Callable[[], Awaitable[int]]


class Cleanup:
    """Keeps images, build cache and logs within `budget` bytes (0: whatever comes may stay).

    `keep`: for how many seconds after its last use nothing goes.
    """

    def __init__(self, images: ImageService, usage: CacheUsage, index: ContainerIndex) -> None:
        self._images = images
        self._usage = usage
        self._index = index
        self._budget = 0
        self._keep = 0.0
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def configure(self, budget: int, keep: float) -> None:
        """Keep to another budget."""
        self._budget, self._keep = budget, keep
        self._changed.set()

    def open(self) -> None:
        """Look now and then, from now on."""
        self._task = asyncio.ensure_future(self._look())

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _look(self) -> None:
        while True:
            if self._budget:
                try:
                    await self.collect()
                except (DockyardError, OSError) as error:
                    log.warning("what is over the budget cannot be removed: %s", words(error))
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), EVERY)
            except TimeoutError:
                pass

    async def collect(self) -> int:
        """Remove what is over the budget, and a tenth of it more; the bytes that are free."""
        self._note_uses()
        other, candidates = await self._inventory()
        before = self._layers() + other
        if before <= self._budget:
            return 0
        goal = int(self._budget * SHARE_KEPT)
        gone = -1
        while (
            gone and self._layers() + other > goal
        ):  # an image that goes may leave cache behind that nothing shares now
            gone = 0
            for candidate in candidates:
                if self._layers() + other <= goal:
                    break
                try:
                    other -= await candidate.remove()
                except DockyardError as error:
                    log.debug("%s %s stays: %s", candidate.kind, candidate.name, error.message)
                    continue
                log.info("to keep to the budget, %s %s is removed", candidate.kind, candidate.name)
                gone += 1
                if candidate.kind == IMAGE:
                    break  # what it shared with the cache may be older than the next image
            if gone:
                other, candidates = await self._inventory()
        left = self._layers() + other
        if left > self._budget:
            log.warning("what is in use of images, build cache and logs takes %d bytes: more than the budget", left)
        return max(before - left, 0)

    async def _inventory(self) -> tuple[int, list[Candidate]]:
        """(bytes beside layers, what may go: what was used longest ago first)."""
        entries = await self._usage.entries()
        logs = await asyncio.to_thread(lambda: list(self._logs()))
        other = sum(entry.size for entry in entries if entry.kind != STEP) + sum(size for size, _ in logs)
        found = list(self._image_candidates())
        found += [self._cached(entry) for entry in entries if not entry.in_use and not entry.shared]
        found += [candidate for _, candidate in logs if candidate is not None]
        young = time.time() - self._keep
        return other, sorted((one for one in found if one.used <= young), key=lambda one: one.used)

    def _layers(self) -> int:
        return sum(layer.size for layer in self._images.layers.all().values())

    # -- images

    def _note_uses(self) -> None:
        for image in self._images.all():
            if self._images.users_of(image.id) or not self._images.last_used(image.id):
                self._images.note_use(image.id)

    def _image_candidates(self) -> Iterator[Candidate]:
        held = self._usage.held()
        for image in self._images.all():
            if self._images.users_of(image.id) or self._images.children(image.id):
                continue
            if held.intersection(chains_of(image.config.rootfs.diff_ids)[-1:]):
                continue
            name = image.repo_tags[0] if image.repo_tags else image.id
            yield Candidate(IMAGE, name, self._images.last_used(image.id), self._image_remover(image.id))

    def _image_remover(self, image_id: str) -> Callable[[], Awaitable[int]]:
        async def remove() -> int:
            # asked once more, for a container may have been made since
            if image_id in self._images and not self._images.users_of(image_id):
                await self._images.remove(image_id, force=True)
            return 0

        return remove

    # -- build cache

    def _cached(self, entry: CacheEntry) -> Candidate:
        async def remove() -> int:
            gone = await self._usage.remove(entry)
            return 0 if entry.kind == STEP else gone

        return Candidate("build cache", f"{entry.id} ({entry.description})", entry.used, remove)

    # -- logs

    def _logs(self) -> Iterator[tuple[int, Candidate | None]]:
        """(size, how to remove it, if it may go) of each file of a container's log."""
        for container in self._index.all():
            path = container.record.log_path
            if not path or container.host_config.log_config.type in REMOTE:
                continue  # without a file, or with one of what is still to be sent
            for file in sorted(Path(path).parent.glob(f"{Path(path).name}*")):
                try:
                    status = file.lstat()
                except FileNotFoundError:
                    continue
                current = file.name == Path(path).name or file.name.endswith((".new", ".new.gz"))
                if not status.st_size or (current and container.state.running):
                    yield status.st_size, None
                    continue
                name = f"{container.name} ({file.name})"
                remove = self._log_remover(container.id, file, status.st_ino, current=current)
                yield status.st_size, Candidate("log of", name, status.st_mtime, remove)

    def _log_remover(self, container_id: str, file: Path, inode: int, *, current: bool) -> Callable[[], Awaitable[int]]:
        async def remove() -> int:
            if container_id not in self._index or (current and self._index.get(container_id).state.running):
                return 0
            return await asyncio.to_thread(_emptied if current else _unlinked, file, inode)

        return remove


def _emptied(file: Path, inode: int) -> int:
    """Empty a log's file, which `logs` wants to be there; the bytes that it had."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        status = os.fstat(descriptor)
        if status.st_ino != inode:
            return 0
        os.ftruncate(descriptor, 0)
        return status.st_size
    finally:
        os.close(descriptor)


def _unlinked(file: Path, inode: int) -> int:
    """Remove a rotated file, unless another has its name by now; the bytes that it had."""
    try:
        status = file.lstat()
        if status.st_ino != inode:
            return 0
        file.unlink()
    except FileNotFoundError:
        return 0
    return status.st_size
