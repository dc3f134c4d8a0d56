"""The descriptors made for a process's streams: the process's ends, and ours."""

import fcntl
import os
import struct
import termios

from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.lifecycle.container import Stdio


class Ends:
    """Pipes, or what a terminal will be.

    `stdio` is for the process, None with a terminal, which the runtime makes. Ours: `sources` maps what to read from to
    the stream's number (a terminal is stream 1), `stdin` is what to write to or -1.
    """

    def __init__(self, terminal: bool, open_stdin: bool, *, discard: bool = False) -> None:
        """`discard`: nobody will want the output."""
        self.stdio: Stdio | None = None
        self.sources: dict[int, int] = {}
        self.stdin = -1
        self._theirs: list[int] = []
        self._terminal = terminal
        self._open_stdin = open_stdin
        if terminal:
            return
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._theirs.append(null)
        stdin = stdout = stderr = null
        if open_stdin:
            stdin, self.stdin = os.pipe()
            self._theirs.append(stdin)
        if not discard:
            ours, stdout = os.pipe()
            self.sources[ours] = 1
            ours_too, stderr = os.pipe()
            self.sources[ours_too] = 2
            self._theirs += (stdout, stderr)
        self.stdio = Stdio(stdin, stdout, stderr)

    def settle(self, console: int | None) -> None:
        """The process has its ends: close them here; `console` is the master of its terminal."""
        self._close_theirs()
        if self._terminal:
            if console is None:
                raise RuntimeFailure("the runtime gave no terminal")
            self.sources = {console: 1}
            # a second descriptor, so that reading and writing are watched apart
            self.stdin = os.dup(console) if self._open_stdin else -1

    def abandon(self) -> None:
        """Close everything."""
        self._close_theirs()
        for fd in (self.stdin, *self.sources):
            if fd >= 0:
                os.close(fd)
        self.stdin = -1
        self.sources = {}

    def _close_theirs(self) -> None:
        for fd in self._theirs:
            os.close(fd)
        self._theirs = []


def resize(terminal: int, height: int, width: int) -> None:
    """Set a terminal's size in characters. Raises OSError when it is none."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
