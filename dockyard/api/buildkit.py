"""POST /session and /grpc: connections on which HTTP/2 is spoken, the client's services on one, ours on the other."""

import asyncio
import os
import socket
from typing import TYPE_CHECKING

from dockyard import errors, web
from dockyard.api.router import Call, Route
from dockyard.api.services import Services

if TYPE_CHECKING:
    from dockyard.builder.doors.buildkit.control import Control
    from dockyard.grpc.connection import Connection

SESSION = "X-Docker-Expose-Session-"


def routes(services: Services) -> list[Route]:
    """Operations that BuildKit's clients use."""
    door = Door(services)
    return [
        Route("POST", "/session", door.session),
        Route("POST", "/grpc", door.grpc),
    ]


class Door:
    """Their handlers; what they need of gRPC is imported when the first of them is called."""

    def __init__(self, services: Services) -> None:
        self._builder = services.builder

    async def session(self, call: Call) -> web.StreamResponse:
        from dockyard.builder.doors.buildkit.session import Session
        from dockyard.grpc.connection import Connection

        control = self._control(call)
        headers = call.http.headers
        methods = headers.all(f"{SESSION}Grpc-Method")
        connection = Connection()
        session = Session(connection, headers.get(f"{SESSION}Uuid"), headers.get(f"{SESSION}Sharedkey"), methods)
        await _speak(call, connection)
        await control.sessions.serve(session)
        return web.TakenOver()

    async def grpc(self, call: Call) -> web.StreamResponse:
        connection = self._control(call).connection()
        await _speak(call, connection)
        await connection.closed
        return web.TakenOver()

    def _control(self, call: Call) -> "Control":
        wanted = call.http.headers.get("Upgrade")
        if not wanted:
            raise errors.InvalidParameter("no upgrade proto in request")
        if wanted.lower() != "h2c":
            raise errors.InvalidParameter(f"protocol {wanted} not supported")
        return self._builder.control


async def _speak(call: Call, connection: "Connection") -> None:
    """Take the client's connection away from HTTP/1.1 and give it to `connection`."""
    fd, received = await call.http.connection.take()
    client = socket.socket(fileno=fd)
    client.setblocking(False)
    try:
        os.write(fd, b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        await asyncio.get_running_loop().create_connection(lambda: connection, sock=client)
    except BaseException:
        client.close()
        raise
    if received:
        connection.data_received(received)
