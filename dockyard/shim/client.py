"""The daemon's side: starts shims through the zygote, talks to them, finds them again after a restart.

shims = Shims(Path("/run/dockyard"))
await shims.open()
shim = await shims.start(StartRequest(...))
status = await shim.wait()
await shim.delete()
"""

import array
import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from dockyard.errors import NotFound, SystemFailure
from dockyard.linux import memory_files
from dockyard.runtime.container import Container
from dockyard.runtime.errors import RuntimeFailure
from dockyard.shim import protocol, zygote

__all__ = [
    "Attached",
    "Attachment",
    "ExecProcess",
    "ExecRequest",
    "ExitStatus",
    "LogConfig",
    "Shim",
    "Shims",
    "StartRequest",
]

# How long the end of a shim is waited for; it outstays its container only while a client has output left to read.
PATIENCE = 5.0
# How many seccomp filters are at hand at once; nearly every container has the same one.
FILTERS_KEPT = 32
_decode = msgspec.msgpack.Decoder(protocol.Notice).decode
DEFAULT_DETACH_KEYS = b"\x10\x11"  # ctrl-p ctrl-q


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Where a container's output goes.

    `driver` is "json-file", "local" (same format) or "none". A file that has reached `max_size` bytes is rotated to
    `path`.1 and so on, `max_file` files in all (1: it is emptied instead); `max_size` <= 0 means no limit.
    `attributes` goes into every row of json-file (`attrs`): the labels and environment the log options select.
    """

    driver: str = "json-file"
    path: str = ""
    max_size: int = -1
    max_file: int = 1
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A client of a process's streams.

    `fd` is a connected stream socket; it belongs to the shims' client from the call on, whatever happens, and the shim
    writes the streams to it and reads stdin from it. `raw`: bytes as they come (terminal); else each piece
    carries Docker's 8-byte head (stream 1 or 2, 0, 0, 0, length big endian). `detach_keys` are looked for in stdin when
    the process has a terminal; b"" turns that off.
    """

    fd: int
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    detach_keys: bytes = DEFAULT_DETACH_KEYS
    raw: bool = False


@dataclass(frozen=True, slots=True)
class StartRequest:
    """A container to start. `spec` is the OCI config.json; `seccomp_program` its compiled filter, if it has one.

    `open_stdin`: keep stdin open for attachments, else it is /dev/null; `stdin_once`: close it when the first
    attachment that has stdin ends it. `attachments` are served from the first byte on. `init`: PID 1 is
    `/sbin/docker-init -- args…`. `console_size` is (height, width).
    """

    container_id: str
    bundle: str
    spec: bytes
    seccomp_program: bytes | None = None
    terminal: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    log: LogConfig = LogConfig(driver="none")
    attachments: list[Attachment] = field(default_factory=list)
    init: bool = False
    console_size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """A further process. `process` is the JSON of the OCI spec's process; without attachment its output is dropped."""

    exec_id: str
    process: bytes
    terminal: bool = False
    open_stdin: bool = False
    attachment: Attachment | None = None
    console_size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How the container's process ended: its exit code, or 128 + the signal's number."""

    code: int
    exited_at_ns: int
    oom_killed: bool = False


class Attached:
    """An attachment that the shim serves."""

    def __init__(self, over: "asyncio.Future[str]") -> None:
        self._over = over

    async def wait(self) -> str:
        """Until it is over: "exited", "detached" (the client typed its detach keys) or "gone" (the client went)."""
        return await asyncio.shield(self._over)


class ExecProcess:
    """A process that was started in a running container."""

    def __init__(self, shim: "Shim", exec_id: str, pid: int, code: "asyncio.Future[int]") -> None:
        self._shim = shim
        self.exec_id = exec_id
        self.pid = pid
        self._code = code

    @property
    def code(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self._code.result() if self._code.done() else None

    async def wait(self) -> int:
        """Its exit code, when it has ended and its output is flushed; 128 + signal. Any number of waiters."""
        return await asyncio.shield(self._code)

    async def resize(self, height: int, width: int) -> None:
        """Set its terminal's size. Raises NotFound when it has ended."""
        await self._shim.request(protocol.Resize(self._shim.number(), self.exec_id, height, width))

    async def signal(self, signo: int) -> None:
        """Send it a signal. Raises NotFound when it has ended."""
        await self._shim.request(protocol.Signal(self._shim.number(), signo, False, self.exec_id))


