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
import logging
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
import weakref
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from dockyard.errors import NotFound, SystemFailure, Unavailable
from dockyard.linux import memory_files, syscalls
from dockyard.runtime import record as records
from dockyard.runtime.container import Container
from dockyard.runtime.errors import RuntimeFailure
from dockyard.shim import protocol, zygote
from dockyard.shim.other_runtime import OtherContainer

__all__ = [
    "Attached",
    "Attachment",
    "ExecProcess",
    "ExecRequest",
    "ExitStatus",
    "LogConfig",
    "Runtime",
    "Shim",
    "Shims",
    "StartRequest",
]

log = logging.getLogger("dockyard.shims")

# How long the end of a shim is waited for; it outstays its container only while a client has output left to read.
PATIENCE = 5.0
# How many seccomp filters are at hand at once; nearly every container has the same one.
FILTERS_KEPT = 32
# A shim answers in milliseconds; on a machine that is overwhelmed in seconds. One that does not is stopped or stuck.
ANSWER_PATIENCE = 10.0
# SIGKILL must work all the same: a shim that does not pass it on in this time is killed itself, and with it all it ran.
KILL_PATIENCE = 3.0
# A daemon that comes back does not wait longer for one shim; it goes on listening for the answer.
HELLO_PATIENCE = 2.0
# How often a start is given to another shim when the one that should have taken it is killed or stopped.
ATTEMPTS = 3
REMEMBERED_CODES = 1000
_decode = msgspec.msgpack.Decoder(protocol.Notice).decode
DEFAULT_DETACH_KEYS = b"\x10\x11"  # ctrl-p ctrl-q


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Where a container's output goes.

    `driver` "none" keeps nothing, any other has its file, in json-file's format. A file that has reached `max_size`
    bytes is rotated to `path`.1 (`compress`: .1.gz) and so on, `max_file` files in all (1: it is emptied instead);
    `max_size` <= 0 means no limit.
    `attributes` goes into every row of json-file (`attrs`): the labels and environment the log options select.
    """

    driver: str = "json-file"
    path: str = ""
    max_size: int = -1
    max_file: int = 1
    attributes: dict[str, str] = field(default_factory=dict)
    compress: bool = False


@dataclass(frozen=True, slots=True)
class Attachment:
    """A client of a process's streams.

    `fd` is a connected stream socket; it belongs to the shims' client from the call on, whatever happens, and the shim
    writes the streams to it and reads stdin from it. `raw`: bytes as they come (terminal); else each piece
    carries Docker's 8-byte head (stream 1 or 2, 0, 0, 0, length big endian). `detach_keys` are looked for in stdin when
    the process has a terminal; b"" turns that off. `blocking`: the process waits for this client to read; else a client
    that is too slow has its output kept on disk, and is hung up on in the end.
    """

    fd: int
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    detach_keys: bytes = DEFAULT_DETACH_KEYS
    raw: bool = False
    blocking: bool = False


@dataclass(frozen=True, slots=True)
class Runtime:
    """Another OCI runtime than ours: the program and its arguments before the command. `name` is a directory's here."""

    name: str
    command: Sequence[str]


