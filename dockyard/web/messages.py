"""What a handler is given and what it gives back."""

import os
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

from dockyard.web.body import EMPTY, Body
from dockyard.web.head import Head, Headers

if TYPE_CHECKING:
    from dockyard.web.connection import Connection

_REASONS = {status.value: status.phrase for status in HTTPStatus}
WITHOUT_BODY = frozenset({204, 304})


class Request:
    """One request: its head, its body, and the connection it came by."""

    __slots__ = ("body", "connection", "headers", "keep_alive", "length", "method", "path", "query", "version")

    def __init__(self, head: Head, body: Body, connection: "Connection") -> None:
        self.method = head.method
        self.path = head.path  # percent-encoded
        self.query = head.query  # likewise
        self.version = head.version  # of HTTP
        self.headers: Headers = head.headers
        self.length = head.length  # of the body, in bytes; None: unknown, it comes in chunks
        self.keep_alive = head.keep_alive
        self.body = body
        self.connection = connection

    @property
    def has_body(self) -> bool:
        """Whether there is one, be it empty."""
        return self.body is not EMPTY

    @property
    def gone(self) -> bool:
        """Whether the client has hung up, or said that it will say no more: then nobody waits for what takes time."""
        return self.connection.gone


class StreamResponse:
    """A response whose body is written piece by piece. The head goes out with `prepare`."""

    __slots__ = ("_chunked", "_ended", "_request", "_silent", "headers", "status")

    def __init__(self, status: int = 200, headers: Mapping[str, str] | None = None, content_type: str = "") -> None:
        self.status = status
        self.headers = dict(headers) if headers else {}
        if content_type:
            self.headers["Content-Type"] = content_type
        self._request: Request | None = None
        self._chunked = False
        self._silent = False
        self._ended = False

    @property
    def prepared(self) -> bool:
        """Whether the head has been sent."""
        return self._request is not None

    async def prepare(self, request: Request) -> None:
        """Send the head. Raises ConnectionError when the client has gone."""
        if self._request is not None:
            return
        self._request = request
        self._silent = request.method == "HEAD"
        if request.version >= (1, 1):
            self._chunked = True
            self.headers["Transfer-Encoding"] = "chunked"
        else:
            request.keep_alive = False  # the body's end is the connection's
        request.connection.answer(self, head_of(self, request))
        await request.connection.drain()

    def announce(self, request: Request, count: int) -> None:
        """Send the head, for a body of `count` bytes, which has to follow. Raises ConnectionError."""
        self._request = request
        self._silent = request.method == "HEAD"
        self.headers["Content-Length"] = str(count)
        request.connection.answer(self, head_of(self, request))

    async def write(self, data: bytes) -> None:
        """Send a piece of the body, and wait while the client has yet to read others. Raises ConnectionError."""
        assert self._request is not None
        if not data or self._silent:
            return
        connection = self._request.connection
        connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        await connection.drain()

    async def write_eof(self) -> None:
        """The body has ended."""
        assert self._request is not None
        if not self._ended:
            self._ended = True
            if self._chunked and not self._silent:
                self._request.connection.write(b"0\r\n\r\n")
            await self._request.connection.drain()


class Response(StreamResponse):
    """A response that is known as a whole."""

    __slots__ = ("body",)

    def __init__(
        self, status: int = 200, headers: Mapping[str, str] | None = None, content_type: str = "", body: bytes = b""
    ) -> None:
        super().__init__(status, headers, content_type)
        self.body = body

    async def prepare(self, request: Request) -> None:
        """Send all of it."""
        if self._request is not None:
            return
        self._request = request
        self._ended = True
        if self.status not in WITHOUT_BODY:
            self.headers["Content-Length"] = str(len(self.body))
        head = head_of(self, request)
        whole = head if request.method == "HEAD" or self.status in WITHOUT_BODY else head + self.body
        request.connection.answer(self, whole)
        await request.connection.drain()


class FileResponse(StreamResponse):
    """A response whose body is a part of a file; it owns the descriptor."""

    __slots__ = ("_count", "_fd", "_offset")

    def __init__(self, fd: int, offset: int, count: int, status: int = 200, headers: Mapping[str, str] | None = None):
        """`count` bytes from `offset` on are the body."""
        super().__init__(status, headers)
        self._fd = fd
        self._offset = offset
        self._count = count

    async def prepare(self, request: Request) -> None:
        """Send all of it."""
        if self._request is not None:
            return
        self._ended = True
        try:
            self.announce(request, self._count)
            if request.method != "HEAD" and self._count:
                await request.connection.send_file(self._fd, self._offset, self._count)
            await request.connection.drain()
        finally:
            os.close(self._fd)


class TakenOver(StreamResponse):
    """What a handler returns when the connection no longer belongs to HTTP: nothing is written or awaited."""

    __slots__ = ()

    @property
    def prepared(self) -> bool:
        return True

    async def prepare(self, request: Request) -> None:
        return

    async def write_eof(self) -> None:
        return


def head_of(response: StreamResponse, request: Request) -> bytes:
    """The head of `response`."""
    status = response.status
    lines = [f"HTTP/{request.version[0]}.{request.version[1]} {status} {_REASONS.get(status, 'status')}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    lines.append(_date())
    if not request.keep_alive:
        lines.append("Connection: close")
    elif request.version < (1, 1):
        lines.append("Connection: keep-alive")
    if any("\n" in line or "\r" in line for line in lines):  # what is said by others must not become a header of ours
        lines = [line.replace("\r", " ").replace("\n", " ") for line in lines]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "replace")


_dated = (0, "")


def _date() -> str:
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        _dated = (now, time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT", time.gmtime(now)))
    return _dated[1]
