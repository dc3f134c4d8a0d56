"""The keys of `up` on a terminal: a line below what containers write says which there are."""

from __future__ import annotations

import os
import select
import sys
import threading
from typing import TYPE_CHECKING, Any

from dockyard.compose.errors import ComposeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dockyard.compose.run.logs import LogPrinter
    from dockyard.compose.run.watch import Watcher

NOT_CONFIGURED = "Watch → watch is not yet configured. Learn more: https://docs.docker.com/compose/file-watch/"


class Menu:
    """Reads keys while `up` is in the foreground: `w` begins and ends watching, Enter leaves an empty line."""

    def __init__(self, printer: LogPrinter, watcher: Callable[[], Watcher], *, watching: Watcher | None = None) -> None:
        """`watcher` makes what watches, or raises ComposeError when there is nothing to watch."""
        self._printer = printer
        self._make = watcher
        self._watching = watching
        self._note = ""
        self._saved: list[Any] = []
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Menu:
        import termios
        import tty

        self._saved = termios.tcgetattr(0)
        tty.setcbreak(0)  # Ctrl-C and Ctrl-Z are signals as before
        self._printer.below = self.text
        self._printer.refresh()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        import termios

        os.close(self._stop_write)
        self._thread.join()
        os.close(self._stop_read)
        self._printer.settle()
        termios.tcsetattr(0, termios.TCSADRAIN, self._saved)

    def text(self) -> str:
        """The line of the menu."""
        what = "Disable" if self._watching is not None else "Enable"
        return self._note or f"\x1b[36;1;4mw\x1b[0m\x1b[2m {what} Watch\x1b[0m"

    def _read(self) -> None:
        while True:
            ready, _, _ = select.select([0, self._stop_read], [], [])
            if self._stop_read in ready:
                return
            keys = os.read(0, 64)
            if not keys:
                return
            for key in keys.decode(errors="replace"):
                self._key(key)
            self._printer.refresh()

    def _key(self, key: str) -> None:
        self._note = ""
        if key in "wW":
            self._toggle()
        elif key in "\r\n":
            self._printer.empty_line()

    def _toggle(self) -> None:
        if self._watching is not None:
            self._watching.stop()
            self._watching = None
            return
        try:
            watcher = self._make()
        except ComposeError:
            self._note = NOT_CONFIGURED
            return
        self._watching = watcher
        watcher.begin()()


def wanted(given: bool | None, mode: str) -> bool:
    """Whether there is to be one: as --menu or COMPOSE_MENU say, else where both ends are a terminal."""
    if mode not in ("", "auto", "tty") or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    if given is not None:
        return given
    text = os.environ.get("COMPOSE_MENU", "")
    return text.lower() in ("1", "t", "true", "y", "yes") if text else True
