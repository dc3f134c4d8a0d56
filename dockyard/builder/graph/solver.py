"""The solver, one for the engine: what every build's job finds results in and makes them with."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dockyard.builder.cache.records import StepCache
from dockyard.builder.graph.vertex import Rootfs
from dockyard.builder.trees import DirectoryTree
from dockyard.engine.containers.layers import ContainerLayers
from dockyard.engine.images.layer_store import LayerStore
from dockyard.errors import DockyardError

if TYPE_CHECKING:
    from dockyard.builder.exec.cache_mounts import CacheMounts
    from dockyard.builder.exec.run import Runner
    from dockyard.builder.graph.job import Job
    from dockyard.builder.graph.work import Flight
    from dockyard.engine.images.service import ImageService


log = logging.getLogger("dockyard.builder")


class Solver:
    """Finds and makes results for any number of jobs."""

    def __init__(
        self,
        images: ImageService,
        layers: LayerStore,
        container_layers: ContainerLayers,
        cache: StepCache,
        runner: Runner,
        cache_mounts: CacheMounts,
        folder: Path,
        exec_folder: Path,
    ) -> None:
        """`folder` for what jobs keep for their time, `exec_folder` on a tmpfs for what must not reach the disk."""
        self.images = images
        self.layers = layers
        self.container_layers = container_layers
        self.cache = cache
        self.runner = runner
        self.cache_mounts = cache_mounts
        self.folder = folder
        self.exec_folder = exec_folder
        shutil.rmtree(exec_folder, ignore_errors=True)  # a daemon that was killed may have left secrets there
        self.flights: dict[str, Flight] = {}
        self.jobs: set[Job] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        # RUNs at one time; those that wait for something else than a CPU are let through, too
        self.turns = asyncio.Semaphore(max(4, 2 * (os.cpu_count() or 1)))

    def remove_container(self, container_id: str) -> asyncio.Task[None]:
        """Remove a container of a build, whatever becomes of the build meanwhile."""
        task = asyncio.ensure_future(self._remove_container(container_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _remove_container(self, container_id: str) -> None:
        try:
            await self.runner.remove(container_id)
        except (DockyardError, OSError) as error:
            log.warning("cannot remove container %s of a build: %s", container_id, error)

    def beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that no build waits for."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait for what goes on beside builds; those have ended."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @asynccontextmanager
    async def tree(self, rootfs: Rootfs) -> AsyncIterator[DirectoryTree | None]:
        """The files of a root file system, to look at; None for one without files."""
        if rootfs.chain_id is None:
            yield None
            return
        async with self.mounted(rootfs.chain_id) as path:
            tree = DirectoryTree(path)
            try:
                yield tree
            finally:
                tree.close()

    @asynccontextmanager
    async def mounted(self, chain_id: str) -> AsyncIterator[str]:
        """Where layers are mounted for the time of the block; what is written there goes with it."""
        name = f"build-{secrets.token_hex(16)}"
        await self.container_layers.create(name, chain_id, volatile=True, bare=True)
        try:
            async with self.container_layers.mounted(name) as mounted:
                yield mounted.path
        finally:
            await asyncio.shield(self.container_layers.release(name))
