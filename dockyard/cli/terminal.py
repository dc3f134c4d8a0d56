"""The user's side of a container's streams: raw terminal, resize, signals, and moving bytes both ways."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` makes enumerations first, which takes 2 ms
import os
import select
import sys

from dockyard.cli.session import path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable, Iterator

    from dockyard.cli.session import Session
    from dockyard.client.http import Response

CHUNK = 1 << 17
SHUT_WR = 1
HEADER = 8  # Docker's stdcopy frame: stream (1 or 2), three zeros, big-endian length
PROXIED = ("HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "TERM", "CONT", "WINCH", "XCPU", "VTALRM", "PROF", "IO", "PWR")


class RawTerminal:
    """While entered, the terminal on `fd` gives every key as it is pressed and changes no output."""

    def __init__(self, fd: int, *, wanted: bool = True) -> None:
        self._fd = fd
        self._wanted = wanted and os.isatty(fd)
        self._saved: list[object] = []

    def __enter__(self) -> RawTerminal:
        if self._wanted:
            import termios
            import tty

            self._saved = termios.tcgetattr(self._fd)
            tty.setraw(self._fd, termios.TCSANOW)
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved:
            import termios

            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)  # type: ignore[arg-type]  # as tcgetattr gave it


def window_size() -> tuple[int, int]:
    """Rows and columns of the terminal we are on, or 0, 0."""
    for fd in (1, 0, 2):
        try:
            columns, rows = os.get_terminal_size(fd)
            return rows, columns
        except OSError:
            continue
    return 0, 0


def on_resize(tell: Callable[[int, int], None]) -> None:
    """Call `tell(rows, columns)` whenever the window changes."""
    _signal.signal(_signal.SIGWINCH, lambda *_: tell(*window_size()))


def proxy_signals(send: Callable[[str], None]) -> None:
    """Pass the signals that we get on, by name."""
    names = {int(getattr(_signal, "SIG" + name)): name for name in PROXIED}
    for number in names:
        _signal.signal(number, lambda number, _: send(names[number]))


def move(peer: socket, early: bytes, *, stdin: int | None, framed: bool, stdout: int = 1, stderr: int = 2) -> None:
    """Copy between us and a hijacked connection until the container's side ends.

    `framed` output carries both streams; otherwise all goes to `stdout`. The end of `stdin` half-closes the
    connection. Neither direction waits for the other.
    """
    output = _Demultiplexer(stdout, stderr).feed if framed else lambda data: write_all(stdout, data)
    output(early)
    peer.setblocking(False)
    poll = select.poll()
    poll.register(peer, select.POLLIN)
    if stdin is not None:
        poll.register(stdin, select.POLLIN)
    pending = memoryview(b"")
    while True:
        for fd, _ in poll.poll():
            if fd == stdin:
                data = _read(fd)
                pending = memoryview(data)
                poll.unregister(fd)  # until the engine has taken this, nothing more is read
                if not data:
                    stdin = None
                    _half_close(peer)
            if fd == peer.fileno():
                for data in _arrived(peer):
                    if not data:
                        return
                    output(data)
        if pending:
            pending = _send(peer, pending)
            poll.modify(peer, select.POLLIN | (select.POLLOUT if pending else 0))
            if stdin is not None and not pending:
                poll.register(stdin, select.POLLIN)


def detached(session: Session, container: str, ended: Response) -> bool:
    """Whether a stream has ended by the detach keys: its container's process lives on, of whose end `ended` would tell.

    The container's state does not say so at once: it counts as running until all that it held is given back. A process
    that has ended has no terminal to be resized.
    """
    if ended.arrived(0.2):
        return False
    rows, columns = window_size()
    place = path("/containers", container, "/resize", h=rows, w=columns)
    return session.api.request("POST", place, check=False).status == 200


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, CHUNK)
    except OSError:
        return b""


def _arrived(peer: socket) -> Iterator[bytes]:
    try:
        yield peer.recv(CHUNK)
    except BlockingIOError:
        return
    except ConnectionResetError:
        yield b""


def _send(peer: socket, data: memoryview) -> memoryview:
    try:
        return data[peer.send(data) :]
    except BlockingIOError:
        return data
    except OSError:
        return memoryview(b"")  # the container takes no more input


def _half_close(peer: socket) -> None:
    try:
        peer.shutdown(SHUT_WR)
    except OSError:
        pass  # the other side was quicker


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write everything, to a pipe or terminal that may be in non-blocking mode too."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            select.select([], [fd], [])


class _Demultiplexer:
    """Frames in, each stream's bytes out."""

    def __init__(self, stdout: int, stderr: int) -> None:
        self._fds = {1: stdout, 2: stderr, 3: 2}
        self._head = b""
        self._fd = stdout
        self._left = 0

    def feed(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if not self._left:
                missing = HEADER - len(self._head)
                self._head += bytes(view[:missing])
                view = view[missing:]
                if len(self._head) < HEADER:
                    return
                self._fd = self._fds.get(self._head[0], 1)
                self._left = int.from_bytes(self._head[4:], "big")
                self._head = b""
                continue
            part = view[: self._left]
            write_all(self._fd, part)
            self._left -= len(part)
            view = view[len(part) :]


def copy_output(pieces: Iterator[bytes], *, framed: bool) -> None:
    """Write a streamed body (logs) to stdout and stderr."""
    output = _Demultiplexer(1, 2).feed if framed else lambda data: write_all(1, data)
    sys.stdout.flush()
    for piece in pieces:
        output(piece)
