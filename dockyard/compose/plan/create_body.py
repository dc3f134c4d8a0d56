"""The request for a service's container: the body of POST /containers/create."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from dockyard.compose.errors import ComposeError
from dockyard.compose.model.hashes import service_hash
from dockyard.compose.plan import labels
from dockyard.compose.plan.mounts import binds_and_mounts
from dockyard.compose.plan.resources import resources

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dockyard.compose.model.project import Project

Tree = dict[str, Any]
Body = dict[str, Any]

MANY_NETWORKS = (1, 44)  # from this version of the API on a container can be made in several networks
INTERFACE_NAME = "com.docker.network.endpoint.ifname"


class Wanted(NamedTuple):
    """One container of a service: its name and number, and how it differs from the service's others."""

    service: str
    name: str
    number: int
    image_id: str = ""
    extra_labels: Mapping[str, str] = {}
    auto_remove: bool = False
    attach_stdin: bool = False
    use_aliases: bool = True
    inherited: Tree | None = None  # the container that it replaces, as inspected, whose anonymous volumes it keeps
    image_volumes: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    proxies: Mapping[str, str] = {}


def create_body(
    project: Project,
    service: Tree,
    wanted: Wanted,
    version: tuple[int, int],
    warn: Callable[[str], None],
) -> Body:
    """What the engine is asked for. `service` is the one that `wanted` names, references to others being resolved.

    Raises ComposeError for what this version of the API cannot do.
    """
    environment = {**wanted.proxies, **(service.get("environment") or {})}
    body: Body = {
        "Hostname": service.get("hostname"),
        "Domainname": service.get("domainname"),
        "User": service.get("user"),
        "ExposedPorts": _exposed(service),
        "Tty": service.get("tty"),
        "OpenStdin": service.get("stdin_open"),
        "StdinOnce": wanted.attach_stdin and bool(service.get("stdin_open")),
        "AttachStdin": wanted.attach_stdin,
        "AttachStdout": True,
        "AttachStderr": True,
        "Image": project.image_of(wanted.service),
        "WorkingDir": service.get("working_dir"),
        "NetworkDisabled": service.get("network_mode") == "disabled",
        "Labels": _labels(project, service, wanted),
        "StopSignal": service.get("stop_signal"),
        "Env": [key if value is None else f"{key}={value}" for key, value in sorted(environment.items())],
        "Healthcheck": _healthcheck(service.get("healthcheck"), version),
    }
    body = {key: value for key, value in body.items() if value}
    if service.get("command") is not None:
        body["Cmd"] = service["command"]
    if service.get("entrypoint") is not None:
        body["Entrypoint"] = service["entrypoint"]
    if "stop_grace_period" in service:
        body["StopTimeout"] = service["stop_grace_period"] // 1_000_000_000
    body["HostConfig"] = _host_config(project, service, wanted, warn)
    _join_networks(project, service, wanted, version, body, warn)
    return body


def _labels(project: Project, service: Tree, wanted: Wanted) -> dict[str, str]:
    found = {
        **(service.get("labels") or {}),
        **labels.of_service(project, wanted.service, wanted.image_id),
        **wanted.extra_labels,
        labels.CONFIG_HASH: service_hash(service),
        labels.DEPENDENCIES: ",".join(
            f"{other}:{one.get('condition', '')}:{'true' if one.get('restart') else 'false'}"
            for other, one in sorted((service.get("depends_on") or {}).items())
        ),
    }
    if wanted.number > 0:
        found[labels.NUMBER] = str(wanted.number)
    return found


def _exposed(service: Tree) -> dict[str, Tree]:
    found = [text if "/" in text else f"{text}/tcp" for text in service.get("expose") or ()]
    found += [f"{port['target']}/{port.get('protocol', 'tcp')}" for port in service.get("ports") or ()]
    return {port: {} for port in found}


def _port_bindings(service: Tree) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for port in service.get("ports") or ():
        binding = {"HostIp": port.get("host_ip", ""), "HostPort": port.get("published", "")}
        found.setdefault(f"{port['target']}/{port.get('protocol', 'tcp')}", []).append(binding)
    return found


