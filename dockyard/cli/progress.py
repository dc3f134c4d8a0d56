"""The stream of JSON messages that pull, push, load, import and build answer with, shown as Docker shows it."""

from __future__ import annotations

import os
import sys

from dockyard.cli import output
from dockyard.cli.errors import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, TextIO

BAR = 50


def show(
    messages: Iterable[dict[str, Any]], to: TextIO | None = None, *, quiet: bool = False, code: int = 1
) -> list[Any]:
    """Show the messages as they arrive; the `aux` values among them. Raises Failure with `code` for an error message.

    On a terminal each layer keeps a line of its own with a bar; elsewhere a line is printed for every change.
    """
    to = to or sys.stdout
    screen = _Screen(to) if to.isatty() and not quiet else None
    found = []
    for message in messages:
        if message.get("aux") is not None:
            found.append(message["aux"])
        error = message.get("errorDetail") or ({"message": message["error"]} if message.get("error") else None)
        if error:
            raise Failure(str(error.get("message", "")), error.get("code") or code)
        if quiet:
            continue
        if "stream" in message:
            to.write(message["stream"])
            to.flush()
        elif "status" in message:
            _status(message, screen, to)
    return found


def _status(message: dict[str, Any], screen: _Screen | None, to: TextIO) -> None:
    detail = message.get("progressDetail")
    layer, text = message.get("id", ""), message["status"]
    if screen is not None and layer and detail is not None:
        screen.line(layer, f"{layer}: {text} {bar(detail)}")
    elif not (detail or {}).get("current"):
        if screen is not None:
            screen.leave()
        to.write(f"{layer}: {text}\n" if layer else f"{text}\n")
        to.flush()


def bar(detail: dict[str, int]) -> str:
    """`[=====>      ]  1.2MB/3MB`."""
    current, total = detail.get("current", 0), detail.get("total", 0)
    if current <= 0:
        return ""
    if total <= 0 or current > total:
        return f"{output.size(current, 4):>8}"
    done = min(int(current * BAR / total), BAR)
    drawn = "=" * done + (">" if done < BAR else "") + " " * (BAR - done - 1)
    drawn = f"[{drawn}]  " if _columns() > 110 else ""
    return f"{drawn}{output.size(current, 4):>8}/{output.size(total, 4)}"


def _columns() -> int:
    try:
        return os.get_terminal_size(1).columns
    except OSError:
        return 80


class _Screen:
    """Lines that change in place, each found by its key."""

    def __init__(self, to: TextIO) -> None:
        self._to = to
        self._rows: dict[str, int] = {}

    def line(self, key: str, text: str) -> None:
        """Write the line `key`, below the others when it is new."""
        if key not in self._rows:
            self._rows[key] = len(self._rows)
            self._to.write("\n")
        up = len(self._rows) - self._rows[key]
        self._to.write(f"\x1b[{up}A\x1b[2K\r{text}\r\x1b[{up}B")
        self._to.flush()

    def leave(self) -> None:
        """What follows is not one of these lines."""
        self._rows.clear()
