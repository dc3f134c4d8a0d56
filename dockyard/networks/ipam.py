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
        raise Conflict("all predefined address pools have been fully subnetted")


def check_pools(pools: Sequence[Pool]) -> None:
    """Raise InvalidParameter when a pool that a user asked for makes no sense in itself."""
    seen: list[Subnet] = []
    for pool in pools:
        if not pool.subnet:
            if pool.gateway or pool.ip_range or pool.auxiliary:
                raise InvalidParameter("invalid network config:\ninvalid subnet : no subnet given")
            continue
        subnet = _network(pool.subnet, "subnet")
        if address(pool.subnet) != subnet.network_address:
            raise InvalidParameter(f"invalid network config:\ninvalid subnet {pool.subnet}: it should be {subnet}")
        if any(subnet.version == other.version and subnet.overlaps(other) for other in seen):
            raise InvalidParameter(f"bad IPAM config: subnet {subnet} overlaps with another of the same network")
        seen.append(subnet)
        if pool.ip_range:
            inner = _network(pool.ip_range, "ip-range")
            if inner.version != subnet.version or not inner.subnet_of(subnet):  # type: ignore[arg-type]  # same version
                raise InvalidParameter(
                    f"invalid network config:\ninvalid ip-range {pool.ip_range}: it is not in subnet {subnet}"
                )
        for name, value in [("gateway", pool.gateway), *pool.auxiliary.items()]:
            if value and address(value) not in subnet:
                kind = "gateway" if name == "gateway" else "auxiliary address"
                raise InvalidParameter(
                    f"invalid network config:\ninvalid {kind} {value}: parent subnet {subnet} doesn't contain it"
                )


def address(text: str) -> Address:
    """An address from its text, with or without a prefix length. Raises InvalidParameter."""
    try:
        return ip_address(text.partition("/")[0])
    except ValueError:
        raise InvalidParameter(f"invalid IP address: {text}") from None


def _network(text: str, what: str) -> Subnet:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise InvalidParameter(f"invalid network config:\ninvalid {what} {text}: invalid CIDR address") from None
