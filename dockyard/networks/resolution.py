"""What containers are told when they ask for names: of their networks' own, and by whom of all others."""

import asyncio
import functools
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dockyard.networks import files, sandboxes
from dockyard.networks.active import Active
from dockyard.networks.dns import DnsServer, DnsSockets, open_sockets
from dockyard.networks.dns_forwarding import Forwarder, Upstream
from dockyard.networks.model import Settings
from dockyard.networks.names import Names

T = TypeVar("T")


class Resolution:
    """The embedded resolvers of all containers."""

    def __init__(self, settings: Settings, active: Mapping[str, Active]) -> None:
        """`active`: who has joined, by the container's id, as it is at any time."""
        self._settings = settings
        self._active = active
        self.names = Names()
        # names are asked for while networks are made, however long that takes
        self._askers = ThreadPoolExecutor(1, thread_name_prefix="names")

    def close(self) -> None:
        """Ask nobody any more."""
        self._askers.shutdown()

    def serve(self, active: Active, sockets: DnsSockets) -> None:
        """Answer what a container asks by these sockets, until its `dns` is closed."""
        container_id, namespace = active.request.container_id, active.namespace
        assert namespace is not None

        def inside(work: Callable[[], socket.socket]) -> asyncio.Future[socket.socket]:
            return asyncio.get_running_loop().run_in_executor(self._askers, _inside, namespace, work)

        active.dns = DnsServer(
            sockets,
            functools.partial(self._lookup, container_id),
            functools.partial(self._reverse, container_id),
            Forwarder(inside),
            functools.partial(self._servers, container_id),
        )

    def _lookup(self, container_id: str, name: str) -> list[str] | None:
        active = self._active.get(container_id)
        return self.names.lookup(active.sandbox, name) if active else None

    def _reverse(self, container_id: str, text: str) -> str | None:
        active = self._active.get(container_id)
        return self.names.reverse(active.sandbox, text) if active else None

    def _servers(self, container_id: str) -> list[Upstream]:
        """The resolvers for what is not one of our names.

        They are asked from inside the container, by its routes and through its firewall. From the host only those of
        the host's are asked that nobody else can reach, and not for a container that has no way out.
        """
        active = self._active.get(container_id)
        if active is None:
            return []
        given = tuple(active.request.dns) or self._settings.dns
        if given:
            # the container's own resolver would ask itself for ever
            return [Upstream(server) for server in given if server != files.EMBEDDED_SERVER]
        ipv6 = active.has_ipv6
        servers = [Upstream(name, files.only_from_host(name, ipv6)) for name in files.host_resolvers().servers]
        return [server for server in servers if active.gateway_network or not server.from_host]


def open_dns(namespace: sandboxes.Namespace, again: bool = False) -> DnsSockets:
    """The sockets of a container's resolver. Only for worker threads."""
    return _inside(namespace, functools.partial(open_sockets, again))


def _inside(namespace: sandboxes.Namespace, work: Callable[[], T]) -> T:
    with sandboxes.entered(namespace.fd):
        return work()
