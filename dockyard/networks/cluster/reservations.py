"""Addresses of networks that several hosts share: claimed before an endpoint is made, so that no two hosts give one."""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import msgspec

from dockyard.errors import Conflict, SystemFailure, Unavailable
from dockyard.networks.cluster.store import ClusterStore
from dockyard.networks.ipam import Address
from dockyard.networks.model import EndpointConfig, Network, Pool


def reserve_addresses(
    store: ClusterStore, network: Network, config: EndpointConfig, preferred: tuple[str, str] = ("", "")
) -> EndpointConfig:
    """`config` with an address of each of the network's families; those named there, or the lowest that are free.

    `preferred`: (IPv4 or "", IPv6 or "") to be had where they are free. Raises Conflict when a named one is taken,
    Unavailable when all are.
    """
    found = {4: "", 6: ""}
    wishes = {4: (config.ipv4_address, preferred[0]), 6: (config.ipv6_address, preferred[1])}
    try:
        for version, (wanted, liked) in wishes.items():
            pools = [pool for pool in network.pools if pool.subnet and ip_network(pool.subnet).version == version]
            if pools:
                found[version] = _reserve(store, network, pools, wanted, liked)
    except OSError as error:
        give_back(store, network, found.values())
        raise SystemFailure(f"the cluster store gives no address of network {network.name}: {error}") from error
    except (Conflict, Unavailable):
        give_back(store, network, found.values())
        raise
    return msgspec.structs.replace(config, ipv4_address=found[4], ipv6_address=found[6])


def give_back(store: ClusterStore, network: Network, addresses: Iterable[str]) -> None:
    """Undo `reserve_addresses`; empty texts are passed over."""
    store.release(network.id, [text for text in addresses if text])


def _reserve(store: ClusterStore, network: Network, pools: list[Pool], wanted: str, liked: str) -> str:
    if wanted:
        if store.reserve(network.id, [ip_address(wanted)]) is None:
            raise Conflict("Address already in use")
        return wanted
    if liked and (address := store.reserve(network.id, [ip_address(liked)])):
        return str(address)
    for pool in pools:
        if address := store.reserve(network.id, _free(pool)):
            return str(address)
    version = ip_network(pools[0].subnet).version
    raise Unavailable(f"no available IPv{version} addresses on this network's address pools: {network.name}")


def _free(pool: Pool) -> Iterator[Address]:
    """The pool's addresses in order, but those that are somebody's in every network."""
    subnet = ip_network(pool.subnet)
    scope = ip_network(pool.ip_range) if pool.ip_range else subnet
    spoken = {int(ip_address(text)) for text in (pool.gateway, *pool.auxiliary.values()) if text}
    if subnet.num_addresses > 2:
        spoken.add(int(subnet.network_address))
        if subnet.version == 4:
            spoken.add(int(subnet.broadcast_address))
    kind = IPv4Address if subnet.version == 4 else IPv6Address
    for number in range(int(scope.network_address), int(scope.broadcast_address) + 1):
        if number not in spoken:
            yield kind(number)
