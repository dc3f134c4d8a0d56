"""Reads json-file logs back: the last lines or all, from a time or up to one, and on as they come."""

import asyncio
import binascii
import gzip
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from typing import BinaryIO, cast

import msgspec

from dockyard.generators import closing

BLOCK = 1 << 20
# How often a log that is followed is looked at; cheaper than a watch per reader, and no one sees the difference.
INTERVAL = 0.05
GZIP_NAME = 8  # RFC 1952, FNAME, of the flags for what lies between head and data


class LogEntry(msgspec.Struct):
    """A row of the log; `log` ends in a newline unless it is a part of a longer line.

    `raw` has in base64 what is not UTF-8 as it was written, of drivers that keep that.
    """

    log: str = ""
    stream: str = "stdout"
    time: str = ""
    attrs: dict[str, str] = {}
    raw: str = ""

    @property
    def line(self) -> bytes:
        """The bytes that were written, as far as they were UTF-8 or the driver keeps them."""
        if self.raw:
            return binascii.a2b_base64(self.raw)
        return self.log.encode("utf-8", "surrogateescape")

    @property
    def time_ns(self) -> int:
        """When, in UNIX ns."""
        whole, _, fraction = self.time.removesuffix("Z").partition(".")
        return int(datetime.fromisoformat(whole + "+00:00").timestamp()) * 10**9 + int((fraction + "0" * 9)[:9])


_decode_lines = msgspec.json.Decoder(LogEntry).decode_lines
_decode = msgspec.json.Decoder(LogEntry).decode


async def read_logs(
    path: str,
    *,
    stdout: bool = True,
    stderr: bool = True,
    since_ns: int = 0,
    until_ns: int = 0,
    tail: int | None = None,
    follow: bool = False,
    ended: asyncio.Event | None = None,
) -> AsyncIterator[LogEntry]:
    """Every row as `read_batches` gives them, one by one."""
    found = read_batches(
        path,
        stdout=stdout,
        stderr=stderr,
        since_ns=since_ns,
        until_ns=until_ns,
        tail=tail,
        follow=follow,
        ended=ended,
    )
    async with closing(found) as batches:
        async for batch in batches:
            for entry in batch:
                yield entry


async def read_batches(
    path: str,
    *,
    stdout: bool = True,
    stderr: bool = True,
    since_ns: int = 0,
    until_ns: int = 0,
    tail: int | None = None,
    follow: bool = False,
    ended: asyncio.Event | None = None,
) -> AsyncIterator[list[LogEntry]]:
    """Rows of the log `path` and its rotated files, oldest first, many at a time.

    `since_ns` and `until_ns` bound the time (0: not); `tail` asks for the last rows only, of which then
    those of the streams and the time are given. With `follow` it goes on
    until `ended` is set and all has been read. A row that is damaged (a crash while it was written) is left out.
    """
    wanted = {name for name, on in (("stdout", stdout), ("stderr", stderr)) if on}

    def chosen(entries: list[LogEntry]) -> list[LogEntry]:
        if len(wanted) == 2 and not since_ns and not until_ns:
            return entries
        return [
            entry
            for entry in entries
            if entry.stream in wanted
            and (not since_ns or entry.time_ns >= since_ns)
            and (not until_ns or entry.time_ns <= until_ns)
        ]

    files = _Files(path)
    file = files.current
    try:
        if tail is not None:
            last, position = await asyncio.to_thread(_last, files, tail)
            if rest := chosen(last):
                yield rest
            if file is not None:
                file.seek(position)
        else:
            async for entries in _rows(files.older, chosen):
                yield entries
        files.close_older()
        pending = b""
        while True:
            # asked before reading: what was written before the end is then surely read
            over = ended is not None and ended.is_set()
            data = file.read(BLOCK) if file is not None else b""
            if data:
                data = pending + data
                end = data.rfind(b"\n") + 1
                pending = data[end:]
                if entries := chosen(_entries(data[:end])):
                    yield entries
                await asyncio.sleep(0)
                continue
            if not follow:
                return
            if file is None or (_replaced(path, file.fileno()) and not _has_more(file)):
                pending = b""
                seen = file
                files = _Files(path)
                file = files.current
                if seen is not None:
                    files.forget_up_to(seen)
                    seen.close()
                    async for entries in _rows(files.older, chosen):
                        yield entries
                files.close_older()
                if file is not None:
                    continue
            if over or (until_ns and time.time_ns() > until_ns):
                return
            if ended is None:
                await asyncio.sleep(INTERVAL)
            else:
                try:
                    await asyncio.wait_for(ended.wait(), INTERVAL)
                except TimeoutError:
                    pass
    finally:
        files.close_older()
        if file is not None:
            file.close()


async def read_until(
    path: str, inode: int, offset: int, *, stdout: bool = True, stderr: bool = True
) -> AsyncIterator[LogEntry]:
    """Every row that came before a moment, at which `offset` bytes of the file `inode` were written; 0, 0: now."""
    wanted = {name for name, on in (("stdout", stdout), ("stderr", stderr)) if on}
    files = _Files(path)
    try:
        for file in (*files.older, files.current):
            if file is None:
                return
            last = os.fstat(file.fileno()).st_ino == inode
            reader = _unpacked(file)
            left = offset if last else 1 << 62
            pending = b""
            while data := reader.read(min(BLOCK, left)):
                left -= len(data)
                data = pending + data
                end = data.rfind(b"\n") + 1
                pending = data[end:]
                for entry in _entries(data[:end]):
                    if entry.stream in wanted:
                        yield entry
                await asyncio.sleep(0)
            if last:
                return
    finally:
        files.close_older()
        if files.current is not None:
            files.current.close()