@dataclass(frozen=True, slots=True)
class StartRequest:
    """A container to start. `spec` is the OCI config.json; `seccomp_program` its compiled filter, if it has one.

    `open_stdin`: keep stdin open for attachments, else it is /dev/null; `stdin_once`: close it when the first
    attachment that has stdin ends it. `attachments` are served from the first byte on. `init`: PID 1 is
    `/sbin/docker-init -- args…`. `console_size` is (height, width). `runtime`: another than ours makes the container.
    `checkpoint`: it goes on from what is in that directory. `systemd_cgroup`: its cgroup is a scope unit of systemd's,
    which the spec's cgroupsPath names as "slice:prefix:name".
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
    runtime: Runtime | None = None
    checkpoint: str = ""
    systemd_cgroup: bool = False


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
    """One container's shim.

    Every method but `wait` and `delete` raises NotFound when the container has exited, and Unavailable when the shim
    does not answer.
    """

    def __init__(self, container_id: str, directory: Path, peer: socket.socket, lost: Callable[[], ExitStatus]) -> None:
        self.container_id = container_id
        self.pid = 0  # the container's own process, as the host numbers it
        self.execs: dict[str, ExecProcess] = {}  # those that run, also after a restart of the daemon
        self.exec_codes: dict[str, int] = {}  # exit codes of the latest that ended
        self.frozen = False  # found paused after a restart of the daemon
        self.version = 0  # the shim's, of the protocol
        self._directory = directory
        self._socket = peer
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._inbox = protocol.Inbox()
        self._sequence = 0
        self._replies: dict[int, asyncio.Future[protocol.Reply]] = {}
        self._attached: dict[int, asyncio.Future[str]] = {}
        self._attached_to: dict[int, str] = {}  # the exec's id, by the attachment's number
        self.on_detach: Callable[[str], None] = lambda exec_id: None  # told of clients that have typed their keys
        self._codes: dict[str, asyncio.Future[int]] = {}
        self._exit: asyncio.Future[ExitStatus] = self._loop.create_future()
        self._closed = asyncio.Event()
        self._taken: asyncio.Future[None] = self._loop.create_future()
        self._process = -1  # the shim's pidfd
        self._sending = asyncio.Lock()
        self._torn = False  # a request was left half sent
        self.silent = False  # it has not yet answered this daemon
        self.catching_up: asyncio.Task[None] | None = None
        peer.setblocking(False)
        self._loop.add_reader(peer.fileno(), self._readable)

    # -- what the container service asks

    async def wait(self) -> ExitStatus:
        """How the container ended, once it has, output flushed and status recorded. Any number of waiters."""
        return await asyncio.shield(self._exit)

    async def attach(
        self, attachment: Attachment, exec_id: str = "", first: Callable[[int, int], Awaitable[None]] | None = None
    ) -> Attached:
        """Serve one more client of the container's streams, from now on.

        `first` is awaited before the client gets anything of them: it may tell the client what the log holds up to that
        moment, an inode and an offset, so that nothing is missing or comes twice. The socket stays open for it.
        """
        options, over = self._note(attachment, held=first is not None and self.version >= 2)
        served = first is None
        try:
            reply = await self.request(protocol.Attach(self.number(), exec_id, options, _latest()), [attachment.fd])
            served = True
            if first is not None:
                await first(*reply.log_position)
            if options.held:
                await self.request(protocol.Release(self.number(), options.number))
        except BaseException:
            if served:
                self._hang_up(attachment, options)
            else:  # whoever would be told first tells it himself
                self._attached.pop(options.number, None)
            raise
        finally:
            os.close(attachment.fd)
        return Attached(over)

    async def execute(self, request: ExecRequest) -> ExecProcess:
        """Start a further process. Raises RuntimeFailure(message, exit_code 126 | 127 | 1)."""
        options, descriptors = None, []
        if request.attachment is not None:
            options, _ = self._note(request.attachment)
            self._attached_to[options.number] = request.exec_id
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
            _latest(),
        )
        try:
            reply = await self.request(message, descriptors, lasting=True)
        except BaseException as failure:
            self._codes.pop(request.exec_id, None)
            if request.attachment is not None and options is not None:
                self._attached.pop(options.number, None)
                if isinstance(failure, Unavailable):
                    self._hang_up(request.attachment, options)
            raise
        finally:
            for fd in descriptors:
                os.close(fd)
        process = ExecProcess(self, request.exec_id, reply.pid, code)
        if not code.done():
            self.execs[request.exec_id] = process
        return process

    async def signal(self, signo: int, all: bool = False) -> None:
        """Signal PID 1, or everything inside. SIGKILL ends the container even when the shim is stuck."""
        message = protocol.Signal(self.number(), signo, all)
        if signo != signal.SIGKILL:
            await self.request(message)
            return
        try:
            await self.request(message, patience=KILL_PATIENCE)
        except Unavailable:
            log.warning("the shim of container %s does not answer; it is killed", self.container_id)
            self.destroy()

    def destroy(self) -> None:
        """Kill the shim. The connection then ends, and we end what is left of the container."""
        if self._process >= 0:
            with contextlib.suppress(ProcessLookupError):
                syscalls.pidfd_send_signal(self._process, signal.SIGKILL)

    async def pause(self) -> None:
        """Freeze every process."""
        await self.request(protocol.Freeze(self.number(), True, _latest()))

    async def resume(self) -> None:
        """Let them go on."""
        await self.request(protocol.Freeze(self.number(), False, _latest()))

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

    def _hang_up(self, attachment: Attachment, options: protocol.AttachmentOptions) -> None:
        """Let a client know that nothing will come, though its socket may still be on the way to the shim."""
        self._attached.pop(options.number, None)
        with socket.socket(fileno=os.dup(attachment.fd)) as client, contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def _note(
        self, attachment: Attachment, *, held: bool = False
    ) -> tuple[protocol.AttachmentOptions, "asyncio.Future[str]"]:
        number = self.number()
        over = self._attached[number] = self._loop.create_future()
        options = protocol.AttachmentOptions(
            number,
            attachment.stdin,
            attachment.stdout,
            attachment.stderr,
            attachment.detach_keys,
            attachment.raw,
            attachment.blocking,
            held,
        )
        return options, over

    def options_of(self, attachment: Attachment) -> protocol.AttachmentOptions:
        """What the shim is told of an attachment beside its socket."""
        return self._note(attachment)[0]

    async def taken(self) -> None:
        """Until a new shim has begun with the container it was given. Raises NotFound when it is killed before."""
        async with asyncio.timeout(ANSWER_PATIENCE):
            await asyncio.shield(self._taken)

    async def request(
        self,
        message: protocol.Request,
        descriptors: Sequence[int] = (),
        *,
        patience: float | None = ANSWER_PATIENCE,
        lasting: bool = False,
    ) -> protocol.Reply:
        """Send a request and wait up to `patience` s for its reply (None: for ever).

        `lasting`: what is asked may take its time, but meanwhile the shim must answer to other questions.
        Raises RuntimeFailure, NotFound, SystemFailure as the shim says, Unavailable when it says nothing.
        """
        if self._closed.is_set():
            raise NotFound(f"container {self.container_id} is not running")
        answer = self._replies[message.seq] = self._loop.create_future()
        try:
            async with asyncio.timeout(patience):
                await self._send(protocol.pack(message, len(descriptors)), descriptors)
                if not lasting:
                    reply: protocol.Reply = await answer
            if lasting:
                reply = await self._patiently(answer)
        except TimeoutError:
            raise Unavailable(f"the shim of container {self.container_id} does not answer") from None
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

    async def _patiently(self, answer: "asyncio.Future[protocol.Reply]") -> protocol.Reply:
        while not (await asyncio.wait({answer}, timeout=ANSWER_PATIENCE))[0]:
            with contextlib.suppress(RuntimeFailure, SystemFailure):
                await self.request(protocol.Pids(self.number()))
        return answer.result()

    async def _send(self, frame: bytes, descriptors: Sequence[int]) -> None:
        async with self._sending:
            if self._torn:
                raise Unavailable(f"the shim of container {self.container_id} does not answer")
            self._torn = True
            sent = 0
            if descriptors:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
                while not sent:
                    try:
                        sent = self._socket.sendmsg([frame], rights)
                    except BlockingIOError:
                        await asyncio.sleep(0.001)
            await self._loop.sock_sendall(self._socket, frame[sent:])
            self._torn = False

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
            try:
                notice = _decode(frame[0])
            except msgspec.MsgspecError as error:  # the shim is of a later release
                log.debug("container %s: %s", self.container_id, error)
            else:
                self._take(notice)

    def _take(self, notice: protocol.Notice) -> None:
        match notice:
            case protocol.Reply():
                waiting = self._replies.get(notice.seq)
                if waiting is not None and not waiting.done():
                    waiting.set_result(notice)
            case protocol.Taken():
                self.meet(notice.pid)
                self.version = notice.version
                if not self._taken.done():
                    self._taken.set_result(None)
            case protocol.Exited():
                if not self._exit.done():
                    self._exit.set_result(_status(notice.exit))
            case protocol.ExecExited():
                self.exec_codes[notice.exec_id] = notice.code
                if len(self.exec_codes) > REMEMBERED_CODES:
                    del self.exec_codes[next(iter(self.exec_codes))]
                self.execs.pop(notice.exec_id, None)
                code = self._codes.pop(notice.exec_id, None)
                if code is not None and not code.done():
                    code.set_result(notice.code)
            case protocol.Detached():
                exec_id = self._attached_to.pop(notice.number, "")
                if notice.reason == "detached":
                    self.on_detach(exec_id)
                over = self._attached.pop(notice.number, None)
                if over is not None and not over.done():
                    over.set_result(notice.reason)

    def take_up(self, reply: protocol.Reply) -> None:
        """Know what a shim that ran on says of itself."""
        self.pid, self.frozen, self.version = reply.pid, reply.frozen, reply.version
        self.exec_codes = dict(reply.exec_codes)
        for exec_id, pid in reply.exec_pids.items():
            code = self._codes[exec_id] = self._loop.create_future()
            self.execs[exec_id] = ExecProcess(self, exec_id, pid, code)

    def meet(self, pid: int) -> None:
        """Know which process the shim is."""
        with contextlib.suppress(OSError):
            self._process = os.pidfd_open(pid)

    async def catch_up(self) -> None:
        """Hear a shim out that was silent when the daemon came back, whenever it speaks."""
        with contextlib.suppress(NotFound, Unavailable):  # it has ended, which is noticed elsewhere
            try:
                reply = await self.request(protocol.Hello(self.number(), protocol.VERSION), patience=None)
            except (RuntimeFailure, SystemFailure) as failure:
                log.warning("container %s: %s", self.container_id, failure)
                self.destroy()
                return
            self.silent = False
            self.take_up(reply)
            if reply.exit is not None and not self._exit.done():
                self._exit.set_result(_status(reply.exit))

    def close(self, *, ended: bool = True) -> None:
        """Drop the connection. `ended`: the shim has, and so nothing more will come from it."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._closed.set()
        if self._process >= 0:
            os.close(self._process)
            self._process = -1
        if not self._taken.done():
            self._taken.set_exception(NotFound("the shim has ended"))
            self._taken.exception()  # most have nobody who waits for it
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
            await self._end(self._zygote)

    @staticmethod
    async def _end(process: "subprocess.Popen[bytes]") -> None:
        """Wait for a zygote that has been hung up on; one that is stopped is killed."""
        try:
            await asyncio.to_thread(process.wait, 2)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)

    async def _replace_zygote(self) -> None:
        """End a zygote that hands out no shims. What it was asked for and has not taken is forgotten with it."""
        log.warning("the zygote does not answer; it is replaced")
        process, connection = self._zygote, self._connection
        self._zygote = self._connection = None
        if connection is not None:
            connection.close()
        if process is not None:
            process.kill()
            await self._end(process)

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

    def _state_root(self, runtime: Runtime | None) -> Path:
        """Where the runtime keeps what it knows; another's by its name, as under Docker."""
        return self.state_root if runtime is None else self.exec_root / f"runtime-{runtime.name}" / "moby"

    def _directory(self, container_id: str) -> Path:
        return self.exec_root / "shims" / container_id

    def _shim(self, container_id: str, peer: socket.socket) -> Shim:
        shim = Shim(container_id, self._directory(container_id), peer, lambda: self._lost(container_id))
        self._live.add(shim)
        return shim

    async def start(self, request: StartRequest) -> Shim:
        """Start a container. Raises RuntimeFailure(message, exit_code): 127 command not found, 126 not executable."""
        try:
            spec = memory_files.hold("spec", request.spec)
            try:
                for _ in range(ATTEMPTS):
                    shim = await self._try_to_start(request, spec)
                    if shim is not None:
                        return shim
            finally:
                os.close(spec)
            raise RuntimeFailure("no shim takes the container")
        finally:
            for attachment in request.attachments:
                os.close(attachment.fd)

    async def _try_to_start(self, request: StartRequest, spec: int) -> Shim | None:
        """The shim of the container, which runs; None when no shim was there to take it."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._fork(theirs)
        shim = self._shim(request.container_id, ours)
        options = request.log
        message = protocol.Start(
            shim.number(),
            request.container_id,
            str(self._directory(request.container_id)),
            str(self._state_root(request.runtime)),
            request.bundle,
            request.seccomp_program is not None,
            request.terminal,
            request.open_stdin,
            request.stdin_once,
            protocol.LogOptions(
                options.driver,
                options.path,
                options.max_size,
                options.max_file,
                options.attributes,
                options.compress,
            ),
            [shim.options_of(attachment) for attachment in request.attachments],
            request.init,
            request.console_size,
            list(request.runtime.command) if request.runtime is not None else [],
            request.checkpoint,
            request.systemd_cgroup,
        )
        descriptors = [spec]
        if request.seccomp_program is not None:
            descriptors.append(self._filter(request.seccomp_program))
        descriptors += [attachment.fd for attachment in request.attachments]
        asking = asyncio.ensure_future(shim.request(message, descriptors, patience=None))
        try:
            try:
                await shim.taken()
            except NotFound:
                return None
            except TimeoutError:
                await self._replace_zygote()
                return None
            try:
                shim.pid = (await asking).pid
            except NotFound as error:
                await asyncio.to_thread(self._lost, request.container_id)
                raise RuntimeFailure(f"the shim ended unexpectedly: {error}") from error
            return shim
        except asyncio.CancelledError:
            shim.destroy()
            await asyncio.to_thread(self._lost, request.container_id)
            raise
        finally:
            if not shim.pid:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                shim.close(ended=False)

    async def recover(self, container_id: str) -> Shim | ExitStatus | None:
        """After a restart: its live shim, how it ended meanwhile (then call `forget`), or None: nothing is known."""
        peer = self._connect(container_id)
        if peer is not None:
            shim = self._shim(container_id, peer)
            # of a listening socket the kernel tells who listened
            pid, _, _ = struct.unpack("iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            shim.meet(pid)
            try:
                reply = await shim.request(protocol.Hello(shim.number(), protocol.VERSION), patience=HELLO_PATIENCE)
            except Unavailable:
                log.warning("the shim of container %s does not answer; it is taken to run on", container_id)
                with contextlib.suppress(RuntimeFailure, OSError, msgspec.MsgspecError):
                    shim.pid = Container.load(str(self.state_root), container_id).record.pid
                shim.silent = True
                shim.catching_up = asyncio.ensure_future(shim.catch_up())
                return shim
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
        peer.settimeout(1)
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
        directory = self._directory(container_id)
        try:
            record = msgspec.json.decode((directory / "exit.json").read_bytes(), type=protocol.ExitRecord)
            status = ExitStatus(record.code, record.exited_at_ns, record.oom_killed)
        except (OSError, msgspec.DecodeError):
            status = ExitStatus(137, time.time_ns())
            _kill_recorded(directory / "pid")
        try:
            other = OtherContainer.load(str(directory), container_id)
            (other or Container.load(str(self.state_root), container_id)).delete(force=True)
        except RuntimeFailure as failure:
            log.debug("container %s: %s", container_id, failure)
        except (OSError, msgspec.MsgspecError) as failure:
            log.warning("cannot take away what is left of container %s: %s", container_id, failure)
        return status

    async def end_strays(self, live: Collection[str]) -> None:
        """End and forget what there is of containers that are not `live`: a crash has left it."""
        found = {path.name for root in (self.exec_root / "shims", self.state_root) for path in root.iterdir()}
        for container_id in found.difference(live):
            log.info("removing what was left of container %s", container_id)
            await asyncio.to_thread(self._lost, container_id)
            await self.forget(container_id)
            shutil.rmtree(self.state_root / container_id, ignore_errors=True)

    async def forget(self, container_id: str) -> None:
        """Free what a container that has exited left in the exec root."""
        shutil.rmtree(self._directory(container_id), ignore_errors=True)


def _latest() -> int:
    return time.monotonic_ns() + int(ANSWER_PATIENCE * 1e9)


def _kill_recorded(path: Path) -> None:
    """Kill the shim that has written `path`, if it is still that process."""
    try:
        pid, started = map(int, path.read_text().split())
        process = os.pidfd_open(pid)
    except (OSError, ValueError):
        return
    try:
        if records.is_alive(pid, started):
            syscalls.pidfd_send_signal(process, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(process)


def _status(exit_: protocol.Exit) -> ExitStatus:
    return ExitStatus(exit_.code, exit_.exited_at_ns, exit_.oom_killed)
