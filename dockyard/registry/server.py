"""The process: listens, serves, and ends in order."""

import asyncio
import logging
import os
import signal
import socket
import ssl
from dataclasses import dataclass

from dockyard.errors import InvalidParameter, SystemFailure
from dockyard.registry import auth
from dockyard.registry.app import App
from dockyard.registry.config import seconds
from dockyard.registry.debug import DebugApp
from dockyard.registry.handlers import Handlers, Options
from dockyard.registry.health import Health
from dockyard.registry.maintenance import maintain
from dockyard.registry.metrics import Metrics
from dockyard.registry.quotas import Quotas
from dockyard.registry.settings import TLS, Config
from dockyard.registry.storage import Storage
from dockyard.registry.storage.filesystem import FileSystem
from dockyard.registry.workers import supervise
from dockyard.web import Server

log = logging.getLogger("dockyard.registry")


@dataclass(frozen=True, slots=True)
class Listeners:
    """Where requests come in, and where those of who watches."""

    sockets: list[socket.socket]
    tls: ssl.SSLContext | None
    debug: list[socket.socket]


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
    if config.storage.inmemory is not None:
        raise InvalidParameter("storage.inmemory is not here: a folder on a tmpfs does the same")
    if config.storage.s3 is not None:
        try:
            from dockyard.registry.storage.s3 import S3
        except ImportError:
            raise InvalidParameter("storage.s3 needs the package obstore: pip install 'dockyard[s3]'") from None

        os.makedirs(config.storage.s3.staging, exist_ok=True)
        return S3(config.storage.s3, config.storage.s3.staging)
    settings = config.storage.filesystem
    root = settings.rootdirectory if settings is not None else "/var/lib/registry"
    os.makedirs(root, exist_ok=True)
    return FileSystem(root)


def run(config: Config) -> None:
    """Serve until SIGTERM or SIGINT. Raises DockyardError when it cannot begin."""
    listeners = Listeners(
        listen(config.http.addr),
        tls_context(config.http.tls),
        listen(config.http.debug.addr) if config.http.debug.addr else [],
    )
    workers = max(1, config.workers)
    metrics = Metrics(workers)
    storage = open_storage(config)
    authenticator = auth.authenticator(config.auth)

    def work(number: int) -> None:
        metrics.row = number
        asyncio.run(Worker(config, storage, authenticator, metrics, number).serve(listeners))

    if workers == 1:
        work(0)
    else:
        supervise(workers, work)


class Worker:
    """One process that serves."""

    def __init__(
        self, config: Config, storage: Storage, authenticator: auth.Authenticator, metrics: Metrics, number: int
    ) -> None:
        self._config = config
        self._health = Health(config.health, storage)
        self._notifier = None
        if config.notifications.endpoints:
            from dockyard.registry.notifications import Notifier  # takes 0.2 s to import

            self._notifier = Notifier(config.notifications, metrics, config.http.addr)
        proxied = bool(config.proxy.remoteurl)
        parts = (
            storage,
            Options(
                delete=config.storage.delete.enabled and not proxied,
                read_only=config.storage.maintenance.readonly.enabled or proxied,
                mount_from_anywhere=authenticator.open,
                repositories_in_a_page=config.catalog.maxentries,
                tags_in_a_page=config.tags.maxtags,
                redirect=not config.storage.redirect.disable,
            ),
            Quotas(config.quotas, storage),
            metrics,
            self._notifier.tell if self._notifier is not None else lambda *arguments, **target: None,
        )
        self._handlers = Handlers(*parts)
        if proxied:
            from dockyard.registry.proxy import Cache  # takes 0.2 s to import

            self._handlers = Cache(config.proxy, *parts)
        self._app = App(self._handlers, authenticator, self._health, metrics, config.http)
        self._debug = DebugApp(config.http.debug, self._health, metrics)
        self._number = number

    async def serve(self, listeners: Listeners) -> None:
        """Serve until SIGTERM or SIGINT; then requests under way have time to end."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        front = Server(self._app, self._app.refuse)
        behind = Server(self._debug, self._app.refuse)
        opened = [await loop.create_server(front, sock=one, ssl=listeners.tls) for one in listeners.sockets]
        opened += [await loop.create_server(behind, sock=one) for one in listeners.debug]
        if self._number == 0:
            for one in (*listeners.sockets, *listeners.debug):
                host, port = one.getsockname()[:2]
                secure = ", tls" if listeners.tls and one in listeners.sockets else ""
                log.info("listening on %s:%d%s", f"[{host}]" if ":" in host else host, port, secure)
        tasks = [loop.create_task(self._health.watch())]
        if self._notifier is not None:
            tasks.append(loop.create_task(self._notifier.deliver()))
        if self._number == 0:
            tasks.append(loop.create_task(maintain(self._config, lambda: open_storage(self._config))))
        await ended.wait()
        for server in opened:
            server.close()
        await front.shutdown(seconds(self._config.http.draintimeout))
        await behind.shutdown(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._handlers.close()
