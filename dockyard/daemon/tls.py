"""TLS in front of the API: each client's bytes are deciphered here and go on over a socket pair.

asyncio's own TLS closes a connection as soon as the client has said that it will send no more, which is what a docker
client does at once when it attaches without input, and then waits for the output. Here each direction ends by itself;
and what serves the API sees the same plain sockets everywhere, and may hand them on to a shim.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable

log = logging.getLogger("dockyard.daemon.tls")

HANDSHAKE_TIME = 10.0  # seconds (net/http's default for TLS handshakes)
CHUNK = 1 << 16


class TlsFront(asyncio.Protocol):
    """One client's connection. `serve` makes the protocol that answers what it says."""

    def __init__(self, context: ssl.SSLContext, serve: Callable[[], asyncio.BaseProtocol]) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._serve = serve
        self._client: asyncio.Transport | None = None
        self._behind: _Behind | None = None
        self._task: asyncio.Task[None] | None = None  # opens what is behind; a task that no one holds may vanish
        self._loop = asyncio.get_running_loop()
        self._deadline: asyncio.TimerHandle | None = None

    # the client's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._client = transport
        self._deadline = self._loop.call_later(HANDSHAKE_TIME, transport.abort)

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        try:
            if self._task is None:
                self._shake_hands()
            self._decipher()
        except ssl.SSLError as error:
            log.info("TLS connection ended: %s", error)
            self._flush()  # the alert that tells the client why
            self._close()

    def eof_received(self) -> bool:
        # the connection itself was cut, with or without a farewell in TLS: nothing can be sent any more
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self._behind is not None:
            self._behind.transport.close()
        self._client = None

    def pause_writing(self) -> None:
        if self._behind is not None:
            self._behind.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._behind is not None:
            self._behind.transport.resume_reading()

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        finally:
            self._flush()
        assert self._client is not None
        assert self._deadline is not None
        self._deadline.cancel()
        self._client.pause_reading()
        self._task = self._loop.create_task(self._open())

    async def _open(self) -> None:
        """Join a socket pair to the protocol that serves."""
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        await self._loop.connect_accepted_socket(self._serve, theirs)
        _, behind = await self._loop.connect_accepted_socket(lambda: _Behind(self), ours)
        if self._client is None:  # it has gone meanwhile
            behind.transport.close()
            return
        self._behind = behind
        try:
            self._decipher()
        except ssl.SSLError:
            self._close()
            return
        self._client.resume_reading()

    def _decipher(self) -> None:
        """Pass on what the client has sent so far."""
        if self._behind is None:
            return
        behind = self._behind.transport
        try:
            while data := self._tls.read(CHUNK):
                if not behind.is_closing():
                    behind.write(data)
        except ssl.SSLWantReadError:
            self._flush()  # TLS has things of its own to say, new keys for instance
            return
        # the client's farewell (close_notify): it will send no more, but it may well wait for an answer
        if behind.can_write_eof() and not behind.is_closing():
            behind.write_eof()

    # the other side

    def encipher(self, data: bytes) -> None:
        """Send what was answered."""
        if self._client is not None:
            self._tls.write(data)
            self._flush()

    def finish(self) -> None:
        """No more will be answered: say farewell."""
        if self._client is not None:
            try:
                self._tls.unwrap()
            except (ssl.SSLError, ValueError):  # the client's farewell is not waited for
                pass
            self._flush()
        self._close()

    def hold(self, held: bool) -> None:
        """Read no more from the client, or go on."""
        if self._client is not None and not self._client.is_closing():
            self._client.pause_reading() if held else self._client.resume_reading()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data and self._client is not None:
            self._client.write(data)

    def _close(self) -> None:
        if self._client is not None:
            self._client.close()


class _Behind(asyncio.Protocol):
    """Our end of the socket pair."""

    def __init__(self, front: TlsFront) -> None:
        self._front = front
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._front.encipher(data)

    def eof_received(self) -> bool:
        self._front.finish()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._front.finish()

    def pause_writing(self) -> None:
        self._front.hold(True)

    def resume_writing(self) -> None:
        self._front.hold(False)
