"""A connection inside a call: HTTP/2 whose bytes travel as messages of another connection's stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from dockyard.grpc.connection import Connection, Stream, StreamReset

ENOUGH = 1 << 20  # bytes that may wait to be sent before the connection is asked to wait


class Tunnel(asyncio.Transport):
    """The transport of `connection`, made of the messages of `stream`."""

    def __init__(
        self, stream: Stream, connection: Connection, wrap: Callable[[bytes], bytes], unwrap: Callable[[bytes], bytes]
    ) -> None:
        """`wrap` makes a message of bytes, `unwrap` takes them out of one."""
        super().__init__()
        self._stream = stream
        self._connection = connection
        self._wrap, self._unwrap = wrap, unwrap
        self._waiting = bytearray()
        self._wake = asyncio.Event()
        self._closing = False
        self._paused = False

    async def run(self) -> None:
        """Carry bytes in both directions until one side ends."""
        self._connection.connection_made(self)
        sending = asyncio.ensure_future(self._send())
        try:
            while (message := await self._stream.receive()) is not None and not self._closing:
                self._connection.data_received(self._unwrap(message))
        except StreamReset:
            pass
        finally:
            sending.cancel()
            self._connection.connection_lost(None)

    async def _send(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                piece = bytes(self._waiting[:ENOUGH])
                del self._waiting[:ENOUGH]
                await self._stream.send(self._wrap(piece))
            if self._paused:
                self._paused = False
                self._connection.resume_writing()
            if self._closing:
                self._stream.reset()
                return

    def write(self, data: Any) -> None:
        self._waiting += data
        if len(self._waiting) > ENOUGH and not self._paused:
            self._paused = True
            self._connection.pause_writing()
        self._wake.set()

    def pause_reading(self) -> None:
        """Nothing: the messages come in their own time."""

    resume_reading = pause_reading

    def get_write_buffer_size(self) -> int:
        return len(self._waiting)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True
        self._wake.set()

    abort = close
