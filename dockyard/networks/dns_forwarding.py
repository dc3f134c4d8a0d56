"""Asks other resolvers what the embedded one does not know, from where each can be reached.

The next one is asked soon, beside the one that is slow. Answers are kept as long as they are good.
"""

import asyncio
import logging
import random
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass

from dockyard.networks import dns_messages
from dockyard.networks.dns_cache import AnswerCache
from dockyard.networks.dns_messages import REFUSED, SERVFAIL, Question

log = logging.getLogger("dockyard.networks")

# How long one server is waited for; Docker's too (moby daemon/libnetwork/resolver.go, extIOTimeout).
TIMEOUT = 4.0
# After as long a silence the next one is asked too.
NEXT_AFTER = 1.0
# A datagram may be lost: it is sent again after as many seconds.
AGAIN_AFTER = (1.0, 2.0)
# A server that said nothing is asked after the others for so long; then it is tried again, while others answer.
DEAD_FOR = 10.0
# So many wrong answers to one query are no accident: it is asked again over TCP, where guessing is hopeless.
FORGED = 8
PORT = 53


@dataclass(frozen=True, slots=True)
class Upstream:
    """A resolver: its address, with its zone if it has one, and whether it is asked from the host's namespace."""

    address: str
    from_host: bool = False


# Does some work that makes a socket inside the container's network namespace.
Inside = Callable[[Callable[[], socket.socket]], Awaitable[socket.socket]]


class _Forged(OSError):
    """Somebody is guessing."""


