"""Showing what is being done to which resource: lines, a table that changes in place, JSON, or nothing."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

MODES = ("auto", "tty", "plain", "json", "quiet")
DRY_RUN = " DRY-RUN MODE - "

WORKING, DONE, WARNING, ERROR = "working", "done", "warning", "error"

# what is being done, and when it is over
_FINISHED = frozenset(
    """
    Created Started Running Healthy Exited Stopped Killed Removed Restarted Recreated Built Pulled Pushed Paused
    Unpaused Skipped
    """.split()
)


class Event:
    """What happens to a resource: "Container web-1", "Started". `text` stands before the status, `parent` above it."""

    def __init__(
        self,
        id: str,
        status: str = "",
        state: str = WORKING,
        text: str = "",
        parent: str = "",
        current: int = 0,
        total: int = 0,
        percent: int = 0,
    ) -> None:
        self.id = id
        self.status = status
        self.state = state
        self.text = text
        self.parent = parent
        self.current = current
        self.total = total
        self.percent = percent
        self.began = time.monotonic()
        self.ended = 0.0


class Progress:
    """Writes a line for each event."""

    def __init__(self, to: TextIO, *, dry: bool = False) -> None:
        self._to = to
        self._dry = dry
        self._lock = threading.Lock()

    def event(self, id: str, status: str, state: str = "", *, text: str = "", parent: str = "", **sizes: int) -> None:
        """`state` follows from the status for those that end something."""
        chosen = state or (DONE if (status or text) in _FINISHED else WORKING)
        with self._lock:
            self._show(Event(id, status, chosen, text, parent, **sizes))

    def _show(self, event: Event) -> None:
        prefix = DRY_RUN if self._dry else ""
        print(f"{prefix} {event.id} {event.text} {event.status}", file=self._to, flush=True)

    def note(self, text: str) -> None:
        """Something to be read when all is over."""
        with self._lock:
            print(f"{DRY_RUN if self._dry else ''}{text}", file=self._to, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let something else write to the terminal meanwhile."""
        yield


class Quiet(Progress):
    """Shows nothing."""

    def _show(self, event: Event) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Json(Progress):
    """A JSON object a line."""

    def _show(self, event: Event) -> None:
        fields = {
            "dry-run": self._dry,
            "id": event.id,
            "parent_id": event.parent,
            "text": event.text,
            "status": event.status,
            "current": event.current,
            "total": event.total,
            "percent": event.percent,
        }
        self._line({name: value for name, value in fields.items() if value})

    def note(self, text: str) -> None:
        with self._lock:
            self._line({**({"dry-run": True} if self._dry else {}), "tail": True, "text": text})

    def _line(self, fields: dict[str, object]) -> None:
        print(json.dumps(fields, separators=(",", ":"), ensure_ascii=False), file=self._to, flush=True)


def colored(text: str, code: str) -> str:
    """Text in a colour, unless NO_COLOR is set."""
    return text if os.environ.get("NO_COLOR") else f"\x1b[{code}m{text}\x1b[0m"


_COLORS = {DONE: "32", WARNING: "33", ERROR: "31"}
_SIGNS = {DONE: "✔", WARNING: "!", ERROR: "✘"}
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_BARS = "⠀⡀⣀⣄⣤⣦⣶⣷⣿"
REFRESH = 0.1


