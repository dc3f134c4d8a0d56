"""TLS as bytes, without any I/O: for blocking and for asynchronous connections.

Why not the standard library's sockets and transports: neither can end one direction of a connection and go on with the
other, as the end of a command's stdin needs. asyncio's has no half-close (bpo-23377), and `SSLSocket.unwrap` loses what
arrives at the same moment (SSL_shutdown(3): application data after close notify).
"""

from __future__ import annotations

import ssl

CHUNK = 1 << 16


class TLSLayer:
    """One connection's TLS. What `outgoing` gives is to be sent after every call."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self.greeted = False  # the handshake is done
        self.ended = False  # the peer sends no more
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def greet(self) -> None:
        """Begin, or go on with, the handshake. Raises ssl.SSLError when it fails."""
        try:
            self._tls.do_handshake()
            self.greeted = True
        except ssl.SSLWantReadError:
            pass

    def arrived(self, data: bytes) -> bytes:
        """What `data` from the peer (b"": its end) says. Raises ssl.SSLError during the handshake."""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        if not self.greeted:
            self.greet()
            if not self.greeted:
                return b""
        pieces = []
        try:
            while piece := self._tls.read(CHUNK):
                pieces.append(piece)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self.ended = True  # that is also how the end comes when our own side has ended before
        return b"".join(pieces)

    def sealed(self, data: bytes) -> bytes:
        """What to send for `data`. Raises ssl.SSLError."""
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view[:CHUNK]) :]
        return self.outgoing()

    def farewell(self) -> bytes:
        """What to send to end our side. Everything that has arrived must have been read."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # it wants the peer's farewell as well; ours is made
        return self.outgoing()

    def outgoing(self) -> bytes:
        """What the protocol itself has to send."""
        return self._outgoing.read()
