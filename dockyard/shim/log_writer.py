"""Writes a process's output as Docker's json-file log: a JSON object a line, rotated by size.

    {"log":"hello\\n","stream":"stdout","time":"2024-05-06T07:08:09.123456789Z"}

What cannot be held back belongs here too: a line of more than 16 KiB becomes several rows of which only the last ends
in a newline. A whole read is turned into rows with a few passes of bytes.replace, not line by line.

JSON has no place for what is not UTF-8. Docker's json-file replaces it; its other drivers have the bytes as they came,
and so have ours: such a row has them in base64 as well, as "raw".
"""

import binascii
import os
import re
import time
from typing import Protocol

import msgspec

from dockyard.shim import protocol
from dockyard.shim.log_backlog import Backlog

LONGEST = 16 * 1024  # moby daemon/logger/copier.go, defaultBufSize

# What Docker's encoder (jsonlog/jsonlogbytes.go) writes otherwise than as it is, apart from the newline.
_SPECIAL = re.compile(rb'[\x00-\x09\x0b-\x1f"\\<>&\x80-\xff]')
_CONTROL = re.compile(rb"[\x00-\x09\x0b\x0c\x0e-\x1f]")
_CONTROL_ESCAPES = [(bytes([n]), b"\\u00%02x" % n) for n in range(32) if n not in (0x0A, 0x0D)]
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


class Log(Protocol):
    """Somewhere for output to go."""

    def write(self, stream: int, data: bytes) -> None:
        """Take what was read from stream 1 or 2, just as it came."""

    def end(self, stream: int) -> None:
        """No more will come: write what of a last line is waiting."""

    def child_ended(self, pid: int, status: int) -> None:
        """Told of every process that has ended and is not the container's."""

    def close(self) -> None:
        """Let go of the file."""

    @property
    def position(self) -> tuple[int, int]:
        """(inode, size) of the file that is written now."""

    @property
    def folder(self) -> str:
        """Where the file is; "" when there is none."""

    def waiting(self, stream: int) -> bytes:
        """What has come of a line that is not written yet."""

    def full(self) -> bool:
        """Whether it should be given no more for now."""


