"""POST /containers/create: its body, and what each version of the API means by it.

An older client neither knows the newer fields nor the newer defaults: what it sends is turned into what the newest
client would have sent (moby daemon/server/router/container, postContainersCreate).
"""

from dataclasses import dataclass, field

import msgspec

from dockyard.engine.containers.config import ContainerConfig, EndpointSettings, HostConfig, PortBinding
from dockyard.errors import InvalidParameter
from dockyard.linux import cgroups

Version = tuple[int, int]


class NetworkingConfig(msgspec.Struct, rename="pascal"):
    """The networks a container is to join, by name."""

    endpoints_config: dict[str, EndpointSettings | None] | None = None


class CreateRequest(ContainerConfig, kw_only=True):
    """The body."""

    host_config: HostConfig | None = None
    networking_config: NetworkingConfig | None = None
    runtime: str = ""  # where docker-py puts it; HostConfig's counts


@dataclass
class Wanted:
    """What is asked of the engine."""

    config: ContainerConfig
    host: HostConfig
    networks: dict[str, EndpointSettings]
    warnings: list[str] = field(default_factory=list)


def wanted(request: CreateRequest, version: Version) -> Wanted:
    """What a client of API `version` means by `request`. Raises InvalidParameter for what that version refuses."""
    config = ContainerConfig(
        **{field.name: getattr(request, field.name) for field in msgspec.structs.fields(ContainerConfig)}
    )
    if config == ContainerConfig() and request.host_config is None and request.networking_config is None:
        raise InvalidParameter("config cannot be empty in order to create a container")
    given = request.networking_config.endpoints_config if request.networking_config else None
    asked = Wanted(
        config,
        request.host_config or HostConfig(),
        {name: settings or EndpointSettings() for name, settings in (given or {}).items()},
    )
    asked.host.runtime = asked.host.runtime or request.runtime
    if asked.host.network_mode in ("", "default"):
        asked.host.network_mode = "bridge"
        if "default" in asked.networks:
            asked.networks["bridge"] = asked.networks.pop("default")
    _settle_versions(asked, version)
    _settle_mounts(asked.host, version)
    _settle_mac_address(asked, version)
    _settle_ports(asked, version)
    if asked.host.pids_limit is not None and asked.host.pids_limit <= 0:
        asked.host.pids_limit = None
    return asked


def _settle_versions(asked: Wanted, version: Version) -> None:
    config, host = asked.config, asked.host
    if version < (1, 25):  # the client removes it
        host.auto_remove = False
    if version < (1, 40):
        host.ipc_mode = host.ipc_mode or "shareable"
        host.kernel_memory_tcp = 0
    if version < (1, 41) and not host.cgroupns_mode and cgroups.layout().version == 1:
        host.cgroupns_mode = "host"
    if version < (1, 42):
        host.console_size = [0, 0]
    else:
        host.kernel_memory = 0
    if version < (1, 43):
        host.annotations = None
    if version < (1, 44):
        if config.healthcheck is not None:
            config.healthcheck.start_interval = 0
        if len(asked.networks) > 1:
            raise InvalidParameter(
                f"Container cannot be created with multiple network endpoints: {', '.join(asked.networks)}"
            )
    if version < (1, 48):
        for settings in asked.networks.values():
            settings.gw_priority = 0
    if version >= (1, 48) and host.volume_driver:
        for mount in host.mounts or []:
            driver = mount.volume_options.driver_config if mount.volume_options else None
            if mount.type == "volume" and not (driver and driver.name):
                asked.warnings.append(
                    "WARNING: the container-wide volume-driver configuration is ignored for volumes specified via "
                    "'mount'. Use '--mount type=volume,volume-driver=...' instead"
                )
                break


def _settle_mounts(host: HostConfig, version: Version) -> None:
    for mount in host.mounts or []:
        options = (
            ("volume_options", "VolumeOptions", "volume"),
            ("bind_options", "BindOptions", "bind"),
            ("tmpfs_options", "TmpfsOptions", "tmpfs"),
        )
        for attribute, name, kind in options:
            if getattr(mount, attribute) is not None and mount.type != kind:
                if version >= (1, 42):
                    raise InvalidParameter(f'{name} must not be specified on mount type "{mount.type}"')
                setattr(mount, attribute, None)
        bind = mount.bind_options
        if bind is not None:
            if version < (1, 40):
                bind.non_recursive = False
            if version < (1, 42):
                bind.create_mountpoint = False
            if version < (1, 44) and bind.read_only_force_recursive:
                raise InvalidParameter("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
        if version < (1, 45) and mount.volume_options is not None and mount.volume_options.subpath:
            raise InvalidParameter("VolumeOptions.Subpath needs API v1.45 or newer")
        if version < (1, 48) and mount.type == "image":
            raise InvalidParameter('Mount type "Image" needs API v1.48 or newer')


def _settle_mac_address(asked: Wanted, version: Version) -> None:
    """The container-wide address, before 1.44 the only one, is that of the network of its mode."""
    address, asked.config.mac_address = asked.config.mac_address, ""
    mode = asked.host.network_mode
    joinable = mode not in ("host", "none") and not mode.startswith("container:")
    if version < (1, 44):
        for settings in asked.networks.values():
            settings.mac_address = ""
    if not address:
        return
    if version >= (1, 52):
        raise InvalidParameter(
            "container-wide MAC address no longer supported; use endpoint-specific MAC address instead"
        )
    if not joinable:
        if version < (1, 44):
            raise InvalidParameter("conflicting options: mac-address and the network mode")
    else:
        settings = _endpoint_of_mode(asked, mode, version)
        if settings.mac_address not in ("", address):
            raise InvalidParameter(
                "the container-wide MAC address must match the endpoint-specific MAC address for the main network, "
                "or be left empty"
            )
        settings.mac_address = address
    if version >= (1, 44):
        asked.warnings.append(
            "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead."
        )


def _endpoint_of_mode(asked: Wanted, mode: str, version: Version) -> EndpointSettings:
    if not asked.networks:
        asked.networks[mode] = EndpointSettings()
    if version < (1, 44):
        return next(iter(asked.networks.values()))
    if mode in asked.networks:
        return asked.networks[mode]
    raise InvalidParameter(
        "unable to migrate container-wide MAC address to a specific network: "
        "HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks"
    )


def _settle_ports(asked: Wanted, version: Version) -> None:
    bindings = asked.host.port_bindings or {}
    empty = [port for port, given in bindings.items() if not given]
    for port in empty:
        bindings[port] = [PortBinding()]
    if empty and version >= (1, 52):
        asked.warnings.append(
            f"Following container port(s) have an empty list of port-bindings: {', '.join(empty)}. "
            "Such bindings will be discarded in a future version."
        )
