"""What shims that wait for a container say of themselves, for starters to choose one; and what starters say to that.

Both ways are sockets of the zygote's that its forks inherit. An offer lies in its socket until a starter takes it.
"""

import os
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from dockyard.linux import descriptors
from dockyard.runtime.birth import prepared_parent
from dockyard.runtime.birth.prepared_parent import PreparedParent
from dockyard.shim import handover

_OFFER = struct.Struct("<II")  # the shim's PID, its child's or 0
_NEWS = struct.Struct("<cII")  # what, the starter's PID, the shim's

# A starter's news: it has an order and this shim; has an order and waits for a shim; waits for an order.
TAKEN, WANTING, IDLE = b"t", b"w", b"i"


@dataclass(frozen=True, slots=True)
class Offer:
    """A shim that waits."""

    shim: int  # its PID
    end: socket.socket  # of the handover to it
    watch: select.epoll  # what it watches when it has a container
    parent: PreparedParent | None  # its child, which forks the container's first process

    def close(self) -> None:
        """Let go of it: whoever waits at the other ends notices."""
        self.end.close()
        self.watch.close()
        if self.parent is not None:
            self.parent.end.close()


def pair() -> tuple[socket.socket, socket.socket]:
    """The starters' end and the shims'."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def make(starters: socket.socket, prepare: Callable[[], None]) -> tuple[socket.socket, select.epoll, int]:
    """Offer oneself with a child that has done `prepare`.

    Returns where a starter leaves things, what wakes when something happens in the container, the child's PID or 0.

    Raises OSError when there are no starters any more.
    """
    channel, end = handover.pair()
    watch = select.epoll()
    first, passed = 0, [end.fileno(), watch.fileno()]
    try:
        child = prepared_parent.fork(prepare)
        first = child.pid
        passed.append(child.end.fileno())
    except OSError:
        child = None  # whoever takes the offer makes do without
    socket.send_fds(starters, [_OFFER.pack(os.getpid(), first)], passed, socket.MSG_NOSIGNAL)
    end.close()
    if child is not None:
        child.end.close()
    return channel, watch, first


def take(shims: socket.socket) -> Offer | None:
    """The oldest offer; None when there is none."""
    try:
        text, passed = descriptors.receive(shims, _OFFER.size, 3, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    if not text:
        return None
    shim, first = _OFFER.unpack(text)
    end, watch, *ends = passed
    parent = PreparedParent(first, socket.socket(fileno=ends[0])) if first else None
    return Offer(shim, socket.socket(fileno=end), select.epoll.fromfd(watch), parent)


def tell(zygote: int, what: bytes, shim: int = 0) -> None:
    """A starter's news, into the pipe `zygote`."""
    try:
        os.write(zygote, _NEWS.pack(what, os.getpid(), shim))
    except OSError:  # it has just been killed, which is noticed elsewhere
        pass


def hear(starters: int) -> list[tuple[bytes, int, int]]:
    """All news that there are: what, the starter's PID, the shim's."""
    return list(_NEWS.iter_unpack(os.read(starters, 256 * _NEWS.size)))