class Forwarder:
    """Asks on behalf of one container.

    What it learns about servers is that container's alone: its firewall and routes decide whom it reaches.
    """

    def __init__(self, inside: Inside) -> None:
        self._inside = inside
        # when a server is given its next chance, and when it last said something (monotonic seconds)
        self._dead_until: dict[Upstream, float] = {}
        self._heard: dict[Upstream, float] = {}
        self._asking: set[asyncio.Task[bytes | None]] = set()
        self._cache = AnswerCache()
        # whose answers are kept
        self._servers: list[Upstream] = []

    def close(self) -> None:
        """Wait for nobody any more."""
        for task in self._asking:
            task.cancel()

    def forget(self) -> None:
        """Keep none of the answers: whoever gave them may not be reached any more."""
        self._cache.clear()

    async def ask(self, query: bytes, question: Question, servers: Sequence[Upstream], tcp: bool) -> bytes | None:
        """What the first of `servers` says that has an answer, or None."""
        if self._servers != list(servers):
            self._servers = list(servers)
            self._cache.clear()
        known = self._cache.find(query, question)
        if known is not None:
            return dns_messages.as_asked(known, query, question)
        reply = await self._first_answer(query, question, self._in_order(servers, query, question, tcp), tcp)
        if reply is None:
            return None
        reply = dns_messages.as_asked(reply, query, question)
        if self._servers == list(servers):
            self._cache.keep(query, question, reply)
        return reply

    async def _first_answer(
        self, query: bytes, question: Question, servers: Sequence[Upstream], tcp: bool
    ) -> bytes | None:
        """The answer of the first server, or of the next one where it fails or is slow, and so on.

        They need not know the same names: that a name does not exist counts from a later server only once the earlier
        ones have failed. Those that are not waited for go on, so that who is silent becomes known.
        """
        asked: list[asyncio.Task[bytes | None]] = []
        left = list(servers)
        while True:
            for task in asked:
                reply = task.result() if task.done() else None
                earlier = asked[: asked.index(task)]
                if reply is not None and (dns_messages.positive(reply) or all(one.done() for one in earlier)):
                    return reply
            waited = [task for task in asked if not task.done()]
            if waited:
                done, _ = await asyncio.wait(
                    waited, timeout=NEXT_AFTER if left else None, return_when=asyncio.FIRST_COMPLETED
                )
                if done and all(task.result() for task in done):
                    continue
            elif not left:
                return None
            if left:
                asked.append(self._spawn(self._useful(query, question, left.pop(0), tcp)))

    async def _useful(self, query: bytes, question: Question, server: Upstream, tcp: bool) -> bytes | None:
        reply = await self._ask(query, question, server, tcp)
        return None if reply is None or dns_messages.code(reply) in (SERVFAIL, REFUSED) else reply

    def _spawn(self, work: Coroutine[None, None, bytes | None]) -> "asyncio.Task[bytes | None]":
        task = asyncio.get_running_loop().create_task(work)
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return task

    def _in_order(self, servers: Sequence[Upstream], query: bytes, question: Question, tcp: bool) -> list[Upstream]:
        """Those that are known to be silent after the others; whose time is up is asked beside them."""
        now = time.monotonic()
        silent = [server for server in servers if server in self._dead_until]
        others = [server for server in servers if server not in self._dead_until]
        for server in silent:
            if others and self._dead_until[server] <= now:
                self._dead_until[server] = now + DEAD_FOR
                self._spawn(self._ask(query, question, server, tcp))
        return others + silent

    async def _ask(self, query: bytes, question: Question, server: Upstream, tcp: bool) -> bytes | None:
        """The reply of one server, or None."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT):
                reply = await self._exchange(query, question, server, tcp)
        except TimeoutError:
            if self._heard.get(server, 0) < began:
                self._dead_until[server] = time.monotonic() + DEAD_FOR
            return None
        except (OSError, EOFError) as error:
            log.debug("no answer from %s: %s", server, error)
            return None
        self._heard[server] = time.monotonic()
        self._dead_until.pop(server, None)
        return reply

    async def _exchange(self, query: bytes, question: Question, server: Upstream, tcp: bool) -> bytes:
        # port and identity are chosen at random for each query, and only its server is heard (RFC 5452)
        query = random.SystemRandom().getrandbits(16).to_bytes(2, "big") + query[2:]
        if tcp:
            try:
                return await self._ask_tcp(query, question, server)
            except ConnectionRefusedError:
                pass  # small resolvers have no TCP, but answer datagrams of any size
        try:
            return await self._ask_udp(query, question, server)
        except _Forged:
            log.warning("forged answers to %s of %s", question.name, server.address)
            return await self._ask_tcp(query, question, server)

    async def _open(self, server: Upstream, kind: socket.SocketKind) -> socket.socket:
        def connect() -> socket.socket:
            # the zone of an address is a link of the namespace that we are in
            family, _, _, _, where = socket.getaddrinfo(server.address, PORT, type=kind, flags=socket.AI_NUMERICHOST)[0]
            opened = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            try:
                opened.connect(where)
            except BlockingIOError:
                pass  # a TCP connection on its way
            except BaseException:
                opened.close()
                raise
            return opened

        return connect() if server.from_host else await self._inside(connect)

    async def _ask_udp(self, query: bytes, question: Question, server: Upstream) -> bytes:
        loop = asyncio.get_running_loop()
        with await self._open(server, socket.SOCK_DGRAM) as connected:
            await loop.sock_sendall(connected, query)
            repeats = [loop.call_later(delay, _send_again, connected, query) for delay in AGAIN_AFTER]
            try:
                for _ in range(FORGED):
                    reply = await loop.sock_recv(connected, 65535)
                    if dns_messages.answers(reply, query, question):
                        return reply
            finally:
                for repeat in repeats:
                    repeat.cancel()
        raise _Forged

    async def _ask_tcp(self, query: bytes, question: Question, server: Upstream) -> bytes:
        reader, writer = await asyncio.open_connection(sock=await self._open(server, socket.SOCK_STREAM))
        try:
            writer.write(len(query).to_bytes(2, "big") + query)
            size = int.from_bytes(await reader.readexactly(2), "big")
            reply = await reader.readexactly(size)
            if not dns_messages.answers(reply, query, question):
                raise OSError(f"{server.address} answered another question")
            return reply
        finally:
            writer.close()


def _send_again(connected: socket.socket, query: bytes) -> None:
    try:
        connected.send(query)
    except OSError:
        pass  # whoever waits for the answer is told of it
