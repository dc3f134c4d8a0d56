"""Taking over a Docker data root: images, volumes, networks, containers, in the order in which they need each other.

Everything is copied and the source is only read. Layers are made again as the archives that Docker once unpacked, so
each is held against its digest. What is here already, or cannot be taken over, is said and passed by; a daemon that
dies in between has whole things only, and an import that is begun again goes on with the rest.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from dockyard.content.unpack import Worker
from dockyard.engine.containers.config import EndpointSettings, HostConfig, MountSpec
from dockyard.engine.containers.container import Record
from dockyard.engine.containers.creation import Origin
from dockyard.engine.containers.layers import ContainerLayers
from dockyard.engine.containers.service import ContainerService
from dockyard.engine.docker_import import source
from dockyard.engine.docker_import.source import DockerRoot, SourceContainer, SourceNetwork, SourceVolume
from dockyard.engine.images.documents import decode_config
from dockyard.engine.images.layer_store import LayerSource, LayerStore, chains_of
from dockyard.engine.images.layers import register_layers
from dockyard.engine.images.service import ImageService
from dockyard.engine.networks.service import NetworkService
from dockyard.engine.volumes.service import VolumeService
from dockyard.errors import DockyardError, NotFound, SystemFailure
from dockyard.generators import closing, from_thread
from dockyard.networks.model import Network, Pool
from dockyard.oci.reference import Reference

log = logging.getLogger("dockyard.import")

Tell = Callable[[str], None]
BRIDGE_NAME = "com.docker.network.bridge.name"
GENERIC = "com.docker.network.generic"
ALWAYS_THERE = ("bridge", "host", "none", "docker_gwbridge", "ingress")


class DockerImport:
    """Imports into one engine."""

    def __init__(
        self,
        images: ImageService,
        layers: LayerStore,
        container_layers: ContainerLayers,
        volumes: VolumeService,
        networks: NetworkService,
        containers: ContainerService,
        archives: Worker,
    ) -> None:
        self._images = images
        self._layers = layers
        self._container_layers = container_layers
        self._volumes = volumes
        self._networks = networks
        self._containers = containers
        self._archives = archives

    async def run(self, root: str, told: Tell) -> None:
        """Import what is in `root`, telling of each thing. Raises NotFound, InvalidParameter for no data root."""
        docker = await asyncio.to_thread(DockerRoot, Path(root))
        await self._all_images(docker, told)
        for volume in await asyncio.to_thread(lambda: list(docker.volumes())):
            await self._each(told, f"volume {volume.name}", self._volume(volume))
        for network in await asyncio.to_thread(lambda: list(docker.networks())):
            if network.name not in ALWAYS_THERE:
                await self._each(told, f"network {network.name}", self._network(network))
        for container, host in await asyncio.to_thread(lambda: list(docker.containers())):
            await self._each(told, f"container {container.name[1:]}", self._container(docker, container, host))

    async def _each(self, told: Tell, what: str, work: Awaitable[str]) -> bool:
        """Do one thing and, when it is on the disk, tell of it: the source may go then. Whether it was done."""
        try:
            passed_by = await work
            await self._images.on_disk()
        except (DockyardError, OSError) as error:
            passed_by = f"failed: {error}"
            log.warning("import: %s %s", what, passed_by)
        told(f"{what}: {passed_by or 'imported'}")
        return not passed_by

    # -- images

    async def _all_images(self, docker: DockerRoot, told: Tell) -> None:
        brought: list[str] = []
        for image_id, raw in await asyncio.to_thread(lambda: list(docker.images())):
            if await self._each(told, f"image {image_id[7:19]}", self._image(docker, image_id, raw)):
                brought.append(image_id)
        for image_id in brought:
            parent = await asyncio.to_thread(docker.parent, image_id)
            if parent in self._images:
                self._images.set_parent(image_id, parent)
        await self._images.on_disk()
        for name, image_id in await asyncio.to_thread(lambda: list(docker.names())):
            if image_id in self._images:
                await self._each(told, f"name {name}", self._name(name, image_id))

    async def _image(self, docker: DockerRoot, image_id: str, raw: bytes) -> str:
        if image_id in self._images:
            return "is here already"
        diff_ids = list(decode_config(raw).rootfs.diff_ids)
        chains = chains_of(diff_ids)

        def opener(index: int, diff_id: str) -> Callable[[], Awaitable[LayerSource]]:
            async def opened() -> AsyncIterator[bytes]:
                layer = await asyncio.to_thread(docker.layer, chains[index])
                return from_thread(source.archive(layer))

            return opened

        held = await register_layers(self._images, diff_ids, opener)
        try:
            self._images.put(raw)
        finally:
            for layer in held:
                self._layers.drop(layer.chain_id)
        return ""

    async def _name(self, name: str, image_id: str) -> str:
        reference = Reference.parse(name)
        known = self._images.names.resolve(reference)
        if known is not None and known != image_id:
            return "is another image's here"
        if known is None and reference.digest is not None:
            self._images.names.put(reference, image_id)
        elif known is None:
            self._images.tag(image_id, reference)
        return "" if known is None else "is here already"

    # -- volumes and networks

    async def _volume(self, volume: SourceVolume) -> str:
        with suppress(NotFound):
            await self._volumes.get(volume.name)
            return "is here already"
        if volume.driver != "local":
            return f"is of the driver {volume.driver}, which is not here"
        # held for an import that goes on: should the daemon die, the half-filled volume goes
        owner = secrets.token_hex(32)
        made = await self._volumes.create(volume.name, "local", volume.options, volume.labels, owner=owner)
        try:
            if not volume.options.get("device"):  # else its files are where the option says
                await _copy(volume.data, made.mountpoint)
                self._volumes.note_filled(volume.name)
            await self._volumes.settle([volume.name])
        except BaseException:
            await self._volumes.remove_marked(owner)
            raise
        self._volumes.unmark([volume.name], owner)
        return ""

    async def _network(self, network: SourceNetwork) -> str:
        with suppress(NotFound):
            self._networks.get(network.name)
            return "is here already"
        if network.scope != "local" or network.ingress:
            return "belongs to a swarm"
        options = {name: str(value) for name, value in (network.generic.get(GENERIC) or {}).items()}
        options.pop(BRIDGE_NAME, None)  # Docker's bridge of that name may be there still
        pools = [*_pools(network.ipam_v4_config), *_pools(network.ipam_v6_config)]
        await self._networks.create(
            Network(
                id="",
                name=network.name,
                driver=network.network_type,
                created="",
                pools=pools,
                ipam_driver=network.ipam_type,
                ipam_options=network.ipam_options or None,
                ipv4=network.enable_i_pv4,
                ipv6=network.enable_i_pv6,
                internal=network.internal,
                attachable=network.attachable,
                config_only=network.config_only,
                options=options,
                labels=network.labels or {},
            )
        )
        return ""

    # -- containers

    async def _container(self, docker: DockerRoot, container: SourceContainer, host: HostConfig) -> str:
        name = container.name.removeprefix("/")
        if any(known.name == name for known in self._containers.all()):
            return "is here already"
        if container.state.running or container.state.paused or container.state.restarting:
            return "runs: stop it, and import once more"
        if container.image not in self._images:
            return f"is of an image that is not here ({container.image[7:19]})"
        changes = await asyncio.to_thread(docker.changes, container.id)
        image = await self._images.get(container.image)

        async def fill(record: Record) -> None:
            record.created = container.created
            record.restart_count = container.restart_count
            record.stopped_by_user = True  # nothing starts by itself that was not started here
            if container.has_been_started_before:
                state, told = record.state, container.state
                state.status, state.exit_code, state.error = "exited", told.exit_code, told.error
                state.started_at = told.started_at or state.started_at
                state.finished_at = told.finished_at or state.finished_at
            async with self._container_layers.mounted(record.id) as tree:
                packing = self._archives.pack_tree(str(changes), whiteouts=True)
                async with closing(packing) as pieces:
                    await self._archives.unpack(pieces, tree.path, whiteouts="plain")
            if record.log_path:
                await asyncio.to_thread(_copy_logs, docker.root / "containers" / container.id, container.id, record)

        host.mounts = [*(host.mounts or []), *_kept_volumes(container, host)]
        endpoints = {name: _wishes(settings) for name, settings in container.network_settings.networks.items()}
        origin = Origin(container.image, image.chain_id, fill)
        await self._containers.create(name, container.config, host, endpoints, origin=origin)
        return ""


def _wishes(settings: EndpointSettings) -> EndpointSettings:
    """What was asked of an endpoint, without what came of it."""
    return EndpointSettings(
        ipam_config=settings.ipam_config, aliases=settings.aliases, driver_opts=settings.driver_opts
    )


def _kept_volumes(container: SourceContainer, host: HostConfig) -> list[MountSpec]:
    """The volumes that nobody named, which would be made anew otherwise."""
    asked = {bind.split(":")[1] for bind in host.binds or () if ":" in bind}
    asked |= {mount.target for mount in host.mounts or ()}
    return [
        MountSpec(type="volume", source=mount.name, target=mount.destination, read_only=not mount.rw)
        for mount in container.mount_points.values()
        if mount.type == "volume" and mount.name and mount.destination not in asked
    ]


def _pools(text: str) -> list[Pool]:
    """libnetwork's list of what was asked for, as our pools."""
    return [
        Pool(
            subnet=pool.get("PreferredPool") or "",
            gateway=pool.get("Gateway") or "",
            ip_range=pool.get("SubPool") or "",
            auxiliary=pool.get("AuxAddresses") or {},
        )
        for pool in (json.loads(text) if text else None) or ()
        if pool.get("PreferredPool")
    ]


async def _copy(data: Path, target: str) -> None:
    """Copy a directory's content with all attributes, sharing blocks where that can be. Raises SystemFailure."""
    command = ["cp", "-a", "--reflink=auto", "--sparse=auto", "--", f"{data}/.", target]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        _, said = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise SystemFailure(said.decode(errors="replace").strip().splitlines()[-1])


def _copy_logs(folder: Path, container_id: str, record: Record) -> None:
    """The container's json-file log and those before it."""
    for path in folder.glob(f"{container_id}-json.log*"):
        if path.is_file() and not path.is_symlink():
            copy = record.log_path + path.name.removeprefix(f"{container_id}-json.log")
            shutil.copyfile(path, copy)
            os.chmod(copy, 0o640)
