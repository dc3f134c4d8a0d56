"""HTTP/2 as gRPC needs it (RFC 9113): frames, streams, flow control in both directions; no priorities, no pushes."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from hpack import Decoder, Encoder, HPACKError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
INITIAL_WINDOW, MAX_FRAME, HEADER_LIST, CONCURRENT = 0x4, 0x5, 0x6, 0x3
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, REFUSED, CANCEL = 0, 1, 3, 7, 8

OUR_WINDOW = 4 << 20  # bytes that the peer may send on a stream before anyone has read them
OUR_CONNECTION_WINDOW = 16 << 20
FRAME = 16384  # what every peer takes, and the most that we take
LARGEST_HEADERS = 1 << 18
MOST_STREAMS = 1000
LARGEST_MESSAGE = 16 << 20  # as BuildKit's (containerd defaults.DefaultMaxRecvMsgSize)
MOST_CONTROL = 10_000  # unanswered PINGs and SETTINGS that may wait for a peer that does not read
AT_ONCE = 128 << 10  # bytes that are read at once
MOST_GATHERED = 64 << 10  # bytes of frames that wait for others, to be written at once

_u32 = struct.Struct(">I")
_frame_head = struct.Struct(">IBI")  # 3 bytes of length and the kind, flags, stream
_message_head = struct.Struct(">BI")

Pairs = list[tuple[str, str]]


class StreamReset(ConnectionError):
    """The peer has given a stream up, or the connection is gone."""


class ProtocolError(Exception):
    """The peer does not speak HTTP/2."""

    def __init__(self, message: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.code = code


class Stream:
    """One call on a connection: messages in both directions, headers before and after."""

    def __init__(self, connection: Connection, number: int, window: int) -> None:
        self.number = number
        self.headers: dict[str, str] = {}
        self.fields: Pairs = []  # of the headers, as they came: a name may be there several times
        self.trailers: dict[str, str] = {}
        self._connection = connection
        self._window = window  # bytes that we may send
        self._partial = bytearray()
        self._messages: deque[bytes] = deque()
        self._unread = 0  # bytes that have come and that nobody has taken
        self._owed = 0  # bytes taken that the peer has not been told of
        self._ended = False  # the peer sends no more
        self._ended_here = False
        self.failure: Exception | None = None
        self._wake = asyncio.Event()
        self._writable = asyncio.Event()
        self.on_end: Callable[[], None] | None = None

    # -- what has come

    def _came(self, data: bytes, size: int) -> None:
        self._unread += size
        partial = self._partial
        if not partial and len(data) >= 5:  # nearly always it is one whole message: ten thousands of files, each in one
            compressed, length = _message_head.unpack_from(data)
            if not compressed and length == len(data) - 5:
                self._messages.append(data[5:])
                self._wake.set()
                return
        partial += data
        position = 0
        while len(partial) - position >= 5:
            compressed, length = _message_head.unpack_from(partial, position)
            if compressed:
                raise ProtocolError("compressed message")
            if length > LARGEST_MESSAGE:
                raise ProtocolError("message is too large")
            end = position + 5 + length
            if len(partial) < end:
                break
            self._messages.append(bytes(partial[position + 5 : end]))
            position = end
        if position:
            del partial[:position]
            self._wake.set()
        elif self._unread >= OUR_WINDOW // 2:
            # a message larger than the window could otherwise never arrive whole
            self._take(self._unread)

    def _take(self, size: int) -> None:
        self._unread -= size
        self._owed += size
        if self._owed >= OUR_WINDOW // 4 and not self._ended:
            self._connection._credit(self.number, self._owed)
            self._owed = 0

    def end_of_input(self) -> None:
        """Called by the connection: the peer sends no more."""
        self._ended = True
        self._wake.set()
        if self.on_end is not None:
            self.on_end()

    def fail(self, failure: Exception) -> None:
        """Called by the connection: nothing more comes or goes."""
        if self.failure is None:
            self.failure = failure
        self._ended = True
        self._wake.set()
        self._writable.set()
        if self.on_end is not None:
            self.on_end()

    async def receive(self) -> bytes | None:
        """The next message; None after the last one. Raises StreamReset."""
        while not self._messages:
            if self.failure is not None:
                raise StreamReset(str(self.failure))
            if self._ended:
                return None
            self._wake.clear()
            await self._wake.wait()
        message = self._messages.popleft()
        self._take(min(self._unread, len(message) + 5))
        return message

    async def receive_many(self) -> list[bytes]:
        """All messages that are there, at least one; [] after the last one. Raises StreamReset."""
        first = await self.receive()
        if first is None:
            return []
        found = [first, *self._messages]
        self._messages.clear()
        self._take(max(0, self._unread - len(self._partial)))
        return found

    # -- what goes

    async def send(self, message: bytes | memoryview) -> None:
        """Send one message; waits while the peer has enough to read. Raises StreamReset."""
        await self._send(memoryview(_message_head.pack(0, len(message)) + bytes(message)))

    async def send_many(self, messages: Iterable[bytes]) -> None:
        """Send messages, several in one frame. Raises StreamReset."""
        await self._send(memoryview(b"".join(_message_head.pack(0, len(one)) + one for one in messages)))

    async def _send(self, data: memoryview) -> None:
        connection = self._connection
        while data:
            if self.failure is not None:
                raise StreamReset(str(self.failure))
            room = min(self._window, connection.window, FRAME, len(data))
            if room <= 0:
                self._writable.clear()
                connection.waiting.add(self)
                try:
                    await self._writable.wait()
                finally:
                    connection.waiting.discard(self)
                continue
            self._window -= room
            connection.window -= room
            connection.frame(DATA, 0, self.number, data[:room])
            data = data[room:]
            await connection.drain()

    def widen(self, size: int) -> None:
        """Called by the connection: the peer takes more."""
        self._window += size
        if self._window > 0x7FFFFFFF:
            raise ProtocolError("window is too large", FLOW_CONTROL_ERROR)
        if self._window > 0:
            self._writable.set()

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for field, value in self.fields if field == name]

    def send_headers(self, headers: Pairs, *, end: bool = False) -> None:
        """Send headers, or trailers with `end`."""
        if self.failure is None and not self._ended_here:
            self._ended_here = end
            self._connection.headers(self.number, headers, end)
            self._connection.forget_if_done(self)

    def half_close(self) -> None:
        """Say that no message follows."""
        if self.failure is None and not self._ended_here:
            self._ended_here = True
            self._connection.frame(DATA, END_STREAM, self.number, b"")
            self._connection.forget_if_done(self)

    @property
    def done(self) -> bool:
        """Whether neither side has anything to say any more."""
        return self._ended and self._ended_here

    def reset(self, code: int = CANCEL) -> None:
        """Give the stream up."""
        if self.failure is None and not self.done:
            self._connection.reset(self.number, code)
        self.fail(StreamReset("the call was given up"))


Accept = Callable[[Stream], Awaitable[None]]


class Connection(asyncio.BufferedProtocol):
    """One connection, as its server (with `accept`, which is called for every stream that the peer opens) or client."""

    def __init__(self, accept: Accept | None = None) -> None:
        logging.getLogger("hpack").setLevel(logging.INFO)  # it tells every header twice, tokens too
        self._accept = accept
        self._transport: asyncio.Transport | None = None
        self._rest = b""  # of a frame that has come in part
        # one for all that comes: asyncio's own, of 256 kB for each piece, cost the kernel more than what is in them
        self._room = bytearray(AT_ONCE)
        self._room_view = memoryview(self._room)
        self._gathered = bytearray()
        self._decoder = Decoder()
        self._decoder.max_header_list_size = LARGEST_HEADERS
        self._encoder = Encoder()
        self._streams: dict[int, Stream] = {}
        self._next = 1
        self._last = 0
        self._preface = accept is not None  # is still to come
        self._block: tuple[int, int, bytearray] | None = None  # headers that go on in CONTINUATION frames
        self._peer_window = 65535
        self._taken = 0
        self.window = 65535
        self.waiting: set[Stream] = set()
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._accept is None:
            transport.write(PREFACE)
        settings = b"".join(
            struct.pack(">HI", key, value)
            for key, value in (
                (INITIAL_WINDOW, OUR_WINDOW),
                (HEADER_LIST, LARGEST_HEADERS),
                (CONCURRENT, MOST_STREAMS),
                *(((0x2, 0),) if self._accept is None else ()),  # nothing is to be pushed
            )
        )
        self.frame(SETTINGS, 0, 0, settings)
        self.frame(WINDOW, 0, 0, _u32.pack(OUR_CONNECTION_WINDOW - 65535))

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._room_view[:nbytes]))

    def data_received(self, data: bytes) -> None:
        try:
            self._read(data)
        except (ProtocolError, HPACKError, struct.error, IndexError, UnicodeDecodeError) as error:
            code = error.code if isinstance(error, ProtocolError) else PROTOCOL_ERROR
            self.close(code, str(error))

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._gathered.clear()
        self._may_write.set()
        failure = StreamReset("the connection is gone")
        for stream in list(self._streams.values()):
            stream.fail(failure)
        self._streams.clear()
        for task in list(self._tasks):
            task.cancel()
        if not self.closed.done():
            self.closed.set_result(None)

    # -- frames

    def _read(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        position, size = 0, len(data)
        if self._preface:
            if not data.startswith(PREFACE[:size]):
                raise ProtocolError("no preface")
            if size < len(PREFACE):
                self._rest = data
                return
            self._preface = False
            position = len(PREFACE)
        unpack = _frame_head.unpack_from
        while size - position >= 9:
            head, flags, number = unpack(data, position)
            kind, number, end = head & 0xFF, number & 0x7FFFFFFF, position + 9 + (head >> 8)
            if end - position > FRAME + 9:
                raise ProtocolError("frame is too large")
            if end > size:
                break
            payload = data[position + 9 : end]
            position = end
            if self._block is not None and (kind != CONTINUATION or number != self._block[0]):
                raise ProtocolError("headers were interrupted")
            if kind == DATA:
                self._data(flags, number, payload)
            else:
                self._other(kind, flags, number, payload)
        self._rest = data[position:]

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        self._taken += size
        if self._taken >= OUR_CONNECTION_WINDOW // 4:
            self._credit(0, self._taken)  # what may wait is bounded stream by stream
            self._taken = 0
        stream = self._streams.get(number)
        if stream is None:
            if number > self._last and number % 2 and number >= self._next:  # else it is one that we have given up
                raise ProtocolError("data on a stream that is not open")
            return
        if stream._ended:
            raise ProtocolError("data after the end of a stream")
        if flags & PADDED:
            payload = payload[1 : size - payload[0]] if payload and payload[0] < size else b""
        if stream._unread + size > OUR_WINDOW:
            raise ProtocolError("more data than was asked for", FLOW_CONTROL_ERROR)
        stream._came(payload, size)
        if flags & END_STREAM:
            stream.end_of_input()
            self.forget_if_done(stream)

    def _other(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == HEADERS:
            if flags & PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            if flags & WITH_PRIORITY:
                payload = payload[5:]
            self._block = (number, flags, bytearray(payload))
            if flags & END_HEADERS:
                self._headers_came()
        elif kind == CONTINUATION:
            if self._block is None:
                raise ProtocolError("headers that go on without a beginning")
            self._block[2].extend(payload)
            if len(self._block[2]) > LARGEST_HEADERS or not payload:
                raise ProtocolError("headers are too large")
            if flags & END_HEADERS:
                self._headers_came()
        elif kind == SETTINGS:
            if not flags & ACK:
                self._settings(payload)
                self._answer(SETTINGS, b"")
        elif kind == PING:
            if not flags & ACK:
                self._answer(PING, payload)
        elif kind == WINDOW:
            self._widened(number, _u32.unpack(payload)[0] & 0x7FFFFFFF)
        elif kind == RESET:
            stream = self._streams.pop(number, None)
            if stream is not None:
                stream.fail(StreamReset("the peer has given the call up"))
        elif kind == GOAWAY:
            if not self._streams:
                self.close()
        elif kind == PUSH:
            raise ProtocolError("nothing is to be pushed")

    def _answer(self, kind: int, payload: bytes) -> None:
        transport = self._transport
        if transport is not None and transport.get_write_buffer_size() + len(self._gathered) > MOST_CONTROL * 17:
            raise ProtocolError("the peer asks and does not read")
        self.frame(kind, ACK, 0, payload)

    def _settings(self, payload: bytes) -> None:
        for key, value in struct.iter_unpack(">HI", payload):
            if key == INITIAL_WINDOW:
                if value > 0x7FFFFFFF:
                    raise ProtocolError("window is too large", FLOW_CONTROL_ERROR)
                change = value - self._peer_window
                self._peer_window = value
                for stream in list(self._streams.values()):
                    stream.widen(change)
            elif key == 0x1:
                self._encoder.header_table_size = min(value, 4096)

    def _widened(self, number: int, size: int) -> None:
        if number == 0:
            self.window += size
            if self.window > 0x7FFFFFFF:
                raise ProtocolError("window is too large", FLOW_CONTROL_ERROR)
            for stream in list(self.waiting):
                stream.widen(0)
        elif (stream := self._streams.get(number)) is not None:  # type: ignore[assignment]  # (it is narrowed here)
            stream.widen(size)

    def _headers_came(self) -> None:
        assert self._block is not None
        number, flags, block = self._block
        self._block = None
        found = [
            (bytes_or_text(name), bytes_or_text(value)) for name, value in self._decoder.decode(bytes(block), raw=True)
        ]
        stream = self._streams.get(number)
        if stream is None:
            stream = self._opened(number)
            if stream is None:
                return
        if not stream.headers:
            stream.fields = found
        _enter(stream.headers if not stream.headers else stream.trailers, found)
        if flags & END_STREAM:
            if not stream.trailers:
                stream.trailers = stream.headers
            stream.end_of_input()
            self.forget_if_done(stream)
        else:
            stream._wake.set()

    def _opened(self, number: int) -> Stream | None:
        """A stream that the peer opens; None for one that is gone."""
        if self._accept is None or not number % 2:
            return None
        if number <= self._last:
            return None
        self._last = number
        stream = Stream(self, number, self._peer_window)
        if len(self._streams) >= MOST_STREAMS:
            self.reset(number, REFUSED)
            return None
        self._streams[number] = stream
        task = asyncio.ensure_future(self._serve(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return stream

    async def _serve(self, stream: Stream) -> None:
        assert self._accept is not None
        try:
            await self._accept(stream)
        finally:
            if not stream.done:
                stream.reset()

    # -- for streams and for who opens them

    def open(self, headers: Pairs) -> Stream:
        """Begin a call. Raises StreamReset when the connection is gone."""
        if self._transport is None:
            raise StreamReset("the connection is gone")
        stream = Stream(self, self._next, self._peer_window)
        self._next += 2
        self._streams[stream.number] = stream
        self.headers(stream.number, headers, False)
        return stream

    def headers(self, number: int, headers: Iterable[tuple[str, str]], end: bool) -> None:
        """Send a block of headers."""
        block = self._encoder.encode(list(headers))
        kind, flags = HEADERS, END_STREAM if end else 0
        while True:
            piece, block = block[:FRAME], block[FRAME:]
            self.frame(kind, flags | (0 if block else END_HEADERS), number, piece)
            if not block:
                return
            kind, flags = CONTINUATION, 0

    def frame(self, kind: int, flags: int, number: int, payload: bytes | memoryview) -> None:
        """Send one frame, together with those that follow at once; nothing when the peer has gone."""
        if self._transport is None:
            return
        gathered = self._gathered
        if not gathered:
            asyncio.get_running_loop().call_soon(self._write)
        gathered += _frame_head.pack(len(payload) << 8 | kind, flags, number)
        gathered += payload
        if len(gathered) >= MOST_GATHERED:
            self._write()

    def _write(self) -> None:
        """Write what has been gathered."""
        if self._gathered and self._transport is not None:
            data, self._gathered = self._gathered, bytearray()
            self._transport.write(data)

    def _credit(self, number: int, size: int) -> None:
        self.frame(WINDOW, 0, number, _u32.pack(size))

    def rest(self, seconds: float) -> None:
        """Read nothing for a moment, so that what comes in drops is taken up together."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.pause_reading()
            asyncio.get_running_loop().call_later(seconds, transport.resume_reading)

    async def drain(self) -> None:
        """Wait while the peer has too much to read."""
        if not self._may_write.is_set():
            await self._may_write.wait()

    def forget_if_done(self, stream: Stream) -> None:
        """Forget a stream on which neither side has anything to say any more."""
        if stream.done:
            self._streams.pop(stream.number, None)

    def reset(self, number: int, code: int) -> None:
        """Give up a stream."""
        self._streams.pop(number, None)
        self.frame(RESET, 0, number, _u32.pack(code))

    def close(self, code: int = NO_ERROR, why: str = "") -> None:
        """End the connection; what it was for fails."""
        if self._transport is not None:
            self.frame(GOAWAY, 0, 0, _u32.pack(self._last) + _u32.pack(code) + why.encode()[:256])
            self._write()
            self._transport.close()


def bytes_or_text(value: bytes | str) -> str:
    """A header's bytes as text; what is no ASCII stays recognizable."""
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")


def _enter(headers: dict[str, str], found: Pairs) -> None:
    for name, value in found:
        headers[name] = f"{headers[name]},{value}" if name in headers else value
