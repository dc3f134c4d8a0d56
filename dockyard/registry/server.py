"""The process: listens, serves, and ends in order."""

import asyncio
import logging
import os
import signal
import socket
import ssl
from dataclasses import dataclass

from dockyard.errors import SystemFailure
from dockyard.registry.app import App
from dockyard.registry.handlers import Handlers
from dockyard.web import Server

log = logging.getLogger("dockyard.registry")


@dataclass(frozen=True, slots=True)
class Listener:
    """Where requests come in."""

    sockets: list[socket.socket]
    tls: ssl.SSLContext | None = None


def listen(address: str) -> list[socket.socket]:
    """Open HOST:PORT or :PORT, which is every address of the machine. Raises SystemFailure."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not port.isdigit():
        raise SystemFailure(f"invalid address to listen on: {address}")
    everywhere = not host and socket.has_ipv6 and os.path.exists("/proc/net/if_inet6")
    try:
        if everywhere:
            found = socket.create_server(("", int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        else:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            found = socket.create_server((host, int(port)), family=family, backlog=1024)
    except OSError as error:
        raise SystemFailure(f"failed to listen on {address}: {os.strerror(error.errno or 0)}") from error
    return [found]


async def serve(handlers: Handlers, listener: Listener, drain: float) -> None:
    """Serve until SIGTERM or SIGINT; then requests under way have `drain` seconds to end."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    app = App(handlers)
    server = Server(app, app.refuse)
    servers = [await loop.create_server(server, sock=one, ssl=listener.tls) for one in listener.sockets]
    for one in listener.sockets:
        log.info("listening on %s%s", one.getsockname()[:2], " with TLS" if listener.tls else "")
    await ended.wait()
    for one_server in servers:
        one_server.close()
    await server.shutdown(drain)
    await handlers.uploads.close()
