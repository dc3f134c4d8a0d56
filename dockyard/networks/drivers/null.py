"""The network "none": a sandbox with nothing but its loopback."""

from collections.abc import Sequence

from dockyard.errors import Forbidden
from dockyard.networks.drivers.base import Plan
from dockyard.networks.model import Network
from dockyard.networks.sandboxes import Namespace


class NullDriver:
    """Makes nothing."""

    name = "null"
    scope = "local"
    creates = False
    leads_out = False
    publishes = False

    def settle(self, network: Network) -> None:
        return

    def chooses_gateway(self, network: Network, version: int) -> bool:
        return False

    def links(self, network: Network) -> Sequence[str]:
        return []

    def check(self, network: Network) -> None:
        raise Forbidden('only one instance of "null" network is allowed')

    def create(self, network: Network) -> None:
        return

    def remove(self, network: Network) -> None:
        return

    def attach(self, namespace: Namespace, plan: Plan) -> None:
        return

    def take_up(self, namespace: Namespace, plan: Plan) -> bool:
        return True

    def detach(self, namespace: Namespace, plan: Plan) -> None:
        return

    def vacate(self, namespace: Namespace, plan: Plan) -> None:
        return
