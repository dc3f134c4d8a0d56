"""A process's stdin, stdout and stderr: read once, given to the log and to every attached client.

All descriptors are non-blocking and served by one epoll loop. A client that does not keep up has its output kept for
it: BACKLOG bytes in memory, then as much as an Overflow holds on disk. When that is full, or the disk is, the process
is no longer read from until the client has caught up. For a client that the process is to wait for (who ran it in the
foreground, or the exec) nothing is kept beyond the backlog. Nothing is lost either way. In the same way it waits for a
log that is full, because a log server does not take what is there.
"""

import contextlib
import os
import select
import socket
import struct
from collections.abc import Callable

from dockyard.shim import ends
from dockyard.shim.log_writer import Log
from dockyard.shim.overflow import MOST, Overflow

BACKLOG = 1 << 20
CHUNK = 1 << 16
_FRAME = struct.Struct(">BxxxL")

Handler = Callable[[int], None]


class Loop:
    """Which descriptor is whose: an epoll set and a handler for each, called with the events."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.handlers: dict[int, Handler] = {}

    def add(self, fd: int, events: int, handler: Handler) -> None:
        """Call `handler` on `events`, and on EPOLLERR and EPOLLHUP."""
        self.handlers[fd] = handler
        self.epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """Watch for other events."""
        self.epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Stop watching; before the descriptor is closed."""
        if self.handlers.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def run_once(self, timeout: float) -> None:
        """Wait up to `timeout` seconds (-1: for ever) and handle what has happened."""
        for fd, events in self.epoll.poll(timeout):
            handler = self.handlers.get(fd)
            if handler is not None:  # an earlier one of this round may have removed it
                handler(events)


