"""Legacy links (`--link NAME:ALIAS` on the default bridge): names below the container's own, and variables.

A record keeps its links as {alias: the linked container's id}, so that they outlive renames.
"""

from collections.abc import Iterator

from dockyard.engine.containers.config import HostConfig
from dockyard.engine.containers.container import Container
from dockyard.engine.containers.index import ContainerIndex
from dockyard.errors import Conflict, InvalidParameter, NotFound


def resolve_links(index: ContainerIndex, host: HostConfig) -> dict[str, str]:
    """{alias: id} of the links asked for; on a user-defined network they are that network's business, so none.

    Raises InvalidParameter for a container that is not there or shares the host's network.
    """
    if host.network_mode not in ("", "default", "bridge"):
        return {}
    found = {}
    for link in host.links or []:
        if link.count(":") > 1:
            raise InvalidParameter(f"bad format for links: {link}")
        name, _, alias = link.partition(":")
        if not name:
            raise InvalidParameter(f"invalid format for links: {link}")
        try:
            linked = index.get(name)
            while linked.host_config.network_mode.startswith("container:"):
                linked = index.get(linked.host_config.network_mode.removeprefix("container:"))
        except NotFound as error:
            raise InvalidParameter(f"could not get container for {name}: {error}") from None
        if linked.host_config.network_mode == "host":
            raise InvalidParameter(
                "conflicting options: host type networking can't be used with links. This would result in undefined "
                "behavior"
            )
        found[alias.rpartition("/")[2] or linked.name] = linked.id
    return found


def linked_containers(index: ContainerIndex, container: Container) -> Iterator[tuple[str, Container]]:
    """(alias, container) of each link whose container is still there."""
    for alias, container_id in container.record.links.items():
        if container_id in index:
            yield alias, index.get(container_id)


def canonical_links(index: ContainerIndex, container: Container) -> list[str]:
    """The links as `inspect` shows them: /linked:/container/alias."""
    return [f"/{linked.name}:/{container.name}/{alias}" for alias, linked in linked_containers(index, container)]


def names_by_links(index: ContainerIndex) -> dict[str, list[str]]:
    """{a container's id: the further names (/parent/alias) that links give it}."""
    found: dict[str, list[str]] = {}
    for parent in index.all():
        for alias, container_id in parent.record.links.items():
            found.setdefault(container_id, []).append(f"/{parent.name}/{alias}")
    return found


def find_link(index: ContainerIndex, reference: str) -> tuple[Container, str] | None:
    """The container and alias that `parent/alias` stands for, or None."""
    parent, slash, alias = reference.removeprefix("/").partition("/")
    if not slash:
        return None
    try:
        container = index.get(parent)
    except (NotFound, InvalidParameter):
        return None
    return (container, alias) if alias in container.record.links else None


def link_environment(index: ContainerIndex, container: Container) -> list[str]:
    """The variables that tell a container of those it is linked to. Raises Conflict when one of them does not run."""
    variables: list[str] = []
    for alias, linked in linked_containers(index, container):
        if not linked.state.running:
            raise Conflict(f"Cannot link to a non running container: /{linked.name} AS /{container.name}/{alias}")
        settings = linked.record.networks.get("bridge")
        name = alias.upper().replace("-", "_")
        variables += _port_variables(name, settings.ip_address if settings else "", linked)
        variables.append(f"{name}_NAME=/{container.name}/{alias}")
        for entry in linked.config.env or []:
            key, equals, value = entry.partition("=")
            if equals and key not in ("HOME", "PATH"):
                variables.append(f"{name}_ENV_{key}={value}")
    return variables


def _port_variables(name: str, address: str, linked: Container) -> Iterator[str]:
    exposed = [entry.partition("/") for entry in linked.config.exposed_ports or {}]
    ports = sorted(
        (protocol not in ("tcp", ""), protocol or "tcp", int(number))
        for number, _, protocol in exposed
        if number.isdigit()
    )
    for position, (_, protocol, port) in enumerate(ports):
        url = f"{protocol}://{address}:{port}"
        if not position:
            yield f"{name}_PORT={url}"
        prefix = f"{name}_PORT_{port}_{protocol.upper()}"
        yield f"{prefix}={url}"
        yield f"{prefix}_ADDR={address}"
        yield f"{prefix}_PORT={port}"
        yield f"{prefix}_PROTO={protocol}"
