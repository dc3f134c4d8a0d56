"""Starts containers for shims, so that these stay small.

What a start touches in an interpreter (the spec's objects, the code that reads them) would belong to the shim for the
container's whole life: 3 MB each. So a process that lives on carries out the daemon's orders one after the other: it
takes a shim that waits, makes the container of the first process that the shim's child forks for it, leaves it to the
shim (handover.py), and is free for the next. Another one waits beside it, for orders that come meanwhile.

A container that needs more than such a process (another runtime, a checkpoint to go on from, a user namespace, a PID
namespace that is somebody else's) is passed on: its shim forks a starter for it alone. Then whatever the start leaves
running is the shim's to inherit.
"""

import os
import select
import signal
import socket
from contextlib import closing
from dataclasses import replace

from dockyard.linux import memory_files, syscalls
from dockyard.oci import runtime_spec
from dockyard.oci.runtime_spec import Spec
from dockyard.shim import handover, offers, protocol
from dockyard.shim.offers import Offer
from dockyard.shim.prefault import Prefault
from dockyard.shim.start import Task, carry_out, send

# Orders that one starter carries out: whatever may pile up in its memory is gone with it.
MOST_ORDERS = 1000


class Starter:
    """Carries out orders until the daemon or the zygote (its pidfd) has gone. `news` is the pipe to the zygote."""

    def __init__(self, orders: socket.socket, shims: socket.socket, news: int, zygote: int, prefault: Prefault) -> None:
        self._orders = orders
        self._shims = shims
        self._news = news
        self._zygote = zygote
        self._prefault = prefault
        self._awaiting = select.epoll()
        # of several starters only one is woken, and always the same one where that is free: it is at its best by then
        self._awaiting.register(orders, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        self._awaiting.register(zygote, select.EPOLLIN)

    def serve(self, *, resident: bool) -> None:
        """Not `resident`: only as long as there are orders.

        A start that fails is the last: what an exception holds on to is not let go of here.
        """
        for _ in range(MOST_ORDERS):
            daemon = self._next_order()
            if daemon is None:
                return
            with daemon:
                frame = read_frame(daemon)
                if frame is not None:
                    offer = self._next_offer()
                    if offer is None:
                        return
                    with closing(offer):
                        done = self._carry_out(frame, offer, daemon)
                    if not done:
                        return
            offers.tell(self._news, offers.IDLE)
            if not resident and not select.select([self._orders], [], [], 0)[0]:
                return

    def _next_order(self) -> socket.socket | None:
        """The connection to the daemon that wants a container; None when there is nobody to start containers for."""
        while True:
            ready = dict(self._awaiting.poll())
            if self._zygote in ready:
                self._end_waiting_shims()
                return None
            try:
                data, passed = protocol.receive(self._orders, 64, socket.MSG_DONTWAIT)
            except BlockingIOError:  # another starter was quicker
                continue
            return socket.socket(fileno=passed[0]) if data else None

    def _next_offer(self) -> Offer | None:
        """A shim that waits; None when the zygote has gone."""
        asked = False
        while True:
            offer = offers.take(self._shims)
            if offer is None:
                if not asked:
                    offers.tell(self._news, offers.WANTING)
                    asked = True
                ready, _, _ = select.select([self._shims.fileno(), self._zygote], [], [])
                if self._zygote in ready:
                    return None
                continue
            offers.tell(self._news, offers.TAKEN, offer.shim)
            if not handover.is_over(offer.end):
                return offer
            offer.close()  # it has been killed
            asked = False

    def _end_waiting_shims(self) -> None:
        """Those of a zygote that has gone: even one that is stopped is of no use any more."""
        while (offer := offers.take(self._shims)) is not None:
            if not handover.is_over(offer.end):
                os.kill(offer.shim, signal.SIGKILL)

    def _carry_out(self, frame: tuple[bytes, list[int]], offer: Offer, daemon: socket.socket) -> bool:
        """Carry out the daemon's order, or pass it on; whether that has succeeded."""
        text, descriptors = frame
        # first of all: whatever befalls us, the shim can take away what we have made, and tell the daemon
        handover.put_order(offer.end, text, descriptors[0], daemon)
        send(daemon, protocol.Taken(offer.shim, protocol.VERSION))
        task = Task(
            order=handover.decode_order(text),
            specification=memory_files.read(descriptors[0]),
            spec=None,
            descriptors=descriptors[1:],
            daemon=daemon,
            shim=offer.shim,
            end=offer.end,
            watch=offer.watch,
        )
        parent, spec = offer.parent, _read(task)
        if spec is not None and parent is not None and parent.fits(spec) and parent.is_there():
            done = carry_out(replace(task, spec=spec), parent, self._prefault)
        else:
            handover.put_outcome(offer.end, handover.PASSED_ON, descriptors[1:])
            done = True
        for fd in descriptors:
            os.close(fd)
        os.chdir("/")
        return done


def _read(task: Task) -> Spec | None:
    """The specification of an order that is not for a starter of its own in any case."""
    if task.order.runtime or task.order.checkpoint:
        return None
    try:
        return runtime_spec.decode(task.specification)
    except ValueError:
        return None  # what is wrong is told by who carries it out


def start_alone(left: handover.Left, watch: select.epoll) -> None:
    """Have a child of this shim carry out the order passed on; what it leaves comes to `left` too."""
    assert left.order is not None
    assert left.daemon is not None
    ours, theirs = handover.pair()
    shim = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == shim:
                text = memory_files.read(left.spec)
                carry_out(Task(left.order, text, None, left.descriptors, left.daemon, shim, theirs, watch))
        finally:
            os._exit(0)
    theirs.close()
    for fd in left.descriptors:
        os.close(fd)
    left.descriptors, left.outcome = [], b""
    os.waitpid(pid, 0)
    with ours:
        left.take(ours)


def read_frame(peer: socket.socket) -> tuple[bytes, list[int]] | None:
    """The next message and its descriptors; None when the other has gone."""
    inbox = protocol.Inbox()
    while (frame := inbox.frame()) is None:
        try:
            data, descriptors = protocol.receive(peer, 1 << 13)
        except ConnectionResetError:
            return None
        inbox.descriptors += descriptors
        if not data:
            return None
        inbox.feed(data)
    return frame
