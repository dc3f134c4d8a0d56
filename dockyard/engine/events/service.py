"""What happened, told to whoever listens: the source of `docker events`."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from dockyard.errors import SystemFailure

# Docker keeps the last 256 events for `--since` (moby daemon/events).
REMEMBERED = 256
# A listener that lets more than this pile up is cut off, and told, rather than let it grow without bound.
BACKLOG = 16384


class Lagging(SystemFailure):
    """A listener has not kept up: events are missing from here on."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one object; `time_ns` is UNIX time in nanoseconds."""

    type: str
    action: str
    actor_id: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    time_ns: int = 0
    scope: str = "local"


class Events:
    """Emits events to any number of subscribers and remembers the latest of them."""

    def __init__(self) -> None:
        self._recent: deque[Event] = deque(maxlen=REMEMBERED)
        self._queues: set[asyncio.Queue[Event | Lagging | None]] = set()

    def emit(self, type: str, action: str, actor_id: str, attributes: Mapping[str, str] | None = None) -> None:
        """Tell every subscriber that `action` happened to the object `actor_id` of kind `type`; never blocks."""
        event = Event(type, action, actor_id, dict(attributes or {}), time.time_ns())
        self._recent.append(event)
        for queue in list(self._queues):
            if queue.qsize() >= BACKLOG:
                self._queues.discard(queue)
                queue.put_nowait(Lagging(f"more than {BACKLOG} events wait for this listener"))
            else:
                queue.put_nowait(event)

    async def subscribe(
        self,
        matches: Callable[[Event], bool] = lambda event: True,
        since_ns: int | None = None,
        until_ns: int | None = None,
    ) -> AsyncIterator[Event]:
        """Yield past events from `since_ns` on, then new ones up to `until_ns` (both UNIX ns; None: none, for ever).

        With an end and no beginning, all remembered events come first (moby daemon/events, loadBufferedEvents).
        Raises Lagging when the subscriber is `BACKLOG` events behind.
        """
        queue: asyncio.Queue[Event | Lagging | None] = asyncio.Queue()
        self._queues.add(queue)
        try:
            if since_ns is not None or until_ns is not None:
                for event in list(self._recent):
                    if (
                        event.time_ns >= (since_ns or 0)
                        and (until_ns is None or event.time_ns <= until_ns)
                        and matches(event)
                    ):
                        yield event
            while True:
                if until_ns is None:
                    received = await queue.get()
                else:
                    left = (until_ns - time.time_ns()) / 1e9
                    try:
                        received = await asyncio.wait_for(queue.get(), left) if left > 0 else queue.get_nowait()
                    except (TimeoutError, asyncio.QueueEmpty):
                        return
                if received is None:
                    return
                if isinstance(received, Lagging):
                    raise received
                if until_ns is not None and received.time_ns > until_ns:
                    return
                if matches(received):
                    yield received
        finally:
            self._queues.discard(queue)

    @property
    def listeners(self) -> int:
        """How many subscriptions there are."""
        return len(self._queues)

    def end(self) -> None:
        """End every subscription; called when the daemon stops."""
        for queue in self._queues:
            queue.put_nowait(None)
        self._queues.clear()