class Table(Progress):
    """A table that changes in place, a row for each resource."""

    def __init__(self, to: TextIO, *, dry: bool = False, title: str = "Running") -> None:
        super().__init__(to, dry=dry)
        self._title = title
        self._rows: dict[str, Event] = {}
        self._notes: list[str] = []
        self._lines = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def _show(self, event: Event) -> None:
        known = self._rows.get(event.id)
        if known is None:
            self._rows[event.id] = known = event
        else:
            known.status, known.text, known.parent = event.status, event.text, event.parent or known.parent
            known.total = max(known.total, event.total)
            known.current = max(known.current, event.current)
            known.percent = max(known.percent, event.percent)
            if known.state != event.state:
                known.state, known.ended = event.state, 0
        if known.state != WORKING and not known.ended:
            known.ended = time.monotonic()

    def note(self, text: str) -> None:
        with self._lock:
            self._notes.append(f"{DRY_RUN.strip() + ' ' if self._dry else ''}{text}")

    def __enter__(self) -> Table:
        self._stop.clear()
        self._thread = threading.Thread(target=self._refresh, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._draw()
            for note in self._notes:
                print(note, file=self._to)
            self._rows, self._notes, self._lines = {}, [], 0

    @contextmanager
    def aside(self) -> Iterator[None]:
        with self._lock:
            self._draw()
            self._rows, self._lines = {}, 0
            yield

    def _refresh(self) -> None:
        while not self._stop.wait(REFRESH):
            with self._lock:
                self._draw()

    def _draw(self) -> None:
        if not self._rows:
            return
        columns, height = _size()
        done = sum(row.state != WORKING for row in self._rows.values())
        head = f"[+] {self._title} {done}/{len(self._rows)}"
        lines = [colored(head, "34") if done == len(self._rows) else head]
        width = max(len(f"{row.id} {row.text}") - (2 if row.parent else 0) for row in self._rows.values())
        for row in self._ordered(len(self._rows) > height - 2):
            lines.append(self._line(row, width, columns))
        up = f"\x1b[{self._lines}A" if self._lines else ""
        lines += [""] * (self._lines - len(lines))
        body = "".join(f"\x1b[2K{line}\n" for line in lines)
        self._to.write(f"\x1b[?25l{up}\r{body}\x1b[?25h")
        self._to.flush()
        self._lines = len(lines)

    def _ordered(self, short: bool) -> Iterator[Event]:
        for row in list(self._rows.values()):
            if row.parent:
                continue
            yield row
            if not short:
                yield from (child for child in self._rows.values() if child.parent == row.id)

    def _line(self, row: Event, width: int, columns: int) -> str:
        now = time.monotonic()
        children = [child for child in self._rows.values() if child.parent == row.id]
        name = f"{row.id} {row.text}"
        if children and row.state == WORKING:
            bars = "".join(_BARS[(len(_BARS) - 1) * child.percent // 100] for child in children)
            name = f"{row.id} [{colored(bars, '32')}] {row.text}"
        sign = _SIGNS.get(row.state) or _SPINNER[int(now / REFRESH) % len(_SPINNER)]
        color = _COLORS.get(row.state)
        status = row.status.replace("\n", " ")[: max(10, columns - width - 20)]
        padding = " " * max(0, width - len(f"{row.id} {row.text}"))
        shown = colored(status, color) if color and status else status
        prefix = colored(DRY_RUN.strip() + " ", "35") if self._dry else ""
        left = f"{'  ' if row.parent else ''} {colored(sign, color or '33')} {prefix}{name}{padding} {shown}"
        plain = len(f"{'  ' if row.parent else ''}   {name}{padding} {status}") + len(DRY_RUN if self._dry else "")
        seconds = f"{(row.ended or now) - row.began:.1f}s "
        return left + " " * max(1, columns - plain - len(seconds)) + colored(seconds, "34")


def _size() -> tuple[int, int]:
    for fd in (2, 1, 0):
        try:
            found = os.get_terminal_size(fd)
        except OSError:
            continue
        return found.columns or 80, found.lines or 24
    return 80, 24


def make(mode: str, *, dry: bool = False, title: str = "Running", to: TextIO | None = None) -> Progress:
    """The progress display of a mode; "auto" is a table on a terminal and lines elsewhere."""
    to = to or (sys.stdout if os.environ.get("COMPOSE_STATUS_STDOUT", "") in ("1", "true") else sys.stderr)
    if mode in ("quiet", "none"):
        return Quiet(to, dry=dry)
    if mode == "json":
        return Json(to, dry=dry)
    if mode == "tty" or (mode in ("", "auto") and to.isatty()):
        return Table(to, dry=dry, title=title)
    return Progress(to, dry=dry)