def _healthcheck(given: Tree | None, version: tuple[int, int]) -> Body | None:
    if given is None:
        return None
    body: Body = {"Test": ["NONE"] if given.get("disable") else given.get("test") or []}
    if given.get("start_interval"):
        if version < MANY_NETWORKS:
            raise ComposeError("healthcheck.start_interval requires Docker Engine v25 or later")
        if not given.get("start_period"):
            raise ComposeError("healthcheck.start_interval requires healthcheck.start_period to be set")
    for key, name in (
        ("interval", "Interval"),
        ("timeout", "Timeout"),
        ("start_period", "StartPeriod"),
        ("start_interval", "StartInterval"),
        ("retries", "Retries"),
    ):
        if given.get(key):
            body[name] = given[key]
    return body


# service's key -> field of HostConfig, as it is
_HOST = {
    "annotations": "Annotations",
    "cap_add": "CapAdd",
    "cap_drop": "CapDrop",
    "ipc": "IpcMode",
    "cgroup": "CgroupnsMode",
    "read_only": "ReadonlyRootfs",
    "shm_size": "ShmSize",
    "sysctls": "Sysctls",
    "volume_driver": "VolumeDriver",
    "volumes_from": "VolumesFrom",
    "dns": "Dns",
    "dns_search": "DnsSearch",
    "dns_opt": "DnsOptions",
    "storage_opt": "StorageOpt",
    "userns_mode": "UsernsMode",
    "uts": "UTSMode",
    "privileged": "Privileged",
    "pid": "PidMode",
    "isolation": "Isolation",
    "runtime": "Runtime",
    "group_add": "GroupAdd",
    "oom_score_adj": "OomScoreAdj",
}


def _host_config(project: Project, service: Tree, wanted: Wanted, warn: Callable[[str], None]) -> Body:
    host: Body = {field: service[key] for key, field in _HOST.items() if service.get(key)}
    if service.get("init") is not None:
        host["Init"] = service["init"]
    host.update(resources(service))
    host.update(binds_and_mounts(project, service, wanted.inherited, wanted.image_volumes, warn))
    options, unconfined = _security(project, service.get("security_opt") or ())
    if options:
        host["SecurityOpt"] = options
    if unconfined:
        host["MaskedPaths"] = host["ReadonlyPaths"] = []
    logging = service.get("logging")
    if logging:
        host["LogConfig"] = {"Type": logging.get("driver", ""), "Config": logging.get("options") or {}}
    hosts = service.get("extra_hosts")
    if hosts:
        host["ExtraHosts"] = [f"{name}:{address}" for name, some in hosts.items() for address in some]
    if service.get("tmpfs"):
        host["Tmpfs"] = {path: options for path, _, options in (text.partition(":") for text in service["tmpfs"])}
    host["PortBindings"] = _port_bindings(service)  # {} too, which who inspects the container can count on
    policy = _restart_policy(service)
    if policy:
        host["RestartPolicy"] = policy
    if wanted.auto_remove:
        host["AutoRemove"] = True
    if wanted.links:
        host["Links"] = list(wanted.links)
    return host


_CONDITIONS = {"none": "no", "any": "always"}


def _restart_policy(service: Tree) -> Body:
    policy: Body = {}
    if service.get("restart"):
        name, _, attempts = service["restart"].partition(":")
        policy = {
            "Name": _CONDITIONS.get(name, name),
            "MaximumRetryCount": int(attempts) if attempts.isdigit() else 0,
        }
    deployed = (service.get("deploy") or {}).get("restart_policy")
    if deployed is not None:
        condition = deployed.get("condition", "")
        policy = {
            "Name": _CONDITIONS.get(condition, condition),
            "MaximumRetryCount": deployed.get("max_attempts") or 0,
        }
    return policy


