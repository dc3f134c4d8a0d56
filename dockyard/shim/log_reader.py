"""Reads json-file logs back: the last lines or all, from a time or up to one, and on as they come."""

import asyncio
import gzip
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import datetime
from typing import BinaryIO, cast

import msgspec

BLOCK = 1 << 20
# How often a log that is followed is looked at; cheaper than a watch per reader, and no one sees the difference.
INTERVAL = 0.05


class LogEntry(msgspec.Struct):
    """A row of the log; `log` ends in a newline unless it is a part of a longer line."""

    log: str = ""
    stream: str = "stdout"
    time: str = ""
    attrs: dict[str, str] = {}

    @property
    def line(self) -> bytes:
        """The bytes that were written, as far as they were UTF-8."""
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
    batches = read_batches(
        path,
        stdout=stdout,
        stderr=stderr,
        since_ns=since_ns,
        until_ns=until_ns,
        tail=tail,
        follow=follow,
        ended=ended,
    )
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

    `since_ns` and `until_ns` bound the time (0: not); `tail` asks for the last rows only. With `follow` it goes on
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

    try:
        file = open(path, "rb")  # noqa: SIM115  # may be replaced while we follow
    except FileNotFoundError:
        file = None
    try:
        if tail is not None:
            rest, position = await asyncio.to_thread(_last, path, tail, chosen)
            if rest:
                yield rest
            if file is not None:
                file.seek(position)
        else:
            for older in _rotated(path):
                async for data in _blocks(older):
                    if entries := chosen(_entries(data)):
                        yield entries
                    await asyncio.sleep(0)
        pending = b""
        while True:
            # asked before reading: what was written before the end is then surely read
            over = not follow or (ended is not None and ended.is_set())
            data = file.read(BLOCK) if file is not None else b""
            if data:
                data = pending + data
                end = data.rfind(b"\n") + 1
                pending = data[end:]
                if entries := chosen(_entries(data[:end])):
                    yield entries
                await asyncio.sleep(0)
                continue
            if file is None or _replaced(path, file.fileno()):
                if file is not None:
                    file.close()
                pending = b""
                try:
                    file = open(path, "rb")  # noqa: SIM115  # as above
                    continue
                except FileNotFoundError:
                    file = None
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
        if file is not None:
            file.close()


async def read_until(
    path: str, inode: int, offset: int, *, stdout: bool = True, stderr: bool = True
) -> AsyncIterator[LogEntry]:
    """Every row that came before a moment, at which `offset` bytes of the file `inode` were written; 0, 0: now."""
    wanted = {name for name, on in (("stdout", stdout), ("stderr", stderr)) if on}
    with ExitStack() as opened:
        files = []
        for name in (*_rotated(path), path):  # all at once: they may be rotated while we read
            with suppress(FileNotFoundError):
                files.append((name, opened.enter_context(open(name, "rb"))))
        for name, file in files:
            last = os.fstat(file.fileno()).st_ino == inode
            reader = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if name.endswith(".gz") else file
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


def _open(path: str) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.endswith(".gz") else open(path, "rb")


async def _blocks(path: str) -> AsyncIterator[bytes]:
    """A file in pieces that end in a newline."""
    try:
        with _open(path) as file:
            pending = b""
            while data := file.read(BLOCK):
                data = pending + data
                end = data.rfind(b"\n") + 1
                pending = data[end:]
                yield data[:end]
    except FileNotFoundError:
        return


def _replaced(path: str, fd: int) -> bool:
    """Whether the log has been rotated away under us."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    ours = os.fstat(fd)
    return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)


def _last(path: str, count: int, chosen: Callable[[list[LogEntry]], list[LogEntry]]) -> tuple[list[LogEntry], int]:
    """The last `count` rows of the log that are `chosen`, and where the current file ended when they were read."""
    found: list[LogEntry] = []
    position = 0
    current = True
    for name in (path, *reversed(list(_rotated(path)))):
        try:
            if name.endswith(".gz"):
                found = [*_last_compressed(name, count - len(found), chosen), *found]
                continue
            with open(name, "rb") as reader:
                end = reader.seek(0, os.SEEK_END)
                if current:
                    # a row that is just being written is left for later
                    position = end = _whole(reader, end)
                current = False
                while end > 0 and len(found) < count:
                    begin = max(end - BLOCK, 0)
                    reader.seek(begin)
                    data = reader.read(end - begin)
                    if begin:
                        cut = data.find(b"\n") + 1
                        begin, data = begin + cut, data[cut:]
                    found = [*chosen(_entries(data)), *found]
                    end = begin
        except FileNotFoundError:
            current = False
        if len(found) >= count:
            break
    return (found[-count:] if count else []), position


def _last_compressed(name: str, count: int, chosen: Callable[[list[LogEntry]], list[LogEntry]]) -> list[LogEntry]:
    """The last `count` rows of a file that can only be read from its beginning."""
    found: deque[LogEntry] = deque(maxlen=max(count, 0))
    with gzip.open(name, "rb") as reader:
        pending = b""
        while data := reader.read(BLOCK):
            data = pending + data
            end = data.rfind(b"\n") + 1
            pending = data[end:]
            found.extend(chosen(_entries(data[:end])))
    return list(found)


def _whole(reader: BinaryIO, end: int) -> int:
    """Where the last whole row of the file ends."""
    begin = max(end - BLOCK, 0)
    reader.seek(begin)
    return int(begin + reader.read(end - begin).rfind(b"\n") + 1)
