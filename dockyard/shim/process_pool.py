"""The zygote's work: whatever a start takes is there before it is asked for."""

import contextlib
import math
import os
import select
import signal
import socket
import time
from collections.abc import Callable

from dockyard.linux import syscalls
from dockyard.shim import handover, offers, starter, supervisor
from dockyard.shim.helpers import fork_one
from dockyard.shim.prefault import Prefault
from dockyard.shim.starter import Starter

# Orders that come less than so many seconds after each other are a stream: for the next one all shall be there.
FAR_APART = 0.05
# How long after a start what it has taken is made up for, s.
REST = 0.01


class ProcessPool:
    """Keeps at hand what a start needs: a shim that waits for a container, a starter that waits for an order.

    What a start takes is made up for when it is over: the two would hinder each other in the kernel, whose locks forks
    of one process share. Sooner only when the next order is there already. Where orders come far apart there is time
    even until a container that ends at once has been taken away.
    """

    def __init__(self, orders: socket.socket, helpers: socket.socket | None = None) -> None:
        """`helpers`: orders of processes for other work."""
        self._orders = orders
        self._helpers = helpers
        self._prefault = Prefault()
        self._taking, self._offering = offers.pair()
        self._news, self._tell = os.pipe()
        self._shims: dict[int, int] = {}  # those that wait: PID and pidfd
        self._starters: dict[int, int] = {}
        self._resident = 0  # the starter that stays; the others go when there are no orders
        self._state: dict[int, bytes] = {}  # what each starter has said last
        self._taken_at = self._apart = 0.0  # when the last order came, and how long after the one before
        self._due = math.inf  # when what is missing shall be there without an order; as all times monotonic, in s
        self._poll = select.poll()
        self._poll.register(self._news, select.POLLIN)
        if helpers is not None:
            self._poll.register(helpers, select.POLLIN)

    def tend(self) -> None:
        """Until the daemon hangs up."""
        self._supply()
        while True:
            # an order concerns us only when something is missing for it
            self._poll.register(self._orders, select.POLLIN if self._is_short() else 0)
            ready = self._poll.poll(self._patience())
            if not ready:
                self._supply()
                continue
            fd, event = ready[0]  # one at a time: a descriptor may be another's when the next has its turn
            if fd == self._news:
                self._hear()
            elif self._helpers is not None and fd == self._helpers.fileno():
                if not fork_one(self._helpers):
                    self._poll.unregister(fd)  # the daemon has gone, and `orders` will say so
            elif fd != self._orders.fileno():
                self._bury(fd)
            elif event & ~select.POLLIN:
                return
            else:
                self._supply()

    def _patience(self) -> int | None:
        """Until the due time, in ms."""
        return None if self._due == math.inf else max(0, math.ceil((self._due - time.monotonic()) * 1000))

    def _is_short(self) -> bool:
        return not self._shims or self._all_busy()

    def _all_busy(self) -> bool:
        return all(state != offers.IDLE for state in self._state.values())

    def _waiting(self) -> int:
        """How many starters wait for a shim."""
        return sum(state == offers.WANTING for state in self._state.values())

    def _hear(self) -> None:
        for what, pid, shim in offers.hear(self._news):
            if pid in self._state:
                self._state[pid] = what
            if what == offers.TAKEN:
                self._forget(self._shims, shim)
                now = time.monotonic()
                self._apart, self._taken_at = now - self._taken_at, now
            if self._waiting() or (what == offers.IDLE and self._apart < FAR_APART):
                self._supply()
            elif what == offers.IDLE:
                self._due = time.monotonic() + REST

    def _bury(self, pidfd: int) -> None:
        for kind in (self._shims, self._starters):
            for pid in [pid for pid, its in kind.items() if its == pidfd]:
                self._forget(kind, pid)
                self._state.pop(pid, None)
        self._supply()

    def _forget(self, kind: dict[int, int], pid: int) -> None:
        pidfd = kind.pop(pid, -1)
        if pidfd >= 0:
            self._poll.unregister(pidfd)
            os.close(pidfd)

    def _supply(self) -> None:
        self._due = math.inf
        self._prefault.learn()
        try:
            while len(self._shims) < max(self._waiting(), 1):
                self._fork(self._shims, lambda _: _be_shim(self._offering, self._prefault))
            if self._all_busy():
                resident = self._resident not in self._starters
                pid = self._fork(self._starters, lambda zygote: self._be_starter(zygote, resident=resident))
                self._state[pid] = offers.IDLE
                if resident:
                    self._resident = pid
        except ProcessLookupError:
            self._due = time.monotonic() + REST

    def _fork(self, kind: dict[int, int], live: Callable[[int], None]) -> int:
        """Fork one that does `live` with our PID; its own. Raises ProcessLookupError when it has ended already."""
        zygote = os.getpid()
        pid = os.fork()
        if pid:
            kind[pid] = os.pidfd_open(pid)
            self._poll.register(kind[pid], select.POLLIN)
            return pid
        try:
            syscalls.default_signal_action(signal.SIGCHLD)
            os.setsid()
            live(zygote)
        finally:
            os._exit(0)

    def _be_starter(self, zygote: int, *, resident: bool) -> None:
        orders, taking = self._orders, self._taking
        syscalls.close_all_but(0, 1, 2, orders.fileno(), taking.fileno(), self._tell, *self._prefault.descriptors())
        parent = os.pidfd_open(zygote)
        if os.getppid() == zygote:
            syscalls.set_process_name("dockyard-start")
            Starter(orders, taking, self._tell, parent, self._prefault).serve(resident=resident)


def _be_shim(offering: socket.socket, prefault: Prefault) -> None:
    """Be a shim: sleep until a starter has made a container, and then until something happens in it."""
    syscalls.close_all_but(0, 1, 2, offering.fileno())
    syscalls.set_process_name("dockyard-shim")
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    channel, watch, child = offers.make(offering, prefault.prepare)
    offering.close()
    handover.sleep(channel)
    left = handover.Left()
    left.take(channel)
    if left.outcome == handover.RUNS and child:
        os.waitpid(child, 0)  # it ends once it has forked the container's process
    elif left.outcome == handover.PASSED_ON:
        starter.start_alone(left, watch)
        # the child, who was not wanted, or a go-between: they are in our process group, the container's are not
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(0, os.WNOHANG)[0]:
                pass
    if left.outcome == handover.RUNS:
        watch.poll()
        watch.close()
        supervisor.run(left)
        os.sched_yield()  # the daemon has just been told, and to end takes us a millisecond
    elif left.outcome != handover.FAILED:
        supervisor.clear_up(left)
