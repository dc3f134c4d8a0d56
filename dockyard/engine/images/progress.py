"""The progress messages of pull, push, load and import, in the words that Docker's clients know."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Send = Callable[[dict[str, Any]], None]

# A bar that is redrawn more often than this shows nothing new; moby sends at most ten a second.
INTERVAL = 0.1


class Progress:
    """Sends progress messages to one client."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._sent: dict[str, float] = {}

    def status(self, text: str, id: str | None = None) -> None:
        """A line of text, with the ID of what it is about in front when given."""
        self._send({"status": text} if id is None else {"status": text, "id": id})

    def stage(self, text: str, id: str) -> None:
        """Layer `id` has come to the stage `text`."""
        self._sent.pop(id, None)
        self._send({"status": text, "progressDetail": {}, "id": id})

    def bar(self, text: str, id: str, current: int, total: int, *, final: bool = False) -> None:
        """Layer `id` is at `current` of `total` bytes (0: nobody knows); sent now and then."""
        now = time.monotonic()
        if not final and now - self._sent.get(id, 0.0) < INTERVAL:
            return
        self._sent[id] = now
        detail = {"current": current} | ({"total": total} if total else {})
        self._send({"status": text, "progressDetail": detail, "progress": draw(current, total), "id": id})

    def retry(self, wait: float, short: str) -> None:
        """A fault of the registry's is waited out for `wait` seconds."""
        whole = max(round(wait), 1)
        self.stage(f"Retrying in {whole} second{'s' if whole > 1 else ''}", short)

    def aux(self, value: Any) -> None:
        """Something for programs, not for people."""
        self._send({"progressDetail": {}, "aux": value})

    def stream(self, text: str) -> None:
        """Plain output, with its own line ends."""
        self._send({"stream": text})


def draw(current: int, total: int) -> str:
    """The bar as clients show it that cannot draw one: [====>      ]  1.2MB/3MB."""
    if total <= 0:
        return f"{human_size(current):>8}"
    current = min(current, total)
    percentage = current * 50 // total
    bar = "=" * percentage + ">" + " " * (50 - percentage) if percentage < 50 else "=" * 50 + ">"
    return f"[{bar}]  {human_size(current):>8}/{human_size(total)}"


def human_size(size: float) -> str:
    """Bytes with four significant digits, in powers of 1000: 1.234MB."""
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    index = 0
    while size >= 1000 and index < len(units) - 1:
        size /= 1000
        index += 1
    return f"{size:.4g}{units[index]}"
