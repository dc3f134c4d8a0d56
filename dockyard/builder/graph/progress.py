"""How a build goes, as events: which step has begun and ended, what it has said, how far a transfer is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

LOG_LIMIT = 2 << 20  # bytes of one step's output that are kept for who looks (BuildKit, defaultMaxLogSize)
TOGETHER = 0.005  # s for which events wait for more of them: a message for each would cost both sides more than they do
CLIPPED = b"\n[output clipped, log limit 2MiB reached]\n"


@dataclass(frozen=True, slots=True)
class Step:
    """A vertex as it is shown; times are UNIX ns, 0: not yet."""

    digest: str
    name: str
    inputs: tuple[str, ...] = ()
    cached: bool = False
    started: int = 0
    completed: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of a step's output; `stream` 1 or 2."""

    digest: str
    stream: int
    data: bytes
    time: int


@dataclass(frozen=True, slots=True)
class Part:
    """How far a part of a step is: a transfer, a layer."""

    digest: str
    id: str
    current: int
    total: int
    started: int
    completed: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a build check has found; `line` counts from 1, 0: nowhere; `end` is the last one."""

    digest: str
    short: str
    detail: str
    url: str
    line: int
    end: int
    file: str
    source: bytes


Event = Step | Output | Part | Finding


class Progress:
    """The events of one build, for any number of onlookers, each of which sees all of them from the beginning."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ended = False
        self._sizes: dict[str, int] = {}
        self._changed: set[asyncio.Event] = set()
        self._ending = asyncio.Event()

    def add(self, event: Event) -> None:
        """Tell something; from the event loop's thread."""
        if self.ended:
            return
        if isinstance(event, Output):
            said = self._sizes.get(event.digest, 0)
            if said >= LOG_LIMIT:
                return
            self._sizes[event.digest] = said + len(event.data)
            if said + len(event.data) >= LOG_LIMIT:
                event = replace(event, data=event.data[: LOG_LIMIT - said] + CLIPPED)
        self.events.append(event)
        for changed in self._changed:
            changed.set()

    def end(self) -> None:
        """Nothing more comes."""
        self.ended = True
        self._ending.set()
        for changed in self._changed:
            changed.set()

    async def follow(self) -> AsyncIterator[Sequence[Event]]:
        """All events, in batches as they come, to the end."""
        position = 0
        changed = asyncio.Event()
        self._changed.add(changed)
        try:
            while True:
                changed.clear()
                batch = self.events[position:]
                position += len(batch)
                if batch:
                    yield batch
                elif self.ended:
                    return
                else:
                    await changed.wait()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._ending.wait(), TOGETHER)
        finally:
            self._changed.discard(changed)


def now() -> int:
    """The time of an event, UNIX ns."""
    return time.time_ns()
