"""Forking a container: a second one that goes on from the files of the first.

The layers below are shared; what the container itself has written is copied, with shared blocks where the file system
can. Named volumes and binds are both containers' own choice and so are shared, anonymous volumes are copied.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec

from dockyard.engine.container import Container, Record
from dockyard.engine.container_config import ContainerConfig, EndpointSettings, HostConfig, PortBinding
from dockyard.engine.container_creation import Origin
from dockyard.engine.containers import ContainerService
from dockyard.engine.layers import LayerStore
from dockyard.engine.namespace_modes import joined
from dockyard.engine.volumes import VolumeService
from dockyard.errors import Conflict, NotFound
from dockyard.snapshots import trees


class ForkService:
    """Makes containers of containers."""

    def __init__(self, containers: ContainerService, layers: LayerStore, volumes: VolumeService) -> None:
        self._containers = containers
        self._layers = layers
        self._volumes = volumes

    async def fork(self, reference: str, name: str, *, start: bool | None = None) -> Container:
        """Make the fork, and start it if `start` (None: if the first one runs). The first stands still meanwhile.

        Host ports and addresses are given anew, as two can't have them. Raises NotFound, Conflict.
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

        async def fill(fork: Record) -> None:
            async with self._standing_still(source):
                await self._layers.copy_changes(record.id, fork.id)
                for volume, copy in _anonymous(record, fork):
                    await self._copy_volume(volume, copy, fork.id)

        fork = await self._containers.create(
            name, config, host, networks, origin=Origin(record.image_id, record.chain_id, fill)
        )
        self._containers.emit(source, "fork", fork=fork.id)
        if running if start is None else start:
            await self._containers.start(fork.id)
        return fork

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
