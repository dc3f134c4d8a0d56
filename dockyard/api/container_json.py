"""How a container is shown: the rows of `ps` and the whole of `inspect`."""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import msgspec

from dockyard.api.services import Services
from dockyard.engine.containers.config import EndpointSettings
from dockyard.engine.containers.container import Container, State
from dockyard.engine.containers.spec.security import security_options
from dockyard.errors import NotFound
from dockyard.timestamps import NEVER, nanoseconds

# What HostConfig shows only when it is set (moby api/types/container, `omitempty`).
RARE_HOST_FIELDS = ("Annotations", "StorageOpt", "Tmpfs", "Sysctls", "Mounts", "Init")
ZERO_IS_NONE = ("KernelMemory", "KernelMemoryTCP")  # fields of old that are shown only when they say something

Version = tuple[int, int]


async def inspect_json(services: Services, container: Container, *, version: Version, size: bool) -> dict[str, Any]:
    """GET /containers/{id}/json."""
    record = container.record
    folder = services.containers.folder(container)
    born = record.state.started_at != NEVER or record.state.error != ""  # its files are made by its first start
    argv = container.argv
    data = services.container_layers.graph_data(container.id)
    shown: dict[str, Any] = {
        "Id": record.id,
        "Created": record.created,
        "Path": argv[0] if argv else "",
        "Args": argv[1:],
        "State": state_json(record.state),
        "Image": record.image_id,
        "ResolvConfPath": f"{folder}/resolv.conf" if born else "",
        "HostnamePath": f"{folder}/hostname" if born else "",
        "HostsPath": f"{folder}/hosts" if born else "",
        "LogPath": record.log_path if born and record.host_config.log_config.type == "json-file" else "",
        "Name": "/" + record.name,
        "RestartCount": record.restart_count,
        "Driver": services.layers.driver.name,
        "Platform": record.platform,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": (record.apparmor if born else security_options(record.host_config.security_opt).apparmor),
        "ExecIDs": [exec_id for exec_id in container.exec_ids if services.execs.get(exec_id).exit_code is None] or None,
        "HostConfig": host_config_json(services, container),
        "GraphDriver": {"Data": data or None, "Name": services.layers.driver.name},
        "Mounts": [
            {
                "Type": mount.type,
                **({"Name": mount.name} if mount.name else {}),
                "Source": mount.source,
                "Destination": mount.destination,
                **({"Driver": mount.driver} if mount.driver else {}),
                "Mode": mount.mode,
                "RW": mount.rw,
                "Propagation": mount.propagation,
            }
            for mount in record.mounts
        ],
        "Config": config_json(container, version),
        "NetworkSettings": network_settings(container, version),
    }
    if size:
        shown["SizeRw"], shown["SizeRootFs"] = await services.container_layers.sizes(container.id)
    return shown


def host_config_json(services: Services, container: Container) -> dict[str, Any]:
    """What `inspect` calls HostConfig."""
    shown: dict[str, Any] = msgspec.to_builtins(container.host_config)
    for name in RARE_HOST_FIELDS:
        if not shown.get(name) and shown.get(name) is not False:
            shown.pop(name, None)
    for name in ZERO_IS_NONE:
        if not shown.get(name):
            shown.pop(name, None)
    if container.record.links:
        shown["Links"] = services.containers.links(container)
    return shown


def config_json(container: Container, version: Version) -> dict[str, Any]:
    """What `inspect` calls Config: rarely used fields appear only when set, as in Docker."""
    shown: dict[str, Any] = msgspec.to_builtins(container.config)
    for name in ("ArgsEscaped", "NetworkDisabled", "MacAddress", "StopSignal", "StopTimeout", "Shell", "Healthcheck"):
        if not shown.get(name):
            shown.pop(name, None)
    if not shown.get("ExposedPorts"):
        shown.pop("ExposedPorts", None)
    shown["Labels"] = shown.get("Labels") or {}
    shown["Env"] = shown.get("Env") or []
    if version < (1, 52) and (address := _wanted_mac_address(container)):
        shown["MacAddress"] = address
    return shown


def _wanted_mac_address(container: Container) -> str:
    """The address that was asked for on the network of the container's mode."""
    record, mode = container.record, container.host_config.network_mode
    name = "bridge" if mode in ("", "default") else mode
    if record.join is not None:
        wish = record.join.endpoints.get(name)
        return wish.mac_address if wish is not None else ""
    settings = record.networks.get(name)
    return settings.mac_address if settings is not None and not settings.endpoint_id else ""


def endpoints_json(container: Container, version: Version) -> dict[str, Any]:
    """The container's networks, as each version of the API shows them."""
    shown: dict[str, Any] = msgspec.to_builtins(container.record.networks)
    for name, settings in shown.items():
        if version < (1, 48):
            settings.pop("GwPriority", None)
        if version < (1, 44):
            settings.pop("DNSNames", None)
        if version < (1, 45) and name not in ("bridge", "host", "none") and container.state.started_at != NEVER:
            own = [container.id[:12], container.config.hostname]
            settings["Aliases"] = list(dict.fromkeys([*(settings["Aliases"] or []), *own]))
    return shown


def state_json(state: State) -> dict[str, Any]:
    """The State part of `inspect`."""
    shown: dict[str, Any] = {
        "Status": state.status,
        "Running": state.running or state.status == "restarting",
        "Paused": state.status == "paused",
        "Restarting": state.status == "restarting",
        "OOMKilled": state.oom_killed,
        "Dead": state.status == "dead",
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": state.started_at,
        "FinishedAt": state.finished_at,
    }
    if state.health is not None:
        shown["Health"] = state.health
    return shown


