"""How a build goes, as what the engine tells of it: its steps, what they say, how far transfers are.

It is shown as nothing (quiet), lines of text (plain), lines of JSON (rawjson), or in place on a terminal (screen.py).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
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
    """Lines of text; steps are numbered as they are first told of."""

    def __init__(self, to: TextIO) -> None:
        self._to = to
        self._numbers: dict[str, int] = {}
        self._steps: dict[str, wire.Vertex] = {}
        self._shown = ""
        self._unfinished: dict[str, bytes] = {}
        self._ended: set[str] = set()

    def show(self, response: wire.StatusResponse) -> None:
        said: dict[str, list[str]] = {}  # by step, so that not every line changes between them
        for step in response.vertexes:
            self._begin(step, said)
        for status in response.statuses:
            if status.vertex in self._numbers:
                said.setdefault(status.vertex, []).extend(self._status(status))
        for log in response.logs:
            if log.vertex in self._numbers:
                said.setdefault(log.vertex, []).extend(self._log(log))
        for step in response.vertexes:
            if step.completed.seconds and step.digest in said:
                self._ended.add(step.digest)
                said[step.digest] += self._end(step)
        if said:
            self._to.write("".join(self._grouped(said)))
            self._to.flush()

    def end(self) -> None:
        pass

    def _begin(self, step: wire.Vertex, said: dict[str, list[str]]) -> None:
        self._steps[step.digest] = step
        if step.started.seconds and step.digest not in self._ended:
            if step.digest not in self._numbers or step.completed.seconds:
                said.setdefault(step.digest, [])
            self._numbers.setdefault(step.digest, len(self._numbers) + 1)

    def _grouped(self, said: dict[str, list[str]]) -> Iterator[str]:
        for digest in sorted(said, key=lambda one: one != self._shown):
            lines, number = said[digest], self._numbers[digest]
            if self._shown != digest:
                if self._shown:
                    yield "\n"
                self._shown = digest
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
