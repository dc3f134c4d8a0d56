"""The bridge by which containers of overlay networks reach the outside, and are reached at published ports."""

from collections.abc import Sequence

from dockyard.networks.drivers.bridge import ICC, MASQUERADE, NAME
from dockyard.networks.model import Network

GATEWAY_BRIDGE = "docker_gwbridge"


def gateway_bridge() -> Network:
    """The network, to be made; containers on it do not see each other."""
    options = {NAME: GATEWAY_BRIDGE, ICC: "false", MASQUERADE: "true"}
    return Network(id="", name=GATEWAY_BRIDGE, driver="bridge", created="", options=options)


def needs_gateway(networks: Sequence[Network]) -> bool:
    """Whether a container on these networks is to be on that bridge, too: one leads to other hosts, none outside."""
    lead_out = any(network.driver in ("bridge", "macvlan", "ipvlan") and not network.internal for network in networks)
    return not lead_out and any(network.driver == "overlay" and not network.internal for network in networks)
