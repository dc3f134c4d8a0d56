"""Addresses: which subnet a network gets, and which address of it an endpoint gets."""

from collections.abc import Iterable, Sequence, Set
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from dockyard.errors import Conflict, InvalidParameter, Unavailable
from dockyard.networks.model import Pool

Address = IPv4Address | IPv6Address
Subnet = IPv4Network | IPv6Network

# Docker's local-scope pools (moby daemon/libnetwork/ipamutils): (block, prefix length of the networks cut from it).
DEFAULT_POOLS = (
    ("172.17.0.0/16", 16),
    ("172.18.0.0/16", 16),
    ("172.19.0.0/16", 16),
    ("172.20.0.0/14", 16),
    ("172.24.0.0/14", 16),
    ("172.28.0.0/14", 16),
    ("192.168.0.0/16", 20),
)


LINK_LOCAL = IPv6Network("fe80::/64")


class AddressPool:
    """The addresses of one subnet of one network; the lowest free one is handed out first."""

    def __init__(self, subnet: Subnet, ip_range: Subnet | None = None) -> None:
        self.subnet = subnet
        scope = ip_range or subnet
        self._first = int(scope.network_address)
        self._last = int(scope.broadcast_address)
        self._used: set[int] = set()
        start, end = int(subnet.network_address), int(subnet.broadcast_address)
        # The network's own and its broadcast address; a /31, /32, /127 or /128 has none (RFC 3021, RFC 6164).
        if subnet.num_addresses > 2:
            self._used.add(start)
            if subnet.version == 4:
                self._used.add(end)
        self._hint = self._first

    @property
    def used(self) -> int:
        """How many addresses are taken."""
        return len(self._used)

    def take(self, wanted: Address | None = None, avoid: Set[Address] = frozenset()) -> Address:
        """Take `wanted`, or the lowest free address that is none of `avoid`.

        Raises Conflict, InvalidParameter, or Unavailable when there is none.
        """
        kind = IPv4Address if self.subnet.version == 4 else IPv6Address
        if wanted is not None:
            if wanted not in self.subnet:
                raise InvalidParameter(
                    f"invalid config for network: address {wanted} does not belong to the subnet {self.subnet}"
                )
            if int(wanted) in self._used:
                raise Conflict("Address already in use")
            self._used.add(int(wanted))
            return wanted
        passed_over = {int(one) for one in avoid if one.version == self.subnet.version}
        number = self._hint
        while number in self._used or number in passed_over:
            number += 1
        if number > self._last:
            raise Unavailable(f"no available IPv{self.subnet.version} addresses on this network's address pools")
        self._used.add(number)
        # what is passed over now may be free for somebody later
        self._hint = min((one for one in passed_over - self._used if self._hint <= one < number), default=number + 1)
        return kind(number)

    def free(self, address: Address) -> None:
        """Give an address back; no error when it is free already."""
        number = int(address)
        self._used.discard(number)
        if self._first <= number < self._hint:
            self._hint = number


class Subnets:
    """Chooses subnets for networks, from the configured blocks, clear of networks and of the host's own routes."""

    def __init__(self, blocks: Sequence[tuple[str, int]] = ()) -> None:
        self._blocks = [(ip_network(block, strict=False), size) for block, size in blocks or DEFAULT_POOLS]

    def choose(self, taken: Iterable[Subnet], version: int = 4, seed: str = "") -> Subnet:
        """A free subnet. `seed` (hex) makes a random-looking IPv6 unique local subnet when no block is configured."""
        busy = [net for net in taken if net.version == version and net.prefixlen > 0]
        for block, size in self._blocks:
            if block.version != version:
                continue
            for candidate in block.subnets(new_prefix=max(size, block.prefixlen)):
                if not any(candidate.overlaps(net) for net in busy):
                    return candidate
        if version == 6:
            number = 0xFD << 120 | int(seed[:14] or "0", 16) << 64
            return IPv6Network((number, 64))
        raise InvalidParameter("all predefined address pools have been fully subnetted")


def check_pools(pools: Sequence[Pool], ipv6: bool) -> None:
    """Raise InvalidParameter, in Docker's words, when pools that a user asks for make no sense in themselves.

    Those of IPv6 are not looked at on a network without. moby api/types/network/ipam.go, ValidateIPAM.
    """
    wrong: list[str] = []
    for pool in pools:
        subnet = _network(pool.subnet)
        if subnet is None:
            wrong.append(f"invalid subnet {pool.subnet}: invalid CIDR block notation")
        elif subnet.version == 4 or ipv6:
            wrong += _check_pool(pool, subnet)
    if wrong:
        told = wrong[0] if len(wrong) == 1 else "\n".join(f"* {one}" for one in wrong)
        raise InvalidParameter(f"invalid network config:\n{told}")


def _check_pool(pool: Pool, subnet: Subnet) -> list[str]:
    wrong = []
    if pool.subnet.partition("/")[0] != str(subnet.network_address) and address(pool.subnet) != subnet.network_address:
        wrong.append(f"invalid subnet {pool.subnet}: it should be {subnet}")
    if pool.ip_range:
        wrong += [f"invalid ip-range {pool.ip_range}: {why}" for why in _check_range(pool.ip_range, subnet)]
    named = [(f"gateway {pool.gateway}", pool.gateway)] if pool.gateway else []
    named += [(f"auxiliary address {name}", value) for name, value in pool.auxiliary.items() if value]
    for name, value in named:
        try:
            found = ip_address(value)
        except ValueError:
            wrong.append(f"invalid {name}: invalid address")
            continue
        if found.version != subnet.version:
            wrong.append(f"invalid {name}: parent subnet is an IPv{subnet.version} block")
        elif found not in subnet:
            wrong.append(f"invalid {name}: parent subnet {subnet} doesn't contain this address")
    return wrong


def _check_range(text: str, subnet: Subnet) -> list[str]:
    inner = _network(text)
    if inner is None:
        return ["invalid CIDR block notation"]
    if inner.version != subnet.version:
        return [f"parent subnet is an IPv{subnet.version} block"]
    wrong = []
    if inner.prefixlen < subnet.prefixlen:
        wrong.append(f"CIDR block is bigger than its parent subnet {subnet}")
    if address(text) != inner.network_address:
        wrong.append(f"it should be {inner}")
    if not inner.overlaps(subnet):
        wrong.append(f"parent subnet {subnet} doesn't contain ip-range")
    return wrong


def check_ipv6_subnet(subnet: Subnet) -> None:
    """Raise InvalidParameter for an IPv6 subnet that containers cannot be given addresses of."""
    if subnet.version == 6:
        if subnet.is_multicast:
            raise InvalidParameter(f"multicast subnet '{subnet}' is not allowed")
        if subnet != LINK_LOCAL and subnet.overlaps(LINK_LOCAL):
            raise InvalidParameter(f"'{subnet}' clashes with the Link-Local prefix 'fe80::/64'")


def address(text: str) -> Address:
    """An address from its text, with or without a prefix length. Raises InvalidParameter."""
    try:
        return ip_address(text.partition("/")[0])
    except ValueError:
        raise InvalidParameter(f"invalid IP address: {text}") from None


def _network(text: str) -> Subnet | None:
    """A subnet in CIDR notation, whatever stands in its host part; None for what is none."""
    address_part, slash, length = text.partition("/")
    try:
        return ip_network(text, strict=False) if slash and length.isdigit() and address_part else None
    except ValueError:
        return None
