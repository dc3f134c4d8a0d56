"""The events of a build as lines of text, as BuildKit's clients print them where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dockyard.builder.graph.progress import Event, Output, Part, Step


class PlainProgress:
    """Turns events into text; steps are numbered as they are first told of."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._steps: dict[str, Step] = {}
        self._shown = ""
        self._unfinished: dict[str, bytes] = {}

    def text(self, events: Iterable[Event]) -> str:
        """What to print of a batch of events."""
        return "".join(line for event in events for line in self._lines(event))

    def _lines(self, event: Event) -> Iterator[str]:
        if isinstance(event, Step):
            yield from self._step(event)
        elif isinstance(event, Output):
            yield from self._output(event)
        elif isinstance(event, Part) and event.completed and event.digest in self._steps:
            size = f" {_size(event.current)}" if event.current else ""
            yield from self._head(event.digest)
            yield f"#{self._numbers[event.digest]} {event.id}{size} done\n"

    def _head(self, digest: str) -> Iterator[str]:
        if self._shown != digest:
            if self._shown:
                yield "\n"
            self._shown = digest
            yield f"#{self._numbers[digest]} {self._steps[digest].name}\n"

    def _step(self, step: Step) -> Iterator[str]:
        self._steps[step.digest] = step
        if not step.started:
            return
        self._numbers.setdefault(step.digest, len(self._numbers) + 1)
        yield from self._head(step.digest)
        if not step.completed:
            return
        number = self._numbers[step.digest]
        rest = self._unfinished.pop(step.digest, b"")
        if rest:
            yield f"#{number} {rest.decode(errors='replace')}\n"
        if step.error == "context canceled":
            yield f"#{number} CANCELED\n"
        elif step.error:
            yield f"#{number} ERROR: {step.error}\n"
        elif step.cached:
            yield f"#{number} CACHED\n"
        else:
            yield f"#{number} DONE {(step.completed - step.started) / 1e9:.1f}s\n"

    def _output(self, output: Output) -> Iterator[str]:
        step = self._steps.get(output.digest)
        if step is None or output.digest not in self._numbers:
            return
        *lines, rest = (self._unfinished.pop(output.digest, b"") + output.data).split(b"\n")
        if rest:
            self._unfinished[output.digest] = rest
        if lines:
            yield from self._head(output.digest)
        moment = max(output.time - step.started, 0) / 1e9
        for line in lines:
            yield f"#{self._numbers[output.digest]} {moment:.3f} {line.decode(errors='replace')}\n"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.4g}{unit}"
