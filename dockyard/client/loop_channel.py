"""Connections for an event loop (asyncio): what AsyncClient stands on. Imported when one is made."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from dockyard.client.calls import Pending
from dockyard.client.channel import unreachable
from dockyard.client.errors import ClientError, TimedOut, Unreachable

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine, Iterator

    from dockyard.client.address import Address
    from dockyard.client.tls_layer import TLSLayer

T = TypeVar("T")

HIGH_WATER = 1 << 20  # bytes that may wait here before the engine is made to wait


class LoopDialer:
    """Connections of the running event loop."""

    blocking = False

    def __init__(self) -> None:
        self._tls: ssl.SSLContext | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def call(self, work: Coroutine[Any, Any, T]) -> Pending[T]:
        return Pending(work)

    async def make(self, work: Coroutine[Any, Any, T], unmake: Callable[[T], Coroutine[Any, Any, None]]) -> T:
        making = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            with contextlib.suppress(ClientError):  # then nothing was made
                await unmake(await making)
            raise

    async def open(self, address: Address, timeout: float | None) -> LoopChannel:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                if address.socket:
                    _, channel = await loop.create_unix_connection(LoopChannel, address.socket)
                elif address.tls is None:
                    _, channel = await loop.create_connection(LoopChannel, address.host, address.port)
                else:
                    channel = await self._open_tls(address)
        except TimeoutError:
            raise TimedOut(f"no connection to {address} within {timeout} s") from None
        except OSError as error:
            raise unreachable(address, error) from error
        return channel

    async def _open_tls(self, address: Address) -> LoopChannel:
        from dockyard.client.tls_layer import TLSLayer

        assert address.tls is not None
        if self._tls is None:
            self._tls = address.tls.context()
        context = self._tls
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_connection(
            lambda: TLSChannel(TLSLayer(context, address.host)), address.host, address.port
        )
        try:
            await channel.greeted
        except BaseException:
            channel.close()
            raise
        return channel

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def apart(self, work: Callable[[], T]) -> T:
        return await asyncio.to_thread(work)

    def background(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.ensure_future(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def digest(self, read: Callable[[], Coroutine[Any, Any, bytes]], work: Callable[[Iterator[bytes]], T]) -> T:
        loop = asyncio.get_running_loop()
        pieces = iter(lambda: asyncio.run_coroutine_threadsafe(read(), loop).result(), b"")
        return await asyncio.to_thread(work, pieces)


class LoopChannel(asyncio.Protocol):
    """One connection, read and written by one task at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._owner = os.getpid()
        self._transport: Any = None
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._full = False  # the transport has enough to send
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    # -- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER:
            self._transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> bool:
        self._ended = True
        _wake(self._reader)
        return True  # stay open for what we still have to send

    def connection_lost(self, error: Exception | None) -> None:
        self._ended = True
        self._full = False
        _wake(self._reader)
        _wake(self._writer)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        _wake(self._writer)

    # -- what the session calls

    async def send(self, data: bytes, timeout: float | None = None) -> None:
        if self._transport.is_closing():
            raise Unreachable("the engine closed the connection")
        self._transport.write(data)
        while self._full:
            self._writer = self._loop.create_future()
            if not await self._wait(self._writer, timeout):
                raise TimedOut(f"the engine took nothing for {timeout} s")

    async def receive(self, timeout: float | None = None) -> bytes:
        while not self._pieces:
            if self._ended:
                return b""
            self._reader = self._loop.create_future()
            if not await self._wait(self._reader, timeout):
                raise TimedOut(f"nothing from the engine for {timeout} s")
        if len(self._pieces) == 1:
            data = self._pieces.popleft()
        else:
            data = b"".join(self._pieces)
            self._pieces.clear()
        if self._size > HIGH_WATER and not self._ended:
            self._transport.resume_reading()
        self._size = 0
        return data

    async def _wait(self, event: asyncio.Future[None], timeout: float | None) -> bool:
        """Whether the event came within `timeout` seconds."""
        if timeout is None:
            await event
            return True
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = True
            _wake(event)

        timer = self._loop.call_later(timeout, expire)
        try:
            await event
        finally:
            timer.cancel()
        return not expired

    async def send_end(self) -> None:
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

    async def exchange(
        self,
        outgoing: Iterator[bytes],
        incoming: Callable[[bytes], None],
        timeout: float | None = None,
        *,
        half_close: bool = True,
    ) -> None:
        async def send() -> None:
            try:
                for piece in outgoing:
                    await self.send(piece)
                if half_close:
                    await self.send_end()
            except Unreachable:
                pass  # it takes no more: what it says counts from here on

        sending = asyncio.ensure_future(send())
        try:
            async with asyncio.timeout(timeout):
                while data := await self.receive():
                    incoming(data)
        except TimeoutError:
            raise TimedOut(f"not done within {timeout} s") from None
        finally:
            sending.cancel()

    def fresh(self) -> bool:
        return (
            self._owner == os.getpid()
            and self._loop is asyncio.get_running_loop()
            and not (self._ended or self._pieces or self._transport.is_closing())
        )

    def close(self) -> None:
        if self._owner != os.getpid() or self._loop.is_closed():
            return
        if asyncio._get_running_loop() is self._loop:
            self._transport.abort()
        else:
            self._loop.call_soon_threadsafe(self._transport.abort)


class TLSChannel(LoopChannel):
    """A connection inside of TLS. Nothing may be sent before `greeted` is done."""

    def __init__(self, layer: TLSLayer) -> None:
        super().__init__()
        self._layer = layer
        self.greeted: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._layer.greet()
        self._transport.write(self._layer.outgoing())

    def data_received(self, data: bytes) -> None:
        try:
            plain = self._layer.arrived(data)
        except OSError as error:  # an ssl.SSLError
            if not self.greeted.done():
                self.greeted.set_exception(error)
            plain = b""
        if self._layer.greeted and not self.greeted.done():
            self.greeted.set_result(None)
        if more := self._layer.outgoing():
            self._transport.write(more)
        if plain:
            super().data_received(plain)
        if self._layer.ended:
            super().eof_received()

    def eof_received(self) -> bool:
        self.data_received(b"")
        return super().eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if not self.greeted.done():
            self.greeted.set_exception(error or ConnectionResetError("the connection ended during the TLS handshake"))

    async def send(self, data: bytes, timeout: float | None = None) -> None:
        try:
            sealed = self._layer.sealed(data)
        except OSError as error:
            raise Unreachable(f"the engine closed the connection: {error}") from error
        await super().send(sealed, timeout)

    async def send_end(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._layer.farewell())


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
