"""Unpacking and packing trees from the daemon: hands the work to the archive process (worker.py) and moves the bytes.

worker = Worker()
unpacked = await worker.unpack(stream, "/…/diff", record="/…/layer.split", whiteouts="overlay")
async for piece in worker.pack_record("/…/diff", "/…/layer.split"): …
"""

import array
import asyncio
import contextlib
import ctypes
import fcntl
import logging
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from dockyard.content.worker import READY, SERVE, Answer, Job
from dockyard.errors import InvalidParameter, SystemFailure, words
from dockyard.generators import closing

log = logging.getLogger("dockyard.archives")

CHUNK = 1 << 20
F_SETPIPE_SZ = 1031
# How long, in seconds, the archive process (11 MB) is kept without a job; a build's or a pull's next one finds it.
IDLE = 2.0
FORK_PATIENCE = 5.0  # after which it is started in another way, s
LAST_WORK = 10.0  # how long a child is waited for whose work is not wanted any more, s
# A tar stream: an open file that nobody changes meanwhile (its position is where the stream begins), or pieces as they
# arrive.
Source = BinaryIO | AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class UnpackedLayer:
    """What was unpacked: the uncompressed stream's digest ("" without a record), and the bytes of all its files."""

    diff_id: str
    size: int


# Has a process forked that calls worker.SERVE with a connection; raises OSError.
Fork = Callable[[str, socket.socket], None]