def _entries(data: bytes) -> list[LogEntry]:
    try:
        return _decode_lines(data)
    except msgspec.DecodeError:
        found = []
        for line in data.splitlines():
            try:
                found.append(_decode(line))
            except msgspec.DecodeError:
                continue
        return found


def _rotated(path: str) -> Iterator[str]:
    """The rotated files, oldest first."""
    numbers = []
    folder, name = os.path.split(path)
    try:
        present = os.listdir(folder)
    except FileNotFoundError:
        return
    for other in present:
        suffix = other.removeprefix(name + ".").removesuffix(".gz")
        if other.startswith(name + ".") and suffix.isdigit():
            numbers.append(int(suffix))
    for number in sorted(set(numbers), reverse=True):
        # one that is just being compressed is there in both forms for a moment
        yield f"{path}.{number}.gz" if os.path.exists(f"{path}.{number}.gz") else f"{path}.{number}"


class _Files:
    """The log's files as they were at one moment, open: `current` if there is one, `older` with the oldest first."""

    def __init__(self, path: str) -> None:
        self.current: BinaryIO | None = None
        self.older: list[BinaryIO] = []
        for _ in range(100):  # until nothing was rotated or compressed meanwhile
            try:
                self.current = open(path, "rb")  # noqa: SIM115  # it stays open
            except FileNotFoundError:
                self.current = None
            try:
                for name in _rotated(path):
                    self.older.append(open(name, "rb"))  # noqa: SIM115  # it stays open
                if _inode(path) == (os.fstat(self.current.fileno()).st_ino if self.current is not None else 0):
                    return
            except FileNotFoundError:
                pass
            self.close_older()
            if self.current is not None:
                self.current.close()
                self.current = None

    def forget_up_to(self, seen: BinaryIO) -> None:
        """Leave out what is not newer than a file that has been read."""
        inode = os.fstat(seen.fileno()).st_ino
        # That number is not another's as long as the file is open; of compressed files an older one may have had it.
        # When none is it, it has been rotated away, and all are newer. Of one compressed by an earlier release it is
        # not known what it was: such ones were there before.
        places = [place for place, file in enumerate(self.older, 1) if _inode_of(file) in (inode, 0)]
        known = places[-1] if places else 0
        for file in self.older[:known]:
            file.close()
        del self.older[:known]

    def close_older(self) -> None:
        """Those have been read."""
        for file in self.older:
            file.close()
        self.older = []


def _inode_of(file: BinaryIO) -> int:
    """A log's, also when it is compressed by now (log_writer._compress); 0: unknown."""
    if not _is_compressed(file):
        return os.fstat(file.fileno()).st_ino
    head = os.pread(file.fileno(), 64, 0)
    named = head[3] & 0x1C == GZIP_NAME if len(head) > 10 else False
    name = head[10:].partition(b"\0")[0] if named else b""
    return int(name) if name.isdigit() else 0


def _inode(path: str) -> int:
    """0 when there is no such file."""
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0


def _unpacked(file: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if _is_compressed(file) else file


def _is_compressed(file: BinaryIO) -> bool:
    return str(file.name).endswith(".gz")


def _has_more(file: BinaryIO) -> bool:
    """Whether something was written after we had come to the end."""
    return os.fstat(file.fileno()).st_size > file.tell()


async def _rows(
    files: list[BinaryIO], chosen: Callable[[list[LogEntry]], list[LogEntry]]
) -> AsyncIterator[list[LogEntry]]:
    """What whole files hold."""
    for file in files:
        reader = _unpacked(file)
        pending = b""
        while data := reader.read(BLOCK):
            data = pending + data
            end = data.rfind(b"\n") + 1
            pending = data[end:]
            if entries := chosen(_entries(data[:end])):
                yield entries
            await asyncio.sleep(0)


def _replaced(path: str, fd: int) -> bool:
    """Whether the log has been rotated away under us."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    ours = os.fstat(fd)
    return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)


def _last(files: _Files, count: int) -> tuple[list[LogEntry], int]:
    """The last `count` rows of the log, and where the current file ended when they were read."""
    found: list[LogEntry] = []
    position = 0
    if files.current is not None:
        # a row that is just being written is left for later
        position = _whole(files.current, files.current.seek(0, os.SEEK_END))
        found = _last_plain(files.current, position, count)
    for file in reversed(files.older):
        if len(found) >= count:
            break
        missing = count - len(found)
        if _is_compressed(file):
            found = [*_last_compressed(file, missing), *found]
        else:
            found = [*_last_plain(file, file.seek(0, os.SEEK_END), missing), *found]
    return (found[-count:] if count else []), position


def _last_plain(reader: BinaryIO, end: int, count: int) -> list[LogEntry]:
    """The last `count` rows, or a few more, of the first `end` bytes."""
    found: list[LogEntry] = []
    while end > 0 and len(found) < count:
        begin = max(end - BLOCK, 0)
        reader.seek(begin)
        data = reader.read(end - begin)
        if begin:
            cut = data.find(b"\n") + 1
            begin, data = begin + cut, data[cut:]
        found = [*_entries(data), *found]
        end = begin
    return found


def _last_compressed(file: BinaryIO, count: int) -> list[LogEntry]:
    """The last `count` rows of a file that can only be read from its beginning."""
    found: deque[LogEntry] = deque(maxlen=max(count, 0))
    reader = _unpacked(file)
    pending = b""
    while data := reader.read(BLOCK):
        data = pending + data
        end = data.rfind(b"\n") + 1
        pending = data[end:]
        found.extend(_entries(data[:end]))
    return list(found)


def _whole(reader: BinaryIO, end: int) -> int:
    """Where the last whole row of the file ends."""
    begin = max(end - BLOCK, 0)
    reader.seek(begin)
    return int(begin + reader.read(end - begin).rfind(b"\n") + 1)
