"""What a network to be made may be, and what it takes over from a configuration network.

moby libnetwork/network.go, validateConfiguration; libnetwork/controller.go, NewNetwork.
"""

from dockyard.errors import Forbidden
from dockyard.networks.drivers import Driver
from dockyard.networks.model import Network


def check_configuration(network: Network, config_from: str, scope: str) -> None:
    """Raise Forbidden, in Docker's words, for what configuration networks and those that follow one cannot be.

    `scope` is what was asked for, "" for nothing.
    """
    if network.config_only and (network.ingress or network.internal or network.attachable or scope):
        raise Forbidden(
            "configuration network can only contain network specific fields. Network operator fields like "
            "[ ingress | internal | attachable | scope ] are not supported."
        )
    if not config_from:
        return
    if network.config_only:
        raise Forbidden("a configuration network cannot depend on another configuration network")
    own = network.labels or network.ipam_options or network.pools or network.ipam_driver not in ("", "default")
    if own or network.ipv6 or not network.ipv4:
        raise Forbidden(
            "user specified configurations are not supported if the network depends on a configuration network"
        )
    if network.options:
        raise Forbidden("network driver options are not supported if the network depends on a configuration network")


def check_scope(network: Network, driver: Driver, scope: str) -> None:
    """Raise Forbidden for a scope that the driver has not."""
    if driver.scope == "global":
        if scope == "local":
            raise Forbidden(f"cannot downgrade network scope for {network.driver} networks")
        return
    if network.ingress:
        raise Forbidden("Ingress network can only be global scope network")
    if scope == "swarm":
        raise Forbidden("cannot create a swarm scoped network when swarm is not active")


def apply_configuration(base: Network, network: Network) -> None:
    """Let `network` be as the configuration network `base` says."""
    network.config_from = base.name
    network.ipv4, network.ipv6 = base.ipv4, base.ipv6
    network.pools, network.asked = list(base.pools), list(base.pools)
    network.options, network.labels = dict(base.options), dict(base.labels)
    network.ipam_driver, network.ipam_options = base.ipam_driver, base.ipam_options