def network_settings(container: Container, version: Version) -> dict[str, Any]:
    """The NetworkSettings part of `inspect`, with the default bridge's values at its top, as of old."""
    sandbox = container.record.sandbox
    networks = container.record.networks
    first = networks.get("bridge") or EndpointSettings()
    ports: dict[str, Any] = {}
    if container.state.running:
        ports = dict.fromkeys(sorted(container.config.exposed_ports or {}))
        for port, bindings in (sandbox.ports if sandbox else {}).items():
            ports[port] = [{"HostIp": address, "HostPort": number} for address, number in bindings] or None
    return {
        "Bridge": "",
        "SandboxID": sandbox.sandbox_id if sandbox else "",
        "SandboxKey": sandbox.sandbox_key if sandbox else "",
        "Ports": ports,
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": first.endpoint_id,
        "Gateway": first.gateway,
        "GlobalIPv6Address": first.global_ipv6_address,
        "GlobalIPv6PrefixLen": first.global_ipv6_prefix_len,
        "IPAddress": first.ip_address,
        "IPPrefixLen": first.ip_prefix_len,
        "IPv6Gateway": first.ipv6_gateway,
        "MacAddress": first.mac_address,
        "Networks": endpoints_json(container, version),
    }


async def list_entries(
    services: Services,
    containers: Iterable[Container],
    *,
    version: Version,
    size: bool = False,
    links: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """What a list tells of `containers`, but of those that go while their files are counted; `links` by their ids."""
    rows = []
    for container in containers:
        names = links.get(container.id, ())
        with suppress(NotFound):
            rows.append(await _list_entry(services, container, version=version, size=size, link_names=names))
    return rows


async def _list_entry(
    services: Services, container: Container, *, version: Version, size: bool, link_names: Sequence[str] = ()
) -> dict[str, Any]:
    """One element of GET /containers/json; `link_names` are what legacy links call it."""
    record = container.record
    shown: dict[str, Any] = {
        "Id": record.id,
        "Names": ["/" + record.name, *link_names],
        "Image": _image_name(services, container),
        "ImageID": record.image_id,
        "Command": " ".join(_quoted(word) for word in container.argv),
        "Created": nanoseconds(record.created) // 10**9,
        "Ports": _ports(container),
        "Labels": record.config.labels or {},
        "State": record.state.status,
        "Status": status_text(record.state),
        "HostConfig": {"NetworkMode": record.host_config.network_mode},
        "NetworkSettings": {"Networks": endpoints_json(container, version)},
        "Mounts": [
            {
                "Type": mount.type,
                **({"Name": mount.name} if mount.name else {}),
                "Source": mount.source,
                "Destination": mount.destination,
                **({"Driver": mount.driver} if mount.driver else {}),
                "Mode": mount.mode,
                "RW": mount.rw,
                "Propagation": mount.propagation,
            }
            for mount in record.mounts
        ],
    }
    if version >= (1, 46) and record.host_config.annotations:
        shown["HostConfig"]["Annotations"] = record.host_config.annotations
    if size:
        written, whole = await services.container_layers.sizes(container.id)
        if written:
            shown["SizeRw"] = written
        shown["SizeRootFs"] = whole
    return shown


def _quoted(word: str) -> str:
    """As the command column shows an argument: quoted when it has white space in it."""
    return f"'{word}'" if " " in word else word


def _image_name(services: Services, container: Container) -> str:
    """The name it was made from while that still means its image, else the image's ID."""
    name, image_id = container.config.image, container.record.image_id
    try:
        meant = [image.id for image in services.images.platforms.images_of(name)]
        return name if image_id in meant else image_id
    except NotFound:
        return image_id or name


def _ports(container: Container) -> list[dict[str, Any]]:
    if not container.state.running:
        return []
    published = container.record.sandbox.ports if container.record.sandbox else {}
    shown: list[dict[str, Any]] = []
    for port in sorted({*published, *(container.config.exposed_ports or {})}):
        number, _, protocol = port.partition("/")
        bindings = published.get(port) or []
        for address, host_port in bindings:
            # a routed network's port is the container's own, and none of the host's
            public = {"PublicPort": int(host_port)} if host_port else {}
            shown.append({"IP": address, "PrivatePort": int(number), **public, "Type": protocol or "tcp"})
        if not bindings and number.isdigit():
            shown.append({"PrivatePort": int(number), "Type": protocol or "tcp"})
    return shown


def status_text(state: State) -> str:
    """`Up 8 seconds (Paused)`, `Exited (137) 2 minutes ago`, `Created` …"""
    if state.status == "created":
        return "Created"
    if state.status == "removing":
        return "Removal In Progress"
    if state.status == "dead":
        return "Dead"
    if state.running:
        text = f"Up {_ago(state.started_at)}"
        if state.status == "paused":
            return text + " (Paused)"
        if state.health is not None:
            shown = "health: starting" if state.health.status == "starting" else state.health.status
            return f"{text} ({shown})"
        return text
    if state.status == "restarting":
        return f"Restarting ({state.exit_code}) {_ago(state.finished_at)} ago"
    if state.finished_at == NEVER:
        return "Created"
    return f"Exited ({state.exit_code}) {_ago(state.finished_at)} ago"


def _ago(moment: str) -> str:
    """The time since `moment` as docker/go-units words it."""
    seconds = max(int((time.time_ns() - nanoseconds(moment)) / 1e9), 0)
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    if seconds < 60:
        return f"{seconds} seconds"
    minutes = seconds // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    days = hours // 24
    if days < 14:
        return f"{days} days"
    if days < 60:
        return f"{days // 7} weeks"
    if days < 730:
        return f"{days // 30} months"
    return f"{days // 365} years"
