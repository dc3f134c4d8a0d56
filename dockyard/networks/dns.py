"""The resolver that containers of user-defined networks see at 127.0.0.11: their names, then the host's resolvers.

Its sockets are opened inside the container's namespace on ports of their own; the namespace's packet filter leads
127.0.0.11:53 there, so a container can serve port 53 itself. Queries are forwarded from the host's namespace.
Message format: RFC 1035, section 4.
"""

import asyncio
import logging
import random
import socket
import struct
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from dockyard.linux.nftables import Nftables, NftablesError
from dockyard.networks.files import EMBEDDED_SERVER

log = logging.getLogger("dockyard.networks")

A, PTR, AAAA = 1, 12, 28
NOERROR, FORMERR, SERVFAIL, NXDOMAIN = 0, 1, 2, 3
# Docker's answer for a container's name is good for ten minutes (moby daemon/libnetwork/resolver.go, respTTL).
OWN_TTL = 600
UPSTREAM_TIMEOUT = 4.0
CACHED_ANSWERS = 1024
LONGEST_CACHED = 300
# Docker forwards at most this many queries of one container at a time.
FORWARDED_AT_ONCE = 1024
# A client that opens TCP connections and says nothing is cut off.
IDLE_TCP = 10.0
TABLE = "dockyard-dns"

_head = struct.Struct("!HHHHHH")
_tail = struct.Struct("!HH")


@dataclass(frozen=True, slots=True)
class Question:
    """The one question of a query; `end` is where it ends in the message."""

    name: str
    type: int
    end: int


# Addresses of a name among the containers that may be seen; None: not one of ours, ask the others.
Lookup = Callable[[str], Sequence[str] | None]
# The name of an address among them, or None.
Reverse = Callable[[str], str | None]


def parse_question(message: bytes) -> Question | None:
    """The question of a query, or None when it is not a plain query."""
    if len(message) < 17:
        return None
    _, flags, questions, _, _, _ = _head.unpack_from(message)
    if flags & 0xF800 or questions != 1:  # an answer, or an opcode other than QUERY
        return None
    labels = []
    position = 12
    while True:
        if position >= len(message):
            return None
        size = message[position]
        if size == 0:
            break
        if size > 63 or position + 1 + size > len(message):
            return None
        labels.append(message[position + 1 : position + 1 + size].decode("latin-1"))
        position += 1 + size
        if position > 12 + 255:
            return None
    position += 1
    if position + 4 > len(message):
        return None
    kind, _ = _tail.unpack_from(message, position)
    return Question(".".join(labels), kind, position + 4)


def answer(query: bytes, question: Question, records: Sequence[bytes], code: int = NOERROR) -> bytes:
    """A response to `query` with the resource `records`, each without its name."""
    identity, flags = struct.unpack_from("!HH", query)
    # a response, recursion available; opcode and "recursion desired" as asked
    head = _head.pack(identity, 0x8080 | flags & 0x0100 | code, 1, len(records), 0, 0)
    return head + query[12 : question.end] + b"".join(b"\xc0\x0c" + record for record in records)


def address_record(address: str) -> bytes:
    """The A or AAAA record of an address."""
    packed = ip_address(address).packed
    kind = A if len(packed) == 4 else AAAA
    return struct.pack("!HHIH", kind, 1, OWN_TTL, len(packed)) + packed


def pointer_record(name: str) -> bytes:
    """The PTR record to a name."""
    encoded = b"".join(bytes([len(label)]) + label for label in name.encode().split(b".") if 0 < len(label) < 64)
    encoded += b"\0"
    return struct.pack("!HHIH", PTR, 1, OWN_TTL, len(encoded)) + encoded


def reverse_address(name: str) -> str | None:
    """The address that a PTR question is about, or None."""
    labels = name.lower().rstrip(".").split(".")
    if labels[-2:] == ["in-addr", "arpa"] and len(labels) == 6:
        return ".".join(reversed(labels[:4]))
    if labels[-2:] == ["ip6", "arpa"] and len(labels) == 34:
        digits = "".join(reversed(labels[:32]))
        try:
            return str(ip_address(bytes.fromhex(digits)))
        except ValueError:
            return None
    return None


