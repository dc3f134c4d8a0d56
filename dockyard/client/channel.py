"""A connection to the engine, as the session uses it; there is a blocking kind and one for event loops."""

from __future__ import annotations

import os
import select
from _socket import AF_UNIX, SHUT_RDWR, SHUT_WR, SOCK_STREAM, socket  # the module around it takes 7 ms to import
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dockyard.client.calls import finish
from dockyard.client.errors import TimedOut, Unreachable

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine, Iterator

    from dockyard.client.address import Address
    from dockyard.client.tls_layer import TLSLayer

T = TypeVar("T")

CHUNK = 1 << 18


class Channel(Protocol):
    """One connection. Its coroutines suspend only if it belongs to an event loop."""

    async def send(self, data: bytes, timeout: float | None = None) -> None:
        """Send everything. Raises Unreachable when the peer takes no more, TimedOut."""

    async def receive(self, timeout: float | None = None) -> bytes:
        """What has arrived, at least a byte; b"" at the end. Raises TimedOut after `timeout` seconds without any."""

    async def send_end(self) -> None:
        """Tell the peer that nothing more will be sent; receiving goes on."""

    async def exchange(
        self,
        outgoing: Iterator[bytes],
        incoming: Callable[[bytes], None],
        timeout: float | None = None,
        *,
        half_close: bool = True,
    ) -> None:
        """Send everything and (with `half_close`) the end, while what arrives goes to `incoming`, until the peer ends.

        Neither direction waits for the other. Raises TimedOut when all of it takes longer than `timeout` seconds.
        """

    def fresh(self) -> bool:
        """Whether the connection, unused for a while, can be used again."""

    def close(self) -> None:
        """Close the connection."""


