"""How a build goes, as what the engine tells of it: its steps, what they say, how far transfers are.

It is shown as nothing (quiet), lines of text (plain), lines of JSON (rawjson), or in place on a terminal (screen.py).
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TextIO

from dockyard.buildkit import wire_pb2 as wire


class Display(Protocol):
    """Whoever shows a build."""

    def show(self, response: wire.StatusResponse) -> None:
        """Something has happened."""

    def end(self) -> None:
        """Nothing more comes; the last of it is to be seen."""


class Trace:
    """What is known of a build: for the error report and the warnings at its end, however it was shown."""

    def __init__(self) -> None:
        self.steps: dict[str, wire.Vertex] = {}
        self.logs: dict[str, list[bytes]] = {}
        self.warnings: list[wire.VertexWarning] = []

    def take(self, response: wire.StatusResponse) -> None:
        """Take up what has happened."""
        for step in response.vertexes:
            self.steps[step.digest] = step
        for log in response.logs:
            self.logs.setdefault(log.vertex, []).append(log.msg)
        self.warnings += response.warnings

    def failures(self, last: int = 0) -> str:
        """The output of what failed: all of it, or its `last` lines."""
        text = ""
        for step in self.steps.values():
            if step.error and not step.error.endswith("context canceled"):
                lines = b"".join(self.logs.get(step.digest, [])).decode(errors="replace").rstrip("\n").split("\n")
                shown = "".join(f"{line}\n" for line in lines[-last:] if lines != [""])
                text += f"------\n > {step.name}:\n{shown}------\n"
        return text


class Quiet:
    """Shows nothing."""

    def show(self, response: wire.StatusResponse) -> None:
        pass

    def end(self) -> None:
        pass


class Plain:
    """Lines of text; steps are numbered as they are first shown.

    A step that is shown is shown until it ends; others are when they end, or when they have waited for long. What
    follows later of a step has its number alone before it: its name is there once.
    """

    PATIENCE = 5.0  # s that the lines of a step wait for another one's end

    def __init__(self, to: TextIO) -> None:
        self._to = to
        self._numbers: dict[str, int] = {}
        self._steps: dict[str, wire.Vertex] = {}
        self._shown = ""
        self._unfinished: dict[str, bytes] = {}
        self._named: set[str] = set()
        self._begun: set[str] = set()
        self._ended: set[str] = set()
        self._waiting: dict[str, list[str]] = {}  # lines by step
        self._since: dict[str, float] = {}  # when the first of them came

    def show(self, response: wire.StatusResponse) -> None:
        for step in response.vertexes:
            self._begin(step)
        for status in response.statuses:
            if status.vertex in self._begun:
                self._say(status.vertex, self._status(status))
        for log in response.logs:
            if log.vertex in self._begun:
                self._say(log.vertex, self._log(log))
        for step in response.vertexes:
            if step.completed.seconds and step.digest in self._begun - self._ended:
                self._ended.add(step.digest)
                self._say(step.digest, self._end(step))
        self._print(self._ready(time.monotonic()))

    def end(self) -> None:
        self._print(list(self._waiting))

    def _begin(self, step: wire.Vertex) -> None:
        self._steps[step.digest] = step
        if step.started.seconds and step.digest not in self._begun:
            self._begun.add(step.digest)
            self._say(step.digest, ())

    def _say(self, digest: str, lines: Iterable[str]) -> None:
        self._since.setdefault(digest, time.monotonic())
        self._waiting.setdefault(digest, []).extend(lines)

    def _ready(self, now: float) -> list[str]:
        """The steps whose lines are to be shown now, in their order."""
        ended = sorted((one for one in self._waiting if one in self._ended), key=lambda one: one != self._shown)
        going = [one for one in self._waiting if one not in self._ended]
        found = [one for one in going if one == self._shown] + ended
        if self._shown in self._ended or not self._shown:
            return found + going[:1]
        return found + [one for one in going if one not in found and now - self._since[one] > self.PATIENCE]

    def _print(self, digests: Iterable[str]) -> None:
        text = "".join(line for digest in digests for line in self._of(digest))
        if text:
            self._to.write(text)
            self._to.flush()

    def _of(self, digest: str) -> Iterator[str]:
        lines = self._waiting.pop(digest)
        self._since.pop(digest, None)
        number = self._numbers.setdefault(digest, len(self._numbers) + 1)
        if self._shown != digest:
            if self._shown and self._shown not in self._ended:
                yield f"#{self._numbers[self._shown]} ...\n"
            if self._shown:
                yield "\n"
            self._shown = digest
            if digest not in self._named:
                self._named.add(digest)
                yield f"#{number} {self._steps[digest].name}\n"
        yield from (f"#{number} {line}\n" for line in lines)

    def _end(self, step: wire.Vertex) -> Iterator[str]:
        rest = self._unfinished.pop(step.digest, b"")
        if rest:
            yield rest.decode(errors="replace")
        if step.error.endswith("context canceled"):
            yield "CANCELED"
        elif step.error:
            yield f"ERROR: {step.error}"
        elif step.cached:
            yield "CACHED"
        else:
            yield f"DONE {_seconds(step.started, step.completed):.1f}s"

    def _status(self, status: wire.VertexStatus) -> Iterator[str]:
        if status.completed.seconds:
            took = _seconds(status.started, status.completed) if status.started.seconds else 0
            size = f" {size_of(status.current)}" if status.current else ""
            yield f"{status.id}{size}{f' {took:.1f}s' if took >= 0.05 else ''} done"

    def _log(self, log: wire.VertexLog) -> Iterator[str]:
        *lines, rest = (self._unfinished.pop(log.vertex, b"") + log.msg).split(b"\n")
        if rest:
            self._unfinished[log.vertex] = rest
        moment = max(_seconds(self._steps[log.vertex].started, log.timestamp), 0)
        for line in lines:
            yield f"{moment:.3f} {line.decode(errors='replace')}"


class RawJSON:
    """Every message as a line of JSON, in the shape that buildx writes."""

    def __init__(self, to: TextIO) -> None:
        self._to = to

    def show(self, response: wire.StatusResponse) -> None:
        told: dict[str, list[dict[str, Any]]] = {
            "vertexes": [
                {
                    "digest": step.digest,
                    "inputs": list(step.inputs),
                    "name": step.name,
                    **_times(step, "started", "completed"),
                    "cached": step.cached,
                    "error": step.error,
                }
                for step in response.vertexes
            ],
            "statuses": [
                {
                    "id": status.id,
                    "vertex": status.vertex,
                    "total": status.total,
                    "current": status.current,
                    **_times(status, "timestamp", "started", "completed"),
                }
                for status in response.statuses
            ],
            "logs": [
                {
                    "vertex": log.vertex,
                    "stream": log.stream,
                    "data": base64.b64encode(log.msg).decode(),
                    **_times(log, "timestamp"),
                }
                for log in response.logs
            ],
            "warnings": [
                {
                    "vertex": one.vertex,
                    "level": one.level,
                    "short": base64.b64encode(one.short).decode(),
                    "detail": [base64.b64encode(detail).decode() for detail in one.detail],
                    "url": one.url,
                    "range": [
                        {"start": {"line": part.start.line}, "end": {"line": part.end.line}} for part in one.ranges
                    ],
                }
                for one in response.warnings
            ],
        }
        shown = {
            kind: [{name: value for name, value in row.items() if value not in ("", 0, False, [])} for row in rows]
            for kind, rows in told.items()
            if rows
        }
        self._to.write(json.dumps(shown) + "\n")
        self._to.flush()

    def end(self) -> None:
        pass


def _times(message: Any, *names: str) -> dict[str, str]:
    return {name: getattr(message, name).ToJsonString() for name in names if message.HasField(name)}


def _seconds(start: Any, end: Any) -> float:
    return float(end.seconds - start.seconds + (end.nanos - start.nanos) / 1e9)


def size_of(size: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.2f}{unit}" if unit != "B" else f"{size:.0f}B"
