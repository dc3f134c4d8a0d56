"""A process watched from the command line: its output passed on, its input and our signals passed in, its end awaited.

Without a terminal its streams are pipes, never ours themselves: a program that had our terminal could type into it
(TIOCSTI). With one, ours goes to raw mode and follows in size.
"""

import fcntl
import os
import select
import signal
import termios
from collections.abc import Callable
from typing import Any

from dockyard.linux import syscalls
from dockyard.runtime.lifecycle.container import Started, Stdio

CHUNK = 1 << 16
NOT_FORWARDED = (signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG, signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE)


class Foreground:
    """Made before the process, since what it gets as stdio is made here; then `watch`."""

    def __init__(self, *, terminal: bool, subreaper: bool = False, forward_input: bool = True) -> None:
        self._forward_input = forward_input
        self.stdio: Stdio | None = None
        self._theirs: list[int] = []
        self._sources: dict[int, int] = {}  # where output comes from -> where it goes
        self._input = -1
        self._host_terminal = _own_terminal() if terminal else -1
        self._master = -1
        self._pending = b""
        self._others: dict[int, Callable[[], object]] = {}
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        if subreaper:
            syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        self._listen()
        if not terminal:
            self._make_pipes()

    def _listen(self) -> None:
        """Every signal as a byte in a pipe from now on; none may kill us while the container lives."""
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        for number in signal.valid_signals():
            if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGURG):
                try:
                    signal.signal(number, lambda *_: None)
                except (OSError, ValueError):
                    continue

    def _make_pipes(self) -> None:
        stdin, self._input = os.pipe2(os.O_CLOEXEC)
        out, stdout = os.pipe2(os.O_CLOEXEC)
        err, stderr = os.pipe2(os.O_CLOEXEC)
        self._theirs = [stdin, stdout, stderr]
        self._sources = {out: 1, err: 2}
        self.stdio = Stdio(stdin, stdout, stderr)
        os.set_blocking(self._input, False)

    def give_to(self, uid: int, gid: int) -> None:
        """Make the pipes belong to the container's root, so that it may reopen /dev/stdout."""
        for fd in self._theirs:
            os.fchown(fd, uid, gid)

    def watch(self, process: Started, on_end: Callable[[], None]) -> int:
        """Serve the process until it has ended and everything it wrote is passed on; returns its exit status.

        `on_end` is called between the two: it ends what else holds the streams open.
        """
        for fd in self._theirs:
            os.close(fd)
        saved = _make_raw(self._host_terminal) if self._host_terminal >= 0 else None
        try:
            status = self._serve(process)
            on_end()
            self._drain()
            return status
        finally:
            if saved is not None:
                termios.tcsetattr(self._host_terminal, termios.TCSADRAIN, saved)

    def also(self, fd: int, act: Callable[[], object]) -> None:
        """Call `act` when `fd` is readable; an OSError of it is the last."""
        self._others[fd] = act

    def prepare_terminal(self, master: int) -> None:
        """Set up the process's new terminal before anything is written there."""
        attributes = termios.tcgetattr(master)
        attributes[1] &= ~termios.ONLCR  # ours does that already
        termios.tcsetattr(master, termios.TCSANOW, attributes)
        os.set_blocking(master, False)
        self._master = self._input = master
        self._sources = {master: 1}
        self._resize()

    def _resize(self) -> None:
        if self._master >= 0 and self._host_terminal >= 0:
            try:
                size = fcntl.ioctl(self._host_terminal, termios.TIOCGWINSZ, b"\0" * 8)
                fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
            except OSError:
                pass  # the terminal is gone

    def _serve(self, process: Started) -> int:
        poll = self._poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(process.pidfd, select.POLLIN)
        for source in (*self._sources, *self._others):
            poll.register(source, select.POLLIN)
        if self._forward_input:
            self._read_input(True)
        elif self._master < 0:
            self._close_input()
        while True:
            ended = False
            for fd, events in poll.poll():
                if fd == self._wake:
                    self._on_signals(process)
                elif fd == process.pidfd:
                    ended = True
                elif fd in self._others:
                    self._serve_other(fd)
                elif fd in self._sources and events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    self._pass_on(fd)
                if fd == 0:
                    self._take_input()
                elif fd == self._input and events & (select.POLLOUT | select.POLLERR | select.POLLHUP):
                    self._feed()
            if ended:
                _, status = os.waitpid(process.pid, 0)
                return exit_status(status)

    def _serve_other(self, fd: int) -> None:
        try:
            self._others[fd]()
        except OSError:  # who was to be told is gone
            self._poll.unregister(fd)

    def _on_signals(self, process: Started) -> None:
        for number in os.read(self._wake, 4096):
            if number == signal.SIGCHLD:
                self._reap(process.pid)
            elif number == signal.SIGWINCH:
                self._resize()
            elif number not in NOT_FORWARDED:
                try:
                    signal.pidfd_send_signal(process.pidfd, number)
                except OSError:
                    pass  # it has just ended

    @staticmethod
    def _reap(spare: int) -> None:
        """Take the exit statuses of orphans that came to us as their subreaper, not that of the process watched."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if found is None or found.si_pid == spare:
                    return
                os.waitpid(found.si_pid, os.WNOHANG)
            except ChildProcessError:
                return

    def _pass_on(self, source: int) -> None:
        try:
            data = os.read(source, CHUNK)
        except BlockingIOError:
            return
        except OSError:  # EIO: the terminal's other end is closed
            data = b""
        if not data:
            self._forget(source)
            return
        try:
            write_all(self._sources[source], data)
        except OSError:
            self._forget(source)

    def _forget(self, source: int) -> None:
        self._poll.unregister(source)
        del self._sources[source]
        if source != self._input:
            os.close(source)

    def _read_input(self, wanted: bool) -> None:
        try:
            if wanted:
                self._poll.register(0, select.POLLIN)
            else:
                self._poll.unregister(0)
        except (OSError, KeyError):
            pass

    def _take_input(self) -> None:
        self._read_input(False)
        try:
            self._pending = os.read(0, CHUNK)
        except OSError:
            self._pending = b""
        if self._pending:
            self._feed()
        elif self._master < 0:
            self._close_input()

    def _feed(self) -> None:
        try:
            self._pending = self._pending[os.write(self._input, self._pending) :] if self._pending else b""
        except BlockingIOError:
            pass
        except OSError:
            self._pending = b""
            if self._master < 0:
                self._close_input()
            return
        source = select.POLLIN if self._input in self._sources else 0
        if self._pending:
            self._poll.register(self._input, select.POLLOUT | source)
            return
        if source:
            self._poll.register(self._input, source)
        else:
            try:
                self._poll.unregister(self._input)
            except KeyError:
                pass
        self._read_input(True)

    def _close_input(self) -> None:
        try:
            self._poll.unregister(self._input)
        except KeyError:
            pass
        os.close(self._input)
        self._input = -1

    def _drain(self) -> None:
        for source in list(self._sources):
            while source in self._sources:
                if self._master >= 0 and not select.select([source], [], [], 0)[0]:
                    break
                self._pass_on(source)


def exit_status(status: int) -> int:
    """A wait status as a shell tells it: 128 and the signal for a process that was killed."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def write_all(fd: int, data: bytes) -> None:
    """Write everything, also to a descriptor in non-blocking mode. Raises OSError."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            select.select([], [fd], [])


def _own_terminal() -> int:
    """The terminal we are on: of stderr, stdout or stdin, or else the controlling one. Raises OSError."""
    for fd in (2, 1, 0):
        if os.isatty(fd):
            return fd
    return os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)


def _make_raw(fd: int) -> list[Any]:
    import tty

    saved = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSANOW)
    raw = termios.tcgetattr(fd)
    raw[1] = saved[1]  # output as before: it makes the line ends that the container's terminal does not
    termios.tcsetattr(fd, termios.TCSANOW, raw)
    return saved
