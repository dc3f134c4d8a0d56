"""The address pools of a network to be made: what its user leaves open is chosen."""

from collections.abc import Callable, Sequence
from ipaddress import ip_network

import msgspec

from dockyard.errors import Forbidden, InvalidParameter, SystemFailure
from dockyard.networks.ipam import Subnet, Subnets, address
from dockyard.networks.model import Network, Pool


def settle_pools(
    network: Network,
    subnets: Subnets,
    taken: Sequence[Subnet],
    ours: Sequence[Subnet],
    gateways: Callable[[int], bool],
) -> list[Pool]:
    """The network's pools with subnet and gateway where they were left to us.

    `taken`: what a chosen subnet must keep clear of; `ours`: the subnets of other networks, which may not overlap with
    one that is asked for either. Raises Forbidden when it does. `gateways`: whether a pool of that IP version gets a
    gateway that nobody has named.
    """
    settled = []
    own: list[Subnet] = []
    given = [pool for pool in network.pools if pool.subnet]
    versions = {ip_network(pool.subnet, strict=False).version for pool in given}
    if network.ipv4 and 4 not in versions:
        given.insert(0, Pool(subnet=str(subnets.choose(taken)), chosen=True))
    if network.ipv6 and 6 not in versions:
        given.append(Pool(subnet=str(subnets.choose(taken, 6, network.id)), chosen=True))
    for pool in given:
        subnet = ip_network(pool.subnet, strict=False)
        if (subnet.version == 6 and not network.ipv6) or (subnet.version == 4 and not network.ipv4):
            continue
        if any(subnet.version == other.version and subnet.overlaps(other) for other in ours):
            raise Forbidden("invalid pool request: Pool overlaps with other one on this address space")
        if any(subnet.version == other.version and subnet.overlaps(other) for other in own):
            raise Forbidden("invalid pool request: Pool overlaps with other one on this address space")
        own.append(subnet)
        gateway = pool.gateway and str(address(pool.gateway))
        if not gateway and gateways(subnet.version):
            gateway = _first_gateway(subnet, pool)
        found = msgspec.structs.replace(pool, subnet=str(subnet), gateway=gateway, auxiliary=dict(pool.auxiliary))
        _check_spoken(subnet, found)
        settled.append(found)
    return settled


def _check_spoken(subnet: Subnet, pool: Pool) -> None:
    """Raise SystemFailure, as Docker, for a gateway or an auxiliary address that is the subnet's own or named twice."""
    spoken = set()
    if subnet.num_addresses > 2:
        spoken.add(subnet.network_address)
        if subnet.version == 4:
            spoken.add(subnet.broadcast_address)
    if pool.gateway:
        if address(pool.gateway) in spoken:
            raise SystemFailure(f"failed to allocate gateway ({pool.gateway}): Address already in use")
        spoken.add(address(pool.gateway))
    for name, value in pool.auxiliary.items():
        if address(value) in spoken:
            raise SystemFailure(f"failed to allocate secondary ip address ({name}:{value}): Address already in use")
        spoken.add(address(value))


def _first_gateway(subnet: Subnet, pool: Pool) -> str:
    """The first address of the range; Docker takes a range's very first one too."""
    scope = ip_network(pool.ip_range, strict=False) if pool.ip_range else subnet
    own = {subnet.network_address, subnet.broadcast_address} if subnet.num_addresses > 2 else set()
    for candidate in scope:
        if candidate not in own:
            return str(candidate)
    raise InvalidParameter(f"no address of {scope} is left for the gateway")