class JsonFile:
    """The drivers json-file and local. What cannot be written (disk full) is dropped: the container goes on."""

    def __init__(
        self,
        path: str,
        max_size: int,
        max_file: int,
        attributes: dict[str, str],
        compress: bool = False,
        sent: str = "",
        *,
        exact: bool = False,
    ) -> None:
        """`sent`: a forwarder's note; what that has not sent yet is never rotated away, the process waits instead.

        `exact`: keep the bytes of what is not UTF-8.
        """
        self._exact = exact
        self._path = path
        self._compress = compress
        self._compressor = (0, -1)  # the process that is at it; the file, open: or its inode might become another's
        self._limit = max_size if max_size > 0 else 1 << 62
        self._files = max(max_file, 1)
        self._backlog = Backlog(sent, self._limit * max(self._files - 1, 1)) if sent else None
        self._attributes = b'"attrs":' + msgspec.json.encode(attributes) + b"," if attributes else b""
        self._waiting = [b"", b"", b""]
        self._second = -1
        self._stamp = b""
        self._fd, self._size = -1, 0
        try:
            self._open(os.O_APPEND)
        except OSError:
            pass  # full, read-only, or its folder has gone: tried anew for each row, and the container runs on

    def _open(self, how: int) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o640)
        file = os.fstat(self._fd)
        self._size = file.st_size
        if self._backlog is not None:
            self._backlog.opened(file.st_ino, file.st_size)

    def write(self, stream: int, data: bytes) -> None:
        waiting = self._waiting[stream]
        end = data.rfind(b"\n") + 1
        if not end:
            waiting += data
            if len(waiting) >= LONGEST:
                rest = len(waiting) - len(waiting) % LONGEST
                self._rows(stream, waiting[:rest])
                waiting = waiting[rest:]
            self._waiting[stream] = waiting
            return
        text = waiting + data[:end] if waiting else data[:end] if end < len(data) else data
        self._waiting[stream] = b""
        if _has_long_line(text):
            for line in _lines(text):
                self._rows(stream, line)
        else:
            self._rows(stream, text)
        if end < len(data):
            self.write(stream, data[end:])

    def end(self, stream: int) -> None:
        if self._waiting[stream]:
            self._rows(stream, self._waiting[stream])
            self._waiting[stream] = b""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def position(self) -> tuple[int, int]:
        return (os.fstat(self._fd).st_ino, self._size) if self._fd >= 0 else (0, 0)

    @property
    def folder(self) -> str:
        return os.path.dirname(self._path)

    def waiting(self, stream: int) -> bytes:
        return self._waiting[stream]

    def full(self) -> bool:
        return self._backlog is not None and self._backlog.full()

    def _rows(self, stream: int, text: bytes) -> None:
        """Write whole lines of up to 16 KiB each, or one line of any length, perhaps without its newline."""
        if self._exact and not _is_utf8(text):
            lines = _pieces(text) if len(text) > LONGEST and text.find(b"\n", 0, LONGEST) < 0 else _lines(text)
            for line in lines:
                self._append(self._raw_row(stream, line))
            return
        head = b'{"log":"'
        tail = b'","stream":"%s",%s"time":"%s"}\n' % (_NAMES[stream], self._attributes, self._now())
        newline = b"\\n" + tail + head
        pieces = _pieces(text) if len(text) > LONGEST and text.find(b"\n", 0, LONGEST) < 0 else [text]
        parts = []
        for piece in pieces:
            rows = escape(piece) if _SPECIAL.search(piece) is not None else piece
            rows = rows.replace(b"\n", newline)
            # ends either in a newline and the head of a row that won't come, or in a part of a line
            parts.append(head + (rows[: -len(head)] if piece.endswith(b"\n") else rows + tail))
        for part in parts:
            self._append(part)

    def _raw_row(self, stream: int, line: bytes) -> bytes:
        """A line's row, with its bytes if need be."""
        raw = b"" if _is_utf8(line) else b'"raw":"%s",' % binascii.b2a_base64(line, newline=False)
        shown = escape(line).replace(b"\n", b"\\n")
        rest = b'"stream":"%s",%s"time":"%s"}\n' % (_NAMES[stream], self._attributes, self._now())
        return b'{"log":"%s",%s%s' % (shown, raw, rest)

    def _append(self, rows: bytes) -> None:
        try:
            if self._fd < 0:
                self._open(os.O_APPEND)
            if self._size + len(rows) > self._limit:
                self._append_rotating(rows)
            else:
                self._put(rows)
        except OSError:
            pass

    def _append_rotating(self, rows: bytes) -> None:
        """As Docker does: a file is rotated before the row that follows the one that filled it."""
        while rows:
            if self._size >= self._limit:
                self._rotate()
            # the row that reaches the limit is the file's last
            end = rows.find(b"\n", min(self._limit - self._size - 1, len(rows) - 1)) + 1
            self._put(rows[:end])
            rows = rows[end:]

    def _put(self, rows: bytes) -> None:
        view = memoryview(rows)
        while view:
            written = os.write(self._fd, view)
            self._size += written
            if self._backlog is not None:
                self._backlog.written(written)
            view = view[written:]

    def _rotate(self) -> None:
        os.close(self._fd)
        self._fd = -1
        try:
            if self._files > 1:
                self._shift()
            else:
                # a reader may be in the old file: a new one, not a truncated one
                os.unlink(self._path)
        finally:
            self._open(os.O_TRUNC)
        self._compress_next()

    def _shift(self) -> None:
        last = f"{self._path}.{self._files - 1}"
        for name in (last, last + ".gz"):
            try:
                os.unlink(name)
            except FileNotFoundError:
                pass
        for number in range(self._files - 1, 0, -1):
            older = f"{self._path}.{number - 1}" if number > 1 else self._path
            for suffix in ("", ".gz"):
                try:
                    os.rename(older + suffix, f"{self._path}.{number}{suffix}")
                except FileNotFoundError:
                    pass

    def _compress_next(self) -> None:
        """Begin with the newest rotated file that is as it was written, unless one is at work."""
        if self._compress and not self._compressor[0]:
            for number in range(1, self._files):
                if os.path.exists(f"{self._path}.{number}"):
                    self._start_compressing(f"{self._path}.{number}")
                    return

    def _start_compressing(self, name: str) -> None:
        """In a process of its own: it takes a second, and modules that this one does without."""
        source = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            pid = os.fork()
        except OSError:  # no room for a process: then later
            os.close(source)
            return
        if pid:
            self._compressor = (pid, source)
            return
        try:
            os.dup2(source, 0)  # the file itself: by now its name may be another's
            os.closerange(1, os.sysconf("SC_OPEN_MAX"))  # or our clients would not see us go
            os.nice(10)
            _compress(0, f"{self._path}.new.gz")
        except OSError:
            os._exit(1)
        os._exit(0)

    def child_ended(self, pid: int, status: int) -> None:
        """A process of ours has ended: what it has compressed takes the place of the file, wherever that is by now."""
        if pid != self._compressor[0]:
            return
        source, self._compressor = self._compressor[1], (0, -1)
        inode = os.fstat(source).st_ino
        ready = f"{self._path}.new.gz"
        try:
            for number in range(1, self._files):
                name = f"{self._path}.{number}"
                if os.path.exists(name) and os.stat(name).st_ino == inode and status == 0:
                    os.rename(ready, name + ".gz")
                    os.unlink(name)
                    break
            else:
                os.unlink(ready)
            if status == 0:
                self._compress_next()
        except OSError:
            pass
        finally:
            os.close(source)

    def _now(self) -> bytes:
        """RFC 3339 with nanoseconds, trailing zeros left out as Go's time.RFC3339Nano does."""
        second, nanos = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        if not nanos:
            return self._stamp + b"Z"
        return self._stamp + (b".%09d" % nanos).rstrip(b"0") + b"Z"


