"""The process: listens, serves, and ends in order."""

import asyncio
import logging
import os
import signal
import socket
import ssl
from dataclasses import dataclass

from dockyard.errors import InvalidParameter, SystemFailure
from dockyard.registry.app import App
from dockyard.registry.config import seconds
from dockyard.registry.handlers import Handlers
from dockyard.registry.settings import TLS, Config
from dockyard.registry.storage import Storage
from dockyard.registry.storage.filesystem import FileSystem
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


_VERSIONS = {
    "": ssl.TLSVersion.TLSv1_2,
    "tls1.2": ssl.TLSVersion.TLSv1_2,
    "tls1.3": ssl.TLSVersion.TLSv1_3,
}
_CLIENTS = {
    "": ssl.CERT_REQUIRED,
    "require-and-verify-client-cert": ssl.CERT_REQUIRED,
    "verify-client-cert-if-given": ssl.CERT_OPTIONAL,
}


def tls_context(tls: TLS) -> ssl.SSLContext | None:
    """TLS as the settings have it; None: none. Raises InvalidParameter."""
    if not tls.certificate:
        return None
    if tls.minimumtls not in _VERSIONS:
        raise InvalidParameter(f"http.tls.minimumtls: {tls.minimumtls!r} is not one of {', '.join(_VERSIONS)}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.minimumtls]
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        if tls.clientcas:
            if tls.clientauth not in _CLIENTS:
                raise InvalidParameter(f"http.tls.clientauth: {tls.clientauth!r} is not one of {', '.join(_CLIENTS)}")
            context.verify_mode = _CLIENTS[tls.clientauth]
            for path in tls.clientcas:
                context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        raise InvalidParameter(f"http.tls: cannot use {tls.certificate}, {tls.key}: {error}") from error
    return context


def open_storage(config: Config) -> Storage:
    """The storage that the settings name. Raises DockyardError."""
    settings = config.storage.filesystem
    root = settings.rootdirectory if settings is not None else "/var/lib/registry"
    os.makedirs(root, exist_ok=True)
    return FileSystem(root)


def run(config: Config) -> None:
    """Serve until SIGTERM or SIGINT. Raises DockyardError when it cannot begin."""
    tls = tls_context(config.http.tls)
    handlers = Handlers(
        open_storage(config),
        delete=config.storage.delete.enabled,
        read_only=config.storage.maintenance.readonly.enabled,
    )
    asyncio.run(serve(config, handlers, Listener(listen(config.http.addr), tls)))


async def serve(config: Config, handlers: Handlers, listener: Listener) -> None:
    """Serve until SIGTERM or SIGINT; then requests under way have time to end."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    app = App(handlers)
    server = Server(app, app.refuse)
    servers = [await loop.create_server(server, sock=one, ssl=listener.tls) for one in listener.sockets]
    for one in listener.sockets:
        host, port = one.getsockname()[:2]
        log.info("listening on %s:%d%s", f"[{host}]" if ":" in host else host, port, ", tls" if listener.tls else "")
    await ended.wait()
    for one_server in servers:
        one_server.close()
    await server.shutdown(seconds(config.http.draintimeout))
    await handlers.uploads.close()