class Client:
    """One attachment. `on_end(reason)` is called once: "exited", "detached" or "gone"."""

    def __init__(
        self,
        streams: "Streams",
        fd: int,
        *,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        raw: bool,
        detach_keys: bytes,
        on_end: Callable[[str], None],
        blocking: bool = False,
        held: bool = False,
        number: int = 0,
    ) -> None:
        """`blocking`: the process waits for this client, else what it lags behind waits on disk first. `held`: it gets
        nothing until `release`. `number`: the daemon's name for it.
        """
        self.streams = streams
        self.blocking = blocking
        self.held = held
        self.number = number
        self.overflow: Overflow | None = None
        self.socket = socket.socket(fileno=fd)
        self.socket.setblocking(False)
        self.fd = fd
        self.stdin = stdin
        self.wanted = (False, stdout, stderr)
        self.raw = raw
        self.keys = DetachKeys(detach_keys) if detach_keys and streams.terminal and stdin else None
        self.backlog = bytearray()
        self._unwritten = bytearray()  # what the disk has no room for; comes after the overflow
        self.on_end = on_end
        self.reading = stdin
        self.parked = False  # out of the loop: gone, but with input left that the process has no room for
        self.closing = ""  # why, once nothing but the backlog is left to do
        streams.loop.add(fd, select.EPOLLIN if stdin else 0, self._ready)

    def send(self, stream: int, data: bytes) -> None:
        """Write a piece of a stream, or keep it until the client has read what came before."""
        if not self.wanted[stream] or self.closing:
            return
        pieces = [data] if self.raw else [_FRAME.pack(stream, len(data)), data]
        sent = 0
        if not self.backlog and not self.held:
            try:
                sent = self.socket.sendmsg(pieces, (), socket.MSG_NOSIGNAL)
            except BlockingIOError:
                pass
            except OSError:
                self.end("gone")
                return
            total = len(data) if self.raw else len(data) + _FRAME.size
            if sent == total:
                return
        self._keep(b"".join(pieces)[sent:] if sent or not self.raw else data)

    def _keep(self, data: bytes) -> None:
        """Keep it until the client has read what came before."""
        first = self.overflow is None and not self._unwritten
        if first and (self.blocking or len(self.backlog) + len(data) <= BACKLOG):
            self.backlog += data
            self._watch()
            return
        if first:
            with contextlib.suppress(OSError):
                self.overflow = Overflow(self.streams.log.folder)
        if self.overflow is not None and not self._unwritten:
            data = data[self.overflow.put(data) :]
        self._unwritten += data

    @property
    def is_behind(self) -> bool:
        """Whether more is kept for it than may be: the process has to wait."""
        kept = len(self.overflow) if self.overflow is not None else 0
        return bool(self._unwritten) or kept > MOST or (self.blocking and len(self.backlog) > BACKLOG)

    @property
    def has_caught_up(self) -> bool:
        """Whether the process may go on after it has waited."""
        kept = len(self.overflow) if self.overflow is not None else 0
        return not self._unwritten and kept <= MOST // 2 and not (self.blocking and len(self.backlog) > BACKLOG // 2)

    def release(self) -> None:
        """What came first has been told by others: go on with what has been kept."""
        self.held = False
        self._watch()
        if self.closing and not self.backlog:
            self.end(self.closing)

    def finish(self, reason: str) -> None:
        """End once the backlog is written."""
        if not self.closing:
            self.closing = reason
            if self.backlog or self.held:
                self._watch()
            else:
                self.end(reason)

    def end(self, reason: str) -> None:
        """Close the connection now. What the client has sent meanwhile is taken, lest it see a reset."""
        if self.fd < 0:
            return
        self.streams.loop.remove(self.fd)
        self.fd = -1
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
            while self.socket.recv(CHUNK):
                pass
        except OSError:
            pass
        self.socket.close()
        self._drop_output()
        self.streams.forget(self)
        self.on_end(reason)

    def _drop_output(self) -> None:
        self.backlog, self._unwritten = bytearray(), bytearray()
        if self.overflow is not None:
            self.overflow.close()
            self.overflow = None

    def watch_stdin(self, wanted: bool) -> None:
        """Read on from the client, or let it wait until the process has taken what there is."""
        if self.reading is not wanted and self.stdin and self.fd >= 0:
            self.reading = wanted
            self._watch()

    def _watch(self) -> None:
        reading = self.reading and self.stdin and not self.closing
        events = (select.EPOLLIN if reading else 0) | (select.EPOLLOUT if self.backlog and not self.held else 0)
        if self.parked:
            self.parked = False
            self.streams.loop.add(self.fd, events, self._ready)
        else:
            self.streams.loop.change(self.fd, events)

    def _ready(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._drain()
        if self.fd >= 0 and events & select.EPOLLIN and self.reading and not self.closing:
            self._receive()
        elif self.fd >= 0 and events & (select.EPOLLHUP | select.EPOLLERR):
            if self.stdin and not self.closing and not events & select.EPOLLERR:
                self.streams.loop.remove(self.fd)
                self.parked = True
                self.wanted = (False, False, False)  # nobody reads any more, and nobody may wait for that
                self._drop_output()
                self.streams.relieved()
            else:
                self.end("gone")

    def _drain(self) -> None:
        try:
            sent = self.socket.send(self.backlog, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        except OSError:
            self.end("gone")
            return
        del self.backlog[:sent]
        if not self.backlog and self.overflow is not None:
            try:
                self.backlog += self.overflow.take(BACKLOG)
            except OSError:  # the disk has lost it: the client shall not get what comes after a gap
                self.end("gone")
                return
            if not self.overflow:
                self.overflow.close()
                self.overflow = None
        if not self.backlog:
            self.backlog, self._unwritten = self._unwritten, self.backlog
        if not self.backlog:
            if self.closing:
                self.end(self.closing)
                return
            self._watch()
        self.streams.relieved()

    def _receive(self) -> None:
        try:
            data = self.socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.stdin = False
            if self.keys is not None:
                self.streams.feed(self.keys.rest())
            if self.streams.stdin_ended(self):
                self._watch()
            else:
                # moby daemon/internal/stream/attach.go: with no stdin to close, the attachment is over
                self.finish("gone")
            return
        if self.keys is not None:
            data, detached = self.keys.scan(data)
            if detached:
                self.streams.feed(data)
                self.finish("detached")
                return
        self.streams.feed(data)


class DetachKeys:
    """Finds the sequence in input that comes in pieces; holds back what may be its beginning."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def scan(self, data: bytes) -> tuple[bytes, bool]:
        """(What the process may have, whether the whole sequence has come)."""
        if not self._matched and self._keys[0] not in data:
            return data, False
        passed = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    self._matched = 0
                    return bytes(passed), True
                continue
            passed += self._keys[: self._matched]
            self._matched = 0
            if byte == self._keys[0]:
                self._matched = 1
            else:
                passed.append(byte)
        return bytes(passed), False

    def rest(self) -> bytes:
        """What is held back, when no more input will come."""
        held, self._matched = self._keys[: self._matched], 0
        return held


class Streams:
    """The ends that the shim holds of one process's streams.

    `sources` maps descriptors to read from to their stream's number (a terminal is stream 1); `stdin` is the one to
    write to or -1. `close_stdin`: when the client that feeds stdin ends it, the process's stdin ends as well.
    """

    def __init__(
        self, loop: Loop, sources: dict[int, int], stdin: int, log: Log, *, terminal: bool, close_stdin: bool
    ) -> None:
        self.loop = loop
        self.terminal = terminal
        self.log = log
        self.clients: list[Client] = []
        self.sources = sources
        self.stdin = stdin
        self._close_stdin = close_stdin and not terminal
        self._stdin_ended = False
        self._input = bytearray()
        self._waiting = False  # for a slow client, or for the log
        for fd in sources:
            os.set_blocking(fd, False)
            loop.add(fd, select.EPOLLIN, self._reader(fd))
        if stdin >= 0:
            os.set_blocking(stdin, False)

    def _reader(self, fd: int) -> Handler:
        def read(_: int) -> None:
            self._read(fd)

        return read

    def attach(self, client: Client) -> tuple[int, int]:
        """Serve one more client; where in the log what it gets begins: (inode, offset).

        One that is held gets the beginning of a line first that is not in the log yet.
        """
        self.clients.append(client)
        if client.held:
            for stream in (1, 2):
                if begun := self.log.waiting(stream):
                    client.send(stream, begun)
        if self._input:
            client.watch_stdin(False)
        return self.log.position

    def forget(self, client: Client) -> None:
        """Called by a client that has ended."""
        if client in self.clients:
            self.clients.remove(client)
        self.relieved()

    # output

    def _read(self, fd: int) -> bool:
        """Pass one piece on. False when there was none."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: no one has the terminal open any more
            data = b""
        stream = self.sources[fd]
        if not data:
            self._close_source(fd)
            return False
        congested = False
        for client in tuple(self.clients):
            client.send(stream, data)
            congested |= client.is_behind
        self.log.write(stream, data)
        congested |= self.log.full()
        if congested and not self._waiting:
            self._waiting = True
            for other in self.sources:
                self.loop.change(other, 0)
        return True

    def _close_source(self, fd: int) -> None:
        self.log.end(self.sources.pop(fd))
        self.loop.remove(fd)
        os.close(fd)

    def relieved(self) -> None:
        """A client's backlog has become shorter, or the log's may have."""
        if self._waiting and self._clients_keep_up() and not self.log.full():
            self._waiting = False
            for fd in self.sources:
                self.loop.change(fd, select.EPOLLIN)

    @property
    def waits_for_log(self) -> bool:
        """Whether the process is not read from because of its log; nobody says when that is over.

        Nor is the log asked once more: were it full just before and is no longer, nobody would say so either.
        """
        return self._waiting and self._clients_keep_up()

    def _clients_keep_up(self) -> bool:
        return all(client.has_caught_up for client in self.clients)

    def drain(self) -> bool:
        """Pass on what the ended process has left. True when its streams have ended, no one else holding them."""
        for fd in tuple(self.sources):
            for _ in range(64):  # a pipe holds at most 16 pieces; more is from another, who may go on for ever
                if not self._read(fd):
                    break
        return not self.sources

    def close(self, reason: str) -> None:
        """End everything; clients get their backlog first. `clients` is empty when they have."""
        for fd in tuple(self.sources):
            self._close_source(fd)
        self._end_stdin()
        for client in tuple(self.clients):
            client.finish(reason)

    # input

    def feed(self, data: bytes) -> None:
        """Write to the process's stdin, or keep it and let the clients wait."""
        if self.stdin < 0 or not data:
            return
        if not self._input:
            try:
                data = data[os.write(self.stdin, data) :]
            except BlockingIOError:
                pass
            except OSError:  # it has closed its stdin
                self._end_stdin()
                return
            if not data:
                return
            self.loop.add(self.stdin, select.EPOLLOUT, self._writable)
            for client in self.clients:
                client.watch_stdin(False)
        self._input += data

    def _writable(self, events: int) -> None:
        try:
            del self._input[: os.write(self.stdin, self._input)]
        except BlockingIOError:
            return
        except OSError:
            self._end_stdin()
            return
        if not self._input:
            self.loop.remove(self.stdin)
            if self._stdin_ended:
                self._end_stdin()
            for client in self.clients:
                client.watch_stdin(True)

    def stdin_ended(self, client: Client) -> bool:
        """The client sends no more. Whether that ends the process's stdin too."""
        if not self._close_stdin:
            return False
        self._stdin_ended = True
        if not self._input:
            self._end_stdin()
        return True

    def _end_stdin(self) -> None:
        if self.stdin >= 0:
            self.loop.remove(self.stdin)
            os.close(self.stdin)
            self.stdin = -1
            self._input = bytearray()
            for client in self.clients:
                client.watch_stdin(True)

    def resize(self, height: int, width: int) -> None:
        """Set the terminal's size, if there is one."""
        if not self.terminal:
            return
        for fd in self.sources:
            ends.resize(fd, height, width)
