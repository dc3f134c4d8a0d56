"""Leases: what carries one lives as long as its holder's connection, however that ends.

A client opens a lease and keeps the connection; containers, networks and volumes with the label `dockyard.lease=ID` are
the lease's. When the last connection that holds it is gone, all of that is removed. A daemon that is killed and comes
back gives holders a moment to take up their leases again; those who died meanwhile do not.
"""

import asyncio
import logging
import secrets
import socket
from collections.abc import Mapping

import msgspec

from dockyard.engine.containers.service import ContainerService
from dockyard.engine.networks.service import NetworkService
from dockyard.engine.state.database import Database
from dockyard.engine.volumes.service import VolumeService
from dockyard.errors import Conflict, DockyardError, InvalidParameter, NotFound

log = logging.getLogger("dockyard.leases")

LABEL = "dockyard.lease"
# Found out within half a minute.
KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
# How long a holder may take to come back after the daemon was away.
RETURN = 10.0


class Lease(msgspec.Struct):
    """A lease in the database; `grace` is how many seconds its holder may be away."""

    id: str
    grace: float = 0.0


class LeaseService:
    """Knows who holds which lease, and clears up when nobody does."""

    def __init__(
        self, database: Database, containers: ContainerService, networks: NetworkService, volumes: VolumeService
    ) -> None:
        self._rows = database.collection("leases", Lease)
        self._containers = containers
        self._networks = networks
        self._volumes = volumes
        self._leases: dict[str, Lease] = {}
        self._holders: dict[str, int] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._closing = False
        self._connections: set[asyncio.Task[None]] = set()
        containers.refuse_if(self.check)

    def open(self) -> None:
        """Take up the leases of an earlier daemon: their holders have a moment to return."""
        for lease_id, lease in list(self._rows.all()):
            self._leases[lease_id] = lease
            self._holders[lease_id] = 0
            self._end_later(lease, max(lease.grace, RETURN))

    async def close(self) -> None:
        """The daemon ends: no lease ends by that."""
        self._closing = True
        tasks = [*self._ending.values(), *self._connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def take(self, lease_id: str, grace: float) -> Lease:
        """Hold the lease `lease_id`, or a new one when that is empty. Raises NotFound when it has ended."""
        if lease_id:
            lease = self._leases.get(lease_id)
            if lease is None:
                raise NotFound(f"no such lease: {lease_id}")
        else:
            lease = Lease(secrets.token_hex(32), grace)
            self._rows.put(lease.id, lease)
            self._leases[lease.id] = lease
            self._holders[lease.id] = 0
        self._holders[lease.id] += 1
        ending = self._ending.pop(lease.id, None)
        if ending is not None:
            ending.cancel()
        return lease

    def keep(self, lease: Lease, connection: socket.socket, greeting: bytes) -> None:
        """Send `greeting`, and hold `lease` as long as its client keeps `connection`, which is ours from here on."""
        task = asyncio.ensure_future(self._keep(lease, connection, greeting))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _keep(self, lease: Lease, connection: socket.socket, greeting: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            connection.setblocking(False)
            await loop.sock_sendall(connection, greeting)
            if connection.family != socket.AF_UNIX:
                # a machine that is cut off says nothing: ask it
                for option, value in KEEPALIVE:
                    connection.setsockopt(socket.IPPROTO_TCP, option, value)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            while await loop.sock_recv(connection, 4096):
                pass
        except OSError:
            pass  # gone, too
        finally:
            connection.close()
            self.let_go(lease)

    def let_go(self, lease: Lease) -> None:
        """One holder's connection is gone."""
        self._holders[lease.id] -= 1
        if not self._holders[lease.id] and not self._closing:
            self._end_later(lease, lease.grace)

    def check(self, labels: Mapping[str, str]) -> None:
        """Raise InvalidParameter for something new that wants a lease which has ended."""
        lease_id = labels.get(LABEL)
        if lease_id is not None and lease_id not in self._leases:
            raise InvalidParameter(f"lease {lease_id} has ended: its holder's connection is gone")

    def _end_later(self, lease: Lease, delay: float) -> None:
        self._ending[lease.id] = asyncio.ensure_future(self._end(lease, delay))

    async def _end(self, lease: Lease, delay: float) -> None:
        await asyncio.sleep(delay)
        # first, so that nothing new joins it; a daemon that dies here finds it in the database and goes on
        del self._leases[lease.id]
        del self._holders[lease.id]
        await self._clear(lease)
        self._rows.delete(lease.id)
        self._ending.pop(lease.id, None)

    async def _clear(self, lease: Lease) -> None:
        """Remove all that carries the lease: containers, then what they used."""

        def ours(labels: Mapping[str, str] | None) -> bool:
            return (labels or {}).get(LABEL) == lease.id

        removals = [
            self._containers.remove(container.id, force=True, volumes=True)
            for container in self._containers.all()
            if ours(container.config.labels)
        ]
        _report(await asyncio.gather(*removals, return_exceptions=True))
        results: list[object] = []
        for network in list(self._networks.list()):
            if ours(network.labels):
                results += await asyncio.gather(self._networks.remove(network.id), return_exceptions=True)
        for volume in await self._volumes.list():
            if ours(volume.labels):
                results += await asyncio.gather(self._volumes.remove(volume.name), return_exceptions=True)
        _report(results)


def _report(results: list[object] | list[BaseException | None]) -> None:
    for result in results:
        if isinstance(result, DockyardError) and not isinstance(result, (NotFound, Conflict)):
            log.warning("cannot remove what a lease held: %s", result)
