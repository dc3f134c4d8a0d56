"""Says what the daemon's start or end waits for, and ends one that waits too long."""

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger("dockyard.daemon")

FIRST = 5.0  # seconds until the first word about a wait; each further one comes after twice the time


# How long the start may be at one and the same thing, s. A service manager then starts it anew.
STEP_PATIENCE = 60.0


class Step(Protocol):
    """Is told what the start is at, and how many seconds that may take (0: as long as it takes)."""

    def __call__(self, what: str, limit: float = STEP_PATIENCE) -> None: ...


def unwatched(what: str, limit: float = STEP_PATIENCE) -> None:
    """A step that nobody is told of."""


class Watchdog:
    """Watches one thing at a time, from a thread of its own: what is waited for may be a system call."""

    def __init__(self, leave: Callable[[int], None] = os._exit) -> None:
        """`leave` ends the process."""
        self._leave = leave
        self._main = threading.get_ident()
        self._changed = threading.Condition()
        self._what, self._since, self._limit, self._status = "", 0.0, 0.0, 1
        self._turn = 0
        self._thread: threading.Thread | None = None

    def at(self, what: str, limit: float, status: int = 1) -> None:
        """From now on it is `what` that is waited for: `limit` seconds (0: for ever), then the process ends so."""
        with self._changed:
            self._what, self._since, self._limit, self._status = what, time.monotonic(), limit, status
            self._turn += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
                self._thread.start()
            self._changed.notify()

    def step(self, what: str, limit: float = STEP_PATIENCE) -> None:
        """The start is at `what` now; see `Step`."""
        self.at(what, limit)

    def done(self) -> None:
        """Nothing is waited for any more."""
        with self._changed:
            self._turn += 1
            self._thread = None
            self._changed.notify()

    def _watch(self) -> None:
        turn, due = -1, 0.0
        with self._changed:
            while self._thread is threading.current_thread():
                if turn != self._turn:
                    turn, due = self._turn, FIRST
                waited = time.monotonic() - self._since
                if self._limit and waited >= self._limit:
                    self._give_up(waited)
                    return
                if waited >= due:
                    log.warning("waiting for %s since %d seconds", self._what, waited)
                    due *= 2
                until = min(due, self._limit) if self._limit else due
                self._changed.wait(max(until - waited, 0.01))

    def _give_up(self, waited: float) -> None:
        frame = sys._current_frames().get(self._main)
        log.debug("where it waits:\n%s", "".join(traceback.format_stack(frame)) if frame is not None else "unknown")
        print(f"dockyardd: giving up: {self._what} took more than {waited:.0f} seconds", file=sys.stderr, flush=True)
        self._leave(self._status)
