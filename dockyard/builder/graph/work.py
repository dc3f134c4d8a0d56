"""A step being made: what it is given, and to whom it talks. Any number of builds may wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dockyard.builder.cache.explanation import INSTRUCTION
from dockyard.builder.cache.records import StepRow
from dockyard.builder.graph.progress import Output, Part, now
from dockyard.builder.graph.vertex import Result, Rootfs, Vertex
from dockyard.engine.images.layer_store import EMPTY, Layer
from dockyard.timestamps import timestamp

if TYPE_CHECKING:
    from dockyard.builder.graph.job import Job


class Flight:
    """A step being made, and who waits for it."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Job, Vertex]] = []
        self.holds: list[str] = []
        self.task: asyncio.Task[tuple[Result, StepRow | None]] | None = None


class Work:
    """What a step is given while it is made."""

    def __init__(self, job: Job, vertex: Vertex, flight: Flight) -> None:
        self.job = job
        self.solver = job.solver
        self.vertex = vertex
        self._flight = flight
        self._parts: dict[str, int] = {}
        self._loop = asyncio.get_running_loop()
        self._last_told = 0.0
        self.told = 0  # bytes of a transfer

    def part_soon(self, name: str, size: int) -> None:
        """Tell how much has been transferred, now and then; from any thread."""
        self.told = size
        moment = time.monotonic()
        if moment - self._last_told > 0.1:
            self._last_told = moment
            self._loop.call_soon_threadsafe(self.part, name, size)

    def say(self, stream: int, data: bytes) -> None:
        """Hand on a piece of output; from the event loop's thread."""
        moment = now()
        for job, vertex in self._flight.waiting:
            job.progress.add(Output(vertex.digest, stream, data, moment))

    def part(self, name: str, current: int = 0, total: int = 0, *, done: bool = False) -> None:
        """Tell how far a part of the step is."""
        moment = now()
        started = self._parts.setdefault(name, moment)
        for job, vertex in self._flight.waiting:
            job.progress.add(Part(vertex.digest, name, current, total, started, moment if done else 0))

    def tree(self, rootfs: Rootfs) -> Any:
        """See Solver.tree."""
        return self.solver.tree(rootfs)

    def keep(self, layer: Layer, base: Rootfs | None = None) -> Rootfs:
        """Take over the hold on a new layer; the root file system with it on top. `base`: what is below, if known."""
        self._flight.holds.append(layer.chain_id)
        below = base if base is not None else self.job.stack(layer.parent)
        own = () if layer.diff_id == EMPTY else (layer.diff_id,)
        return Rootfs((*below.diff_ids, *own), timestamp())


def step_facts(vertex: Vertex, inputs: Sequence[Result]) -> dict[str, str]:
    """What is kept beside a step's result, to say later why it was not found."""
    return {INSTRUCTION: vertex.text or vertex.name.partition("] ")[2], **vertex.facts(inputs)}
