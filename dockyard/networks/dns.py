"""The resolver that containers of user-defined networks see at 127.0.0.11: their names, then other resolvers.

Its sockets are opened inside the container's namespace on ports of their own; the namespace's packet filter leads
127.0.0.11:53 there, so a container can serve port 53 itself.
"""

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass

from dockyard.linux.nftables import Nftables, NftablesError
from dockyard.networks import dns_messages
from dockyard.networks.dns_forwarding import Forwarder, Upstream
from dockyard.networks.dns_messages import AAAA, ANY, IN, PTR, SERVFAIL, A, Question
from dockyard.networks.files import EMBEDDED_SERVER

log = logging.getLogger("dockyard.networks")

# Docker forwards at most this many queries of one container at a time.
FORWARDED_AT_ONCE = 1024
# A client that opens TCP connections and says nothing is cut off.
IDLE_TCP = 10.0
LONGEST_TCP = 65535
TABLE = "dockyard-dns"

# Addresses of a name among the containers that may be seen; None: not one of ours, ask the others.
Lookup = Callable[[str], Sequence[str] | None]
# The name of an address among them, or None.
Reverse = Callable[[str], str | None]


@dataclass(slots=True)
class DnsSockets:
    """The two sockets of a container's resolver, opened in its namespace."""

    udp: socket.socket
    tcp: socket.socket

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


def open_sockets(again: bool = False) -> DnsSockets:
    """Open the resolver's sockets in the calling thread's namespace, and lead 127.0.0.11:53 to them.

    `again`: in place of those of an earlier daemon. Replacing rules makes the kernel wait (10 ms), so not otherwise.
    """
    sockets = _bind(0)
    udp_port, tcp_port = sockets.udp.getsockname()[1], sockets.tcp.getsockname()[1]
    try:
        rules = Nftables()
        try:
            rules.run(
                (f"add table ip {TABLE}\ndelete table ip {TABLE}\n" if again else "")
                + f"table ip {TABLE} {{\n chain output {{\n"
                "  type nat hook output priority -100;\n"
                f"  ip daddr {EMBEDDED_SERVER} udp dport 53 dnat to {EMBEDDED_SERVER}:{udp_port}\n"
                f"  ip daddr {EMBEDDED_SERVER} tcp dport 53 dnat to {EMBEDDED_SERVER}:{tcp_port}\n"
                " }\n}\n"
            )
        finally:
            rules.close()
    except NftablesError as error:
        log.warning("the embedded resolver has to take port 53 of the container itself: %s", error)
        sockets.close()
        return _bind(53)
    return sockets


def _bind(port: int) -> DnsSockets:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    sockets = DnsSockets(udp, tcp)
    try:
        udp.bind((EMBEDDED_SERVER, port))
        tcp.bind((EMBEDDED_SERVER, port))
        tcp.listen(16)
    except OSError:
        sockets.close()
        raise
    return sockets


class DnsServer:
    """Serves one container's resolver."""

    def __init__(
        self,
        sockets: DnsSockets,
        lookup: Lookup,
        reverse: Reverse,
        forwarder: Forwarder,
        servers: Callable[[], Sequence[Upstream]],
    ) -> None:
        self._sockets = sockets
        self._lookup = lookup
        self._reverse = reverse
        self._forwarder = forwarder
        self._servers = servers
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sockets.udp, self._on_datagram)
        self._loop.add_reader(sockets.tcp, self._on_connection)

    def close(self) -> None:
        """Stop serving and close the sockets."""
        self._loop.remove_reader(self._sockets.udp)
        self._loop.remove_reader(self._sockets.tcp)
        for task in self._tasks:
            task.cancel()
        self._forwarder.close()
        self._sockets.close()

    def forget(self) -> None:
        """Ask others anew for what they have answered: the container has other networks."""
        self._forwarder.forget()

    def _on_datagram(self) -> None:
        for _ in range(16):
            try:
                query, client = self._sockets.udp.recvfrom(4096)
            except OSError:
                return
            try:
                question = dns_messages.parse_question(query)
            except dns_messages.Refused as refusal:
                if refusal.reply is not None:
                    self._send(refusal.reply, client)
                continue
            reply = self._own(query, question)
            if reply is not None:
                self._send(dns_messages.cut(reply, question, question.size), client)
            elif len(self._tasks) < FORWARDED_AT_ONCE:
                self._spawn(self._forward(query, question, client))

    def _send(self, reply: bytes, client: tuple[str, int]) -> None:
        try:
            self._sockets.udp.sendto(reply, client)
        except OSError as error:
            log.debug("cannot answer a name query: %s", error)

    async def _forward(self, query: bytes, question: Question, client: tuple[str, int]) -> None:
        reply = await self._others(query, question, tcp=False)
        self._send(dns_messages.cut(reply, question, question.size), client)

    async def _others(self, query: bytes, question: Question, tcp: bool) -> bytes:
        reply = await self._forwarder.ask(query, question, self._servers(), tcp)
        return reply or dns_messages.answer(query, question, (), SERVFAIL)

    def _own(self, query: bytes, question: Question) -> bytes | None:
        """The answer that we can give ourselves, or None."""
        if question.class_ not in (IN, ANY):
            return None
        if question.type == PTR:
            address = dns_messages.reverse_address(question.name)
            name = self._reverse(address) if address else None
            return dns_messages.answer(query, question, [dns_messages.pointer_record(name)]) if name else None
        addresses = self._lookup(question.name.lower())
        if addresses is None:
            return None
        found = []
        if question.type in (A, AAAA):
            found = [address for address in addresses if (":" in address) == (question.type == AAAA)]
        if len(found) > 1:
            random.shuffle(found)
        return dns_messages.answer(query, question, [dns_messages.address_record(address) for address in found])

    def _on_connection(self) -> None:
        try:
            client, _ = self._sockets.tcp.accept()
        except OSError:
            return
        if len(self._tasks) >= FORWARDED_AT_ONCE:
            client.close()
            return
        client.setblocking(False)
        self._spawn(self._serve_connection(client))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve_connection(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        try:
            while True:
                async with asyncio.timeout(IDLE_TCP):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    query = await reader.readexactly(size)
                reply = await self._reply(query)
                if reply is None:
                    return
                writer.write(len(reply).to_bytes(2, "big") + reply)
                await writer.drain()
        except (OSError, EOFError, TimeoutError):
            pass
        finally:
            writer.close()

    async def _reply(self, query: bytes) -> bytes | None:
        try:
            question = dns_messages.parse_question(query)
        except dns_messages.Refused as refusal:
            return refusal.reply
        reply = self._own(query, question) or await self._others(query, question, tcp=True)
        return dns_messages.cut(reply, question, LONGEST_TCP)
