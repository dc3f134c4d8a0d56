"""How a bridge network's addresses are reached from outside, for each of IPv4 and IPv6.

nat              by host ports alone, the container's address is hidden behind the host's
nat-unprotected  the same, and every port of the container's own address as well
routed           by the container's own address, at the ports that it publishes; nothing is translated
isolated         not at all: not even the host has an address there (internal networks only)
"""

from dockyard.errors import InvalidParameter
from dockyard.networks.model import Network

OPTIONS = {
    4: "com.docker.network.bridge.gateway_mode_ipv4",
    6: "com.docker.network.bridge.gateway_mode_ipv6",
}
NAT, UNPROTECTED, ROUTED, ISOLATED = "nat", "nat-unprotected", "routed", "isolated"


def gateway_mode(network: Network, version: int) -> str:
    """The network's mode for IPv4 (4) or IPv6 (6)."""
    return network.options.get(OPTIONS[version]) or NAT


def check_gateway_modes(network: Network) -> None:
    """Raise InvalidParameter for a mode that there is not, or not here."""
    for version, name in OPTIONS.items():
        mode = gateway_mode(network, version)
        if mode not in (NAT, UNPROTECTED, ROUTED, ISOLATED):
            raise InvalidParameter(f"failed to parse {name} value: {mode} (unknown gateway mode {mode})")
        if mode == ISOLATED and not network.internal:
            raise InvalidParameter("gateway mode 'isolated' can only be used for an internal network")
