"""HTTP/2 on a connection to the engine that has begun as HTTP/1.1: `/session`, on which we serve, and `/grpc`."""

from __future__ import annotations

import asyncio
import select
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from dockyard.client.http import Connection as Engine
from dockyard.grpc.connection import Connection

CHUNK = 1 << 16


async def connect(
    engine: Engine, target: str, connection: Connection, headers: Mapping[str, str | Sequence[str]] | None = None
) -> None:
    """Have `connection` speak on a connection of its own. Raises APIError, Unreachable."""
    asked = {"Connection": "Upgrade", "Upgrade": "h2c", **(headers or {})}
    peer, early = engine.request("POST", target, headers=asked).hijack()
    own = socket.socket(fileno=peer.detach()) if not hasattr(peer, "unwrap") else _decrypted(peer)
    own.setblocking(False)
    await asyncio.get_running_loop().create_connection(lambda: connection, sock=own)
    if early:
        connection.data_received(early)


def _decrypted(peer: Any) -> socket.socket:
    """A socket that carries what goes over `peer`, a TLS connection: asyncio takes none that it has not made."""
    ours, theirs = socket.socketpair()
    threading.Thread(target=_Relay(peer, theirs).run, daemon=True).start()
    return ours


class _Relay:
    """Carries bytes between a TLS connection and a plain socket, in one thread: OpenSSL's connections want that."""

    def __init__(self, peer: Any, plain: socket.socket) -> None:
        self._peer, self._plain = peer, plain
        self._out, self._in = b"", b""

    def run(self) -> None:
        import ssl

        for one in (self._peer, self._plain):
            one.setblocking(False)
        again = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
        try:
            while True:
                moved = False
                for work in (self._fetch, self._deliver, self._take, self._send):
                    try:
                        moved |= work()
                    except again:
                        continue
                if not moved:
                    self._wait()
        except (OSError, EOFError):
            pass
        finally:
            self._peer.close()
            self._plain.close()

    def _wait(self) -> None:
        writable = ([self._peer] if self._out else []) + ([self._plain] if self._in else [])
        readable = ([self._peer] if not self._in else []) + ([self._plain] if not self._out else [])
        select.select(readable, writable, [])

    def _fetch(self) -> bool:
        if self._in:
            return False
        self._in = self._peer.recv(CHUNK)
        if not self._in:
            raise EOFError
        return True

    def _deliver(self) -> bool:
        if not self._in:
            return False
        self._in = self._in[self._plain.send(self._in) :]
        return True

    def _take(self) -> bool:
        if self._out:
            return False
        self._out = self._plain.recv(CHUNK)
        if not self._out:
            raise EOFError
        return True

    def _send(self) -> bool:
        if not self._out:
            return False
        self._out = self._out[self._peer.send(self._out) :]
        return True
