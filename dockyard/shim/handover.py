"""What a starter leaves to its shim: the order, and when that is carried out the container.

Both lie as messages in a socket pair until the shim wakes. A message is a byte with descriptors, of which the first is
a file in memory with its text; so it never fills the socket, however long, and nobody has to read it in time.
"""

import os
import socket

import msgspec

from dockyard.linux import memory_files
from dockyard.shim import protocol


class Held(msgspec.Struct, frozen=True, array_like=True):
    """A container that is made.

    Descriptors: the PID's pidfd, the listener of `shim.sock`; the seccomp filter if the order has one; the process's
    stdin if that is open; what to read its streams from; a client for each attachment of the order.
    """

    pid: int
    cgroup: str  # "" when it has none of its own
    own_pids: bool  # whether it has a PID namespace of its own
    streams: list[int]  # the number of each


decode_order = msgspec.msgpack.Decoder(protocol.Start).decode
_held = msgspec.msgpack.Decoder(Held).decode


def pair() -> tuple[socket.socket, socket.socket]:
    """The shim's end and the starter's."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def put_order(shim: socket.socket, text: bytes, spec: int, daemon: socket.socket) -> None:
    """The order as it came, before anything is done about it; its specification; who gave it."""
    _put(shim, text, [spec, daemon.fileno()])


def take_order(starter: socket.socket) -> tuple[protocol.Start, int, socket.socket] | None:
    """The order, its specification and who gave it; None when none has come."""
    text, descriptors = _take(starter)
    if text is None:
        return None
    spec, daemon = descriptors
    return decode_order(text), spec, socket.socket(fileno=daemon)


def put_container(shim: socket.socket, held: Held, descriptors: list[int]) -> None:
    """What has become of it."""
    _put(shim, msgspec.msgpack.encode(held), descriptors)


def take_container(starter: socket.socket) -> tuple[Held, list[int]]:
    """The same. Raises EOFError when the starter left none."""
    text, descriptors = _take(starter)
    if text is None:
        raise EOFError("the starter has left no container")
    return _held(text), descriptors


def _put(peer: socket.socket, text: bytes, descriptors: list[int]) -> None:
    body = memory_files.hold("handover", text)
    try:
        socket.send_fds(peer, [b"."], [body, *descriptors])
    finally:
        os.close(body)


def _take(peer: socket.socket) -> tuple[bytes | None, list[int]]:
    data, descriptors = protocol.receive(peer, 1)
    if not data:
        return None, []
    body = descriptors.pop(0)
    try:
        return memory_files.read(body), descriptors
    finally:
        os.close(body)