def _security(project: Project, options: Any) -> tuple[list[str], bool]:
    """The options with profiles read, and whether the system's paths are to be open."""
    found: list[str] = []
    unconfined = False
    for option in options:
        if option == "systempaths=unconfined":
            unconfined = True
            continue
        separator = "=" if "=" in option else ":"
        name, there, value = option.partition(separator)
        if not there and name != "no-new-privileges":
            raise ComposeError(f'invalid security-opt: "{option}"')
        if name == "seccomp" and value not in ("unconfined", "builtin"):
            option = f"seccomp={_profile(project, value)}"
        found.append(option)
    return found, unconfined


def _profile(project: Project, path: str) -> str:
    place = os.path.join(project.folder, os.path.expanduser(path))
    try:
        with open(place, encoding="utf-8") as file:
            return json.dumps(json.load(file), separators=(",", ":"))
    except OSError as error:
        raise ComposeError(f"opening seccomp profile ({path}) failed: {error}") from None
    except ValueError as error:
        raise ComposeError(f"compacting json for seccomp profile ({path}) failed: {error}") from None


# -- networks


def by_priority(service: Tree) -> list[str]:
    """The keys of a service's networks, the one with the gateway first."""
    networks = service.get("networks") or {}
    return sorted(networks, key=lambda key: (-((networks[key] or {}).get("priority") or 0), key))


def _join_networks(
    project: Project,
    service: Tree,
    wanted: Wanted,
    version: tuple[int, int],
    body: Body,
    warn: Callable[[str], None],
) -> None:
    host: Body = body["HostConfig"]
    if service.get("network_mode"):
        host["NetworkMode"] = service["network_mode"]
        if service.get("mac_address") and version < MANY_NETWORKS:
            body["MacAddress"] = service["mac_address"]
        return
    if not project.networks:
        host["NetworkMode"] = "none"
        return
    keys = by_priority(service) or ["default"]
    if version < (1, 49) and any((one or {}).get("interface_name") for one in (service.get("networks") or {}).values()):
        raise ComposeError("interface_name requires Docker Engine v28.1 or later")
    primary = project.networks[keys[0]]["name"]
    host["NetworkMode"] = primary
    chosen = keys if version >= MANY_NETWORKS else keys[:1]
    endpoints = {project.networks[key]["name"]: endpoint(service, key, wanted, warn) for key in chosen}
    address = service.get("mac_address")
    if address:
        if endpoints[primary].get("MacAddress") not in (None, address):
            raise ComposeError(f"the service-level mac_address should have the same value as network {keys[0]}")
        if version >= MANY_NETWORKS:
            endpoints[primary]["MacAddress"] = address
        else:
            body["MacAddress"] = address
    body["NetworkingConfig"] = {"EndpointsConfig": endpoints}


def endpoint(service: Tree, key: str, wanted: Wanted, warn: Callable[[str], None]) -> Body:
    """How a service's container joins the network `key`."""
    settings = (service.get("networks") or {}).get(key) or {}
    aliases = [wanted.name]
    if wanted.use_aliases:
        aliases += [wanted.service, *(settings.get("aliases") or ())]
    body: Body = {"Aliases": aliases}
    if wanted.links:
        body["Links"] = list(wanted.links)
    addresses = {
        "IPv4Address": settings.get("ipv4_address"),
        "IPv6Address": settings.get("ipv6_address"),
        "LinkLocalIPs": settings.get("link_local_ips"),
    }
    if any(addresses.values()):
        body["IPAMConfig"] = {name: value for name, value in addresses.items() if value}
    options = dict(settings.get("driver_opts") or {})
    interface = settings.get("interface_name")
    if interface:
        if options.get(INTERFACE_NAME, interface) != interface:
            warn(
                f"ignoring services.{wanted.service}.networks.{key}.interface_name as {INTERFACE_NAME} driver_opts "
                "is already declared"
            )
        options[INTERFACE_NAME] = interface
    for name, value in (
        ("MacAddress", settings.get("mac_address")),
        ("DriverOpts", options),
        ("GwPriority", settings.get("gw_priority")),
    ):
        if value:
            body[name] = value
    return body
