"""What an overlay network needs to know of other hosts, and what it tells them: the interface and its data.

Whoever implements it decides how hosts agree: a shared folder (cluster/folder.py) or a database.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from dockyard.networks.ipam import Address
from dockyard.networks.model import Network


class Peer(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """An endpoint of an overlay network: where its frames go (`host` is the tunnel's end), and what it is called."""

    network_id: str
    endpoint_id: str
    host: str
    mac: str
    ip: str = ""
    ipv6: str = ""
    names: tuple[str, ...] = ()
    container_id: str = ""
    container_name: str = ""


class ClusterStore(Protocol):
    """Shared by all hosts of the same networks. Every method blocks; any may raise OSError."""

    # This host's address, at which the others' tunnels end; it also tells whose a claim is.
    host: str

    def networks(self) -> list[Network]:
        """Every network of the cluster."""

    def add_network(self, settle: Callable[[list[Network]], Network]) -> Network:
        """Add the network that `settle` makes of what is there already; nobody else adds one meanwhile."""

    def remove_network(self, network_id: str) -> None:
        """Forget a network; no error when it is gone."""

    def reserve(self, network_id: str, wanted: Iterable[Address]) -> Address | None:
        """Claim the first of the `wanted` addresses that nobody on any host has; None when all are taken."""

    def release(self, network_id: str, addresses: Iterable[str]) -> None:
        """Give claimed addresses back, and withdraw the endpoint that was announced with the first."""

    def announce(self, peer: Peer) -> None:
        """Tell the others of an endpoint on this host, whose addresses have been reserved."""

    def peers(self, network_id: str) -> list[Peer]:
        """The endpoints of a network on all hosts, this one included."""

    def own_claims(self, network_id: str) -> set[str]:
        """The addresses that this host has claimed."""

    def secret(self) -> bytes:
        """What the hosts have in common and nobody else knows: 32 random bytes, made when first asked for."""

    def nonces(self) -> dict[str, dict[str, str]]:
        """What each host has told by `tell_nonces`."""

    def tell_nonces(self, nonces: dict[str, str]) -> None:
        """Tell the others which random number this host has chosen for what it sends to each of them."""

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Have `changed` called in the event loop's thread after every change; returns what ends that."""
