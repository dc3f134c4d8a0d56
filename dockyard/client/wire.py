"""HTTP/1.1 as bytes, without any I/O: requests become bytes, and bytes become a response, in whatever pieces they come.

parser = ResponseParser("GET")
while not parser.complete:
    parser.feed(peer.recv(CHUNK))
parser.status, parser.headers, parser.take()

Blocking and asynchronous clients stand on this alike. What RFC 9112 calls a message's framing is here, and the one
thing that Docker adds to it: a connection that is taken over after the head of a response ("hijacked") and is raw from
there on.
"""

from __future__ import annotations

from dockyard.client.errors import Unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHUNK = 1 << 16
LARGEST_HEAD = 1 << 18  # bytes; what has no end of its head by then is no HTTP
LAST_CHUNK = b"0\r\n\r\n"
UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}


def request_head(
    method: str,
    path: str,
    headers: Mapping[str, str | Sequence[str]],
    *,
    length: int | None = None,
    chunked: bool = False,
) -> bytes:
    """The head of a request whose body has `length` bytes, is `chunked`, or is not there.

    A header may have several values.
    """
    lines = [f"{method} {path} HTTP/1.1", "Host: docker", "User-Agent: dockyard"]
    for name, values in headers.items():
        lines += [f"{name}: {value}" for value in ((values,) if isinstance(values, str) else values)]
    if chunked:
        lines.append("Transfer-Encoding: chunked")
    elif length or method in ("POST", "PUT"):
        lines.append(f"Content-Length: {length or 0}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def chunk(piece: bytes) -> bytes:
    """A piece of a chunked body; not for empty ones, which would end it."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


class ResponseParser:
    """One response: `feed` it what arrives; `status` is 0 until the whole head has."""

    __slots__ = (
        "_buffer",
        "_left",
        "_method",
        "_mode",
        "_pieces",
        "_trailers",
        "complete",
        "headers",
        "rest",
        "status",
    )

    def __init__(self, method: str) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}  # names in lower case
        self.complete = False
        self.rest = b""  # what followed the response on the connection
        self._method = method
        self._pieces: list[bytes] = []
        self._buffer = b""
        self._mode = ""  # length, chunked, raw (to the end of the connection)
        self._left = 0
        self._trailers = False

    def feed(self, data: bytes) -> None:
        """Take what has arrived; b"" means that the connection has ended. Raises Unreachable when that is too early."""
        if not data:
            if self._mode != "raw":
                raise Unreachable("the engine closed the connection before the end of its answer")
            self.complete = True
            return
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        while not self.status:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if len(data) > LARGEST_HEAD:
                    raise Unreachable("what answers does not speak HTTP")
                self._buffer = data
                return
            self._read_head(data[:end].decode("latin-1"))
            data = data[end + 4 :]
        if self._mode == "chunked":
            self._feed_chunks(data)
        elif self._mode == "raw":
            if data:
                self._pieces.append(data)
        else:
            self._feed_counted(data)

    def _read_head(self, head: str) -> None:
        first, *rows = head.split("\r\n")
        try:
            status = int(first.split(" ", 2)[1])
        except (IndexError, ValueError):
            raise Unreachable(f"what answers does not speak HTTP: {first[:100]!r}") from None
        if 100 <= status < 200 and status != 101:
            return  # an interim response; the real one follows
        self.status = status
        self.headers = {name.lower(): value.strip() for name, _, value in (row.partition(":") for row in rows)}
        if status in (204, 304) or self._method == "HEAD":
            self._mode = "length"
        elif self.headers.get("transfer-encoding", "").lower() == "chunked":
            self._mode = "chunked"
        elif status != 101 and "content-length" in self.headers:
            self._mode = "length"
            self._left = int(self.headers["content-length"])
        else:
            self._mode = "raw"

    def _feed_counted(self, data: bytes) -> None:
        piece = data[: self._left] if len(data) > self._left else data
        if piece:
            self._pieces.append(piece)
            self._left -= len(piece)
        if not self._left:
            self.complete = True
            self.rest = data[len(piece) :]

    def _feed_chunks(self, data: bytes) -> None:
        position = 0
        while position < len(data):
            if self._left:
                piece = data[position : position + self._left]
                self._pieces.append(piece)
                self._left -= len(piece)
                position += len(piece)
                continue
            end = data.find(b"\r\n", position)
            if end < 0:
                self._buffer = data[position:]
                return
            line = data[position:end]
            position = end + 2
            if self._trailers:
                if not line:
                    self.complete = True
                    self.rest = data[position:]
                    return
            elif line:  # an empty one ends the chunk before
                try:
                    self._left = int(line.partition(b";")[0], 16)
                except ValueError:
                    raise Unreachable(f"a malformed chunk from the engine: {line[:100]!r}") from None
                self._trailers = not self._left

    def take(self) -> bytes:
        """The body's bytes that have come since the last call."""
        if not self._pieces:
            return b""
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        return data

    @property
    def waiting(self) -> bool:
        """Whether there is something to take."""
        return bool(self._pieces)

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection can carry another request once this response is complete."""
        return self.complete and self._mode != "raw" and self.headers.get("connection", "").lower() != "close"
