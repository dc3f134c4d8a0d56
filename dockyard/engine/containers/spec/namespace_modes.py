"""Which namespaces a container shares, and with whom: `--net --ipc --pid --uts --userns --cgroupns`.

Here the modes are checked; container_spec.py makes namespaces of them.
"""

from collections.abc import Callable

from dockyard.engine.containers.config import ContainerConfig, HostConfig
from dockyard.errors import InvalidParameter, NotFound

HOSTNAME_LENGTH = 64  # HOST_NAME_MAX of Linux
_FIELDS = ("network_mode", "pid_mode", "ipc_mode")


def verify(config: ContainerConfig, host: HostConfig) -> list[str]:
    """Check the modes, before defaults are filled in; returns warnings. Raises InvalidParameter."""
    if len(config.hostname) > HOSTNAME_LENGTH:
        raise InvalidParameter(f'hostname "{config.hostname}" is too long (maximum {HOSTNAME_LENGTH} bytes)')
    for mode, allowed, named in (
        (host.ipc_mode, ("", "none", "private", "shareable", "host"), "IPC mode"),
        (host.pid_mode, ("", "host"), "PID mode"),
        (host.uts_mode, ("", "host"), "UTS mode"),
        (host.cgroupns_mode, ("", "host", "private"), "cgroup namespace mode"),
    ):
        shares = named in ("IPC mode", "PID mode") and joined(mode) != ""
        if mode not in allowed and not shares:
            raise InvalidParameter(f"invalid {named}: {mode}")
    if joined(host.network_mode):
        _verify_joined_network(config, host)
    elif host.network_mode.startswith("container:"):
        raise InvalidParameter("invalid container format container:<name|id>")
    if host.uts_mode == "host" and config.hostname:
        raise InvalidParameter("conflicting options: hostname and the UTS mode")
    if host.network_mode == "host":
        if host.links:
            raise InvalidParameter(
                "conflicting options: host type networking can't be used with links. "
                "This would result in undefined behavior"
            )
        if host.port_bindings:
            return ["Published ports are discarded when using host network mode"]
    return []


def _verify_joined_network(config: ContainerConfig, host: HostConfig) -> None:
    """What belongs to a network is the other container's to say."""
    for set_, conflict in (
        (config.hostname, "hostname and the network mode"),
        (host.links, "container type network can't be used with links. This would result in undefined behavior"),
        (host.dns, "dns and the network mode"),
        (host.extra_hosts, "custom host-to-IP mapping and the network mode"),
        (host.port_bindings or host.publish_all_ports, "port publishing and the container type network mode"),
        (config.exposed_ports, "port exposing and the container type network mode"),
    ):
        if set_:
            raise InvalidParameter(f"conflicting options: {conflict}")


def joined(mode: str) -> str:
    """The container of `container:NAME`; "" for any other mode."""
    return mode.partition(":")[2] if mode.startswith("container:") else ""


def name_by_id(host: HostConfig, find: Callable[[str], str]) -> None:
    """Replace container:NAME by container:ID, so that a rename changes nothing; `find` gives a name's ID."""
    for field in _FIELDS:
        other = joined(getattr(host, field))
        if other:
            try:
                setattr(host, field, f"container:{find(other)}")
            except NotFound as missing:
                if field != "network_mode":
                    raise InvalidParameter(str(missing)) from None
                continue  # it may come to be before the start, which then says what is missing
