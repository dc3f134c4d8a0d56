"""What an endpoint is to be, before the kernel makes it: its names, its links' names, its addresses."""

import secrets
from collections.abc import Iterator
from ipaddress import ip_address

import msgspec

from dockyard.errors import DockyardError
from dockyard.networks.addresses import Addresses
from dockyard.networks.claims import AddressClaims
from dockyard.networks.drivers import Driver
from dockyard.networks.drivers.bridge import is_default, veth_name
from dockyard.networks.endpoint_sysctls import disables_ipv6
from dockyard.networks.ipam import address
from dockyard.networks.model import EndpointConfig, EndpointState, JoinRequest, Network, Sandbox
from dockyard.networks.options import INTERFACE_NAME, PREFIX


class Allocation:
    """Gives addresses to endpoints, and keeps those of containers that are being restarted."""

    def __init__(self, claims: AddressClaims) -> None:
        """`claims`: addresses that are kept for containers, whether or not they run."""
        self.addresses = Addresses()
        self._claims = claims
        self._kept: dict[str, dict[str, EndpointState]] = {}

    def liked(self, request: JoinRequest, network: Network) -> tuple[str, str]:
        """The addresses that a container had there before."""
        kept = self._kept.get(request.container_id, {}).get(network.id)
        return (kept.ip, kept.ipv6) if kept is not None else request.preferred.get(network.id, ("", ""))

    def endpoint(
        self, request: JoinRequest, sandbox: Sandbox, network: Network, driver: Driver, config: EndpointConfig
    ) -> EndpointState:
        """An endpoint of the sandbox with names and addresses, not made yet. Raises as Addresses.take."""
        state = EndpointState(
            network_id=network.id,
            endpoint_id=secrets.token_hex(32),
            aliases=list(config.aliases),
            links=list(config.links),
            link_local_ips=[str(address(text)) for text in config.link_local_ips],
            driver_opts=dict(config.driver_opts),
            gw_priority=config.gw_priority,
            gateway_only=config.gateway_only,
        )
        if not driver.creates:
            return state
        if not is_default(network) and not config.gateway_only:
            short = request.container_id[:12]
            state.dns_names = list(dict.fromkeys([request.name, *config.aliases, short, *_given(request.hostname)]))
        state.interface = config.driver_opts.get(INTERFACE_NAME) or _free_interface(
            sandbox, network.options.get(PREFIX, "eth")
        )
        state.host_interface = veth_name()
        kept = self._kept.get(request.container_id, {}).pop(network.id, None)
        if kept is not None:
            # given back and taken again in one go
            self.addresses.free(kept)
            wanted4, wanted6 = config.ipv4_address or kept.ip, config.ipv6_address or kept.ipv6
            config = msgspec.structs.replace(config, ipv4_address=wanted4, ipv6_address=wanted6)
        claimed = self._claims.on(network)
        ipv6 = not disables_ipv6(config.driver_opts, request.sysctls)
        try:
            preferring = _preferring(config, *request.preferred.get(network.id, ("", "")))
            self.addresses.take(network, preferring, state, claimed, ipv6)
        except DockyardError:
            if network.id not in request.preferred:
                raise
            self.addresses.take(network, config, state, claimed, ipv6)
        if not driver.leads_out:
            state.gateway = state.ipv6_gateway = ""
        state.mac = config.mac_address.replace("-", ":").lower() or _mac_of(state.ip)
        return state

    def keep(self, container_id: str, sandbox: Sandbox) -> None:
        """Let the container have the addresses that it has now when it joins next, too; until `drop`."""
        self._kept[container_id] = {
            state.network_id: msgspec.structs.replace(state) for state in sandbox.endpoints.values()
        }

    def drop(self, container_id: str) -> None:
        """Undo `keep`: what has not been joined with is free again."""
        for state in self._kept.pop(container_id, {}).values():
            self.addresses.free(state)

    def free(self, container_id: str, states: Iterator[EndpointState]) -> None:
        """Give back the addresses of a container's endpoints, but those that are kept for it."""
        kept = self._kept.get(container_id, {})
        for state in states:
            if state.network_id not in kept:
                self.addresses.free(state)


def _given(text: str) -> list[str]:
    return [text] if text else []


def _preferring(config: EndpointConfig, ip: str, ipv6: str) -> EndpointConfig:
    return msgspec.structs.replace(
        config, ipv4_address=config.ipv4_address or ip, ipv6_address=config.ipv6_address or ipv6
    )


def _free_interface(sandbox: Sandbox, prefix: str) -> str:
    taken = {state.interface for state in sandbox.endpoints.values()}
    number = 0
    while f"{prefix}{number}" in taken:
        number += 1
    return f"{prefix}{number}"


def _mac_of(ip: str) -> str:
    """02:42 and the address, as Docker made them; random when there is no IPv4 address."""
    packed = ip_address(ip).packed if ip else secrets.token_bytes(4)
    return "02:42:" + packed.hex(":")
