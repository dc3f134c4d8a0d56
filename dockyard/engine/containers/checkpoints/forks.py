"""Forking a container: a second one that goes on from the files of the first, and from its processes if that can be.

The layers below are shared; what the container itself has written is copied, with shared blocks where the file system
can. Named volumes and binds are both containers' own choice and so are shared, anonymous volumes are copied. The
processes go through a checkpoint (CRIU): files are copied when that is written and nothing runs yet, so that
memory and files are of one instant.
"""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dockyard.engine.containers.checkpoint_folder import Checkpoint
from dockyard.engine.containers.checkpoints.service import CheckpointService
from dockyard.engine.containers.config import ContainerConfig, EndpointSettings, HostConfig, PortBinding
from dockyard.engine.containers.container import Container, Record
from dockyard.engine.containers.creation import Origin
from dockyard.engine.containers.layers import ContainerLayers
from dockyard.engine.containers.service import ContainerService
from dockyard.engine.containers.spec.namespace_modes import joined
from dockyard.engine.containers.start_failures import StartFailure
from dockyard.engine.volumes.service import VolumeService
from dockyard.errors import Conflict, InvalidParameter, NotFound, NotImplementedHere, SystemFailure
from dockyard.snapshots import trees

CHECKPOINT = ".fork"
FILES_ONLY = "only files were forked, the program begins anew"


@dataclass(frozen=True, slots=True)
class Forked:
    """A fork. `stopped`: for how long, in seconds, the first one stood still. `memory`: whether that was copied too."""

    container: Container
    warnings: list[str]
    stopped: float
    memory: bool


class ForkService:
    """Makes containers of containers."""

    def __init__(
        self,
        containers: ContainerService,
        checkpoints: CheckpointService,
        layers: ContainerLayers,
        volumes: VolumeService,
    ) -> None:
        self._containers = containers
        self._checkpoints = checkpoints
        self._layers = layers
        self._volumes = volumes

    async def fork(self, reference: str, name: str, *, start: bool | None = None, memory: bool | None = None) -> Forked:
        """Make the fork, and start it if `start` (None: if the first one runs). The first stands still meanwhile.

        Host ports and addresses are given anew, as two can't have them. `memory`: its processes go on where the first
        one's are (None: if that can be; else it begins anew, with a warning). Raises NotFound, Conflict, and for
        `memory` that can't be had SystemFailure; then there is no fork.
        """
        source = self._containers.get(reference)
        if source.removing:
            raise Conflict(f"container {source.id} is marked for removal and cannot be forked")
        record = source.record
        config = msgspec.convert(msgspec.to_builtins(record.config), ContainerConfig)
        host = msgspec.convert(msgspec.to_builtins(record.host_config), HostConfig)
        _make_free(source, config, host)
        networks = {
            network: EndpointSettings(aliases=settings.aliases, links=settings.links, driver_opts=settings.driver_opts)
            for network, settings in record.networks.items()
        }
        running = source.state.running
        start = running if start is None else start
        if memory and not running:
            raise Conflict(f"container {source.id} is not running: it has no memory to copy")
        if memory and not start:
            raise InvalidParameter("a fork that is not started has no memory")
        with_memory = running and start and memory is not False
        warnings: list[str] = []
        checkpoint: Checkpoint | None = None
        stopped = 0.0

        copying = False

        async def copy(fork: Record) -> None:
            nonlocal copying
            copying = True
            await self._layers.copy_changes(record.id, fork.id)
            for volume, other in _anonymous(record, fork):
                await self._copy_volume(volume, other, fork.id)

        async def fill(fork: Record) -> None:
            nonlocal checkpoint, stopped
            if with_memory:
                place = Path(self._containers.folder_of(fork.id)) / "checkpoints" / CHECKPOINT
                try:
                    async with source.lock:
                        await self._checkpoints.write(
                            source, place, leave_running=True, to_move=True, on_written=lambda: copy(fork)
                        )
                    checkpoint = Checkpoint(str(place), moved=True)
                    stopped = self._checkpoints.time_stopped(checkpoint.directory)
                    return
                except (SystemFailure, NotImplementedHere) as failure:
                    if memory or copying:
                        raise type(failure)(f"cannot fork the memory of container {reference}: {failure}") from failure
                    warnings.append(f"{FILES_ONLY}: {failure}")
            since = time.monotonic()
            async with self._standing_still(source):
                await copy(fork)
            stopped = time.monotonic() - since

        fork = await self._containers.create(
            name, config, host, networks, origin=Origin(record.image_id, record.chain_id, fill)
        )
        self._containers.emit(source, "fork", fork=fork.id)
        if start:
            await self._start(fork, checkpoint, warnings, memory_needed=bool(memory))
        return Forked(fork, [*fork.warnings, *warnings], stopped if running else 0.0, memory=checkpoint is not None)

    async def _start(
        self, fork: Container, checkpoint: Checkpoint | None, warnings: list[str], *, memory_needed: bool
    ) -> None:
        try:
            await self._containers.start(fork.id, checkpoint)
        except StartFailure as failure:
            if checkpoint is None:
                raise
            if memory_needed:
                await self._containers.remove(fork.id, force=True, volumes=True)
                raise SystemFailure(f"cannot fork memory: {failure}") from failure
            warnings.append(f"{FILES_ONLY}: {failure}")
            await self._containers.start(fork.id)
        finally:
            if checkpoint is not None:  # it was for this once
                await asyncio.shield(asyncio.to_thread(shutil.rmtree, checkpoint.directory, ignore_errors=True))

    @asynccontextmanager
    async def _standing_still(self, container: Container) -> AsyncIterator[None]:
        """Freeze its processes for the time of the block, so that no file is caught half written."""
        shim = container.shim if container.state.status == "running" else None
        if shim is not None:
            try:
                await shim.pause()
            except NotFound:  # it has just ended
                shim = None
        try:
            yield
        finally:
            if shim is not None:
                with suppress(NotFound):
                    await shim.resume()

    async def _copy_volume(self, name: str, copy: str, user: str) -> None:
        paths = []
        try:
            for volume in (name, copy):
                paths.append(await self._volumes.mount(volume, f"{user}-fork"))
            await asyncio.to_thread(trees.copy_tree, *paths)
            self._volumes.note_filled(copy)
        finally:
            for volume, _ in zip((name, copy), paths, strict=False):
                await self._volumes.unmount(volume, f"{user}-fork")


def _make_free(source: Container, config: ContainerConfig, host: HostConfig) -> None:
    """Take out what only one container can have: host ports, a name of the host's choosing, a file for the ID."""
    if config.hostname == source.id[:12] or joined(host.network_mode) or host.network_mode == "host":
        config.hostname = ""
    if joined(host.network_mode):
        config.exposed_ports = None
    host.container_id_file = ""
    host.port_bindings = {
        port: [PortBinding(binding.host_ip, "") for binding in bindings or [PortBinding()]]
        for port, bindings in (host.port_bindings or {}).items()
    } or None


def _anonymous(record: Record, fork: Record) -> list[tuple[str, str]]:
    """(volume of the first, the fork's own in its place)."""
    names = {point.destination: point.name for point in record.mounts if point.type == "volume"}
    return [
        (names[point.destination], point.name)
        for point in fork.mounts
        if point.type == "volume" and names.get(point.destination, point.name) != point.name
    ]
