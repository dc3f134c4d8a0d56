"""Networks that several hosts share: made once for all of them, known here as long as they are in the store."""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Protocol, TypeVar

from dockyard.engine.networks.pools import settle_pools
from dockyard.errors import Conflict, DockyardError, Forbidden, InvalidParameter, SystemFailure
from dockyard.linux.netlink import RouteSocket
from dockyard.networks.cluster.folder import FolderStore
from dockyard.networks.cluster.store import ClusterStore, Peer
from dockyard.networks.controller import Controller
from dockyard.networks.drivers.overlay import FIRST_ID, VXLAN_IDS, vxlan_id
from dockyard.networks.ipam import Subnet, Subnets
from dockyard.networks.model import Network

log = logging.getLogger("dockyard.networks")

T = TypeVar("T")

# Docker's pool of networks of global scope (moby daemon/libnetwork/ipamutils)
POOLS = (("10.0.0.0/8", 24),)


class Owner(Protocol):
    """Who keeps the networks that this host knows."""

    def list(self) -> Sequence[Network]:
        """Every network."""

    async def adopt_shared(self, network: Network) -> None:
        """Know one more."""

    async def drop_shared(self, network: Network) -> None:
        """Know one no more."""


class SharedNetworks:
    """Keeps this host's networks and neighbours in step with the store."""

    def __init__(self, store: ClusterStore, controller: Controller, owner: Owner) -> None:
        self._store = store
        self._controller = controller
        self._owner = owner
        self._subnets = Subnets(POOLS)
        self._stop: Callable[[], None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._again = False
        # a change of ours is not to be taken for one of others
        self._changing = asyncio.Lock()

    async def open(self) -> None:
        """Know what there is, and from now on what changes."""
        self._stop = self._store.watch(self._changed)
        await self._look()

    async def close(self) -> None:
        """Look no more."""
        if self._stop is not None:
            self._stop()
            self._stop = None
        if self._looking is not None:
            await asyncio.wait({self._looking})

    async def add(
        self,
        network: Network,
        taken: Sequence[Subnet],
        ours: Sequence[Subnet],
        gateways: Callable[[int], bool],
    ) -> None:
        """Have `network` on every host, with pools and tunnel number settled. Raises Conflict when its name is taken.

        `taken`, `ours`, `gateways` as for settle_pools, of this host.
        """

        def settle(present: list[Network]) -> Network:
            if any(other.name == network.name for other in present):
                raise Conflict(f"network with name {network.name} already exists")
            others = [ip_network(pool.subnet) for other in present for pool in other.pools]
            network.pools = settle_pools(network, self._subnets, [*taken, *others], [*ours, *others], gateways)
            numbers = {vxlan_id(other) for other in present}
            if not network.options.get(VXLAN_IDS):
                free = next(number for number in range(FIRST_ID, FIRST_ID + len(numbers) + 1) if number not in numbers)
                network.options = {**network.options, VXLAN_IDS: str(free)}
            elif vxlan_id(network) in numbers:
                raise Forbidden(f"VXLAN {vxlan_id(network)} belongs to another network")
            return network

        async with self._changing:
            await self._ask(lambda: self._store.add_network(settle))
            await self._owner.adopt_shared(network)

    async def remove(self, network: Network) -> None:
        """Take the network from every host. Raises Forbidden while somebody on another host is attached to it."""
        peers = await self._peers(network)
        if peers:
            users = ", ".join(f'name:"{peer.names[0]}" id:"{peer.endpoint_id[:12]}"' for peer in peers)
            raise Forbidden(f"error while removing network: network {network.name} has active endpoints ({users})")
        async with self._changing:
            await self._ask(lambda: self._store.remove_network(network.id))
            await self._owner.drop_shared(network)

    async def _peers(self, network: Network) -> list[Peer]:
        return await self._ask(lambda: self._store.peers(network.id))

    async def _ask(self, question: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(question)
        except OSError as error:
            raise SystemFailure(f"the cluster store does not answer: {error}") from error

    def _changed(self) -> None:
        if self._looking is not None and not self._looking.done():
            self._again = True
            return
        self._looking = asyncio.get_running_loop().create_task(self._look_until_quiet())

    async def _look_until_quiet(self) -> None:
        self._again = True
        while self._again:
            self._again = False
            await self._look()

    async def _look(self) -> None:
        try:
            async with self._changing:
                await self._take_over(await self._ask(self._store.networks))
        except DockyardError as error:
            log.error("shared networks stay as they were: %s", error)

    async def _take_over(self, present: Sequence[Network]) -> None:
        known = {network.id: network for network in self._owner.list() if network.scope != "local"}
        names = {network.name: network for network in self._owner.list()}
        for network in present:
            if network.id in known:
                continue
            if network.name in names:
                log.error("shared network %s (%s) is called like another one here", network.name, network.id[:12])
                continue
            known[network.id] = network
            await self._owner.adopt_shared(network)
        there = {network.id for network in present}
        for network in known.values():
            if network.id not in there:
                if self._controller.members(network.id):
                    log.error("network %s has gone from the store, while it is in use here", network.name)
                else:
                    await self._owner.drop_shared(network)
                continue
            await self._controller.shared.set_peers(network, await self._peers(network))


def cluster_store(where: str, advertised: str) -> ClusterStore | None:
    """The store at `where` ("file:///folder"; None for ""), in which this host is `advertised`: an address or a link.

    Without that it is the address from which the default route leads. Raises InvalidParameter.
    """
    if not where:
        return None
    kind, separator, path = where.partition("://")
    if kind != "file" or not separator or not path.startswith("/"):
        raise InvalidParameter(
            f"invalid --cluster-store {where!r}: file:///FOLDER is needed, a folder that all hosts share"
        )
    return FolderStore(Path(path), _own_address(advertised))


def _own_address(advertised: str) -> str:
    if not advertised:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            try:
                probe.connect(("192.0.2.1", 9))  # sends nothing
                return str(probe.getsockname()[0])
            except OSError:
                raise InvalidParameter(
                    "--cluster-advertise ADDRESS|LINK is needed: there is no default route to tell this host's address"
                ) from None
    with RouteSocket() as host:
        link = host.link(advertised) if len(advertised) < 16 and advertised.isprintable() else None
        found = host.addresses()
    for index, where, _ in found:
        if str(where) == advertised or (link is not None and index == link.index and not where.is_link_local):
            return str(where)
    try:
        ip_address(advertised)
    except ValueError:
        raise InvalidParameter(
            f"invalid --cluster-advertise {advertised!r}: no link of that name has an address"
        ) from None
    raise InvalidParameter(f"invalid --cluster-advertise {advertised}: no link has that address")
