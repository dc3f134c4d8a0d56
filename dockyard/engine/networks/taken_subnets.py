"""Which subnets are in use on the host: by networks of ours, by routes and by links of whomever."""

from collections.abc import Iterable
from ipaddress import ip_network

from dockyard.errors import Forbidden
from dockyard.linux.netlink import RouteSocket
from dockyard.networks.ipam import Subnet
from dockyard.networks.model import Network


def subnets_of(networks: Iterable[Network]) -> list[Subnet]:
    """The subnets of these networks, as far as they are in use."""
    real = [network for network in networks if not network.config_only]
    return [ip_network(pool.subnet) for network in real for pool in network.pools if pool.subnet]


def taken_subnets(networks: Iterable[Network]) -> list[Subnet]:
    """The subnets of these networks, of the host's routes and of its links, also of those that are down."""
    with RouteSocket() as host:
        places = [(where, length) for where, length, _ in host.routes()]
        places += [(where, length) for _, where, length in host.addresses()]
    return [*(ip_network(f"{where}/{length}", strict=False) for where, length in places), *subnets_of(networks)]


def check_bridges_of_others(network: Network) -> None:
    """Raise Forbidden when another bridge of the host has a part of the network's subnets.

    Two bridges that both claim an address take each other's packets: for another engine's containers and virtual
    machines it would be we who came later.
    """
    subnets = [ip_network(pool.subnet) for pool in network.pools if pool.subnet]
    if not subnets:
        return
    with RouteSocket() as host:
        others = {link.index: link.name for link in host.links() if link.kind == "bridge"}
        for index, where, length in host.addresses():
            if index not in others or others[index] == network.bridge or where.is_link_local:
                continue
            used = ip_network(f"{where}/{length}", strict=False)
            for subnet in subnets:
                if subnet.version == used.version and subnet.overlaps(used):
                    raise Forbidden(
                        f"invalid pool request: Pool overlaps with other one on this address space: "
                        f"{subnet} with {used} of bridge {others[index]}"
                    )
