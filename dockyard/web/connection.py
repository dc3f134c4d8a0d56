"""One client's connection: requests come in, one after the other is handled, responses go out."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

from dockyard.errors import InvalidParameter
from dockyard.web.body import EMPTY, Body, Chunked, Counted
from dockyard.web.head import LARGEST_HEAD, BadRequest, Head, Headers, end_of_head, parse_head
from dockyard.web.messages import Request, Response, StreamResponse, TakenOver

log = logging.getLogger("dockyard.web")

IDLE_TIME = 3600.0  # seconds: clients pool connections and expect Go's patience
LINGER_TIME = 2.0  # seconds: who is answered before all of a body is sent shall read the answer
FAREWELL_TIME = 0.5  # seconds: likewise, for who is refused at the door
# Bytes of further requests that may wait while one is handled.
LARGEST_BACKLOG = 1 << 18
FILE_PIECE = 1 << 18  # bytes of a file that are enciphered at a time
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# With what no method begins: control characters, as TLS has them (RFC 8446, 5.1), and what is no ASCII.
_NO_METHOD = frozenset((*range(32), *range(127, 256)))
# What stands for the head of a request that is refused.
UNREADABLE = Head("GET", "", "", (1, 1), Headers({}), 0, keep_alive=False, expects_continue=False)

Handler = Callable[[Request], Awaitable[StreamResponse]]
Refusal = Callable[[int, str], Response]


class Server:
    """Makes the protocol of each connection: give it to `loop.create_server` or `create_unix_server`."""

    def __init__(self, handler: Handler, refuse: Refusal) -> None:
        """`handler` answers requests; `refuse` makes the answer to what is none: (status, why)."""
        self.handler = handler
        self.refuse = refuse
        self.connections: set[Connection] = set()

    def __call__(self) -> asyncio.Protocol:
        return Connection(self)

    async def shutdown(self, patience: float) -> None:
        """Close every connection, those in use when their request is answered, or after `patience` seconds."""
        for connection in list(self.connections):
            connection.finish()
        for _ in range(2):
            tasks = [connection.task for connection in self.connections if connection.task is not None]
            if not tasks:
                break
            _, late = await asyncio.wait(tasks, timeout=patience)
            for task in late:
                task.cancel()
        for connection in list(self.connections):
            connection.abort()


class Connection(asyncio.Protocol):
    """The protocol of one connection."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._last = 0.0  # when something was last done for the client
        self._unread = bytearray()  # of requests to come
        self._searched = 0  # how much of it has been looked through for the end of a head
        self._body: Body | None = None  # that is still to arrive in part
        self._framing: Counted | Chunked | None = None  # tells what of the data is the body's
        self._upgrade = False  # the request at hand asks for the connection
        self._held = False  # reading is paused
        self._choked: asyncio.Future[None] | None = None  # the client has too much to read yet
        self._ended = False  # the client will send no more
        self._closing = False  # no further request is taken
        self._taken = False  # the connection belongs to someone else
        self._answer: StreamResponse | None = None  # to the request at hand, once its head has been sent
        self.task: asyncio.Task[None] | None = None  # the request at hand

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(self)
        self._last = self._loop.time()
        self._idle = self._loop.call_at(self._last + IDLE_TIME, self._close_when_idle)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self)
        self._transport = None
        if self._idle is not None:
            self._idle.cancel()
        if self._body is not None:
            self._body.fail(ConnectionResetError("the client has gone"))
            self._body = None
        if self._choked is not None and not self._choked.done():
            self._choked.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._body is not None and self._framing is not None:
            data = self._framing.feed(data)
            if self._body.complete:
                self._body_has_come()
            elif self._body.full:
                self._hold(True)
        if data and not self._closing:
            self._unread += data
            if self.task is None:
                self._next()
            elif len(self._unread) > LARGEST_BACKLOG:
                self._hold(True)

    def eof_received(self) -> bool:
        self._ended = True
        if self._body is not None:
            self._body.fail(InvalidParameter("unexpected EOF"))
            self._body = None
        return self.task is not None  # what is asked already is answered

    def pause_writing(self) -> None:
        self._choked = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._choked is not None and not self._choked.done():
            self._choked.set_result(None)
        self._choked = None

    # -- for requests and responses

    @property
    def gone(self) -> bool:
        """Whether the client has hung up, or will say no more."""
        return self._ended or self._transport is None or self._transport.is_closing()

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken."""
        return self._transport is not None and self._transport.get_extra_info("sslcontext") is not None

    @property
    def peer(self) -> str:
        """The client's address, host:port; "" when there is none, as on a UNIX socket."""
        found = self._transport.get_extra_info("peername") if self._transport is not None else None
        if not isinstance(found, tuple):
            return ""
        host = str(found[0]).removeprefix("::ffff:")
        return f"[{host}]:{found[1]}" if ":" in host else f"{host}:{found[1]}"

    def answer(self, response: StreamResponse, data: bytes) -> None:
        """Send the head of `response`, with which `data` begins."""
        if self._answer is not None:
            # In the midst of another: all that can still be said is that this one is not whole.
            self.abort()
            raise ConnectionResetError("an answer was under way already")
        self._answer = response
        self.write(data)

    def write(self, data: bytes) -> None:
        """Send `data`. Raises ConnectionError when the client has gone."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self._transport.write(data)

    async def send_file(self, fd: int, offset: int, count: int) -> None:
        """Send `count` bytes of an open file from `offset` on. Raises ConnectionError when the client has gone.

        The kernel moves them (sendfile(2)) unless they have to be enciphered. OSError: the file is shorter than that.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        if transport.get_extra_info("sslcontext") is None:
            with open(fd, "rb", buffering=0, closefd=False) as file:
                sent = await self._loop.sendfile(transport, file, offset, count, fallback=False)
            if sent != count:
                raise OSError("the file is shorter than has been announced")
            return
        while count:
            data = os.pread(fd, min(count, FILE_PIECE), offset)
            if not data:
                raise OSError("the file is shorter than has been announced")
            self.write(data)
            offset, count = offset + len(data), count - len(data)
            await self.drain()

    async def drain(self) -> None:
        """Wait while the client has too much to read."""
        if self._choked is not None:
            await self._choked
            if self._transport is None:
                raise ConnectionResetError("the client has gone")

    async def take(self) -> tuple[int, bytes]:
        """Take the connection away from HTTP: (a descriptor of its socket, what the client has sent already).

        The socket is a stream socket that does not block. Raises ConnectionError when the client has gone.
        """
        transport = self._transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        self._hold(True)  # nothing that the client sends from here on is HTTP
        while transport.get_write_buffer_size():  # noqa: ASYNC110  (nothing tells of a buffer that is empty)
            await asyncio.sleep(0.001)
        if transport.is_closing():
            raise ConnectionResetError("the client has gone")
        fd = os.dup(transport.get_extra_info("socket").fileno())
        received = bytes(self._unread)
        self._unread.clear()  # or it would be read as the next request, and done
        self._taken = self._closing = True
        transport.abort()  # closes the loop's own descriptor only: the connection lives on in the duplicate
        return fd, received

    def finish(self) -> None:
        """Take no further request; close when nothing is under way."""
        self._closing = True
        if self.task is None:
            self._close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None and not self._taken:
            self._transport.abort()

    # -- one request after the other

    def _next(self) -> None:
        """Begin with what `_unread` holds, if that is a whole head."""
        unread = self._unread
        if not self._searched:
            while unread.startswith((b"\r", b"\n")):  # (old clients end a body with an empty line too many)
                del unread[:1]
        end = end_of_head(unread, max(0, self._searched - 3))
        if (len(unread) if end < 0 else end) > LARGEST_HEAD:
            self._refuse(BadRequest(431, "Request Header Fields Too Large"))
            return
        if end < 0:
            if unread and unread[0] in _NO_METHOD:
                # a client that tries TLS first goes on without only when it is told that this is none
                self._refuse(BadRequest(400, "malformed HTTP request"))
                return
            self._searched = len(unread)
            return
        self._searched = 0
        head_bytes = bytes(unread[:end])
        try:
            head = parse_head(head_bytes)
        except BadRequest as error:
            self._refuse(error)
            return
        rest = bytes(unread[end:])
        unread.clear()
        self._start(head, rest)

    def _start(self, head: Head, rest: bytes) -> None:
        body = EMPTY
        if head.length != 0:
            body = Body(self._resume, self._go_on if head.expects_continue else None)
            self._body = body
            self._framing = Chunked(body) if head.length is None else Counted(body, head.length)
            if rest:
                rest = self._framing.feed(rest)
        request = Request(head, body, self)
        self._unread += rest
        self._upgrade = head.headers.get("Upgrade") != ""
        if body.complete:
            self._body_has_come()
        self.task = self._loop.create_task(self._serve(request))

    def _body_has_come(self) -> None:
        self._body = self._framing = None
        if self._upgrade:
            self._hold(True)  # what comes now is for who takes the connection over

    async def _serve(self, request: Request) -> None:
        """Handle one request, and then the next."""
        try:
            response = await self._server.handler(request)
            if not isinstance(response, TakenOver):
                await response.prepare(request)
                await response.write_eof()
        except ConnectionError:
            self.abort()
        except asyncio.CancelledError:
            self.abort()
            raise
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            self.abort()
        else:
            if isinstance(response, TakenOver):
                self.abort()
            elif not request.body.complete or request.body.failed:
                await self._linger(request)
        finally:
            self.task = self._answer = None
            self._last = self._loop.time()
            if not request.keep_alive or self._closing or self._ended or not request.body.complete:
                self._close()
            elif self._transport is not None:
                self._hold(False)
                if self._unread:
                    self._next()

    async def _linger(self, request: Request) -> None:
        """Read past what is left of a body, for a moment: the client may only then look for the answer."""
        if not request.body.begun:  # it was to say that the body is wanted, and nobody has: none may come
            request.keep_alive = False
            return
        try:
            async with asyncio.timeout(LINGER_TIME):
                while await request.body.readany():
                    pass
        except (TimeoutError, InvalidParameter, ConnectionError):
            request.keep_alive = False

    def _go_on(self) -> None:
        """The body is wanted: tell a client that waits to hear so before it sends it."""
        if self._answer is None and self._body is not None and self._transport is not None:
            self._transport.write(CONTINUE)

    def _refuse(self, error: BadRequest) -> None:
        log.debug("refused: %s", error.message)
        self._closing = True
        self._unread.clear()
        request = Request(UNREADABLE, EMPTY, self)
        response = self._server.refuse(error.status, error.message)
        self.task = self._loop.create_task(self._send_refusal(request, response))

    async def _send_refusal(self, request: Request, response: Response) -> None:
        try:
            await response.prepare(request)
            # Closed at once, it might be reset before the client has read why (net/http, closeWriteAndWait).
            if self._transport is not None and self._transport.can_write_eof():
                self._transport.write_eof()
                await asyncio.sleep(FAREWELL_TIME)
        except OSError:
            pass
        finally:
            self.task = None
            self._close()

    # -- when nothing is under way

    def _resume(self) -> None:
        """A body has been read."""
        if self._body is not None:
            self._hold(False)

    def _hold(self, held: bool) -> None:
        """Read no more from the client, or go on."""
        if self._held != held and self._transport is not None and not self._transport.is_closing():
            self._held = held
            self._transport.pause_reading() if held else self._transport.resume_reading()

    def _close(self) -> None:
        if self._transport is not None and not self._taken:
            self._transport.close()

    def _close_when_idle(self) -> None:
        due = self._last + IDLE_TIME
        if self.task is None and self._loop.time() >= due:
            self._close()
        else:
            self._idle = self._loop.call_at(max(due, self._loop.time() + 1), self._close_when_idle)
