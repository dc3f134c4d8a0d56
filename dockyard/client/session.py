"""Requests and their answers over kept connections: what every resource stands on.

A session knows where the engine is, which version of the API both sides speak, and a few idle connections. It is
written as coroutines over a `Dialer`; with the blocking one they never suspend (see calls.py). Threads may share a
session: each request has a connection of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from dockyard.client.errors import APIError, ClientError, TimedOut, Unreachable
from dockyard.client.wire import LAST_CHUNK, UPGRADE, ResponseParser, chunk, request_head
from dockyard.oci.quick_json import dumps, loads

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Iterator

    from dockyard.client.address import Address
    from dockyard.client.channel import Channel, Dialer

    # what a request may carry: an object to be sent as JSON, bytes, or pieces of bytes
    Body = dict[str, Any] | bytes | Iterable[bytes] | AsyncIterable[bytes] | None

T = TypeVar("T")

NEWEST_VERSION = (1, 51)
OLDEST_VERSION = (1, 24)
KEPT_CONNECTIONS = 64
LISTENING = 0.02  # seconds that a connection must live for its server to count as there
PATIENT = float("inf")  # a timeout: this answer may take for ever


class Reply(NamedTuple):
    """A whole answer."""

    status: int
    headers: dict[str, str]
    data: bytes

    def json(self) -> Any:
        """The body, parsed; None when it is empty."""
        return loads(self.data) if self.data.strip() else None


class Exchange:
    """A request under way whose answer's head has come: read its body piece by piece, or take the connection over."""

    def __init__(self, session: Session, channel: Channel, parser: ResponseParser, timeout: float | None) -> None:
        self.channel = channel
        self.status = parser.status
        self.headers = parser.headers
        self._session = session
        self._parser = parser
        self._timeout = timeout
        self._open = True

    async def read(self, timeout: float | None = None) -> bytes:
        """The next piece of the body; b"" at its end. Raises TimedOut, Unreachable."""
        parser = self._parser
        while not parser.waiting and not parser.complete:
            if not self._open:
                return b""
            parser.feed(await self.channel.receive(self._timeout if timeout is None else timeout))
        if parser.complete and self._open:
            self._open = False
            self._session.give_back(self.channel, parser)
        return parser.take()

    def early(self) -> bytes:
        """What has come with the head of a taken-over connection; before its channel is used directly."""
        return self._parser.take()

    async def read_all(self) -> bytes:
        """The rest of the body."""
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Want no more of it."""
        if self._open:
            self._open = False
            self.channel.close()


class Session:
    """One engine, spoken to by any number of threads or tasks."""

    def __init__(
        self,
        address: Address,
        dialer: Dialer,
        *,
        timeout: float | None = 60,
        version: str = "",
        config_folder: str = "",
    ) -> None:
        """`timeout`: seconds an answer may take, but for those that wait for something to happen.

        `version` of the API, as "1.41"; by default the newest that both sides know, found out by the first request.
        """
        self.address = address
        self.dialer = dialer
        self.timeout = timeout
        self.config_folder = config_folder
        self.logins: dict[str, dict[str, str]] = {}  # by registry; of `login`
        self.call: Callable[[Coroutine[Any, Any, Any]], Any] = dialer.call
        self.blocking = dialer.blocking
        self.builder = ""  # the version of the API for builds that the engine prefers: "2" is BuildKit's
        self.dockyard = ""  # the version of an engine that is ours, once the version of the API has been found out
        self._prefix = f"/v{version}" if version else ""
        self._idle: list[Channel] = []

    # -- whole requests

    async def request(
        self,
        method: str,
        path: str,
        body: Body = None,
        *,
        headers: dict[str, str] | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """Send a request and wait for the whole answer. Raises an APIError for an error status, Unreachable, TimedOut.

        `timeout`: seconds, instead of the session's; PATIENT for an answer that may take for ever.
        """
        exchange = await self.open(method, path, body, headers=headers, timeout=timeout)
        try:
            return Reply(exchange.status, exchange.headers, await exchange.read_all())
        finally:
            exchange.close()

    async def open(
        self,
        method: str,
        path: str,
        body: Body = None,
        *,
        headers: dict[str, str] | None = None,
        timeout: float | None = None,
    ) -> Exchange:
        """Send a request; its answer's body is still to be read. Raises as `request` does."""
        if not self._prefix:
            await self._negotiate()
        return await self._begin(method, self._prefix + path, body, headers or {}, timeout)

    async def hijack(self, path: str, body: Body = None) -> Exchange:
        """POST a request that takes its connection over; the answer's body is what the other side sends.

        Raises as `request` does.
        """
        return await self.open("POST", path, body, headers=UPGRADE, timeout=PATIENT)

    async def pipeline(self, requests: Iterable[tuple[str, str]]) -> list[Reply]:
        """Send several requests without bodies at once, over one connection; their answers, errors among them.

        The engine does them one after the other. Raises Unreachable.
        """
        if not self._prefix:
            await self._negotiate()
        asked = list(requests)
        channel = await self._channel()
        replies: list[Reply] = []
        try:
            data = b"".join(request_head(method, self._prefix + path, {}) for method, path in asked)
            await channel.send(data)
            rest = b""
            for method, _ in asked:
                parser = ResponseParser(method)
                if rest:
                    parser.feed(rest)
                while not parser.complete:
                    parser.feed(await channel.receive())
                rest = parser.rest
                replies.append(Reply(parser.status, parser.headers, parser.take()))
        except BaseException:
            channel.close()
            raise
        self.give_back(channel, parser)
        return replies

    async def _negotiate(self) -> None:
        """Choose the newest version of the API that both sides speak."""
        exchange = await self._begin("GET", "/_ping", None, {}, None)
        await exchange.read_all()
        self.dockyard = exchange.headers.get("dockyard-version", "")
        self.builder = exchange.headers.get("builder-version", "")
        theirs = exchange.headers.get("api-version", "")
        major, _, minor = theirs.partition(".")
        version = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else OLDEST_VERSION
        if version < OLDEST_VERSION:
            raise ClientError(f"the engine's API {theirs} is too old: at least 1.{OLDEST_VERSION[1]} is needed")
        version = min(version, NEWEST_VERSION)
        self._prefix = f"/v{version[0]}.{version[1]}"

    @property
    def version(self) -> tuple[int, int]:
        """The version of the API that is spoken; (0, 0) before the first request."""
        major, _, minor = self._prefix.removeprefix("/v").partition(".")
        return (int(major), int(minor)) if minor else (0, 0)

    async def _begin(
        self, method: str, path: str, body: Body, headers: dict[str, str], timeout: float | None
    ) -> Exchange:
        limit = None if timeout == PATIENT else self.timeout if timeout is None else timeout
        data, pieces = b"", None
        if isinstance(body, dict):
            headers = {**headers, "Content-Type": "application/json"}
            data = dumps(body).encode()
        elif isinstance(body, bytes):
            data = body
        elif body is not None:
            pieces = body
        head = request_head(method, path, headers, length=len(data), chunked=pieces is not None)
        # A kept connection may end while we are sending. Only what has no effect is then asked for again.
        for attempt in (0, 1):
            channel = await self._channel(kept=not attempt)
            parser = ResponseParser(method)
            try:
                sent = await self._send(channel, head + data, pieces, limit)
                while not parser.status:
                    parser.feed(await channel.receive(limit))
            except Unreachable:
                channel.close()
                if attempt or parser.status or method not in ("GET", "HEAD"):
                    raise
                continue
            except BaseException:
                channel.close()
                raise
            break
        if not sent:
            parser.headers["connection"] = "close"
        exchange = Exchange(self, channel, parser, limit)
        if parser.status >= 400:
            try:
                raise APIError.of(parser.status, _message(parser.status, await exchange.read_all()))
            finally:
                exchange.close()
        return exchange

    async def _send(
        self, channel: Channel, data: bytes, pieces: Iterable[bytes] | AsyncIterable[bytes] | None, limit: float | None
    ) -> bool:
        """Whether everything was sent: an engine that has answered before the end takes no more."""
        if pieces is None:
            await channel.send(data, limit)
            return True
        try:
            await channel.send(data, limit)
            if hasattr(pieces, "__aiter__"):
                async for piece in pieces:
                    if piece:
                        await channel.send(chunk(piece), limit)
            else:
                iterator: Iterator[bytes] = iter(pieces)
                while (piece := await self.dialer.apart(lambda: next(iterator, None))) is not None:
                    if piece:
                        await channel.send(chunk(piece), limit)
            await channel.send(LAST_CHUNK, limit)
        except Unreachable:
            return False
        return True

    # -- connections

    async def _channel(self, *, kept: bool = True) -> Channel:
        while kept and self._idle:
            try:
                channel = self._idle.pop()
            except IndexError:
                break  # another thread was quicker
            if channel.fresh():
                return channel
            channel.close()
        return await self.dialer.open(self.address, self.timeout)

    def give_back(self, channel: Channel, parser: ResponseParser) -> None:
        """Keep the connection of a finished request for another one, if it can carry one."""
        if parser.keeps_alive and not parser.rest and len(self._idle) < KEPT_CONNECTIONS:
            self._idle.append(channel)
        else:
            channel.close()

    async def answers(self, address: Address) -> bool:
        """Whether something takes connections there, and does not end them at once as a proxy for nothing does."""
        try:
            channel = await self.dialer.open(address, 1)
        except (Unreachable, TimedOut):
            return False
        try:
            return await channel.receive(LISTENING) != b""
        except TimedOut:
            return True
        finally:
            channel.close()

    def close(self) -> None:
        """Close the idle connections; the session can still be used."""
        while self._idle:
            self._idle.pop().close()


def _message(status: int, data: bytes) -> str:
    """What an error response says."""
    try:
        return str(loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return data.decode(errors="replace").strip() or f"status {status}"
