"""What a starter leaves to a shim: the order, and when that is carried out the container.

All lies as messages in a socket pair until the starter closes its end, by which the shim wakes. A message is one byte,
its kind, with descriptors, of which the first is a file in memory with its text; so it never fills the socket, however
long, and nobody has to read it in time.
"""

import os
import select
import socket
from collections.abc import Sequence

import msgspec

from dockyard.linux import memory_files
from dockyard.shim import protocol

ORDER, CONTAINER = b"o", b"c"
# The starter's word on what has become of it, the last message; one that is killed leaves none.
RUNS, FAILED, PASSED_ON = b"r", b"f", b"p"
TOLD = b"t"  # after RUNS: the daemon knows


class Held(msgspec.Struct, frozen=True, array_like=True):
    """A container that is made.

    Descriptors: the PID's pidfd, the listener of `shim.sock`; the seccomp filter if the order has one; the process's
    stdin if that is open; what to read its streams from; a client for each attachment of the order.
    """

    pid: int
    cgroup: str  # "" when it has none of its own
    own_pids: bool  # whether it has a PID namespace of its own
    streams: list[int]  # the number of each


class Left:
    """What has been left: the order, its specification and who gave it; the container; the last word, who knows it."""

    def __init__(self) -> None:
        self.order: protocol.Start | None = None
        self.spec = -1
        self.daemon: socket.socket | None = None
        self.held: Held | None = None
        self.descriptors: list[int] = []  # the container's, or those of an order that is passed on
        self.outcome = b""
        self.told = False

    def take(self, starter: socket.socket) -> None:
        """All that is there, when the starter has closed its end."""
        while (message := protocol.receive(starter, 1))[0]:
            kind, descriptors = message
            if kind == ORDER:
                text = _text(descriptors.pop(0))
                self.spec = descriptors[0]
                self.daemon = socket.socket(fileno=descriptors[1])
                self.order = decode_order(text)
            elif kind == CONTAINER:
                self.held = _held(_text(descriptors.pop(0)))
                self.descriptors = descriptors
            elif kind == TOLD:
                self.told = True
            else:
                self.outcome = kind
                if kind == PASSED_ON:
                    self.descriptors = descriptors


decode_order = msgspec.msgpack.Decoder(protocol.Start).decode
_held = msgspec.msgpack.Decoder(Held).decode


def pair() -> tuple[socket.socket, socket.socket]:
    """The shim's end and the starter's."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def is_over(end: socket.socket) -> bool:
    """Whether the other end is closed."""
    return _poll(end, 0)


def sleep(starter: socket.socket) -> None:
    """Until the starter has closed its end."""
    _poll(starter, -1)


def put_order(shim: socket.socket, text: bytes, spec: int, daemon: socket.socket) -> None:
    """The order as it came, before anything is done about it; its specification; who gave it."""
    _put(shim, ORDER, text, [spec, daemon.fileno()])


def put_container(shim: socket.socket, held: Held, descriptors: list[int]) -> None:
    """What has become of it."""
    _put(shim, CONTAINER, msgspec.msgpack.encode(held), descriptors)


def put_outcome(shim: socket.socket, outcome: bytes, descriptors: Sequence[int] = ()) -> None:
    """The last word, with `descriptors` that an order still needs when it is passed on."""
    try:
        socket.send_fds(shim, [outcome], descriptors, socket.MSG_NOSIGNAL)
    except OSError:  # the shim has just been killed
        pass


def _put(peer: socket.socket, kind: bytes, text: bytes, descriptors: list[int]) -> None:
    body = memory_files.hold("handover", text)
    try:
        socket.send_fds(peer, [kind], [body, *descriptors])
    finally:
        os.close(body)


def _text(body: int) -> bytes:
    try:
        return memory_files.read(body)
    finally:
        os.close(body)


def _poll(end: socket.socket, patience: int) -> bool:
    poll = select.poll()
    poll.register(end, 0)  # its end alone is told
    return bool(poll.poll(patience))
