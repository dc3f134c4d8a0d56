"""How long faults of a registry are waited out: one that is overloaded or restarts is asked again for a minute."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# what a registry answers while it cannot do what it could a moment later
PASSING = frozenset({408, 429, 500, 502, 503, 504})
Tell = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds to wait before each further try; as many tries as there are waits. `longest` bounds a Retry-After."""

    waits: tuple[float, ...] = (0.5, 1, 2, 4, 8, 15, 15, 15)
    longest: float = 60

    @classmethod
    def of(cls, attempts: int) -> Patience:
        """That of so many tries in all."""
        waits = cls().waits
        return cls((*waits, *[waits[-1]] * attempts)[: attempts - 1])

    def begin(self, tell: Tell = lambda seconds: None) -> Tries:
        """The tries of one piece of work; `tell` hears of each wait, in seconds."""
        return Tries(self, tell)


class Tries:
    """Counts the faults of one piece of work."""

    def __init__(self, patience: Patience, tell: Tell) -> None:
        self._patience = patience
        self._tell = tell
        self._faults = 0

    def progress(self) -> None:
        """Something was achieved: faults are counted anew."""
        self._faults = 0

    async def again(self, retry_after: str = "") -> bool:
        """Wait for the next try; False when there is none left. `retry_after`: that header, if there was one."""
        if self._faults >= len(self._patience.waits):
            return False
        wait = self._patience.waits[self._faults]
        self._faults += 1
        # not all clients of a registry that was away shall come back in the same moment
        wait = max(wait * random.uniform(0.8, 1.2), min(seconds(retry_after), self._patience.longest))
        self._tell(wait)
        await asyncio.sleep(wait)
        return True


def seconds(retry_after: str) -> float:
    """A Retry-After header as seconds from now: it holds some, or a date (RFC 9110, 10.2.3); 0 for what is neither."""
    if retry_after.isdigit():
        return float(retry_after)
    try:
        moment = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0
    return max((moment - datetime.now(UTC)).total_seconds(), 0) if moment.tzinfo is not None else 0
