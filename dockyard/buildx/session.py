"""The session of a client: the connection on which the engine asks for files, secrets and the like, and gets them."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from dockyard.buildx.transport import connect
from dockyard.client.http import Connection as Engine
from dockyard.grpc import status
from dockyard.grpc.calls import Method, Methods, request_of
from dockyard.grpc.connection import Connection, Stream
from dockyard.grpc.status import CallFailed

HEALTH = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"  # HealthCheckResponse
EXPOSE = "X-Docker-Expose-Session-"


class Session:
    """What is served, and by which ID and key the engine knows us."""

    def __init__(self, shared_key: str = "") -> None:
        """`shared_key`: by which the engine knows directories again that it was sent before."""
        self.id = secrets.token_hex(12)
        self.shared_key = shared_key
        self._methods: dict[str, Method] = {HEALTH: _healthy}

    def serve(self, methods: Mapping[str, Method]) -> None:
        """Offer services; before the session is opened."""
        self._methods.update(methods)

    @asynccontextmanager
    async def open(self, engine: Engine) -> AsyncIterator[None]:
        """The session is there for the time of the block. Raises APIError, Unreachable."""
        served = Connection(Methods(self._methods, _explain).accept)
        headers = {
            f"{EXPOSE}Uuid": self.id,
            f"{EXPOSE}Name": "",
            f"{EXPOSE}Sharedkey": self.shared_key,
            f"{EXPOSE}Grpc-Method": [path for path in self._methods if path != HEALTH],
        }
        await connect(engine, "/session", served, headers)
        try:
            yield
        finally:
            served.close()
            await served.closed


def _explain(error: Exception) -> CallFailed:
    if isinstance(error, FileNotFoundError):
        return CallFailed(status.NOT_FOUND, f"{error.filename}: no such file or directory")
    return CallFailed(status.UNKNOWN, str(error))


async def _healthy(stream: Stream) -> None:
    await request_of(stream)
    await stream.send(SERVING)
