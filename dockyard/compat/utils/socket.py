"""Reading from a socket that `exec_run(socket=True)` or `attach_socket` has given."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any

from dockyard.client.framing import HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator


class SocketError(Exception):  # docker-py's name
    """The connection ended in the middle of a frame."""


def read(socket: Any, count: int = 4096) -> bytes:
    """What has come, at most `count` bytes; b"" at the end."""
    poll = select.poll()
    poll.register(socket, select.POLLIN | select.POLLPRI)
    poll.poll()
    taken: bytes | None = socket.recv(count) if hasattr(socket, "recv") else socket.read(count)
    return taken or b""


def read_exactly(socket: Any, count: int) -> bytes:
    """So many bytes. Raises SocketError."""
    data = b""
    while len(data) < count:
        piece = read(socket, count - len(data))
        if not piece:
            raise SocketError("Unexpected EOF")
        data += piece
    return data


def next_frame_header(socket: Any) -> tuple[int, int]:
    """The stream (1 stdout, 2 stderr) and the length of the frame that begins; (-1, -1) at the end."""
    try:
        head = read_exactly(socket, HEADER)
    except SocketError:
        return -1, -1
    return head[0], int.from_bytes(head[4:], "big")


def frames_iter(socket: Any, tty: bool) -> Iterator[tuple[int, bytes]]:
    """What comes, until the end: (stream, bytes); with a terminal all is stdout."""
    if tty:
        while piece := read(socket):
            yield 1, piece
        return
    while True:
        stream, left = next_frame_header(socket)
        if left < 0:
            return
        while left > 0:
            piece = read(socket, left)
            if not piece:
                return  # the last frame was torn off
            left -= len(piece)
            yield stream, piece
