"""One shim as the daemon sees it: what can be asked of it, and the connection over which that goes.

A request carries a number and gets its reply under it, in any order; what happens by itself (an end, a client that has
gone) comes as a notice. One connection per shim lasts as long as both do.
"""

import array
import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from dockyard.errors import NotFound, SystemFailure, Unavailable
from dockyard.linux import syscalls
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.state import record as records
from dockyard.shim import protocol
from dockyard.shim.orders import Attachment, ExecRequest, ExitStatus

log = logging.getLogger("dockyard.shims")

# How long the end of a shim is waited for; it outstays its container only while a client has output left to read.
PATIENCE = 5.0
# A shim answers in milliseconds; on a machine that is overwhelmed in seconds. One that does not is stopped or stuck.
ANSWER_PATIENCE = 10.0
# Signals must work all the same: one that a shim does not pass on in this time is sent without it, and of SIGKILL it
# dies itself, and with it all it ran.
KILL_PATIENCE = 3.0
REMEMBERED_CODES = 1000
_decode = msgspec.msgpack.Decoder(protocol.Notice).decode


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

    def __init__(
        self,
        container_id: str,
        directory: Path,
        peer: socket.socket,
        lost: Callable[[], ExitStatus],
        signal_without: Callable[[int], None],
    ) -> None:
        """`lost` tells how the container ended when the shim has; `signal_without` signals it past one that hangs."""
        self.container_id = container_id
        self.pid = 0  # the container's own process, as the host numbers it
        self.execs: dict[str, ExecProcess] = {}  # those that run, also after a restart of the daemon
        self.exec_codes: dict[str, int] = {}  # exit codes of the latest that ended
        self.frozen = False  # found paused after a restart of the daemon
        self.version = 0  # the shim's, of the protocol
        self._directory = directory
        self._socket = peer
        self._lost = lost
        self._signal_without = signal_without
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
        """Signal PID 1, or everything inside, also when the shim is stuck; SIGKILL then ends it as well."""
        if signo != signal.SIGKILL:
            latest = time.monotonic_ns() + int(KILL_PATIENCE * 1e9)
            try:
                await self.request(protocol.Signal(self.number(), signo, all, "", latest), patience=KILL_PATIENCE)
            except Unavailable:
                if all:
                    raise
                await self._loop.run_in_executor(None, self._signal_without, signo)
            return
        try:
            await self.request(protocol.Signal(self.number(), signo, all), patience=KILL_PATIENCE)
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
        records.remove_files(str(self._directory))

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

    async def taken(self, further: float = 0) -> None:
        """Until a new shim has begun with the container it was given. Raises NotFound when it is killed before.

        TimeoutError when that takes too long: `further` seconds more than an answer of one that is there.
        """
        async with asyncio.timeout(ANSWER_PATIENCE + further):
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
            try:
                if descriptors:
                    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
                    while not sent:
                        try:
                            sent = self._socket.sendmsg([frame], rights)
                        except BlockingIOError:
                            await asyncio.sleep(0.001)
                await self._loop.sock_sendall(self._socket, frame[sent:])
            except ConnectionError:  # it has ended: who asks next is told that, too
                self._torn = False
                raise
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
                    self._exit.set_result(status_of(notice.exit))
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
                self._exit.set_result(status_of(reply.exit))

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


def _latest() -> int:
    return time.monotonic_ns() + int(ANSWER_PATIENCE * 1e9)


def status_of(exit_: protocol.Exit) -> ExitStatus:
    """How the shim says that its container ended."""
    return ExitStatus(exit_.code, exit_.exited_at_ns, exit_.oom_killed)
