"""Calculations with address prefixes: cidrhost, cidrnetmask, cidrsubnet, cidrsubnets."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence


def cidr_host(prefix: str, number: int) -> str:
    """The address of a host, from the end when `number` is negative. Raises ValueError."""
    network = ipaddress.ip_network(prefix, strict=False)
    if not -network.num_addresses <= number < network.num_addresses:
        raise ValueError(f"prefix of {network.prefixlen} does not accommodate a host numbered {number}")
    return str(network[number])


def cidr_netmask(prefix: str) -> str:
    """The mask of an IPv4 prefix. Raises ValueError."""
    network = ipaddress.ip_network(prefix, strict=False)
    if network.version != 4:
        raise ValueError("only IPv4 networks have netmasks")
    return str(network.netmask)


def cidr_subnet(prefix: str, bits: int, number: int) -> str:
    """The subnet `number` of those that are `bits` longer. Raises ValueError."""
    network = ipaddress.ip_network(prefix, strict=False)
    length = network.prefixlen + bits
    if bits < 0 or length > network.max_prefixlen:
        raise ValueError(f"insufficient address space to extend prefix of {network.prefixlen} by {bits}")
    if not 0 <= number < 1 << bits:
        raise ValueError(f"prefix extension of {bits} does not accommodate a subnet numbered {number}")
    start = int(network.network_address) + (number << (network.max_prefixlen - length))
    return f"{type(network.network_address)(start)}/{length}"


def cidr_subnets(prefix: str, bits: Sequence[int]) -> list[object]:
    """Subnets one behind the other, each `bits` longer. Raises ValueError."""
    network = ipaddress.ip_network(prefix, strict=False)
    place, end = int(network.network_address), int(network.broadcast_address)
    found: list[object] = []
    for extension in bits:
        length = network.prefixlen + extension
        if extension < 1 or length > network.max_prefixlen:
            raise ValueError(f"insufficient address space to extend prefix of {network.prefixlen} by {extension}")
        size = 1 << (network.max_prefixlen - length)
        place = -(-place // size) * size
        if place + size - 1 > end:
            raise ValueError(f"not enough remaining address space for a subnet with a prefix of {length} bits")
        found.append(f"{type(network.network_address)(place)}/{length}")
        place += size
    return found