def _compress(source: int, target: str) -> None:
    import gzip  # in the process that needs it only

    with (
        open(source, "rb") as plain,
        open(target, "wb") as file,
        # named after the file it was: who follows the log has to know which one that is
        gzip.GzipFile(str(os.fstat(source).st_ino), "wb", compresslevel=4, fileobj=file) as packed,
    ):
        while data := plain.read(1 << 20):
            packed.write(data)


class NoLog:
    """The driver none."""

    position = (0, 0)
    folder = ""

    def waiting(self, stream: int) -> bytes:
        return b""

    def full(self) -> bool:
        return False

    def write(self, stream: int, data: bytes) -> None:
        pass

    def end(self, stream: int) -> None:
        pass

    def child_ended(self, pid: int, status: int) -> None:
        pass

    def close(self) -> None:
        pass


_NAMES = (b"stdin", b"stdout", b"stderr")


def _is_utf8(text: bytes) -> bool:
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            return False
    return True


def _has_long_line(text: bytes) -> bool:
    """Whether a line holds 16 KiB or more before its newline; looks at one newline in 16 KiB."""
    position, size = 0, len(text)
    while size - position > LONGEST:
        found = text.rfind(b"\n", position, position + LONGEST)
        if found < 0:
            return True
        position = found + 1
    return False


def _lines(text: bytes) -> list[bytes]:
    lines = text.split(b"\n")
    last = lines.pop()
    found = [line + b"\n" for line in lines]
    return [*found, last] if last else found


def _pieces(line: bytes) -> list[bytes]:
    """A line in pieces of 16 KiB, none of which ends within a UTF-8 character."""
    pieces = []
    position = 0
    while len(line) - position > LONGEST:
        end = position + LONGEST
        for back in range(4):
            if line[end - back] & 0xC0 != 0x80:
                end -= back
                break
        pieces.append(line[position:end])
        position = end
    pieces.append(line[position:])
    return pieces


def escape(text: bytes) -> bytes:
    """The inside of a JSON string; newlines stay as they are. Invalid UTF-8 becomes \\ufffd, byte by byte."""
    text = (
        text.replace(b"\\", b"\\\\")
        .replace(b'"', b'\\"')
        .replace(b"\r", b"\\r")
        .replace(b"<", b"\\u003c")
        .replace(b">", b"\\u003e")
        .replace(b"&", b"\\u0026")
    )
    if _CONTROL.search(text) is not None:
        for byte, written in _CONTROL_ESCAPES:
            text = text.replace(byte, written)
    if not text.isascii():
        decoded = text.decode("utf-8", "surrogateescape")
        decoded = _NOT_UTF8.sub(lambda found: "\\ufffd", decoded)
        text = decoded.encode().replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return text


def open_log(options: protocol.LogOptions) -> Log:
    """The log that the options ask for. One that can't be written now is no error: what does not fit is lost."""
    if options.driver == "none":
        return NoLog()
    return JsonFile(
        options.path,
        options.max_size,
        options.max_file,
        options.attributes,
        options.compress,
        options.sent,
        exact=options.driver != "json-file",
    )
