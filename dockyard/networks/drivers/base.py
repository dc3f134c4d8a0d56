"""What the controller asks of a network driver."""

from collections.abc import Sequence
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

    except `settle`, `links` and `check`, which only look at what is asked for.
    """

    name: str
    # "local": its networks are this host's alone; "global": all hosts with the same store have them.
    scope: str
    # Whether its networks can be created and removed, and have endpoints with addresses.
    creates: bool
    # Whether a default route may lead through one of its endpoints.
    leads_out: bool
    # Whether host ports can lead to its endpoints.
    publishes: bool

    def settle(self, network: Network) -> None:
        """Fill in what follows from the network's id and options."""

    def chooses_gateway(self, network: Network, version: int) -> bool:
        """Whether the network gets a gateway of that IP version where its user names none."""

    def links(self, network: Network) -> Sequence[str]:
        """The names of the host's links that the network may have, besides its endpoints'."""

    def check(self, network: Network) -> None:
        """Raise InvalidParameter or NotImplementedHere when `network` cannot be."""

    def create(self, network: Network) -> None:
        """Make the network in the kernel; one that is there already is brought into shape."""

    def remove(self, network: Network) -> None:
        """Remove the network from the kernel; no error when it is gone."""

    def attach(self, namespace: Namespace, plan: Plan) -> None:
        """Make an endpoint and move it into `namespace`. Nothing is left when it raises."""

    def take_up(self, namespace: Namespace, plan: Plan) -> bool:
        """Bring an endpoint that an earlier daemon made into shape; False when it is gone."""

    def detach(self, namespace: Namespace, plan: Plan) -> None:
        """Remove an endpoint from a living sandbox."""

    def vacate(self, namespace: Namespace, plan: Plan) -> None:
        """Take the endpoint's addresses from a sandbox that is about to go, so that another may have them at once."""
