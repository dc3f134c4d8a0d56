"""Several processes behind the same sockets: one that dies is replaced, and all end together."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable

log = logging.getLogger("dockyard.registry")

REST = 1.0  # seconds between two deaths of the same worker at least: what cannot live must not use up the machine


def supervise(count: int, work: Callable[[int], None]) -> None:
    """Run `work(number)` in `count` processes until SIGTERM or SIGINT."""
    running: dict[int, tuple[int, float]] = {}
    ending = False

    def end(number: int, frame: object) -> None:
        nonlocal ending
        ending = True
        for pid in running:
            os.kill(pid, signal.SIGTERM)

    signals = (signal.SIGTERM, signal.SIGINT)
    # a signal that comes while a process is made would find it missing in the list
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    for number in signals:
        signal.signal(number, end)
    for worker in range(count):
        _start(worker, work, running)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    while running:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            return
        if pid not in running:
            continue  # who was left to us: in a container we are everybody's parent
        worker, begun = running.pop(pid)
        if ending:
            continue
        log.error("worker %d (process %d) has ended with status %d: another takes its place", worker, pid, status)
        time.sleep(max(0.0, begun + REST - time.monotonic()))
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        if not ending:
            _start(worker, work, running)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def _start(worker: int, work: Callable[[int], None], running: dict[int, tuple[int, float]]) -> None:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        running[pid] = (worker, time.monotonic())
        return
    status = 1
    try:
        running.clear()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
        work(worker)
        status = 0
    except BaseException:
        log.exception("worker %d failed", worker)
    finally:
        sys.stdout.flush()
        os._exit(status)
