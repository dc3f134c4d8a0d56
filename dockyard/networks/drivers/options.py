"""Driver options that more than one driver knows, and how their values are read."""

from dockyard.errors import InvalidParameter
from dockyard.networks.model import Network

MTU = "com.docker.network.driver.mtu"
PREFIX = "com.docker.network.container_iface_prefix"
INTERFACE_NAME = "com.docker.network.endpoint.ifname"


def option_flag(network: Network, name: str, default: bool) -> bool:
    """A boolean driver option as Go reads it. Raises InvalidParameter."""
    value = network.options.get(name)
    if value is None or value == "":
        return default
    found = truth(value)
    if found is None:
        raise InvalidParameter(f'failed to parse {name} value: "{value}" (must be a boolean)')
    return found


def truth(value: str) -> bool | None:
    """A boolean as Go reads it; None for what is none."""
    if value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    return False if value in ("0", "f", "F", "false", "FALSE", "False") else None


def number_option(network: Network, name: str) -> int:
    """A driver option that is a number, 0 when it is not given. Raises InvalidParameter."""
    value = network.options.get(name) or "0"
    if not value.isdigit():
        raise InvalidParameter(f'failed to parse {name} value: "{value}" (must be an integer)')
    return int(value)
