"""Calls of gRPC on a connection: a server's methods by their path, and a client's calls."""

from __future__ import annotations

import base64
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from dockyard.grpc import status
from dockyard.grpc.connection import Connection, Pairs, Stream, StreamReset
from dockyard.grpc.status import CallFailed

log = logging.getLogger("dockyard.grpc")

Metadata = Mapping[str, str | Sequence[str]]
Method = Callable[[Stream], Awaitable[None]]
Explain = Callable[[Exception], CallFailed]
T = TypeVar("T")

_CONTENT = ("content-type", "application/grpc")


class Methods:
    """What a server can be asked: `/package.Service/Method` → a coroutine that serves the stream."""

    def __init__(self, methods: Mapping[str, Method], explain: Explain) -> None:
        """`explain` turns what a method raises into what the client is told."""
        self._methods = methods
        self._explain = explain

    async def accept(self, stream: Stream) -> None:
        """Serve one call to its end."""
        method = self._methods.get(stream.headers.get(":path", ""))
        stream.send_headers([(":status", "200"), _CONTENT])
        if method is None:
            path = stream.headers.get(":path", "")
            _end(stream, CallFailed(status.UNIMPLEMENTED, f"unknown method {path}"))
            return
        try:
            await method(stream)
        except StreamReset:
            stream.reset()
        except CallFailed as failure:
            _end(stream, failure)
        except Exception as error:
            _end(stream, self._explain(error))
        else:
            _end(stream, None)


def _end(stream: Stream, failure: CallFailed | None) -> None:
    trailers: Pairs = [("grpc-status", str(failure.code if failure is not None else status.OK))]
    if failure is not None:
        trailers.append(("grpc-message", status.quoted(failure.message)))
        if failure.details:
            encoded = base64.b64encode(failure.details).decode().rstrip("=")
            trailers.append(("grpc-status-details-bin", encoded))
    stream.send_headers(trailers, end=True)


async def request_of(stream: Stream) -> bytes:
    """The one message of a call that has one. Raises CallFailed."""
    message = await stream.receive()
    if message is None:
        raise CallFailed(status.INTERNAL, "no message came")
    return message


class Call:
    """A client's call that streams in both directions; leave it with `close`."""

    def __init__(self, connection: Connection, path: str, metadata: Metadata) -> None:
        headers: Pairs = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            _CONTENT,
            ("te", "trailers"),
            ("user-agent", "dockyard"),
        ]
        for name, values in metadata.items():
            for value in [values] if isinstance(values, str) else values:
                headers.append((name, value))
        self.stream = connection.open(headers)
        self.send = self.stream.send
        self.half_close = self.stream.half_close

    async def receive(self) -> bytes | None:
        """The next message; None when the call ended well. Raises CallFailed, StreamReset."""
        message = await self.stream.receive()
        if message is None:
            self._check()
        return message

    async def receive_many(self) -> list[bytes]:
        """All messages that are there; [] when the call ended well. Raises CallFailed, StreamReset."""
        messages = await self.stream.receive_many()
        if not messages:
            self._check()
        return messages

    def _check(self) -> None:
        trailers = self.stream.trailers
        code = trailers.get("grpc-status", "")
        if code != "0":
            message = status.unquoted(trailers.get("grpc-message", "the call ended without a status"))
            number = int(code) if code.isascii() and code.isdigit() and len(code) < 3 else status.UNKNOWN
            raise CallFailed(number, message, _decoded(trailers.get("grpc-status-details-bin", "")))

    def close(self) -> None:
        """Give the call up if it is not done."""
        if not self.stream.done:
            self.stream.reset()


def _decoded(value: str) -> bytes:
    """A binary header; b"" for one that is none."""
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4))
    except ValueError:
        return b""


async def call(connection: Connection, path: str, message: bytes, metadata: Metadata | None = None) -> bytes:
    """One message there, one back. Raises CallFailed, StreamReset."""
    under_way = Call(connection, path, metadata or {})
    try:
        await under_way.send(message)
        under_way.half_close()
        answer = await under_way.receive()
        if answer is None:
            raise CallFailed(status.INTERNAL, "no message came")
        await under_way.receive()
        return answer
    finally:
        under_way.close()
