"""What comes piece by piece, as docker-py gives it: generators with `close`, and sockets that are taken over."""

from __future__ import annotations

from socket import AF_UNIX, create_connection, socket
from typing import TYPE_CHECKING, Any

from dockyard.client.calls import finish
from dockyard.client.errors import APIError, Unreachable
from dockyard.client.framing import HEADER
from dockyard.client.wire import UPGRADE, ResponseParser, request_head
from dockyard.compat.errors import translated
from dockyard.oci.quick_json import dumps, loads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dockyard.client.framing import Decoder
    from dockyard.client.session import Exchange, Session


class CancellableStream:
    """Values as the engine sends them. `close`, from any thread, ends it."""

    def __init__(self, exchange: Exchange, decoder: Decoder[Any], convert: Callable[[Any], Any] | None = None) -> None:
        self._exchange = exchange
        self._decoder = decoder
        self._convert = convert
        self._values: list[Any] = []  # the next one last
        self._ended = self._closed = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while not self._values:
            if self._ended or self._closed:
                raise StopIteration
            data = self._read()
            self._ended = not data
            self._values = (self._decoder.feed(data) if data else self._decoder.finish())[::-1]
        value = self._values.pop()
        return value if self._convert is None else self._convert(value)

    def _read(self) -> bytes:
        try:
            with translated():
                return finish(self._exchange.read())
        except Exception:
            if self._closed:
                return b""
            raise

    def close(self) -> None:
        """Want no more of it."""
        self._closed = True
        self._exchange.close()

    def __del__(self) -> None:
        self._exchange.close()


class Frames:
    """The frames of a container's output without a terminal, each whole: (1 for stdout or 2 for stderr, bytes)."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        data = self._pending + data
        found, position = [], 0
        while len(data) - position >= HEADER:
            end = position + HEADER + int.from_bytes(data[position + 4 : position + HEADER], "big")
            if end > len(data):
                break
            found.append((data[position], data[position + HEADER : end]))
            position = end
        self._pending = data[position:]
        return found

    def finish(self) -> list[tuple[int, bytes]]:
        return []


class Raw:
    """The output of a terminal: all of it is stdout."""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        return [(1, data)]

    def finish(self) -> list[tuple[int, bytes]]:
        return []


class Slices:
    """Bytes in pieces of at most a size."""

    def __init__(self, size: int | None) -> None:
        self._size = size

    def feed(self, data: bytes) -> list[bytes]:
        size = self._size or len(data)
        return [data[start : start + size] for start in range(0, len(data), size)]

    def finish(self) -> list[bytes]:
        return []


class Lines:
    """The engine's messages, one a line: as values, or with `raw` as the bytes they came in."""

    def __init__(self, *, raw: bool = False) -> None:
        self._raw = raw
        self._pending = b""

    def _value(self, line: bytes) -> Any:
        return line + b"\n" if self._raw else loads(line)

    def feed(self, data: bytes) -> list[Any]:
        *lines, self._pending = (self._pending + data).split(b"\n")
        return [self._value(line) for line in lines if line.strip()]

    def finish(self) -> list[Any]:
        rest, self._pending = self._pending, b""
        return [self._value(rest)] if rest.strip() else []


def separated(value: tuple[int, bytes]) -> tuple[bytes | None, bytes | None]:
    """A frame as (stdout, stderr), one of which is None."""
    stream, data = value
    return (None, data) if stream == 2 else (data, None)


def taken_over(session: Session, place: str, body: dict[str, Any] | None) -> Any:
    """POST a request that takes its connection over: the socket itself, from the first byte after the answer's head.

    As docker-py gives it: a SocketIO whose `_sock` is the socket, or with TLS an SSLSocket.
    """
    address = session.address
    data = b"" if body is None else dumps(body).encode()
    peer: Any
    try:
        if address.socket:
            peer = socket(AF_UNIX)
            peer.connect(address.socket)
        else:
            peer = create_connection((address.host, address.port), session.timeout)
            peer.settimeout(None)
            if address.tls is not None:
                peer = address.tls.context().wrap_socket(peer, server_hostname=address.host)
    except OSError as error:
        raise Unreachable(f"cannot connect to {address}: {error}") from error
    try:
        major, minor = session.version
        headers = {**UPGRADE, "Content-Type": "application/json"}
        peer.sendall(request_head("POST", f"/v{major}.{minor}{place}", headers, length=len(data)) + data)
        parser = ResponseParser("POST")
        while not parser.status:  # byte by byte: what follows belongs to whom the socket is given to
            parser.feed(peer.recv(1))
        if parser.status >= 400:
            while not parser.complete:
                parser.feed(peer.recv(1 << 16))
            raise APIError.of(parser.status, str(loads(parser.take()).get("message", "")))
    except BaseException:
        peer.close()
        raise
    if address.tls is not None:
        return peer
    file = peer.makefile("rwb", buffering=0)
    peer.close()  # in name: it lives as long as `file` does
    return file
