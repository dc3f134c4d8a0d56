"""How a container goes: what it was is given back in an order in which a crash at any point can be finished later."""

import asyncio
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import suppress

from dockyard.engine.containers.container import Container
from dockyard.engine.containers.index import ContainerIndex
from dockyard.engine.containers.layers import ContainerLayers
from dockyard.engine.containers.logs.forwarding import LogForwarding
from dockyard.engine.containers.mounts import host_mounts
from dockyard.engine.containers.mounts.image_mounts import ImageMounts, image_points
from dockyard.engine.containers.stopping import Stopping
from dockyard.engine.events.service import Events
from dockyard.engine.volumes.service import VolumeService
from dockyard.errors import Conflict, DockyardError, NotFound, SystemFailure

log = logging.getLogger("dockyard.containers")


class Removal:
    """Removes containers of `index`, those that run by force only."""

    def __init__(
        self,
        index: ContainerIndex,
        stopping: Stopping,
        layers: ContainerLayers,
        volumes: VolumeService,
        logs: LogForwarding,
        events: Events,
        image_mounts: ImageMounts,
    ) -> None:
        self._index = index
        self._stopping = stopping
        self._layers = layers
        self._volumes = volumes
        self._logs = logs
        self._events = events
        self._image_mounts = image_mounts

    async def remove(self, reference: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it; with `volumes` its anonymous volumes too. Raises Conflict while it runs, unless `force`."""
        container = self._index.get(reference)
        if container.removing:
            raise Conflict(f"removal of container {reference} is already in progress")
        if (container.state.running or container.state.status == "restarting") and not force:
            what = "paused" if container.state.status == "paused" else container.state.status
            hint = "unpause and then stop" if what == "paused" else "stop"
            raise Conflict(
                f'cannot remove container "/{container.name}": container is {what}: '
                f"{hint} the container before removing or force remove"
            )
        container.removing = True
        try:
            container.cancel_restart()
            if container.state.running:
                self._intend(container, volumes)
            while True:
                if container.state.running:
                    await self._end_for_removal(container)
                async with container.lock:
                    # a start that was under way has been waited for
                    if not container.state.running:
                        await self.delete(container, volumes=volumes)
                        return
                if not force:
                    raise Conflict(
                        f'cannot remove container "/{container.name}": container is running: '
                        "stop the container before removing or force remove"
                    )
                await asyncio.sleep(0)  # its end may have come, and whoever acts upon that has to have his turn
        except BaseException as failure:
            container.removing = False
            if container.record.to_be_removed and isinstance(failure, Exception):
                container.record.to_be_removed = False
                with suppress(SystemFailure):
                    self._index.save(container)
            raise

    def _intend(self, container: Container, volumes: bool) -> None:
        """So that a container that was killed to be removed is not there, stopped, after a crash in between."""
        container.record.to_be_removed, container.record.volumes_too = True, volumes
        self._index.save(container)

    async def _end_for_removal(self, container: Container) -> None:
        with suppress(Conflict, NotFound):
            await self._stopping.kill(container.id)
            if container.state.running:
                raise SystemFailure(
                    f'cannot remove container "/{container.name}": could not kill container: '
                    "tried to kill container, but did not receive an exit event"
                )

    async def remove_quietly(self, container: Container) -> None:
        try:
            await self.remove(container.id, force=True, volumes=True)
        except (NotFound, Conflict):
            pass

    async def delete(self, container: Container, *, volumes: bool, freed: bool = True) -> None:
        """Take away all that the container was; under its lock. `freed`: its space is free when this returns."""
        if container.id not in self._index:
            raise NotFound(f"No such container: {container.id}")
        container.state.status = "removing"
        self._intend(container, volumes)
        if volumes:
            # if the daemon dies before the last line, the next one finishes
            self._volumes.mark(container.nameless_volumes, container.id)
        await self._index.on_disk()  # a power cut from here on leaves a removal to finish, no container without files
        for attachment in container.waiting:
            os.close(attachment.fd)
        container.waiting.clear()
        await self._layers.release(container.id, freed=freed)
        await self._image_mounts.release(image_points(container.record))
        await self._logs.remove(container.id)
        self._index.remove(container)
        host_mounts.unmount_all(self._index.folder(container))
        shutil.rmtree(self._index.folder(container), ignore_errors=True)
        if volumes:
            try:
                await self._volumes.remove_marked(container.id)
            except DockyardError as failure:
                log.error("a volume of container %s stays: %s", container.id, failure)
        # last, as in Docker: who waits for the removal finds nothing of it any more
        container.exited.set()
        container.removed.set()
        self._index.emit(container, "destroy")
        if freed:
            await asyncio.gather(self._index.directories_on_disk(), self._index.on_disk())
        else:
            await self._index.on_disk()

    async def prune(self, matches: Callable[[Container], bool]) -> tuple[list[str], int]:
        """Remove every stopped container that `matches`: (their ids, bytes freed)."""
        removed, freed = [], 0
        for container in self._index.all():
            if container.hidden or container.state.running or container.state.status == "restarting":
                continue
            if not matches(container):
                continue
            with suppress(Conflict, NotFound):
                size = (await self._layers.sizes(container.id))[0]
                await self.remove(container.id)
                removed.append(container.id)
                freed += size
        self._events.emit("container", "prune", "", {"reclaimed": str(freed)})
        return removed, freed
