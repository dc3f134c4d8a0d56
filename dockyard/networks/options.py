"""Driver options that more than one driver knows, and how their values are read."""

from ipaddress import ip_address

from dockyard.errors import InvalidParameter
from dockyard.networks.model import Network

MTU = "com.docker.network.driver.mtu"
PREFIX = "com.docker.network.container_iface_prefix"
INTERFACE_NAME = "com.docker.network.endpoint.ifname"
ENDPOINT_SYSCTLS = "com.docker.network.endpoint.sysctls"
# How often a new endpoint's addresses are made known to its neighbours, and how many ms apart.
ADVERTISE_COUNT = "com.docker.network.advertise_addr_nmsgs"
ADVERTISE_INTERVAL = "com.docker.network.advertise_addr_ms"


def option_flag(network: Network, name: str, default: bool) -> bool:
    """A boolean driver option as Go reads it. Raises InvalidParameter."""
    value = network.options.get(name)
    if value is None or value == "":
        return default
    found = truth(value)
    if found is None:
        raise _unreadable(name, value, f'strconv.ParseBool: parsing "{value}": invalid syntax')
    return found


def truth(value: str) -> bool | None:
    """A boolean as Go reads it; None for what is none."""
    if value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    return False if value in ("0", "f", "F", "false", "FALSE", "False") else None


def number_option(network: Network, name: str) -> int:
    """A driver option that is a number, 0 when it is not given. Raises InvalidParameter."""
    value = network.options.get(name) or "0"
    try:
        number = int(value)
    except ValueError:
        raise _unreadable(name, value, f'strconv.Atoi: parsing "{value}": invalid syntax') from None
    if name == MTU and number < 0:
        raise InvalidParameter(f"invalid MTU number: {number}")
    return number


def address_option(network: Network, name: str, version: int = 0) -> str:
    """A driver option that is an address (of that version, where one is named), "" without one.

    Raises InvalidParameter.
    """
    value = network.options.get(name, "")
    if not value:
        return ""
    try:
        found = ip_address(value)
    except ValueError:
        raise _unreadable(name, value, "nil ip") from None
    if version not in (0, found.version):
        raise _unreadable(name, value, f"it is no IPv{version} address")
    return str(found)


def _unreadable(name: str, value: str, why: str) -> InvalidParameter:
    return InvalidParameter(f"failed to parse {name} value: {value} ({why})")
