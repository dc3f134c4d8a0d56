"""How a container comes to be: its settings, its layer and its folder, then the row that says so."""

import asyncio
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dockyard.config import Config
from dockyard.engine.containers import names
from dockyard.engine.containers.config import ContainerConfig, EndpointSettings, HostConfig
from dockyard.engine.containers.container import Container, Record
from dockyard.engine.containers.index import ContainerIndex
from dockyard.engine.containers.layers import ContainerLayers
from dockyard.engine.containers.logs import options as log_options
from dockyard.engine.containers.mounts.container_mounts import MountResolver
from dockyard.engine.containers.mounts.image_mounts import ImageMounts, image_points
from dockyard.engine.containers.networks.endpoint_settings import endpoint_config
from dockyard.engine.containers.networks.links import resolve_links
from dockyard.engine.containers.settings import check_config, merge_image_config, settle
from dockyard.engine.containers.spec import namespace_modes
from dockyard.engine.containers.spec.user_namespaces import UserNamespaces
from dockyard.engine.images.image import Image
from dockyard.engine.images.service import ImageService
from dockyard.engine.networks.endpoints import check_endpoint
from dockyard.engine.networks.service import NetworkService
from dockyard.engine.volumes.service import VolumeService
from dockyard.errors import InvalidParameter, NotFound, SystemFailure
from dockyard.linux.durability import sync_file_system
from dockyard.oci.descriptor import Platform
from dockyard.oci.manifest import host as this_host
from dockyard.oci.manifest import parse_platform, runs_on
from dockyard.signals import parse_signal
from dockyard.timestamps import timestamp


@dataclass(frozen=True, slots=True)
class Origin:
    """What a container stands on if not simply on an image: `fill` puts into its layer and volumes what they hold."""

    image_id: str
    chain_id: str | None
    fill: Callable[[Record], Awaitable[None]] | None = None


# What Docker says, too.
IMAGE_MOUNTED = "Image mount is an experimental feature"


