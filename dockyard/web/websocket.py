"""The server's side of a WebSocket (RFC 6455), as a stream of bytes in either direction."""

import asyncio
import base64
import binascii
import hashlib
import socket
from contextlib import suppress

from dockyard.errors import InvalidParameter
from dockyard.web.messages import Request

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
LARGEST_CONTROL = 125  # bytes of payload
PROTOCOL_ERROR = 1002
NORMAL = 1000


class WebSocket:
    """A connection past its handshake. Frames of data, text or binary, are one stream: what they hold, in order."""

    def __init__(self, connection: socket.socket, received: bytes, *, text: bool = False) -> None:
        """`connection` does not block; `received` is what has been read from it already; `text`: we send text."""
        self._connection = connection
        self._kind = TEXT if text else BINARY
        self._buffer = received
        self._sending = asyncio.Lock()
        self._left = 0  # of the frame that is being read, bytes
        self._mask = b""
        self._closed = False

    @classmethod
    async def accept(cls, request: Request, *, text: bool = False) -> "WebSocket":
        """Shake hands. Raises InvalidParameter when the request asks for no WebSocket, ConnectionError."""
        headers = request.headers
        if headers.get("Upgrade").lower() != "websocket" or not headers.has_word("connection", "upgrade"):
            raise InvalidParameter("not a websocket handshake: the Upgrade header is missing")
        if headers.get("Sec-WebSocket-Version") not in ("13", "8"):
            raise InvalidParameter("not a websocket handshake: unsupported version")
        key = headers.get("Sec-WebSocket-Key")
        try:
            if len(base64.b64decode(key, validate=True)) != 16:
                raise binascii.Error
        except (binascii.Error, ValueError):
            raise InvalidParameter("not a websocket handshake: malformed key") from None
        fd, received = await request.connection.take()
        websocket = cls(socket.socket(fileno=fd), received, text=text)
        accepted = base64.b64encode(hashlib.sha1(key.encode() + MAGIC).digest()).decode()
        await websocket._send(
            f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accepted}\r\n\r\n".encode()
        )
        return websocket

    async def receive(self) -> bytes:
        """Some bytes of the client's; b"" when it has said farewell or has gone."""
        while True:
            if self._left:
                if not self._buffer and not await self._more():
                    return b""
                piece, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
                self._left -= len(piece)
                plain = _unmasked(piece, self._mask)
                turn = len(piece) % 4
                self._mask = self._mask[turn:] + self._mask[:turn]
                return plain
            opcode = await self._frame()
            if opcode is None:
                return b""

    async def send(self, data: bytes) -> None:
        """Send bytes, as one frame. Raises ConnectionError."""
        await self._send(_frame(self._kind, data))

    async def close(self, code: int = NORMAL) -> None:
        """Say farewell; the client's is not waited for."""
        if self._closed:
            return
        self._closed = True
        with suppress(OSError):
            await self._send(_frame(CLOSE, code.to_bytes(2, "big")))
            self._connection.shutdown(socket.SHUT_WR)

    def release(self) -> None:
        """Give up the connection."""
        self._connection.close()

    async def _frame(self) -> int | None:
        """Read the head of a frame, all of one that is for us: its kind; None when no more will come."""
        head = await self._exactly(2)
        if head is None:
            return None
        opcode, size = head[0] & 15, head[1] & 127
        control = opcode >= CLOSE
        known = opcode in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)
        # a client masks what it sends, and has agreed on no extension that would mean the reserved bits
        if not head[1] & 128 or head[0] & 0x70 or not known or (control and size > LARGEST_CONTROL):
            await self.close(PROTOCOL_ERROR)
            return None
        extended = await self._exactly({126: 2, 127: 8}.get(size, 0))
        mask = await self._exactly(4)
        if extended is None or mask is None:
            return None
        if extended:
            size = int.from_bytes(extended, "big")
        if not control:
            self._left, self._mask = size, mask
            return opcode
        payload = await self._exactly(size)
        if payload is None:
            return None
        if opcode == PING:
            await self._send(_frame(PONG, _unmasked(payload, mask)))
        elif opcode == CLOSE:
            await self.close()
            return None
        return opcode

    async def _exactly(self, size: int) -> bytes | None:
        while len(self._buffer) < size:
            if not await self._more():
                return None
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    async def _more(self) -> bool:
        try:
            data = await asyncio.get_running_loop().sock_recv(self._connection, 1 << 16)
        except OSError:
            return False
        self._buffer += data
        return bool(data)

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            await asyncio.get_running_loop().sock_sendall(self._connection, data)


def _frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, size))
    elif size < 1 << 16:
        head = bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big")
    return head + payload


def _unmasked(data: bytes, mask: bytes) -> bytes:
    if not data:
        return b""
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
