"""Responses that are more than one JSON value: taken-over connections and progress streams."""

import asyncio
import fcntl
import os
import termios
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from dockyard import errors, web
from dockyard.api.router import Call

RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"

PATIENCE_WITH_CLIENT = 2.0  # how often it is looked whether a client that waits is still there, s

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Hijacked:
    """A client's connection, taken away from HTTP; the client knows nothing of it before `begin`.

    `fd` is a connected, non-blocking stream socket and belongs to the caller; bytes written to it reach the client, its
    end of stream is the client's half-close. On a plain connection it is the client's own socket, so that another
    process can go on serving it when the daemon is gone; with TLS it is one end of a socket pair (daemon/tls.py).
    """

    fd: int
    head: bytes
    response: web.TakenOver  # what the handler returns

    def begin(self) -> None:
        """Send the head of the response (101 when the client asked for an upgrade, else 200): the stream begins.

        It is the first thing on its way to the client, so there is room for it and nothing to wait for.
        """
        with suppress(OSError):  # the client went away
            os.write(self.fd, self.head)

    async def heard(self) -> None:
        """Wait until the client has read the head, or a moment, see `_head_is_read`."""
        await _head_is_read(self.fd)


async def take_over(call: Call, content_type: str = RAW_STREAM) -> Hijacked:
    """Take the client's connection away from HTTP. Raises ConnectionResetError when the client went away."""
    if call.http.headers.get("Upgrade"):
        head = f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
    else:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {RAW_STREAM}\r\n"
    fd, _ = await call.http.connection.take()
    return Hijacked(fd, (head + "\r\n").encode(), web.TakenOver())


async def hijack(call: Call, content_type: str = RAW_STREAM) -> tuple[int, web.TakenOver]:
    """Take the client's connection away from HTTP and begin: (the socket's fd, what to return)."""
    taken = await take_over(call, content_type)
    taken.begin()
    await taken.heard()
    return taken.fd, taken.response


async def _head_is_read(fd: int) -> None:
    """Wait until the client has read the head, or a moment.

    A client that reads the head through a buffer and the stream beside it (docker-py does) loses whatever of the stream
    comes along with the head.
    """
    for _ in range(200):
        try:
            # on a UNIX socket this counts what the peer has not read yet
            if not int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0" * 4), "little"):
                return
        except OSError:
            return
        await asyncio.sleep(0.0003)


async def while_connected(call: Call, work: Coroutine[Any, Any, web.StreamResponse]) -> web.StreamResponse:
    """What `work` returns; it is given up when its client goes away, which nothing else tells one who only waits."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=PATIENCE_WITH_CLIENT))[0]:
            if call.http.gone:
                return web.TakenOver()
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


class ProgressStream:
    """A response of one JSON object a line.

    It is opened by the first of them, so that an error before it still has a status of its own.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._response: web.StreamResponse | None = None
        self._queue: list[bytes] = []
        self._wake = asyncio.Event()

    def send(self, message: Any) -> None:
        """Queue one message; may be called from the event loop's thread only, never blocks."""
        self._queue.append(_encode(message) + b"\r\n")
        self._wake.set()

    async def run(self, work: "asyncio.Future[Any] | Any", *, errors_in_stream: bool = False) -> web.StreamResponse:
        """Await `work` (an awaitable that calls `send`) while its messages go out; returns the response.

        An error before the first message becomes an ordinary error response, unless `errors_in_stream`; one after it
        becomes the stream's last message, `{"errorDetail": {"message": …}, "error": …}`. When the client goes away, the
        work is cancelled.
        """
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda _: self._wake.set())
        try:
            while not (task.done() and not self._queue):
                await self._wake.wait()
                self._wake.clear()
                await self._flush()
        except (ConnectionError, asyncio.CancelledError):
            task.cancel()
            raise
        error = task.exception()
        if error is not None:
            if self._response is None and not errors_in_stream:
                raise error
            message = errors.words(error)
            detail: dict[str, Any] = {"message": message}
            code = getattr(error, "exit_code", None)
            if code is not None:
                detail["code"] = code
            self.send({"errorDetail": detail, "error": message})
        await self._flush(final=True)
        assert self._response is not None
        await self._response.write_eof()
        return self._response

    async def _flush(self, final: bool = False) -> None:
        if self._queue or final:
            if self._response is None:
                self._response = await self._call.open_stream()
            data = b"".join(self._queue)
            self._queue.clear()
            if data:
                await self._response.write(data)
