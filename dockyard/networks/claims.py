"""Addresses that users have given to containers (`--ip`), kept for them whether or not they run."""

from collections import Counter
from collections.abc import Iterable, Set
from ipaddress import ip_address

from dockyard.networks.ipam import Address
from dockyard.networks.model import Network


class AddressClaims:
    """Who claims what on which network; a network is meant by its name or id, and need not be there yet."""

    def __init__(self) -> None:
        self._of: dict[str, frozenset[tuple[str, Address]]] = {}
        self._on: dict[str, Counter[Address]] = {}

    def put(self, container_id: str, wanted: Iterable[tuple[str, str]]) -> None:
        """A container's claims are these (network, address), in place of those before; what is no address is none."""
        claims = frozenset((network, found) for network, text in wanted if (found := _address(text)) is not None)
        before = self._of.get(container_id, frozenset())
        if claims == before:
            return
        for network, address in before - claims:
            self._on[network] -= Counter([address])
        for network, address in claims - before:
            self._on.setdefault(network, Counter())[address] += 1
        if claims:
            self._of[container_id] = claims
        else:
            del self._of[container_id]

    def drop(self, container_id: str) -> None:
        """A container is gone."""
        self.put(container_id, ())

    def on(self, network: Network) -> Set[Address]:
        """The addresses that are claimed there."""
        return self._on.get(network.name, {}).keys() | self._on.get(network.id, {}).keys()


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
