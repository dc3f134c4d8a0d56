"""What a network to be made may be, and what it takes over from a configuration network.

moby libnetwork/network.go, validateConfiguration; libnetwork/controller.go, NewNetwork.
"""

import secrets
import time
from datetime import UTC, datetime

from dockyard.errors import Forbidden, InvalidParameter, NotImplementedHere
from dockyard.networks import plugin_ipam
from dockyard.networks.drivers import Driver
from dockyard.networks.model import Network, Pool
from dockyard.networks.plugin import Plugin


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


def check_ipam_driver(network: Network) -> None:
    """Raise, in Docker's words, for a network that cannot have its addresses from whom it names.

    "null": there are none, and who is attached gets some by DHCP or not at all.
    """
    if network.ipam_driver == "null":
        if network.pools:
            raise InvalidParameter("null ipam driver does not handle specific address pool requests")
        if network.driver in ("bridge", "overlay"):
            raise InvalidParameter("ipv4 pool is empty")
        network.asked = [Pool(subnet="0.0.0.0/0")]
    elif plugin_ipam.has_plugin(network):
        Plugin(network.ipam_driver).find()
        if network.driver in ("overlay", "cni"):
            raise NotImplementedHere(
                f"a plugin cannot give out the addresses of {network.driver} networks: they come from elsewhere"
            )


def new_identity() -> tuple[str, str]:
    """A network's id and the time of its creation, which is now."""
    now = time.time_ns()
    created = f"{datetime.fromtimestamp(now // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{now % 10**9:09d}Z"
    return secrets.token_hex(32), created
