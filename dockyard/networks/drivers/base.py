"""What the controller asks of a network driver."""

from dataclasses import dataclass
from typing import Protocol

from dockyard.networks.model import EndpointState, Network
from dockyard.networks.sandboxes import Namespace


@dataclass(frozen=True, slots=True)
class Plan:
    """One endpoint to be made: `state` says all, `default_route` whether it leads out of the sandbox.

    `publishes`: host ports lead to it.
    """

    network: Network
    state: EndpointState
    default_route: bool
    publishes: bool = False


class Driver(Protocol):
    """Makes and removes networks and endpoints of one kind. All methods block and run in worker threads,

    except `check`, which only looks at what is asked for.
    """

    name: str
    # Whether its networks can be created and removed, and have endpoints with addresses.
    creates: bool

    def check(self, network: Network) -> None:
        """Raise InvalidParameter or NotImplementedHere when `network` cannot be."""

    def create(self, network: Network) -> None:
        """Make the network in the kernel; one that is there already is brought into shape."""

    def remove(self, network: Network) -> None:
        """Remove the network from the kernel; no error when it is gone."""

    def attach(self, namespace: Namespace, plan: Plan) -> None:
        """Make an endpoint and move it into `namespace`. Nothing is left when it raises."""

    def detach(self, namespace: Namespace, plan: Plan) -> None:
        """Remove an endpoint from a living sandbox."""

    def vacate(self, namespace: Namespace, plan: Plan) -> None:
        """Take the endpoint's addresses from a sandbox that is about to go, so that another may have them at once."""