class Dialer(Protocol):
    """Opens channels, and does what else depends on whether calls block."""

    blocking: bool

    def call(self, work: Coroutine[Any, Any, T]) -> Any:
        """Start an operation: its result, or something to be awaited for it."""

    async def open(self, address: Address, timeout: float | None) -> Channel:
        """A connection. Raises Unreachable, TimedOut."""

    async def make(self, work: Coroutine[Any, Any, T], unmake: Callable[[T], Coroutine[Any, Any, None]]) -> T:
        """The result of `work`; when its caller is cancelled, `work` is finished all the same and then unmade."""

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""

    async def apart(self, work: Callable[[], T]) -> T:
        """The result of `work`, which may block: on files, pipes or another program."""

    def background(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Let `work` go on beside everything else, without keeping the program alive."""

    async def digest(self, read: Callable[[], Coroutine[Any, Any, bytes]], work: Callable[[Iterator[bytes]], T]) -> T:
        """The result of `work`, which may block, on the pieces that `read` gives until b""."""


def unreachable(address: Address, error: Exception) -> Unreachable:
    """What to raise when nobody answers at `address`."""
    said = getattr(error, "strerror", None) or error
    why = "" if isinstance(error, (FileNotFoundError, ConnectionRefusedError)) else f" ({said})"
    return Unreachable(f"Cannot connect to the Docker daemon at {address}. Is the dockyard daemon running?{why}")


class BlockingDialer:
    """Plain sockets."""

    blocking = True
    _tls: ssl.SSLContext | None = None

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return finish(work)

    async def make(self, work: Coroutine[Any, Any, T], unmake: Callable[[T], Coroutine[Any, Any, None]]) -> T:
        return await work

    async def open(self, address: Address, timeout: float | None) -> BlockingChannel:
        try:
            if address.socket:
                peer: Any = socket(AF_UNIX, SOCK_STREAM)
                try:
                    peer.connect(address.socket)
                except OSError:
                    peer.close()
                    raise
                return BlockingChannel(peer)
            return await self._open_tcp(address, timeout)
        except TimeoutError:
            raise TimedOut(f"no connection to {address} within {timeout} s") from None
        except OSError as error:
            raise unreachable(address, error) from error

    async def _open_tcp(self, address: Address, timeout: float | None) -> BlockingChannel:
        from socket import IPPROTO_TCP, TCP_NODELAY, create_connection

        peer = create_connection((address.host, address.port), timeout)
        peer.settimeout(None)
        peer.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        if address.tls is None:
            return BlockingChannel(peer)
        from dockyard.client.tls_layer import TLSLayer

        try:
            if self._tls is None:
                self._tls = address.tls.context()
            channel = BlockingChannel(peer, TLSLayer(self._tls, address.host))
            await channel.greet(timeout)
            return channel
        except BaseException:
            peer.close()
            raise

    async def sleep(self, seconds: float) -> None:
        import time

        time.sleep(seconds)  # noqa: ASYNC251  # blocking is what this one is for

    async def apart(self, work: Callable[[], T]) -> T:
        return work()

    def background(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        import threading

        threading.Thread(target=lambda: finish(work()), name="dockyard", daemon=True).start()

    async def digest(self, read: Callable[[], Coroutine[Any, Any, bytes]], work: Callable[[Iterator[bytes]], T]) -> T:
        return work(iter(lambda: finish(read()), b""))


class BlockingChannel:
    """A blocking socket, with a layer of TLS or without."""

    def __init__(self, peer: socket, layer: TLSLayer | None = None) -> None:
        self._peer = peer
        self._layer = layer
        self._early = b""  # what has been read and not been asked for yet
        self._timeout: float | None = None
        self._owner = os.getpid()

    async def greet(self, timeout: float | None) -> None:
        """The TLS handshake. Raises OSError."""
        assert self._layer is not None
        self._limit(timeout)
        self._layer.greet()
        while True:
            self._peer.sendall(self._layer.outgoing())
            if self._layer.greeted:
                return
            data = self._peer.recv(CHUNK)
            if not data:
                raise ConnectionResetError("the connection ended during the TLS handshake")
            self._early += self._layer.arrived(data)

    def _limit(self, timeout: float | None) -> None:
        if timeout != self._timeout:
            self._peer.settimeout(timeout)
            self._timeout = timeout

    async def send(self, data: bytes, timeout: float | None = None) -> None:
        self._limit(timeout)
        try:
            self._peer.sendall(self._layer.sealed(data) if self._layer is not None else data)
        except TimeoutError:
            raise TimedOut(f"the engine took nothing for {timeout} s") from None
        except OSError as error:
            raise Unreachable(f"the engine closed the connection: {error}") from error

    async def receive(self, timeout: float | None = None) -> bytes:
        if self._early:
            data, self._early = self._early, b""
            return data
        self._limit(timeout)
        try:
            while True:
                plain = self._opened(self._peer.recv(CHUNK))
                if plain is not None:
                    return plain
        except TimeoutError:
            raise TimedOut(f"nothing from the engine for {timeout} s") from None
        except OSError:
            return b""

    def _opened(self, data: bytes) -> bytes | None:
        """What `data` from the socket says: b"" is the end, None nothing yet."""
        layer = self._layer
        if layer is None:
            return data
        plain = layer.arrived(data)
        return plain or (b"" if layer.ended else None)

    async def send_end(self) -> None:
        try:
            if self._layer is not None:
                self._peer.sendall(self._layer.farewell())
            else:
                self._peer.shutdown(SHUT_WR)
        except OSError:
            pass

    async def exchange(
        self,
        outgoing: Iterator[bytes],
        incoming: Callable[[bytes], None],
        timeout: float | None = None,
        *,
        half_close: bool = True,
    ) -> None:
        import time

        deadline = None if timeout is None else time.monotonic() + timeout
        if self._early:
            incoming(await self.receive())
        self._limit(0)
        poll = select.poll()
        pending, sending = memoryview(b""), True
        while True:
            if deadline is not None and time.monotonic() > deadline:
                raise TimedOut(f"not done within {timeout} s")
            while sending and not pending:
                piece = next(outgoing, None)
                if piece is not None:
                    pending = memoryview(self._layer.sealed(piece) if self._layer is not None else piece)
                    continue
                sending = False
                if half_close and self._layer is not None:
                    pending = memoryview(self._layer.farewell())
                elif half_close:
                    await self.send_end()
            progress = False
            if pending:
                sent = self._try(self._peer.send, pending)
                if sent is None:  # it takes no more: what it says counts from here on
                    pending, sending = memoryview(b""), False
                elif sent:
                    pending, progress = pending[sent:], True
            raw = self._try(self._peer.recv, CHUNK)
            if raw is None:
                return
            if raw is not False:
                data = self._opened(raw)
                if data == b"":
                    return
                if data:
                    incoming(data)
                progress = True
            if not progress:
                poll.register(self._peer, select.POLLIN | (select.POLLOUT if pending else 0))
                poll.poll(None if deadline is None else max(1, int((deadline - time.monotonic()) * 1000) + 1))

    @staticmethod
    def _try(act: Callable[[Any], Any], argument: Any) -> Any:
        """What `act` gave; False when it would block, None when the connection is broken."""
        try:
            return act(argument)
        except BlockingIOError:
            return False
        except OSError:
            return None

    def fresh(self) -> bool:
        if self._owner != os.getpid():
            return False  # a child's copy: the parent goes on using the connection
        try:
            self._limit(0)
            while self._opened(self._peer.recv(CHUNK)) is None:
                pass  # TLS itself had something to say
        except BlockingIOError:
            return not self._early
        except OSError:
            return False
        return False  # its end, or something nobody has asked for

    def close(self) -> None:
        if self._owner == os.getpid():
            try:
                self._peer.shutdown(SHUT_RDWR)  # wakes a thread that reads
            except OSError:
                pass
        self._peer.close()
