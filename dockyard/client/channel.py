"""A connection to the engine, as the session uses it; there is a blocking kind and one for event loops."""

from __future__ import annotations

import os
import select
from _socket import AF_UNIX, SHUT_WR, SOCK_STREAM, socket  # the module around it takes 7 ms to import
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dockyard.client.errors import TimedOut, Unreachable
from dockyard.client.modes import finish

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from dockyard.client.address import Address

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

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""

    async def apart(self, work: Callable[[], T]) -> T:
        """The result of `work`, which may block: on files, pipes or another program."""

    async def digest(self, read: Callable[[], Coroutine[Any, Any, bytes]], work: Callable[[Iterator[bytes]], T]) -> T:
        """The result of `work`, which may block, on the pieces that `read` gives until b""."""


def unreachable(address: Address, error: Exception) -> Unreachable:
    """What to raise when nobody answers at `address`."""
    why = "" if isinstance(error, (FileNotFoundError, ConnectionRefusedError)) else f" ({error})"
    return Unreachable(f"Cannot connect to the Docker daemon at {address}. Is the dockyard daemon running?{why}")


class BlockingDialer:
    """Plain sockets."""

    blocking = True

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return finish(work)

    async def open(self, address: Address, timeout: float | None) -> BlockingChannel:
        try:
            if address.socket:
                peer: Any = socket(AF_UNIX, SOCK_STREAM)
                try:
                    peer.connect(address.socket)
                except OSError:
                    peer.close()
                    raise
            else:
                peer = self._open_tcp(address, timeout)
        except TimeoutError:
            raise TimedOut(f"no connection to {address} within {timeout} s") from None
        except OSError as error:
            raise unreachable(address, error) from error
        return BlockingChannel(peer)

    @staticmethod
    def _open_tcp(address: Address, timeout: float | None) -> Any:
        from socket import IPPROTO_TCP, TCP_NODELAY, create_connection

        peer = create_connection((address.host, address.port), timeout)
        peer.settimeout(None)
        peer.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        if address.tls is None:
            return peer
        try:
            return address.tls.context().wrap_socket(peer, server_hostname=address.host)
        except BaseException:
            peer.close()
            raise

    async def sleep(self, seconds: float) -> None:
        import time

        time.sleep(seconds)  # noqa: ASYNC251  # blocking is what this one is for

    async def apart(self, work: Callable[[], T]) -> T:
        return work()

    async def digest(self, read: Callable[[], Coroutine[Any, Any, bytes]], work: Callable[[Iterator[bytes]], T]) -> T:
        return work(iter(lambda: finish(read()), b""))


class BlockingChannel:
    """A blocking socket."""

    def __init__(self, peer: socket) -> None:
        self._peer = peer
        self._timeout: float | None = None
        # ssl.SSLSocket has more to say than "would block": it may want to read in order to write
        self._tls = hasattr(peer, "unwrap")
        self._owner = os.getpid()

    def _limit(self, timeout: float | None) -> None:
        if timeout != self._timeout:
            self._peer.settimeout(timeout)
            self._timeout = timeout

    async def send(self, data: bytes, timeout: float | None = None) -> None:
        self._limit(timeout)
        try:
            self._peer.sendall(data)
        except TimeoutError:
            raise TimedOut(f"the engine took nothing for {timeout} s") from None
        except OSError as error:
            raise Unreachable(f"the engine closed the connection: {error}") from error

    async def receive(self, timeout: float | None = None) -> bytes:
        self._limit(timeout)
        try:
            return self._peer.recv(CHUNK)
        except TimeoutError:
            raise TimedOut(f"nothing from the engine for {timeout} s") from None
        except OSError:
            return b""

    async def send_end(self) -> None:
        try:
            if self._tls:
                # the closing alert is out when this fails for want of the peer's
                self._limit(0)
                self._peer.unwrap()  # type: ignore[attr-defined]
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
        self._limit(0)
        poll = select.poll()
        pending: memoryview | None = memoryview(b"")
        while True:
            if pending is not None and not pending:
                piece = next(outgoing, None)
                if piece is None and half_close:
                    await self.send_end()
                    self._limit(0)
                pending = None if piece is None else memoryview(piece)
            if deadline is not None and time.monotonic() > deadline:
                raise TimedOut(f"not done within {timeout} s")
            progress = False
            if pending:
                sent = self._try(self._peer.send, pending)
                if sent is None:  # it takes no more: what it says counts from here on
                    pending = None
                elif sent:
                    pending, progress = pending[sent:], True
            data = self._try(self._peer.recv, CHUNK)
            if data is None or data == b"":
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
        except OSError as error:
            # ssl.SSLWantReadError and its brother, without importing ssl
            return False if "Want" in type(error).__name__ else None

    def fresh(self) -> bool:
        if self._owner != os.getpid():
            return False  # a child's copy: the parent goes on using the connection
        try:
            self._limit(0)
            self._peer.recv(1)
        except BlockingIOError:
            return True
        except OSError as error:
            return "Want" in type(error).__name__
        return False  # its end, or something nobody has asked for

    def close(self) -> None:
        self._peer.close()
