"""The proxy behind a published port, for what the packet filter cannot lead to the container.

That is IPv6 to a container without IPv6, and everything when the packet filter is turned off. It lives in the daemon
and so ends with it; ports that the packet filter serves do not.
"""

import asyncio
import logging
import socket

log = logging.getLogger("dockyard.networks")

UDP_IDLE = 90.0
UDP_CLIENTS = 512
CONNECT_TIMEOUT = 10.0


class TcpProxy:
    """Accepts on a listening socket that somebody else owns, and copies to and from one address."""

    def __init__(self, listener: socket.socket, target: tuple[str, int]) -> None:
        self._listener = listener
        self._target = target
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Accept no more, and cut what is open."""
        self._loop.remove_reader(self._listener)
        for task in self._tasks:
            task.cancel()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        client.setblocking(False)
        task = self._loop.create_task(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                inner_reader, inner_writer = await asyncio.open_connection(*self._target)
        except (OSError, TimeoutError) as error:
            log.debug("proxy to %s: %s", self._target, error)
            writer.transport.abort()
            return
        try:
            await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
        except OSError:
            pass
        finally:
            writer.close()
            inner_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


class UdpProxy:
    """Relays datagrams between clients of a bound socket and one address; a client that falls silent is forgotten."""

    def __init__(self, bound: socket.socket, target: tuple[str, int]) -> None:
        self._bound = bound
        self._target = target
        self._loop = asyncio.get_running_loop()
        self._clients: dict[tuple[str, int], tuple[socket.socket, asyncio.TimerHandle]] = {}
        self._loop.add_reader(bound, self._outside)

    def close(self) -> None:
        """Relay no more."""
        self._loop.remove_reader(self._bound)
        for client in list(self._clients):
            self._forget(client)

    def _outside(self) -> None:
        try:
            data, client = self._bound.recvfrom(65535)
        except OSError:
            return
        known = self._clients.get(client)
        try:
            if known is None:
                if len(self._clients) >= UDP_CLIENTS:
                    return
                family = socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET
                inner = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
                inner.connect(self._target)
                self._loop.add_reader(inner, self._inside, inner, client)
            else:
                inner = known[0]
                known[1].cancel()
            self._clients[client] = (inner, self._loop.call_later(UDP_IDLE, self._forget, client))
            inner.send(data)
        except OSError as error:
            log.debug("proxy to %s: %s", self._target, error)

    def _inside(self, inner: socket.socket, client: tuple[str, int]) -> None:
        try:
            self._bound.sendto(inner.recv(65535), client)
        except OSError as error:
            log.debug("proxy from %s: %s", self._target, error)

    def _forget(self, client: tuple[str, int]) -> None:
        inner, timer = self._clients.pop(client)
        timer.cancel()
        self._loop.remove_reader(inner)
        inner.close()