class Shim:
    """One container's shim. Every method but `wait` and `delete` raises NotFound when the container has exited."""

    def __init__(self, container_id: str, directory: Path, peer: socket.socket, lost: Callable[[], ExitStatus]) -> None:
        self.container_id = container_id
        self.pid = 0  # the container's own process, as the host numbers it
        self.execs: dict[str, ExecProcess] = {}  # those that run, also after a restart of the daemon
        self.exec_codes: dict[str, int] = {}  # exit codes of those that ended
        self._directory = directory
        self._socket = peer
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._inbox = protocol.Inbox()
        self._sequence = 0
        self._replies: dict[int, asyncio.Future[protocol.Reply]] = {}
        self._attached: dict[int, asyncio.Future[str]] = {}
        self._codes: dict[str, asyncio.Future[int]] = {}
        self._exit: asyncio.Future[ExitStatus] = self._loop.create_future()
        self._closed = asyncio.Event()
        self._sending = asyncio.Lock()
        peer.setblocking(False)
        self._loop.add_reader(peer.fileno(), self._readable)

    # -- what the container service asks

    async def wait(self) -> ExitStatus:
        """How the container ended, once it has, output flushed and status recorded. Any number of waiters."""
        return await asyncio.shield(self._exit)

    async def attach(self, attachment: Attachment, exec_id: str = "") -> Attached:
        """Serve one more client of the container's streams, from now on."""
        options, over = self._note(attachment)
        try:
            await self.request(protocol.Attach(self.number(), exec_id, options), [attachment.fd])
        finally:
            os.close(attachment.fd)
        return Attached(over)

    async def execute(self, request: ExecRequest) -> ExecProcess:
        """Start a further process. Raises RuntimeFailure(message, exit_code 126 | 127 | 1)."""
        options, descriptors = None, []
        if request.attachment is not None:
            options, _ = self._note(request.attachment)
            descriptors = [request.attachment.fd]
        code = self._codes[request.exec_id] = self._loop.create_future()
        message = protocol.Execute(
            self.number(),
            request.exec_id,
            request.process,
            request.terminal,
            request.open_stdin,
            options,
            request.console_size,
        )
        try:
            reply = await self.request(message, descriptors)
        except BaseException:
            self._codes.pop(request.exec_id, None)
            raise
        finally:
            for fd in descriptors:
                os.close(fd)
        process = ExecProcess(self, request.exec_id, reply.pid, code)
        if not code.done():
            self.execs[request.exec_id] = process
        return process

    async def signal(self, signo: int, all: bool = False) -> None:
        """Signal PID 1, or everything inside."""
        await self.request(protocol.Signal(self.number(), signo, all))

    async def pause(self) -> None:
        """Freeze every process."""
        await self.request(protocol.Freeze(self.number(), True))

    async def resume(self) -> None:
        """Let them go on."""
        await self.request(protocol.Freeze(self.number(), False))

    async def resize(self, height: int, width: int) -> None:
        """Set the terminal's size."""
        await self.request(protocol.Resize(self.number(), "", height, width))

    async def update(self, resources: bytes) -> None:
        """Change limits: the JSON of the OCI spec's linux.resources."""
        await self.request(protocol.Update(self.number(), resources))

    async def pids(self) -> list[int]:
        """Every process inside, by the host's numbers."""
        return (await self.request(protocol.Pids(self.number()))).pids

    async def delete(self) -> None:
        """After the exit: wait for the shim to end (cgroup and state are gone then), free its directory."""
        with contextlib.suppress(TimeoutError):  # a client that does not read keeps the shim: it frees itself later
            await asyncio.wait_for(self._closed.wait(), PATIENCE)
        shutil.rmtree(self._directory, ignore_errors=True)

    # -- the connection

    def number(self) -> int:
        """A number for the next request."""
        self._sequence += 1
        return self._sequence

    def _note(self, attachment: Attachment) -> tuple[protocol.AttachmentOptions, "asyncio.Future[str]"]:
        number = self.number()
        over = self._attached[number] = self._loop.create_future()
        options = protocol.AttachmentOptions(
            number,
            attachment.stdin,
            attachment.stdout,
            attachment.stderr,
            attachment.detach_keys,
            attachment.raw,
        )
        return options, over

    def options_of(self, attachment: Attachment) -> protocol.AttachmentOptions:
        """What the shim is told of an attachment beside its socket."""
        return self._note(attachment)[0]

    async def request(self, message: protocol.Request, descriptors: Sequence[int] = ()) -> protocol.Reply:
        """Send a request and wait for its reply. Raises RuntimeFailure, NotFound, SystemFailure as the shim says."""
        if self._closed.is_set():
            raise NotFound(f"container {self.container_id} is not running")
        answer = self._replies[message.seq] = self._loop.create_future()
        try:
            await self._send(protocol.pack(message, len(descriptors)), descriptors)
            reply: protocol.Reply = await answer
        except ConnectionError:
            raise NotFound(f"container {self.container_id} is not running") from None
        finally:
            self._replies.pop(message.seq, None)
        failure = reply.failure
        if failure is not None:
            if failure.kind == "runtime":
                raise RuntimeFailure(failure.message, failure.exit_code)
            raise NotFound(failure.message) if failure.kind == "missing" else SystemFailure(failure.message)
        return reply

    async def _send(self, frame: bytes, descriptors: Sequence[int]) -> None:
        async with self._sending:
            sent = 0
            if descriptors:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
                while not sent:
                    try:
                        sent = self._socket.sendmsg([frame], rights)
                    except BlockingIOError:
                        await asyncio.sleep(0.001)
            await self._loop.sock_sendall(self._socket, frame[sent:])

    def _readable(self) -> None:
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._inbox.feed(data)
        while (frame := self._inbox.frame()) is not None:
            self._take(_decode(frame[0]))

    def _take(self, notice: protocol.Notice) -> None:
        match notice:
            case protocol.Reply():
                waiting = self._replies.get(notice.seq)
                if waiting is not None and not waiting.done():
                    waiting.set_result(notice)
            case protocol.Exited():
                if not self._exit.done():
                    self._exit.set_result(_status(notice.exit))
            case protocol.ExecExited():
                self.exec_codes[notice.exec_id] = notice.code
                self.execs.pop(notice.exec_id, None)
                code = self._codes.pop(notice.exec_id, None)
                if code is not None and not code.done():
                    code.set_result(notice.code)
            case protocol.Detached():
                over = self._attached.pop(notice.number, None)
                if over is not None and not over.done():
                    over.set_result(notice.reason)

    def take_up(self, reply: protocol.Reply) -> None:
        """Know what a shim that ran on says of itself."""
        self.pid = reply.pid
        self.exec_codes = dict(reply.exec_codes)
        for exec_id, pid in reply.exec_pids.items():
            code = self._codes[exec_id] = self._loop.create_future()
            self.execs[exec_id] = ExecProcess(self, exec_id, pid, code)

    def close(self, *, ended: bool = True) -> None:
        """Drop the connection. `ended`: the shim has, and so nothing more will come from it."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._closed.set()
        for answer in self._replies.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError("the shim has ended"))
        if not ended:
            return
        for code in self._codes.values():
            if not code.done():
                code.set_result(137)
        for over in self._attached.values():
            if not over.done():
                over.set_result("exited")
        if not self._exit.done() and self.pid:
            # it ended without a word: killed, most likely
            self._loop.run_in_executor(None, self._lost).add_done_callback(self._found)

    def _found(self, status: "asyncio.Future[ExitStatus]") -> None:
        if not self._exit.done() and not status.cancelled():
            failure = status.exception()
            self._exit.set_result(ExitStatus(137, time.time_ns()) if failure is not None else status.result())


class Shims:
    """All shims below `<exec_root>/shims`; the runtime's state is below `state_root`."""

    def __init__(self, exec_root: Path) -> None:
        self.exec_root = exec_root
        self.state_root = exec_root / "runtime"
        self._zygote: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._live: weakref.WeakSet[Shim] = weakref.WeakSet()
        self._filters: dict[bytes, int] = {}

    async def open(self) -> None:
        """Start the zygote. It is started anew whenever it dies."""
        (self.exec_root / "shims").mkdir(mode=0o700, parents=True, exist_ok=True)
        self.state_root.mkdir(mode=0o700, exist_ok=True)
        self._spawn()

    async def close(self) -> None:
        """End the zygote and drop the connections; shims and containers go on."""
        for shim in list(self._live):
            shim.close(ended=False)
        while self._filters:
            os.close(self._filters.popitem()[1])
        if self._connection is not None:
            self._connection.close()
        if self._zygote is not None:
            await asyncio.to_thread(self._zygote.wait)

    def _spawn(self) -> None:
        self._zygote, self._connection = zygote.spawn()

    def _fork(self, first: socket.socket) -> None:
        """Have the zygote fork a shim that talks to the other end of `first`."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [first.fileno()]))]
        for attempt in range(2):
            if self._zygote is None or self._connection is None or self._zygote.poll() is not None:
                self._spawn()
            assert self._connection is not None
            try:
                self._connection.sendmsg([zygote.FORK], rights)
                return
            except OSError as error:
                if attempt:
                    raise SystemFailure(f"cannot reach the zygote: {error}") from error
                self._zygote = None

    def _filter(self, program: bytes) -> int:
        """A file in memory with the program; all containers with the same share one."""
        if program not in self._filters:
            if len(self._filters) >= FILTERS_KEPT:
                os.close(self._filters.pop(next(iter(self._filters))))
            self._filters[program] = memory_files.hold("seccomp", program)
        return self._filters[program]

    def _directory(self, container_id: str) -> Path:
        return self.exec_root / "shims" / container_id

    def _shim(self, container_id: str, peer: socket.socket) -> Shim:
        shim = Shim(container_id, self._directory(container_id), peer, lambda: self._lost(container_id))
        self._live.add(shim)
        return shim

    async def start(self, request: StartRequest) -> Shim:
        """Start a container. Raises RuntimeFailure(message, exit_code): 127 command not found, 126 not executable."""
        descriptors = [attachment.fd for attachment in request.attachments]
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                self._fork(theirs)
            shim = self._shim(request.container_id, ours)
            descriptors.insert(0, memory_files.hold("spec", request.spec))
            passed = descriptors
            if request.seccomp_program is not None:
                passed = [descriptors[0], self._filter(request.seccomp_program), *descriptors[1:]]
            log = request.log
            message = protocol.Start(
                shim.number(),
                request.container_id,
                str(self._directory(request.container_id)),
                str(self.state_root),
                request.bundle,
                request.seccomp_program is not None,
                request.terminal,
                request.open_stdin,
                request.stdin_once,
                protocol.LogOptions(log.driver, log.path, log.max_size, log.max_file, log.attributes),
                [shim.options_of(attachment) for attachment in request.attachments],
                request.init,
                request.console_size,
            )
            try:
                reply = await shim.request(message, passed)
            except NotFound as error:
                raise RuntimeFailure(f"the shim ended unexpectedly: {error}") from error
            except BaseException:
                shim.close(ended=False)
                raise
        finally:
            for fd in descriptors:
                os.close(fd)
        shim.pid = reply.pid
        return shim

    async def recover(self, container_id: str) -> Shim | ExitStatus | None:
        """After a restart: its live shim, how it ended meanwhile (then call `forget`), or None: nothing is known."""
        peer = self._connect(container_id)
        if peer is not None:
            shim = self._shim(container_id, peer)
            try:
                reply = await shim.request(protocol.Hello(shim.number()))
            except (NotFound, SystemFailure, RuntimeFailure):
                shim.close(ended=False)
            else:
                shim.take_up(reply)
                if reply.exit is None:
                    return shim
                shim.close(ended=False)
                return _status(reply.exit)
        if not self._directory(container_id).exists():
            return None
        return await asyncio.to_thread(self._lost, container_id)

    def _connect(self, container_id: str) -> socket.socket | None:
        try:
            directory = os.open(self._directory(container_id), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # through the descriptor: the whole path may exceed sun_path's 108 bytes
            peer.connect(f"/proc/self/fd/{directory}/shim.sock")
            return peer
        except OSError:
            peer.close()
            return None
        finally:
            os.close(directory)

    def _lost(self, container_id: str) -> ExitStatus:
        """How a container ended whose shim is gone: by its record, else it is ended now."""
        try:
            data = (self._directory(container_id) / "exit.json").read_bytes()
            record = msgspec.json.decode(data, type=protocol.ExitRecord)
            status = ExitStatus(record.code, record.exited_at_ns, record.oom_killed)
        except (OSError, msgspec.DecodeError):
            status = ExitStatus(137, time.time_ns())
        with contextlib.suppress(RuntimeFailure, OSError):
            Container.load(str(self.state_root), container_id).delete(force=True)
        return status

    async def forget(self, container_id: str) -> None:
        """Free what a container that has exited left in the exec root."""
        shutil.rmtree(self._directory(container_id), ignore_errors=True)


def _status(exit_: protocol.Exit) -> ExitStatus:
    return ExitStatus(exit_.code, exit_.exited_at_ns, exit_.oom_killed)
