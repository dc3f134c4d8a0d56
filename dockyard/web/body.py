"""The body of a request as it arrives: framed by a length or in chunks (RFC 9112, 6 and 7), read as net/http does."""

import asyncio
from collections import deque
from collections.abc import Callable

from dockyard.errors import InvalidParameter

# How much may wait for its reader before the client is no longer read from, bytes.
HIGH_WATER = 1 << 19
LONGEST_CHUNK_LINE = 4096
SMALL = 4096  # bytes of a piece
# How much more than data a chunked body may be made of (net/http/internal, chunkedReader.beginChunk).
EXCESS_PER_CHUNK = 16
LARGEST_EXCESS = 16 << 10


class Body:
    """What a handler reads of a request's body."""

    __slots__ = ("_error", "_on_first_read", "_pieces", "_resume", "_size", "_waiter", "complete")

    def __init__(self, resume: Callable[[], None], on_first_read: Callable[[], None] | None = None) -> None:
        """`resume` is called when so much has been read that more may come."""
        self.complete = False  # all of it has arrived, or no more will
        self._pieces: deque[bytes | memoryview] = deque()
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._resume = resume
        self._on_first_read = on_first_read

    @property
    def failed(self) -> bool:
        """Whether it was malformed, or is cut off."""
        return self._error is not None

    @property
    def begun(self) -> bool:
        """Whether the client knows that it is wanted."""
        return self._on_first_read is None

    @property
    def full(self) -> bool:
        """Whether enough waits to be read."""
        return self._size >= HIGH_WATER

    async def readany(self) -> bytes:
        """What has arrived, at least one byte; b"" at the end.

        Raises InvalidParameter when the body is malformed or ends too early, ConnectionError when the client has gone.
        """
        if self._on_first_read is not None:
            self._on_first_read()
            self._on_first_read = None
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.complete:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = b"".join(self._pieces)  # which copies no single piece of bytes
        self._pieces.clear()
        self._size = 0
        self._resume()
        return data

    def feed(self, data: bytes | memoryview) -> None:
        """More of it."""
        self._pieces.append(data)
        self._size += len(data)
        self._wake()

    def end(self) -> None:
        """That was all."""
        self.complete = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """No more will come, and not because it is whole; what came first is still read."""
        self._error = error
        self.complete = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


EMPTY = Body(lambda: None)
EMPTY.complete = True


class Counted:
    """A body of `length` bytes."""

    __slots__ = ("_body", "_left")

    def __init__(self, body: Body, length: int) -> None:
        self._body = body
        self._left = length

    def feed(self, data: bytes) -> bytes:
        """Take what is the body's of `data`; what follows it."""
        piece = data[: self._left] if len(data) > self._left else data
        self._left -= len(piece)
        self._body.feed(piece)
        if not self._left:
            self._body.end()
        return data[len(piece) :]


class Chunked:
    """A body in chunks; extensions and trailers are read past."""

    __slots__ = ("_body", "_buffer", "_excess", "_left", "_state")

    def __init__(self, body: Body) -> None:
        self._body = body
        self._buffer = b""
        self._left = 0
        self._excess = 0
        self._state = self._size_line

    def feed(self, data: bytes) -> bytes:
        """Take what is the body's of `data`; what follows it."""
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        position = 0
        try:
            while not self._body.complete:
                step = self._state(data, position)
                if step < 0:
                    self._buffer = data[position:]
                    return b""
                position = step
        except InvalidParameter as error:
            self._body.fail(error)
            return b""
        return data[position:]

    # Each state takes what begins at `position` and gives where the next begins, or -1 when it has to wait for more.

    def _size_line(self, data: bytes, position: int) -> int:
        line, after = _line(data, position)
        if after < 0:
            return -1
        digits = line.rstrip(b" \t").partition(b";")[0].rstrip(b" \t")
        if not digits:
            raise InvalidParameter("empty hex number for chunk length")
        if len(digits) > 16:
            raise InvalidParameter("http chunk length too large")
        if digits.strip(b"0123456789abcdefABCDEF"):
            raise InvalidParameter("invalid byte in chunk length")
        self._left = int(digits, 16)
        self._excess = max(0, self._excess + len(line) + 2 - EXCESS_PER_CHUNK - 2 * self._left)
        if self._excess > LARGEST_EXCESS:
            raise InvalidParameter("chunked encoding contains too much non-data")
        self._state = self._data if self._left else self._trailer
        return after

    def _data(self, data: bytes, position: int) -> int:
        if position == len(data):
            return -1
        end = min(position + self._left, len(data))
        # a view of a large piece saves copying it; of small ones it would be larger than they are
        piece = memoryview(data)[position:end] if end - position > SMALL else data[position:end]
        self._left -= len(piece)
        self._body.feed(piece)
        if not self._left:
            self._state = self._end_of_data
        return position + len(piece)

    def _end_of_data(self, data: bytes, position: int) -> int:
        if len(data) < position + 2:
            return -1
        if data[position : position + 2] != b"\r\n":
            raise InvalidParameter("malformed chunked encoding")
        self._state = self._size_line
        return position + 2

    def _trailer(self, data: bytes, position: int) -> int:
        line, after = _line(data, position)
        if after < 0:
            return -1
        self._excess += len(line)
        if self._excess > LARGEST_EXCESS:
            raise InvalidParameter("http: suspiciously long trailer after chunked body")
        if not line:
            self._body.end()
        return after


def _line(data: bytes, position: int) -> tuple[bytes, int]:
    """(the line that begins at `position`, where the next begins), or (b"", -1) while it is not whole.

    A bare LF ends no line here: readers that disagree on that can be made to see different requests (CVE-2025-22871).
    """
    end = data.find(b"\n", position)
    if end < 0:
        if len(data) - position > LONGEST_CHUNK_LINE:
            raise InvalidParameter("header line too long")
        return b"", -1
    line = data[position:end]
    if not line.endswith(b"\r"):
        raise InvalidParameter("chunked line ends with bare LF")
    if b"\r" in line[:-1]:
        raise InvalidParameter("invalid CR in chunked line")
    if len(line) > LONGEST_CHUNK_LINE:
        raise InvalidParameter("header line too long")
    return line[:-1], end + 1
