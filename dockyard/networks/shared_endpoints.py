"""Endpoints on other hosts, of the networks that this one shares with them: known by name, reached by tunnel."""

import asyncio
import functools
import hashlib
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

from dockyard.networks.cluster.reservations import give_back, reserve_addresses
from dockyard.networks.cluster.store import ClusterStore, Peer
from dockyard.networks.drivers import OverlayDriver
from dockyard.networks.model import EndpointConfig, EndpointState, Network
from dockyard.networks.names import Names

log = logging.getLogger("dockyard.networks")

P = ParamSpec("P")
T = TypeVar("T")


class SharedEndpoints:
    """What this host and others tell each other, by the store `cluster`; without one there is nothing to tell."""

    def __init__(self, cluster: ClusterStore | None, overlay: OverlayDriver, names: Names, executor: Executor) -> None:
        self._cluster = cluster
        self._overlay = overlay
        self._names = names
        self._executor = executor
        # by network
        self._remote: dict[str, dict[Peer, EndpointState]] = {}

    def _do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._executor, functools.partial(work, *args, **kwargs))

    async def set_peers(self, network: Network, peers: Iterable[Peer]) -> None:
        """Know who is attached to a shared network on other hosts: by name, and where their frames go."""
        own = self._cluster.host if self._cluster is not None else ""
        wanted = {peer for peer in peers if peer.host != own}
        known = self._remote.setdefault(network.id, {})
        for peer in known.keys() - wanted:
            self._names.remove(known.pop(peer))
        for peer in wanted - known.keys():
            state = known[peer] = EndpointState(
                network_id=network.id,
                endpoint_id=peer.endpoint_id,
                ip=peer.ip,
                ipv6=peer.ipv6,
                mac=peer.mac,
                dns_names=list(peer.names),
            )
            self._names.add(state)
        if network.driver == self._overlay.name:
            await self._do(self._overlay.set_peers, network, wanted)

    def peers(self, network_id: str) -> list[Peer]:
        """Who is attached to a shared network on other hosts."""
        return list(self._remote.get(network_id, ()))

    def hosts(self, network_id: str, here: bool) -> list[tuple[str, str]]:
        """The hosts with endpoints on a shared network, and this one if it is `here`: a name for each, its address."""
        found = {peer.host for peer in self._remote.get(network_id, ())}
        if here and self._cluster is not None and network_id in self._remote:
            found.add(self._cluster.host)
        # twelve hex digits, as Docker's names of such hosts; the same wherever they are asked for
        return [(hashlib.sha256(host.encode()).hexdigest()[:12], host) for host in sorted(found)]

    async def forget(self, network: Network) -> None:
        """Know nobody on the network any more."""
        await self.set_peers(network, ())
        self._remote.pop(network.id, None)

    async def reserve(self, network: Network, config: EndpointConfig, liked: tuple[str, str]) -> EndpointConfig:
        """`config` with addresses that no other host gives away, `liked` ones if they are free.

        On a network of this host alone it stays as it is. Raises Conflict, Unavailable.
        """
        if self._cluster is None or network.scope == "local":
            return config
        return await self._do(reserve_addresses, self._cluster, network, config, liked)

    async def give_back(self, network: Network, held: EndpointConfig) -> None:
        """Undo `reserve`."""
        if self._cluster is not None and network.scope != "local":
            await self._do(give_back, self._cluster, network, (held.ipv4_address, held.ipv6_address))

    async def release_leftovers(self, network: Network, used: set[str]) -> None:
        """Give back what an earlier daemon of this host has claimed for containers that are gone: all but `used`."""
        store = self._cluster
        if store is None:
            return
        try:
            claimed = await self._do(store.own_claims, network.id)
            await self._do(store.release, network.id, claimed - used)
        except OSError as error:
            log.warning("the cluster store cannot be asked for network %s: %s", network.name, error)