class Worker:
    """The archive process, started when first needed and again should it end."""

    def __init__(self, fork: Fork | None = None) -> None:
        """`fork` makes the process, sooner than a new interpreter would be there; that is the other way."""
        self._fork = fork
        self._process: subprocess.Popen[bytes] | None = None
        self._jobs: socket.socket | None = None
        self._starting = asyncio.Lock()
        self._running = 0
        self._leaving: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """End the process; jobs under way finish."""
        if self._leaving is not None:
            self._leaving.cancel()
        if self._jobs is not None:
            self._jobs.close()
            self._jobs = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            self._process = None

    async def unpack(
        self,
        stream: Source,
        root: str,
        *,
        inside: str = "/",
        record: str | Path | None = None,
        whiteouts: str = "none",
        owner: tuple[int, int] | None = None,
        keep_directories: bool = False,
        ids: tuple[int, int, int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> UnpackedLayer:
        """Unpack a tar stream, compressed or not, into `inside` of the tree `root`.

        `ids`: see worker.Job.
        `record` is a file to write the stream's layout to; `progress` hears the compressed bytes consumed so far; the
        rest is extraction.Options. Raises InvalidParameter for a broken or hostile archive, SystemFailure for other
        troubles. What was unpacked until then stays for the caller to remove.
        """
        job = Job(
            "unpack",
            root,
            inside,
            whiteouts=whiteouts,
            record=record is not None,
            owner=owner,
            keep_directories=keep_directories,
            ids=ids,
        )
        with contextlib.ExitStack() as files:
            record_fd = []
            if record is not None:
                record_fd = [os.open(record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)]
                files.callback(os.close, record_fd[0])
            if not isinstance(stream, AsyncIterator):
                answering = asyncio.ensure_future(self._run(job, stream.fileno(), record_fd))
                try:
                    return _unpacked(await asyncio.shield(answering))
                except asyncio.CancelledError:
                    await _at_rest(answering)
                    raise
            read_end, write_end = _pipe()
            answering = asyncio.ensure_future(self._run(job, read_end, record_fd, close=True))
            try:
                await _feed(stream, write_end, answering, progress)
                return _unpacked(await asyncio.shield(answering))
            except BaseException:
                await _at_rest(answering)
                raise

    def pack_tree(
        self,
        root: str,
        inside: str = "/",
        name: str = "",
        *,
        whiteouts: bool = False,
        ids: tuple[int, int, int] | None = None,
    ) -> AsyncIterator[bytes]:
        """The file or tree `inside` of `root` as a tar stream, called `name` there ("": a directory's content)."""
        return self._pack(Job("pack_tree", root, inside, name, whiteouts="overlay" if whiteouts else "none", ids=ids))

    async def pack_record(self, root: str, record: str | Path) -> AsyncIterator[bytes]:
        """The stream that was once unpacked into `root` with `record`. Raises SystemFailure when it can't be had."""
        try:
            fd = os.open(record, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise SystemFailure(f"the layer's record {record} is missing") from None
        try:
            async with closing(self._pack(Job("pack_record", root), fd)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            os.close(fd)

    async def _pack(self, job: Job, *others: int) -> AsyncIterator[bytes]:
        read_end, write_end = _pipe()
        answering = asyncio.ensure_future(self._run(job, write_end, list(others), close=True))
        try:
            async with closing(_drain(read_end)) as pieces:
                async for piece in pieces:
                    yield piece
            answer = await answering
            if answer.failure:
                raise SystemFailure(answer.failure)
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)

    async def _run(self, job: Job, stream: int, others: list[int], *, close: bool = False) -> Answer:
        """Have a child do `job`; its answer. `stream` is closed here once handed over when `close`."""
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        self._running += 1
        try:
            try:
                await self._send(job, [write_end, stream, *others])
            finally:
                os.close(write_end)
                if close:
                    os.close(stream)
            data = b"".join([piece async for piece in _drain(read_end, take_over=False)])
        finally:
            os.close(read_end)
            self._running -= 1
            if self._leaving is not None:
                self._leaving.cancel()
            self._leaving = asyncio.get_running_loop().call_later(IDLE, self._let_go)
        if not data:
            raise SystemFailure(f"the archive process ended while working on {job.root}")
        return msgspec.json.decode(data, type=Answer)

    def _let_go(self) -> None:
        """End the process when it has had nothing to do for a while, and give back what passing archives took here."""
        if self._running or self._jobs is None:
            return
        self._jobs.close()
        process, self._process, self._jobs = self._process, None, None
        if process is not None:
            asyncio.get_running_loop().run_in_executor(None, process.wait)
        if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # glibc's
            trim(0)

    async def _send(self, job: Job, fds: list[int]) -> None:
        async with self._starting:
            if self._jobs is None or _has_ended(self._jobs):
                await self._start()
        assert self._jobs is not None
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        self._jobs.sendmsg([msgspec.json.encode(job)], rights)

    async def _start(self) -> None:
        if self._jobs is not None:
            self._jobs.close()
        self._jobs = self._process = None
        if self._fork is not None:
            try:
                self._jobs = await asyncio.wait_for(_forked(self._fork), FORK_PATIENCE)
            except (OSError, TimeoutError) as failure:
                log.warning("the archive process is not forked, but started: %s", words(failure))
            else:
                return
        self._spawn()

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from dockyard.content.worker import main; main()"],
                stdin=theirs.fileno(),
                cwd="/",
                start_new_session=True,
            )
        self._jobs = ours


async def _forked(fork: Fork) -> socket.socket:
    """A connection to a process that `fork` has made and that is there. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs:
            fork(SERVE, theirs)
        ours.setblocking(False)
        if await asyncio.get_running_loop().sock_recv(ours, len(READY)) != READY:
            raise ConnectionError("it ended at once")
        ours.setblocking(True)
    except BaseException:
        ours.close()
        raise
    return ours


def _has_ended(jobs: socket.socket) -> bool:
    """Whether the process at the other end has gone: it says nothing but that it is ready."""
    try:
        while jobs.recv(len(READY), socket.MSG_DONTWAIT):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


async def _at_rest(answering: "asyncio.Future[Answer]") -> None:
    """Wait for a child whose work is given up, and whose stream has been cut: what it unpacks is removed next."""
    await asyncio.wait({answering}, timeout=LAST_WORK)
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)


def _unpacked(answer: Answer) -> UnpackedLayer:
    if answer.failure:
        raise InvalidParameter(answer.failure) if answer.invalid else SystemFailure(answer.failure)
    return UnpackedLayer(answer.digest, answer.size)


def _pipe() -> tuple[int, int]:
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        fcntl.fcntl(write_end, F_SETPIPE_SZ, CHUNK)
    return read_end, write_end


async def _feed(
    stream: AsyncIterator[bytes],
    fd: int,
    answering: "asyncio.Future[Answer]",
    progress: Callable[[int], None] | None,
) -> None:
    """Write every piece to `fd` and close it; stop early when the other side has answered."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    fed = 0
    try:
        await asyncio.sleep(0)  # `answering` has begun by then: it closes what it was given, even if it is cancelled
        async with closing(stream) as pieces:
            async for piece in pieces:
                view = memoryview(piece)
                while view:
                    try:
                        view = view[os.write(fd, view) :]
                    except BlockingIOError:
                        writable = loop.create_future()
                        loop.add_writer(fd, _settle, writable)
                        try:
                            await asyncio.wait((writable, answering), return_when=asyncio.FIRST_COMPLETED)
                        finally:
                            loop.remove_writer(fd)
                    except BrokenPipeError:
                        return
                fed += len(piece)
                if progress is not None:
                    progress(fed)
                if answering.done():
                    return
    finally:
        os.close(fd)


async def _drain(fd: int, *, take_over: bool = True) -> AsyncIterator[bytes]:
    """Everything that comes out of the pipe `fd`, which is closed at the end when `take_over`."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    try:
        while True:
            try:
                piece = os.read(fd, CHUNK)
            except BlockingIOError:
                readable = loop.create_future()
                loop.add_reader(fd, _settle, readable)
                try:
                    await readable
                finally:
                    loop.remove_reader(fd)
                continue
            if not piece:
                return
            yield piece
    finally:
        if take_over:
            os.close(fd)


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
