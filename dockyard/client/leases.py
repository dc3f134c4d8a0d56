"""Leases: what is made with one goes when its holder goes, however that ends. Of Dockyard's engine only.

The engine keeps a lease as long as a connection that holds it is open (docs/extensions.md); a program that is killed
cannot forget to tidy up, and nothing else has to run for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dockyard.client.errors import APIError, ClientError, TimedOut, Unreachable
from dockyard.client.modes import Async, M, Resource, Sync, operation
from dockyard.client.urls import path
from dockyard.oci.quick_json import loads

if TYPE_CHECKING:
    from dockyard.client.session import Exchange, Session

LABEL = "dockyard.lease"
RETURN = 10.0  # seconds in which an engine that was restarted is looked for
PAUSE = 0.1


class Lease(Resource[M]):
    """A lease that is held. Give it to what is to go with it:

    with client.lease() as lease:
        container = client.run("busybox", "sleep 60", lease=lease)
        network = client.networks.create("backend", lease=lease)

    At the end of the block, or of this process, all of it is removed. A restart of the engine meanwhile ends nothing.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.id = ""
        self._exchange: Exchange | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id[:12]}>"

    @property
    def labels(self) -> dict[str, str]:
        """The label that makes something the lease's."""
        return {LABEL: self.id}

    async def _take(self, grace: float = 0) -> None:
        exchange = await self._session.hijack(path("/dockyard/leases", id=self.id, grace=grace or None))
        line = b""
        while not line.endswith(b"\n"):
            piece = await exchange.read()
            if not piece:
                raise Unreachable("the engine went away")
            line += piece
        self.id, self._exchange = str(loads(line)["Id"]), exchange

    async def _begin(self, grace: float) -> None:
        await self._take(grace)
        self._session.dialer.background(self._hold)

    async def _hold(self) -> None:
        """Take the lease up again whenever the engine was away for a moment."""
        while not self._closed and self._exchange is not None:
            try:
                while await self._exchange.read():
                    pass
            except ClientError:
                pass
            if self._closed or not await self._again():
                return

    async def _again(self) -> bool:
        for _ in range(int(RETURN / PAUSE)):
            try:
                await self._take()
                return True
            except (Unreachable, TimedOut):
                await self._session.dialer.sleep(PAUSE)
            except APIError:
                return False  # it has ended
        return False

    def _end(self) -> None:
        self._closed = True
        if self._exchange is not None:
            self._exchange.close()

    @operation
    async def close(self) -> None:
        """Let go: what carries the lease is removed, soon."""
        self._end()

    def __enter__(self: Lease[Sync]) -> Lease[Sync]:
        return self

    def __exit__(self: Lease[Sync], *_: object) -> None:
        self._end()

    async def __aenter__(self: Lease[Async]) -> Lease[Async]:
        return self

    async def __aexit__(self: Lease[Async], *_: object) -> None:
        self._end()


def with_lease(labels: dict[str, str], lease: Lease[Any] | None) -> dict[str, str]:
    """Labels, and the lease's among them."""
    return {**labels, **lease.labels} if lease is not None else labels
