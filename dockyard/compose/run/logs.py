"""Output of many containers, line by line, each behind its container's name."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from dockyard.client.container import Container
from dockyard.client.errors import APIError, ClientError, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dockyard.compose.plan.observed import Observed
    from dockyard.compose.run.application import Application

# cyan, yellow, green, magenta, blue, and the same bright
RAINBOW = ("36", "33", "32", "35", "34", "36;1", "33;1", "32;1", "35;1", "34;1")
WATCH = "#watch"


class LogPrinter:
    """Writes lines. Threads may share it."""

    def __init__(self, *, color: bool, prefix: bool = True, timestamps: bool = False, to: TextIO | None = None) -> None:
        """`timestamps`: the time at which a line came, before it."""
        self._color = color
        self._prefix = prefix
        self._timestamps = timestamps
        self._to = to
        self._lock = threading.Lock()
        self._colors: dict[str, str] = {}
        self._width = 0
        self.below: Callable[[], str] | None = None  # a line that stays below all others, on a terminal

    def refresh(self) -> None:
        """Write the line below the others anew."""
        with self._lock:
            self._write("")

    def empty_line(self) -> None:
        """Leave a line empty, as by Enter."""
        with self._lock:
            self._write("\n")

    def settle(self) -> None:
        """Have no line below the others any more."""
        with self._lock:
            if self.below is not None:
                self.below = None
                to = self._to or sys.stdout
                to.write("\r\x1b[2K")
                to.flush()

    def above(self, text: str) -> None:
        """Write whole lines to the standard error, above the line that stays below."""
        with self._lock:
            self._write(text, error=True)

    def register(self, name: str) -> None:
        """Keep a place and a colour for a container, so that names stand in a column from the first line on."""
        with self._lock:
            self._register(name)

    def _register(self, name: str) -> None:
        if name in self._colors:
            return
        root = name.partition(" ")[0]
        if root != name and root in self._colors:
            self._colors[name] = self._colors[root]
        else:
            used = len({key for key in self._colors if " " not in key and key != WATCH})
            self._colors[name] = "92" if name == WATCH else RAINBOW[used % len(RAINBOW)]
        if name != WATCH:
            self._width = max(self._width, len(name))

    def _painted(self, name: str, text: str) -> str:
        return f"\x1b[{self._colors[name]}m{text}\x1b[0m" if self._color else text

    def line(self, name: str, text: str, *, error: bool = False) -> None:
        """A line that a container wrote, to its stderr if `error`."""
        with self._lock:
            self._register(name)
            head = ""
            if self._prefix:
                width = self._width + 1
                shown = " " * width + " ⦿ " if name == WATCH else f"{name:<{width}} | "
                head = self._painted(name, shown)
            if self._timestamps:
                now = time.time()
                whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
                head += f"{whole}.{int(now % 1 * 1e9):09d}Z "
            self._write(f"{head}{text}\n", error=error)

    def status(self, name: str, text: str) -> None:
        """What happened to a container."""
        with self._lock:
            self._register(name)
            self._write(self._painted(name, f"\r\x1b[K{name} {text}\n"))

    def _write(self, text: str, *, error: bool = False) -> None:
        to = self._to or (sys.stderr if error else sys.stdout)
        if self.below is None:
            to.write(text)
        else:
            to.write(f"\r\x1b[2K{text}{self.below()}")
        to.flush()


class Above:
    """The standard error as a file, of which each line is written above the line that stays below."""

    def __init__(self, printer: LogPrinter) -> None:
        self._printer = printer
        self._pending = ""

    def write(self, text: str) -> int:
        """Keep text until its line is whole."""
        whole, newline, self._pending = (self._pending + text).rpartition("\n")
        if newline:
            self._printer.above(whole + newline)
        return len(text)

    def flush(self) -> None:
        """Nothing waits but half a line."""


class LogRequest(NamedTuple):
    """What `compose logs` takes. `services`: whose containers are followed when they start later; none for all."""

    services: Sequence[str] = ()
    follow: bool = False
    since: str | None = None
    until: str | None = None
    tail: str = "all"
    timestamps: bool = False


def log_lines(
    application: Application, container: str, name: str, request: LogRequest, write: Callable[[str, str], None]
) -> None:
    """Give `write` a container's lines until its log ends. Raises ClientError."""
    there: Container[Any] = Container(application.engine.client._session, container)
    stream = there.stream_logs(
        follow=request.follow,
        since=request.since,
        until=request.until,
        tail=request.tail,  # type: ignore[arg-type]  # the API's text, "all" or a number
        timestamps=request.timestamps,
    )
    try:
        for line in stream:
            write(name, f"{line.time} {line.text}" if request.timestamps else line.text)
    except NotFound:
        pass  # it was removed meanwhile


def show_logs(
    application: Application, containers: Sequence[Observed], request: LogRequest, printer: LogPrinter
) -> None:
    """Show the logs of containers; with `follow` until they and those that are started meanwhile have ended."""
    for one in containers:
        printer.register(one.short_name)
    if not request.follow:
        for one in containers:
            _show(application, one, request, printer)
        return
    from dockyard.compose.run.monitor import Monitor

    threads: list[threading.Thread] = []

    def follow(id: str, name: str, asked: LogRequest) -> None:
        thread = threading.Thread(
            target=_quietly, args=(lambda: log_lines(application, id, name, asked, printer.line),), daemon=True
        )
        thread.start()
        threads.append(thread)

    begun: set[tuple[str, str]] = set()

    def started(id: str, name: str, restarting: bool) -> None:
        began = application.engine.container(id)["State"]["StartedAt"]
        if (id, began) not in begun:
            begun.add((id, began))
            follow(id, name, request._replace(since=began))

    def ready(there: Sequence[Observed]) -> None:
        """Those that have started since they were looked for, of which no event tells."""
        known = {one.id for one in containers}
        for one in there:
            if one.id not in known and one.state == "running":
                started(one.id, one.short_name, False)

    for one in containers:
        follow(one.id, one.short_name, request)
    monitor = Monitor(application, request.services)
    monitor.on_ready.append(ready)
    monitor.on_start.append(started)
    monitor.on_exit.append(lambda _id, name, _service, code, again: printer.status(name, ended(code, again)))
    monitor.on_recreate.append(lambda name: printer.status(name, "has been recreated"))
    monitor.run()
    for thread in threads:
        thread.join(5)


def ended(code: int, restarting: bool) -> str:
    """What is said of a container that has ended."""
    return f"exited with code {code}" + (" (restarting)" if restarting else "")


def _show(application: Application, one: Observed, request: LogRequest, printer: LogPrinter) -> None:
    try:
        log_lines(application, one.id, one.short_name, request, printer.line)
    except APIError as error:
        if error.status != 501:
            raise
        application.warn(f'Can\'t retrieve logs for "{one.name}": {error}')


def _quietly(work: Callable[[], None]) -> None:
    """A thread whose connection has ended says nothing."""
    try:
        work()
    except (ClientError, OSError):
        pass