class Upstreams:
    """Asks other resolvers: all of them at once, the first good answer wins; good answers are kept for a while."""

    def __init__(self) -> None:
        self._cache: dict[tuple[bytes, tuple[str, ...]], tuple[float, bytes]] = {}

    async def ask(self, query: bytes, question: Question, servers: tuple[str, ...], tcp: bool) -> bytes | None:
        """The answer to `query` from any of `servers`, or None."""
        key = (query[2:4] + query[12:].lower(), servers)
        cached = self._cache.get(key)
        if cached is not None and cached[0] > time.monotonic() and not (_truncated(cached[1]) and tcp):
            return query[:2] + cached[1][2:]
        ask = self._ask_tcp if tcp else self._ask_udp
        tasks = [asyncio.ensure_future(ask(query, question, server)) for server in servers]
        best: bytes | None = None
        try:
            for next_done in asyncio.as_completed(tasks, timeout=UPSTREAM_TIMEOUT):
                try:
                    reply = await next_done
                except (OSError, EOFError):
                    continue
                if best is None or reply[3] & 15 in (NOERROR, NXDOMAIN):
                    best = reply
                if reply[3] & 15 in (NOERROR, NXDOMAIN):
                    break
        except TimeoutError:
            pass
        finally:
            for task in tasks:
                task.cancel()
        if best is not None:
            self._keep(key, best, question)
        return best

    def _keep(self, key: tuple[bytes, tuple[str, ...]], reply: bytes, question: Question) -> None:
        ttl = _shortest_ttl(reply, question)
        if reply[3] & 15 != NOERROR or not ttl or _truncated(reply):
            return
        if len(self._cache) >= CACHED_ANSWERS:
            self._cache.pop(next(iter(self._cache)))
        self._cache[key] = (time.monotonic() + min(ttl, LONGEST_CACHED), reply)

    async def _ask_udp(self, query: bytes, question: Question, server: str) -> bytes:
        loop = asyncio.get_running_loop()
        identity = random.SystemRandom().getrandbits(16).to_bytes(2, "big")
        host, port = _endpoint(server)
        with socket.socket(_family(host), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
            sock.connect((host, port))
            await loop.sock_sendall(sock, identity + query[2:])
            while True:
                reply = await loop.sock_recv(sock, 65535)
                # the port is random and the socket connected; identity and question keep forgers out (RFC 5452)
                if reply[:2] == identity and _answers(reply, query, question):
                    return query[:2] + reply[2:]

    async def _ask_tcp(self, query: bytes, question: Question, server: str) -> bytes:
        reader, writer = await asyncio.open_connection(*_endpoint(server))
        try:
            writer.write(len(query).to_bytes(2, "big") + query)
            size = int.from_bytes(await reader.readexactly(2), "big")
            reply = await reader.readexactly(size)
            if reply[:2] != query[:2] or not _answers(reply, query, question):
                raise OSError(f"{server} answered another question")
            return reply
        finally:
            writer.close()


def _answers(reply: bytes, query: bytes, question: Question) -> bool:
    return (
        len(reply) >= question.end
        and bool(reply[2] & 0x80)
        and (reply[12 : question.end].lower() == query[12 : question.end].lower())
    )


def _truncated(message: bytes) -> bool:
    return bool(message[2] & 0x02)


def _endpoint(server: str) -> tuple[str, int]:
    return server, 53


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _shortest_ttl(reply: bytes, question: Question) -> int:
    """The least time to live (seconds) among the answers; 0 when there is none or it cannot be read."""
    count = int.from_bytes(reply[6:8], "big")
    position = question.end
    shortest: int | None = None
    for _ in range(count):
        while position < len(reply) and reply[position] and reply[position] < 0xC0:
            position += 1 + reply[position]
        position += 2 if position < len(reply) and reply[position] >= 0xC0 else 1
        if position + 10 > len(reply):
            return 0
        ttl, size = struct.unpack_from("!IH", reply, position + 4)
        position += 10 + size
        shortest = ttl if shortest is None else min(shortest, ttl)
    return shortest or 0


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
        upstreams: Upstreams,
        servers: Callable[[], tuple[str, ...]],
    ) -> None:
        self._sockets = sockets
        self._lookup = lookup
        self._reverse = reverse
        self._upstreams = upstreams
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
        self._sockets.close()

    def _on_datagram(self) -> None:
        for _ in range(16):
            try:
                query, client = self._sockets.udp.recvfrom(4096)
            except OSError:
                return
            question = parse_question(query)
            if question is None:
                continue
            reply = self._own(query, question)
            if reply is not None:
                self._send(reply, client)
            elif len(self._tasks) < FORWARDED_AT_ONCE:
                self._spawn(self._forward(query, question, client))

    def _send(self, reply: bytes, client: tuple[str, int]) -> None:
        try:
            self._sockets.udp.sendto(reply, client)
        except OSError as error:
            log.debug("cannot answer a name query: %s", error)

    async def _forward(self, query: bytes, question: Question, client: tuple[str, int]) -> None:
        self._send(await self._others(query, question, tcp=False), client)

    async def _others(self, query: bytes, question: Question, tcp: bool) -> bytes:
        servers = self._servers()
        reply = await self._upstreams.ask(query, question, servers, tcp) if servers else None
        return reply or answer(query, question, (), SERVFAIL)

    def _own(self, query: bytes, question: Question) -> bytes | None:
        """The answer that we can give ourselves, or None."""
        if question.type == PTR:
            address = reverse_address(question.name)
            name = self._reverse(address) if address else None
            return answer(query, question, [pointer_record(name)]) if name else None
        addresses = self._lookup(question.name.lower())
        if addresses is None:
            return None
        version = {A: 4, AAAA: 6}.get(question.type)
        found = [address for address in addresses if ip_address(address).version == version]
        random.shuffle(found)
        return answer(query, question, [address_record(address) for address in found])

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
                question = parse_question(query)
                if question is None:
                    return
                reply = self._own(query, question) or await self._others(query, question, tcp=True)
                writer.write(len(reply).to_bytes(2, "big") + reply)
                await writer.drain()
        except (OSError, EOFError, TimeoutError):
            pass
        finally:
            writer.close()
