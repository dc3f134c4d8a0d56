"""Which addresses of which network are taken, and by whom they may be."""

import logging
from collections.abc import Set
from ipaddress import ip_address, ip_network

from dockyard.errors import Conflict, DockyardError, InvalidParameter, Unavailable
from dockyard.networks.ipam import Address, AddressPool, address
from dockyard.networks.model import EndpointConfig, EndpointState, Network

log = logging.getLogger("dockyard.networks")

# The auxiliary address that containers of the default bridge take for their gateway instead of the bridge's own.
DEFAULT_GATEWAYS = {4: "DefaultGatewayIPv4", 6: "DefaultGatewayIPv6"}


class Addresses:
    """The address pools of every network."""

    def __init__(self) -> None:
        self._pools: dict[str, list[AddressPool]] = {}

    def adopt(self, network: Network) -> None:
        """Know a network's pools; its gateways and auxiliary addresses are taken."""
        pools = self._pools[network.id] = []
        for given in network.pools:
            if not given.subnet:
                continue
            scope = ip_network(given.ip_range, strict=False) if given.ip_range else None
            pool = AddressPool(ip_network(given.subnet, strict=False), scope)
            for taken in (given.gateway, *given.auxiliary.values()):
                if taken:
                    try:
                        pool.take(address(taken))
                    except Conflict:
                        pass  # a gateway may be named among the auxiliary addresses, or be the network's own
            pools.append(pool)

    def forget(self, network: Network) -> None:
        """Know a network no more."""
        del self._pools[network.id]

    def take(
        self,
        network: Network,
        config: EndpointConfig,
        state: EndpointState,
        avoid: Set[Address] = frozenset(),
        ipv6: bool = True,
    ) -> None:
        """Give the endpoint `state` its addresses and gateways: those wished for, or the lowest free ones but `avoid`.

        Without `ipv6` it gets none of IPv6's.
        Raises Conflict when a wish is taken, InvalidParameter when it is outside, Unavailable when a pool is full;
        then the endpoint has none.
        """
        try:
            for version, wanted in ((4, config.ipv4_address), (6, config.ipv6_address)):
                if version == 4 or ipv6:
                    self._take_one(network, version, wanted, state, avoid)
        except DockyardError:
            self.free(state)
            raise

    def _take_one(self, network: Network, version: int, wanted: str, state: EndpointState, avoid: Set[Address]) -> None:
        pools = [pool for pool in self._pools[network.id] if pool.subnet.version == version]
        if not pools:
            if wanted:
                raise InvalidParameter(
                    "user specified IP address is supported only when connecting to networks with user "
                    "configured subnets"
                )
            return
        try:
            pool, taken = _take(pools, wanted, avoid)
        except Unavailable as full:
            raise Unavailable(f"{full.message}: {network.name} ({network.id})") from None
        gateway = "" if network.internal else _gateway(network, pool)
        if version == 4:
            state.ip, state.prefix_len, state.gateway = str(taken), pool.subnet.prefixlen, gateway
        else:
            state.ipv6, state.ipv6_prefix_len, state.ipv6_gateway = str(taken), pool.subnet.prefixlen, gateway

    def free(self, state: EndpointState) -> None:
        """Give an endpoint's addresses back."""
        for text in (state.ip, state.ipv6):
            if text:
                taken = ip_address(text)
                for pool in self._pools.get(state.network_id, ()):
                    if taken in pool.subnet:
                        pool.free(taken)

    def retake(self, state: EndpointState) -> None:
        """Take again the addresses that an endpoint was given by an earlier daemon."""
        for text in (state.ip, state.ipv6):
            for pool in self._pools[state.network_id] if text else ():
                taken = ip_address(text)
                if taken in pool.subnet:
                    try:
                        pool.take(taken)
                    except Conflict:
                        log.warning("address %s is in use by two containers", text)


def _take(pools: list[AddressPool], wanted: str, avoid: Set[Address]) -> tuple[AddressPool, Address]:
    if wanted:
        taken = address(wanted)
        for pool in pools:
            if taken in pool.subnet:
                return pool, pool.take(taken)
        raise InvalidParameter(
            f"invalid config for network: no configured subnet or ip-range contain the IP address {wanted}"
        )
    failure: DockyardError | None = None
    for pool in pools:
        try:
            return pool, pool.take(avoid=avoid)
        except DockyardError as error:
            failure = error
    assert failure is not None
    raise failure


def _gateway(network: Network, pool: AddressPool) -> str:
    for given in network.pools:
        if given.subnet and ip_network(given.subnet, strict=False) == pool.subnet:
            return given.auxiliary.get(DEFAULT_GATEWAYS[pool.subnet.version]) or given.gateway
    return ""
