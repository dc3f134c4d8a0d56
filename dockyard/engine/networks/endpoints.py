"""What can't be asked of a network for a container that is attached to it."""

import re
from ipaddress import ip_address, ip_network

from dockyard.errors import InvalidParameter
from dockyard.networks.endpoint_sysctls import endpoint_sysctls
from dockyard.networks.model import EndpointConfig, Network

# They have neither names nor addresses that users choose.
PREDEFINED = ("default", "bridge", "host", "none")


def check_endpoint(name: str, network: Network | None, config: EndpointConfig) -> None:
    """Raise InvalidParameter, in Docker's words, for what is wrong with an endpoint on the network called `name`.

    `network` is None when there is none yet (moby daemon/container_operations.go, validateEndpointSettings).
    """
    wrong = []
    if name in PREDEFINED:
        if config.ipv4_address or config.ipv6_address:
            wrong.append("user specified IP address is supported on user defined networks only")
        if config.aliases and name not in ("bridge", "default"):
            wrong.append("network-scoped aliases are only supported for user-defined networks")
    wrong += [
        f"invalid {kind} address: {text}"
        for kind, version, text in (
            ("IPv4", 4, config.ipv4_address),
            ("IPv6", 6, config.ipv6_address),
            *(("link-local IP", 0, text) for text in config.link_local_ips),
        )
        if text and not _is_address(text, version)
    ]
    if network is not None:
        wrong += _out_of_range(network, 4, config.ipv4_address) + _out_of_range(network, 6, config.ipv6_address)
    try:
        endpoint_sysctls(config.driver_opts)
    except InvalidParameter as error:
        wrong.append(error.message)
    if config.mac_address and not re.fullmatch(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}", config.mac_address):
        raise InvalidParameter(f"invalid MAC address {config.mac_address}")
    if wrong:
        told = wrong[0] if len(wrong) == 1 else "\n".join(f"* {one}" for one in wrong)
        raise InvalidParameter(f"invalid endpoint settings:\n{told}")


def _is_address(text: str, version: int) -> bool:
    """Whether it is an address of that version (0: of any) that somebody can have."""
    try:
        found = ip_address(text)
    except ValueError:
        return False
    return version in (0, found.version) and not found.is_unspecified


def _out_of_range(network: Network, version: int, text: str) -> list[str]:
    if not text:
        return []
    subnets = [ip_network(pool.subnet) for pool in network.pools if pool.subnet and not pool.chosen]
    subnets = [subnet for subnet in subnets if subnet.version == version]
    if not subnets:
        return ["user specified IP address is supported only when connecting to networks with user configured subnets"]
    if _is_address(text, version) and any(ip_address(text) in subnet for subnet in subnets):
        return []
    return [f"no configured subnet or ip-range contain the IP address {text}"]