class ContainerMaker:
    """Makes containers for `index`; a half-made one leaves nothing."""

    def __init__(
        self,
        config: Config,
        index: ContainerIndex,
        images: ImageService,
        layers: ContainerLayers,
        volumes: VolumeService,
        networks: NetworkService,
        user_namespaces: UserNamespaces,
        image_mounts: ImageMounts,
    ) -> None:
        self._config = config
        self._index = index
        self._images = images
        self._layers = layers
        self._volumes = volumes
        self._networks = networks
        self._user_namespaces = user_namespaces
        self._mounts = MountResolver(volumes, index.get, Path(config.data_root), images.resolve)
        self._image_mounts = image_mounts
        # each may refuse a new container by its labels
        self.label_checks: list[Callable[[Mapping[str, str]], None]] = []

    def reload(self, config: Config) -> None:
        """Take up new settings."""
        self._config = config

    async def make(
        self,
        name: str,
        config: ContainerConfig,
        host: HostConfig,
        networks: dict[str, EndpointSettings],
        *,
        platform: str = "",
        scratch: bool = False,
        read_only_once: bool = False,
        origin: Origin | None = None,
    ) -> Container:
        """Make a container: of the image that `config` names, or of `origin`.

        Raises NotFound for the image, Conflict for the name, InvalidParameter.

        `platform`: what the image must run on ("": it is told in a warning when that is not this host).
        `scratch`: it is the engine's own, and is removed when a daemon finds it at its start.
        `read_only_once`: see MountResolver.
        """
        name = names.check_name(name) if name else names.choose_name(self._index.names)
        wanted = parse_platform(platform) if platform else None
        image = self._images.platforms.choose(config.image, wanted) if config.image and origin is None else None
        warnings = _platform_warnings(image, wanted) if image is not None else []
        if image is not None:
            self._images.note_use(image.id)
        container_id = secrets.token_hex(32)
        self._index.reserve(name, container_id)
        try:
            made = await self._settled(
                container_id, name, config, host, networks, image, scratch, read_only_once, origin
            )
            made.warnings[:0] = warnings
            return made
        except BaseException:
            self._index.free(name)
            raise
        finally:
            self._user_namespaces.settled(container_id)

    async def _settled(
        self,
        container_id: str,
        name: str,
        config: ContainerConfig,
        host: HostConfig,
        networks: dict[str, EndpointSettings],
        image: Image | None,
        scratch: bool,
        read_only_once: bool,
        origin: Origin | None,
    ) -> Container:
        if origin is None:
            origin = Origin(image.id if image else "", image.chain_id if image else None)
        warnings = namespace_modes.verify(config, host)
        namespace_modes.name_by_id(host, lambda other: self._index.get(other).id)
        check_config(config)
        merge_image_config(config, image)
        if not config.entrypoint and not config.cmd:
            raise InvalidParameter("no command specified")
        config.hostname = config.hostname or self._hostname(host, container_id)
        warnings += settle(host, self._config)
        warnings += [IMAGE_MOUNTED for mount in host.mounts or [] if mount.type == "image"]
        if config.stop_signal:
            parse_signal(config.stop_signal)
        ids, ids_of = self._user_namespaces.choose(container_id, host, self._index.all(), self._index.get)
        try:
            points = await self._mounts.resolve(config, host, container_id, read_only_once=read_only_once)
            record = Record(
                id=container_id,
                name=name,
                created=timestamp(),
                image_id=origin.image_id,
                chain_id=origin.chain_id,
                config=config,
                host_config=host,
                networks=self._wanted_networks(host, networks),
                mounts=points,
                links=resolve_links(self._index, host),
                ids=ids,
                ids_of=ids_of,
                scratch=scratch,
            )
            return await self._put_down(record, warnings, origin)
        except BaseException:
            await self._volumes.remove_marked(container_id)
            raise

    async def _put_down(self, record: Record, warnings: list[str], origin: Origin) -> Container:
        """Its layer and its folder, then the row."""
        container_id, host, ids = record.id, record.host_config, record.ids
        container = Container(record, warnings=warnings)
        await self._layers.create(
            container_id,
            record.chain_id,
            volatile=container.passing,
            step=container.hidden,
            options=host.storage_opt,
            ids=ids,
        )
        folder = self._index.root / container_id
        try:
            folder.mkdir(mode=0o710)
            file = log_options.log_file(host.log_config.type, host.log_config.config or {})
            if file is not None:
                record.log_path = str(folder / (file.path or f"{container_id}-json.log"))
                os.makedirs(os.path.dirname(record.log_path), 0o710, exist_ok=True)
            await self._image_mounts.make(record)
            fresh = [point for point in record.mounts if point.type == "volume" and point.copy]
            if origin.fill is not None:
                await origin.fill(record)
            elif fresh:
                async with self._layers.mounted(container_id) as tree:
                    for point in fresh:
                        await self._volumes.populate(point.name, tree.path, point.destination, point.subpath)
            await self._volumes.settle(container.volume_names, marked_too=not container.passing)
            if not container.passing:
                if origin.fill is not None:
                    await asyncio.to_thread(sync_file_system, str(self._index.root))
                await self._layers.on_disk(self._index.root)
            for check in self.label_checks:
                check(record.config.labels or {})
            self._index.add(container)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            await self._layers.release(container_id)
            await self._image_mounts.release(image_points(record))
            raise
        with suppress(SystemFailure):  # the next daemon does it then
            self._volumes.unmark(container.volume_names, container_id)
        await self._index.on_disk()
        self._index.document(container)
        self._layers.document(container_id)
        self._index.emit(container, "create")
        return container

    def _hostname(self, host: HostConfig, container_id: str) -> str:
        """The name of a container that was not told one: whose network it has, that one's."""
        other = namespace_modes.joined(host.network_mode)
        if other:
            with suppress(NotFound):
                return self._index.get(other).config.hostname
        return os.uname().nodename if host.network_mode == "host" else container_id[:12]

    def _wanted_networks(self, host: HostConfig, networks: dict[str, EndpointSettings]) -> dict[str, EndpointSettings]:
        """The networks by name: those that are given, or else the one of `--net`.

        What is not there may come to be before the start, which then says what is missing. Said now, as NotFound, a
        client would take it for the image's absence.
        """
        if host.network_mode.startswith("container:"):
            return {}
        found: dict[str, EndpointSettings] = {}
        for reference, settings in (networks or {host.network_mode: EndpointSettings()}).items():
            name, network = reference, None
            with suppress(NotFound):
                network = self._networks.get(reference)
                name = network.name
            try:
                check_endpoint(name, network, endpoint_config(settings))
            except InvalidParameter as error:
                raise InvalidParameter(f"invalid config for network {reference}: {error.message}") from None
            found[name] = settings
        return found


def _platform_warnings(image: Image, wanted: Platform | None) -> list[str]:
    """What is to be said of an image that is not for this host, if nobody has asked for its platform."""
    found = image.platform
    if wanted is not None or not found.architecture or runs_on(found, this_host()):
        return []
    warning = f"The requested image's platform ({found}) does not match the detected host platform ({this_host()})"
    return [f"{warning} and no specific platform was requested"]
