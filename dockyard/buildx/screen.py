"""A build on a terminal: a line for every step, what runs with its time and its last lines, drawn anew in place.

As BuildKit's clients draw it (util/progress/progressui).
"""

from __future__ import annotations

import os
import re
import threading
import time
from typing import TYPE_CHECKING, TextIO

from dockyard.buildkit import wire_pb2 as wire
from dockyard.buildx.progress import size_of

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
BLUE, RED, YELLOW, FAINT, RESET = "\x1b[34m", "\x1b[31m", "\x1b[33m", "\x1b[2m", "\x1b[0m"
TERM_LINES = 6  # of a running step's output
TICK = 0.15  # s between two pictures
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[^\[]|[\x00-\x08\x0b-\x1f\x7f]")


class _Step:
    """A step as it is drawn."""

    def __init__(self, vertex: wire.Vertex) -> None:
        self.vertex = vertex
        self.parts: dict[str, wire.VertexStatus] = {}
        self.lines: list[str] = [""]

    def say(self, data: bytes) -> None:
        """Keep the end of what it says."""
        for number, piece in enumerate(data.decode(errors="replace").split("\n")):
            if number:
                self.lines.append("")
            # what a carriage return has gone over is not to be seen any more
            self.lines[-1] = (
                (self.lines[-1] + piece).rpartition("\r")[2]
                if "\r" in piece.rstrip("\r")
                else (self.lines[-1] + piece.rstrip("\r"))
            )
        del self.lines[: -TERM_LINES - 1]


class Screen:
    """Draws a build until its end."""

    def __init__(self, to: TextIO, engine: str = "", *, colors: bool = True) -> None:
        """`engine`: whom we build with, to the right of the first line."""
        self._to = to
        self._engine = engine
        self._colors = colors and not os.environ.get("NO_COLOR")
        self._began = time.time()
        self._steps: dict[str, _Step] = {}
        self._drawn = 0
        self._paused = False
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._painter = threading.Thread(target=self._paint, daemon=True)
        self._painter.start()

    def show(self, response: wire.StatusResponse) -> None:
        with self._lock:
            for vertex in response.vertexes:
                step = self._steps.setdefault(vertex.digest, _Step(vertex))
                step.vertex = vertex
            for status in response.statuses:
                if status.vertex in self._steps:
                    self._steps[status.vertex].parts[status.id] = status
            for log in response.logs:
                if log.vertex in self._steps:
                    self._steps[log.vertex].say(log.msg)

    def pause(self) -> None:
        """Draw nothing until `resume`: the terminal is somebody else's."""
        with self._lock:
            self._draw(last=False)
            self._paused = True

    def resume(self) -> None:
        """Draw again, below what has been written meanwhile."""
        with self._lock:
            self._drawn, self._paused = 0, False

    def end(self) -> None:
        self._over.set()
        self._painter.join()
        with self._lock:
            self._draw(last=True)

    def _paint(self) -> None:
        while not self._over.wait(TICK):
            with self._lock:
                if not self._paused:
                    self._draw(last=False)

    def _draw(self, *, last: bool) -> None:
        width, height = _size(self._to)
        rows = self._rows(width, height, last=last)
        picture = HIDE + (f"\x1b[{self._drawn}A" if self._drawn else "")
        picture += "".join(f"\r\x1b[2K{row}\n" for row in rows)
        if self._drawn > len(rows):
            picture += "\x1b[J"
        self._drawn = len(rows)
        self._to.write(picture + SHOW)
        self._to.flush()

    def _rows(self, width: int, height: int, *, last: bool) -> list[str]:
        steps = [step for step in self._steps.values() if step.vertex.started.seconds]
        ended = [step for step in steps if step.vertex.completed.seconds]
        head = f"[+] Building {time.time() - self._began:.1f}s ({len(ended)}/{len(self._steps)})"
        if last and steps and len(ended) == len(self._steps):
            head += " FINISHED"
        rows = [row for step in steps for row in self._step_rows(step, width)]
        if not last:
            spare = max(height - 2 - len(rows), 0)
            rows = [
                row
                for step in steps
                for row in (*self._step_rows(step, width), *self._said(step, width, min(spare, TERM_LINES)))
            ]
            rows = rows[-max(height - 2, 1) :]
        return [_aligned(head, self._engine, width - 1), *rows]

    def _step_rows(self, step: _Step, width: int) -> list[str]:
        vertex = step.vertex
        name = vertex.name
        if vertex.error and not vertex.error.endswith("context canceled"):
            name, color = f"ERROR {name}", RED
        elif vertex.error:
            name, color = f"CANCELED {name}", YELLOW
        else:
            name, color = (f"CACHED {name}" if vertex.cached else name), BLUE
        rows = [self._row(name, vertex.started, vertex.completed, width, color)]
        for part in step.parts.values():
            text = f"=> {part.id}"
            if part.total:
                text += f" {size_of(part.current)} / {size_of(part.total)}"
            elif part.current:
                text += f" {size_of(part.current)}"
            rows.append(self._row(text, part.started, part.completed, width, BLUE))
        return rows

    def _row(self, name: str, started: Timestamp, completed: Timestamp, width: int, color: str) -> str:
        end = completed.ToNanoseconds() / 1e9 if completed.seconds else time.time()
        took = max(end - started.ToNanoseconds() / 1e9, 0) if started.seconds else 0.0
        timer = f"{took if took >= 0.05 else 0:3.1f}s"
        row = _aligned(" => " + _CONTROL.sub("", name)[: max(width - len(timer) - 6, 0)], timer, width - 1)
        return f"{color}{row}{RESET}" if completed.seconds and self._colors else row

    def _said(self, step: _Step, width: int, most: int) -> list[str]:
        if step.vertex.completed.seconds or not most:
            return []
        lines = [line for line in (_CONTROL.sub("", line).expandtabs() for line in step.lines) if line.strip()]
        rows = [f" => => # {line}"[: width - 1] for line in lines[-most:]]
        return [f"{FAINT}{row}{RESET}" if self._colors else row for row in rows]


def _aligned(left: str, right: str, width: int) -> str:
    return f"{left:<{max(width - len(right) - 1, 0)}} {right}"[:width]


def _size(to: TextIO) -> tuple[int, int]:
    try:
        found = os.get_terminal_size(to.fileno())
        return found.columns or 80, found.lines or 24
    except (OSError, ValueError):
        return 80, 24
