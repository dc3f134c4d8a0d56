"""Legacy links on the default bridge (`--link`): who is linked to whom, by which names, and what that opens.

Members are the containers that have joined, as (request, sandbox).
"""

from collections.abc import Iterable, Iterator

from dockyard.networks.firewall import LinkedPort
from dockyard.networks.model import JoinRequest, Sandbox
from dockyard.networks.ports import split_port

Member = tuple[JoinRequest, Sandbox]


def linked(request: JoinRequest, members: Iterable[Member]) -> Iterator[tuple[Member, str]]:
    """The members that a container is linked to, each with what it calls them."""
    links = [link.partition(":") for link in request.links]
    for member in members if links else ():
        for wanted, _, alias in links:
            if wanted in (member[0].container_id, member[0].name):
                yield member, alias or wanted


def hosts_entries(request: JoinRequest, members: Iterable[Member]) -> list[tuple[str, str]]:
    """(address, names) of those that a container is linked to: alias, host name and name, as in Docker.

    moby daemon/container_operations_unix.go, addLegacyLinks.
    """
    entries = []
    for (other, sandbox), alias in linked(request, members):
        names = " ".join(dict.fromkeys([alias, other.hostname, other.name]))
        for state in sandbox.endpoints.values():
            entries += [(where, names) for where in (state.ip, state.ipv6) if where]
    return entries


def linked_ports(member: Member, members: Iterable[Member], network: str) -> list[LinkedPort]:
    """What the links of and to `member` open between containers of the network of that name: ports that are exposed."""
    others = [other for other in members if other[0].container_id != member[0].container_id]
    pairs = [(member, other) for other, _ in linked(member[0], others)]
    pairs += [(parent, member) for parent in others for _ in linked(parent[0], [member])]
    found = []
    for (_, parent), (request, child) in pairs:
        source, target = parent.endpoints.get(network), child.endpoints.get(network)
        if source is not None and target is not None:
            for number, protocol in map(split_port, request.exposed_ports):
                found.append(LinkedPort(source.ip, target.ip, protocol, number))
    return found
