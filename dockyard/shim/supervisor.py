"""The shim itself: one process per container, which outlives the daemon and the zygote that forked it.

It is the parent of the container's process and of every exec (and, as subreaper, of what these leave behind), holds
their streams, writes the log, and answers the daemon. Plain blocking code in one thread around one epoll loop.

Its directory `<exec_root>/shims/<id>` holds `pid` (its PID and start time), `shim.sock`, where a daemon finds it, and
at the end `exit.json`.
"""

import errno
import os
import select
import signal
import socket
import time
import traceback  # here, not where something goes wrong: what is imported before the fork is shared

import msgspec

from dockyard.linux import memory_files
from dockyard.linux.cgroups import Cgroup
from dockyard.oci import runtime_spec
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.lifecycle.container import Container, Joining, Started
from dockyard.runtime.resources import groups
from dockyard.runtime.state.record import is_ending, remove_files
from dockyard.shim import handover, protocol
from dockyard.shim.ends import Ends
from dockyard.shim.log_writer import NoLog, open_log
from dockyard.shim.other_runtime import OtherContainer
from dockyard.shim.start import send
from dockyard.shim.streams import Client, Loop, Streams

NOT_RUNNING = "container is not running"  # told of one that has ended
# Requests are small; a larger one comes in pieces.
CHUNK = 1 << 13
# What the kernel says to who would enter namespaces whose first process is ending; ENOMEM to a fork.
INTO_THE_DYING = (errno.ESRCH, errno.ENOMEM)
# How long output is waited for that someone else than the ended process holds open (as moby does in its exit handling).
PATIENCE = 2.0
# How often a full log is looked at, s.
LOG_INTERVAL = 0.02
# Of so many execs that have ended a daemon that comes back can learn the exit codes; health checks make many.
REMEMBERED_CODES = 1000

_decode = msgspec.msgpack.Decoder(protocol.Request).decode


class Connection:
    """A daemon at the other end."""

    def __init__(self, shim: "Shim", peer: socket.socket) -> None:
        self._shim = shim
        self.socket = peer
        self.socket.setblocking(False)
        self._inbox = protocol.Inbox()
        self._out = bytearray()
        shim.loop.add(peer.fileno(), select.EPOLLIN, self._ready)

    def send(self, notice: protocol.Notice) -> None:
        """Send, or keep it while the daemon is busy."""
        if self.socket.fileno() < 0:
            return
        frame = protocol.pack(notice)
        if not self._out:
            try:
                frame = frame[self.socket.send(frame, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                pass
            except OSError:
                self.close()
                return
            if not frame:
                return
            self._shim.loop.change(self.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)
        self._out += frame

    def close(self) -> None:
        """The daemon has gone, or we go."""
        if self.socket.fileno() >= 0:
            self._shim.loop.remove(self.socket.fileno())
            self.socket.close()
            for fd in self._inbox.descriptors:
                os.close(fd)
            self._inbox.descriptors = []
        if self in self._shim.connections:
            self._shim.connections.remove(self)
            self._shim.release_held()

    def flush(self) -> None:
        """Before the shim ends: give what is left to a daemon that reads."""
        try:
            self.socket.settimeout(1)
            self.socket.sendall(self._out)
        except OSError:
            pass

    def _ready(self, events: int) -> None:
        if events & select.EPOLLOUT:
            try:
                del self._out[: self.socket.send(self._out, socket.MSG_NOSIGNAL)]
            except BlockingIOError:
                pass
            except OSError:
                self.close()
                return
            if not self._out:
                self._shim.loop.change(self.socket.fileno(), select.EPOLLIN)
        if events & ~select.EPOLLOUT:
            self._receive()

    def _receive(self) -> None:
        try:
            data, descriptors = protocol.receive(self.socket, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        self._inbox.descriptors += descriptors
        if not data:
            self.close()
            return
        self._inbox.feed(data)
        while (frame := self._inbox.frame()) is not None:
            body, descriptors = frame
            try:
                request = _decode(body)
            except msgspec.MsgspecError as error:
                self._refuse(body, descriptors, error)
            else:
                self._shim.answer(self, request, descriptors)

    def _refuse(self, body: bytes, descriptors: list[int], error: msgspec.MsgspecError) -> None:
        """Say that a daemon of another release asks for what is not known here."""
        for fd in descriptors:
            os.close(fd)
        match msgspec.msgpack.decode(body):
            case [_, int(seq), *_]:
                text = f"the container's shim is of another release and does not know this request ({error})"
                self.send(protocol.failed(seq, "system", text, 1))
            case _:
                self.close()


class Process:
    """A process of the container that this shim has started: its own, or an exec.

    An exec is here from its fork on; it has `streams` when its program runs.
    """

    def __init__(self, exec_id: str, pid: int, streams: Streams | None) -> None:
        self.exec_id = exec_id
        self.pid = pid
        self.streams = streams
        self.code: int | None = None  # what it was reaped with
        self.exit: protocol.Exit | None = None
        self.deadline = 0.0  # monotonic; until then an ended process's streams may still bring something


class Shim:
    """See the module. It takes over what a starter has left."""

    def __init__(self, left: handover.Left) -> None:
        order, daemon, held, descriptors = left.order, left.daemon, left.held, left.descriptors
        assert order is not None
        assert daemon is not None
        assert held is not None
        os.close(left.spec)
        os.chdir(order.directory)
        os.close(descriptors.pop(0))  # the pidfd has only woken us: children tell of their end by SIGCHLD
        self.loop = Loop()
        self.connections: list[Connection] = [Connection(self, daemon)]
        self._listener: socket.socket | None = self._listen(socket.socket(fileno=descriptors.pop(0)))
        seccomp = descriptors.pop(0) if order.filtered else None
        self._kept: _Kept | None = _Kept(order, seccomp)
        self._cgroup, self._own_pids = held.cgroup, held.own_pids
        stdin = descriptors.pop(0) if order.open_stdin else -1
        sources = {descriptors.pop(0): number for number in held.streams}
        streams = Streams(
            self.loop, sources, stdin, open_log(order.log), terminal=order.terminal, close_stdin=order.stdin_once
        )
        self._init = Process("", held.pid, streams)
        for options in order.attachments:
            self._attach(self.connections[0], streams, options, descriptors.pop(0))
        self._execs: dict[str, Process] = {}
        self._ending: list[Process] = []  # ended, streams not yet
        self._codes: dict[str, int] = {}
        self._unclaimed: dict[int, int] = {}  # ends of children while an exec's last number is not known yet
        self._over = False
        if not left.told:  # the starter was killed before it did
            self.connections[0].send(protocol.Reply(order.seq, pid=held.pid))

    # the life

    def run(self) -> None:
        """Until the container has exited and everybody has been told."""
        self._watch_children()
        self._reap()  # those that have ended while we slept
        while not self._over:
            try:
                self.loop.run_once(self._timeout())
                if self._init.streams is not None:
                    self._init.streams.relieved()
                if self._ending or self._init.exit is not None:
                    self._settle()
            except Exception:
                # whatever is wrong with one request or client, the container must not be left alone
                _note_failure(traceback.format_exc())
                time.sleep(0.01)
        self._part()

    def _part(self) -> None:
        """Take away what is left of the container and let the daemon see the end, which tells it that this is done."""
        for connection in tuple(self.connections):
            connection.flush()
        if self._kept is not None:
            self._delete(self._kept)
            self._kept = None
        for connection in tuple(self.connections):
            connection.close()

    def _watch_children(self) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

        def reap(_: int) -> None:
            os.read(reader, 4096)
            self._reap()

        self.loop.add(reader, select.EPOLLIN, reap)

    def _timeout(self) -> float:
        streams = self._init.streams
        most = LOG_INTERVAL if streams is not None and streams.waits_for_log else -1.0
        if not self._ending:
            return most
        left = max(min(process.deadline for process in self._ending) - time.monotonic(), 0)
        return left if most < 0 else min(left, most)

    def _delete(self, kept: "_Kept") -> None:
        try:
            container = kept.load()
            if isinstance(container, OtherContainer):
                container.delete(force=True, reap=True)
            else:
                container.delete(force=True)
        except (OSError, RuntimeFailure) as error:
            _note_failure(f"delete: {error}")
        if self._listener is not None:
            self.loop.remove(self._listener.fileno())
            self._listener.close()
            self._listener = None
            try:
                os.unlink("shim.sock")
            except FileNotFoundError:  # the daemon has already cleaned up after us
                pass

    # requests

    def answer(self, connection: Connection, request: protocol.Request, descriptors: list[int]) -> None:
        """Do what the daemon asks and reply."""
        left = list(descriptors)
        reply: protocol.Reply | None
        try:
            reply = self._do(connection, request, left)
        except RuntimeFailure as failure:
            reply = protocol.failed(request.seq, "runtime", failure.message, failure.exit_code)
        except LookupError as missing:
            reply = protocol.failed(request.seq, "missing", str(missing.args[0]), 1)
        except ProcessLookupError:  # it has ended, and we have yet to hear of it
            reply = protocol.failed(request.seq, "missing", NOT_RUNNING, 1)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            reply = protocol.failed(request.seq, "system", str(error), 1)
        except Exception as error:  # a fault of ours; who has asked must not take it for silence
            _note_failure(traceback.format_exc())
            reply = protocol.failed(request.seq, "system", repr(error), 1)
        for fd in left:
            os.close(fd)
        if reply is not None:
            connection.send(reply)

    def _do(self, connection: Connection, request: protocol.Request, descriptors: list[int]) -> protocol.Reply | None:
        """Do it; None when the reply comes later."""
        match request:
            case protocol.Attach() | protocol.Execute() | protocol.Freeze() | protocol.Signal() if (
                0 < request.before_ns < time.monotonic_ns()
            ):
                raise LookupError("the request has come too late")
            case protocol.Start():
                raise ValueError("container is already started")
            case protocol.Hello():
                init = self._init
                return protocol.Reply(
                    request.seq,
                    pid=init.pid,
                    exit=init.exit if init not in self._ending else None,
                    exec_pids={name: process.pid for name, process in self._execs.items()},
                    exec_codes=self._codes,
                    frozen=self._frozen(),
                    version=protocol.VERSION,
                )
            case protocol.Execute():
                self._execute(connection, request, descriptors)
                return None
            case protocol.Attach():
                streams = self._streams(request.exec_id)
                position = self._attach(connection, streams, request.attachment, descriptors.pop(0))
                return protocol.Reply(request.seq, log_position=position)
            case protocol.Release():
                started = self._init.streams
                for client in tuple(started.clients if started is not None else ()):  # also when the process has ended
                    if client.held and client.number == request.number:
                        client.release()
            case protocol.Signal():
                self._signal(request)
            case protocol.Freeze():
                container = self._running()
                container.pause() if request.frozen else container.resume()
            case protocol.Resize():
                self._streams(request.exec_id).resize(request.height, request.width)
            case protocol.Update():
                resources = msgspec.json.decode(request.resources, type=runtime_spec.Resources)
                self._running().update(resources)
            case protocol.Pids():
                return protocol.Reply(request.seq, pids=self._running().pids())
        return protocol.Reply(request.seq)

    def _running(self) -> Container | OtherContainer:
        if self._kept is None or self._init.exit is not None:
            raise LookupError(NOT_RUNNING)
        return self._kept.load()

    def _frozen(self) -> bool:
        return bool(self._cgroup) and Cgroup(self._cgroup).frozen()

    def _process(self, exec_id: str) -> Process:
        process = self._execs.get(exec_id) if exec_id else self._init
        if process is None or process.exit is not None:
            raise LookupError(f"process {exec_id} is not running" if exec_id else NOT_RUNNING)
        return process

    def _streams(self, exec_id: str) -> Streams:
        streams = self._process(exec_id).streams
        if streams is None:
            raise LookupError(f"process {exec_id} is not running yet")
        return streams

    def _listen(self, listener: socket.socket) -> socket.socket:
        def accept(_: int) -> None:
            try:
                peer, _address = listener.accept()
            except OSError:
                return
            self.connections.append(Connection(self, peer))

        self.loop.add(listener.fileno(), select.EPOLLIN, accept)
        return listener

    def release_held(self) -> None:
        """The daemon that wanted to tell them what came first has gone."""
        for process in (self._init, *self._execs.values()):
            for client in tuple(process.streams.clients if process.streams is not None else ()):
                if client.held:
                    client.release()

    def _attach(
        self, connection: Connection, streams: Streams, options: protocol.AttachmentOptions, fd: int
    ) -> tuple[int, int]:
        def ended(reason: str) -> None:
            connection.send(protocol.Detached(options.number, reason))

        client = Client(
            streams,
            fd,
            stdin=options.stdin,
            stdout=options.stdout,
            stderr=options.stderr,
            raw=options.raw,
            detach_keys=options.detach_keys,
            on_end=ended,
            blocking=options.blocking,
            held=options.held,
            number=options.number,
        )
        return streams.attach(client)

    # exec

    def _execute(self, connection: Connection, request: protocol.Execute, descriptors: list[int]) -> None:
        """Send a process into the container; the reply is sent when its program runs or has failed to."""
        container = self._running()
        if request.exec_id in self._execs or not request.exec_id:
            raise ValueError(f"exec {request.exec_id} exists already")
        if isinstance(container, OtherContainer):
            self._execute_other(container, connection, request, descriptors)
            return
        if container.group.frozen():
            raise RuntimeFailure("cannot exec in a paused container")
        ends = Ends(request.terminal, request.open_stdin, discard=request.attachment is None)
        try:
            joining = container.join(runtime_spec.decode_process(request.process), ends.stdio)
        except BaseException:
            ends.abandon()
            raise
        if not self._joining():
            self._unclaimed.clear()  # of those before: a number may come again
        process = self._execs[request.exec_id] = Process(request.exec_id, joining.pid, None)
        client = descriptors.pop(0) if request.attachment is not None else -1

        def advance(_: int) -> None:
            self._advance(connection, request, process, joining, ends, client)

        self.loop.add(joining.fileno(), select.EPOLLIN, advance)

    def _advance(
        self,
        connection: Connection,
        request: protocol.Execute,
        process: Process,
        joining: Joining,
        ends: Ends,
        client: int,
    ) -> None:
        channel = joining.fileno()
        try:
            started = joining.advance()
            if process.pid != joining.pid:
                # by the last fork: what may have ended under the old number was its maker, and under the new one, whom
                # nobody knew, the process itself if somebody in the container has killed it on its way
                process.pid, process.code = joining.pid, self._unclaimed.pop(joining.pid, None)
            if started is None:
                return
        except (OSError, RuntimeFailure) as error:
            self.loop.remove(channel)
            joining.abandon()
            ends.abandon()
            if client >= 0:
                os.close(client)
            del self._execs[request.exec_id]
            if error.errno in INTO_THE_DYING and self._is_ending():
                connection.send(protocol.failed(request.seq, "missing", NOT_RUNNING, 1))
                return
            failed = error if isinstance(error, RuntimeFailure) else RuntimeFailure(str(error))
            connection.send(protocol.failed(request.seq, "runtime", failed.message, failed.exit_code))
            return
        self.loop.remove(channel)
        joining.release()
        self._executed(connection, request, process, started, ends, client)

    def _is_ending(self) -> bool:
        # once it has been reaped its number may be another's
        return self._init.code is not None or is_ending(self._init.pid)

    def _execute_other(
        self,
        container: OtherContainer,
        connection: Connection,
        request: protocol.Execute,
        descriptors: list[int],
    ) -> None:
        """As `_execute`, by another runtime, whose command is waited for."""
        ends = Ends(request.terminal, request.open_stdin, discard=request.attachment is None)
        try:
            started = container.execute(runtime_spec.decode_process(request.process), ends.stdio)
        except BaseException:
            ends.abandon()
            raise
        # a child of ours since the command has ended, and not reaped before the loop goes on
        process = self._execs[request.exec_id] = Process(request.exec_id, started.pid, None)
        client = descriptors.pop(0) if request.attachment is not None else -1
        self._executed(connection, request, process, started, ends, client)

    def _executed(
        self,
        connection: Connection,
        request: protocol.Execute,
        process: Process,
        started: Started,
        ends: Ends,
        client: int,
    ) -> None:
        os.close(started.pidfd)
        ends.settle(started.console)
        # an exec's stdin always ends with its client's
        streams = process.streams = Streams(
            self.loop, ends.sources, ends.stdin, NoLog(), terminal=request.terminal, close_stdin=True
        )
        if request.console_size is not None and request.terminal:
            streams.resize(*request.console_size)
        if request.attachment is not None:
            self._attach(connection, streams, request.attachment, client)
        connection.send(protocol.Reply(request.seq, pid=started.pid))
        if process.code is not None:
            self._ended(process, process.code)

    def _signal(self, request: protocol.Signal) -> None:
        if request.exec_id:
            # not yet reaped, so the number is still its own
            os.kill(self._process(request.exec_id).pid, request.signo)
            return
        process = self._process("")
        if self._kept is not None and self._kept.other:
            # its process may be a sandbox's, and not the one that is meant
            try:
                self._running().kill(request.signo, all=request.everyone)
            except RuntimeFailure:
                if _ends_within(process.pid, 1.0):  # a runtime's words for that are its own
                    raise LookupError(NOT_RUNNING) from None
                raise
        elif request.everyone:
            self._running().kill(request.signo, all=True)
        else:
            os.kill(process.pid, request.signo)

    # the end of processes

    def _reap(self) -> None:
        by_pid = {process.pid: process for process in self._execs.values()}
        by_pid[self._init.pid] = self._init
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            process = by_pid.get(pid)
            code = os.waitstatus_to_exitcode(status)
            code = code if code >= 0 else 128 - code
            if process is not None and process.exit is None:
                process.code = code
                if process.streams is not None:
                    self._ended(process, code)
            elif process is None:
                if self._joining():
                    self._unclaimed[pid] = code
                if self._init.streams is not None:
                    self._init.streams.log.child_ended(pid, status)

    def _joining(self) -> bool:
        """Whether an exec is on its way whose last number is not known yet."""
        return any(process.streams is None for process in self._execs.values())

    def _ended(self, process: Process, code: int) -> None:
        now = time.time_ns()
        if process is self._init:
            oom_killed = bool(self._cgroup) and Cgroup(self._cgroup).oom_kills() > 0
            process.exit = protocol.Exit(code, now, oom_killed)
            self._record(process.exit)
            if not self._own_pids and self._kept is not None:
                # no PID namespace that has died with it: what it has left running must not outlive it
                try:
                    self._kept.load().kill(signal.SIGKILL, all=True)
                except (OSError, RuntimeFailure) as error:
                    _note_failure(f"kill: {error}")
        else:
            process.exit = protocol.Exit(code, now, False)
        process.deadline = time.monotonic() + PATIENCE
        self._ending.append(process)

    def _record(self, exit_: protocol.Exit) -> None:
        """Atomically, and before anyone is told: a daemon that is down now reads it when it is back."""
        record = protocol.ExitRecord(exit_.code, exit_.exited_at_ns, exit_.oom_killed, self._codes)
        with open("exit.json.new", "wb", buffering=0) as file:
            file.write(msgspec.json.encode(record))
        os.rename("exit.json.new", "exit.json")

    def _settle(self) -> None:
        """Tell of ended processes whose output has all been passed on."""
        for process in tuple(self._ending):
            assert process.streams is not None
            if process.streams.drain() or time.monotonic() >= process.deadline:
                self._ending.remove(process)
                # before the clients see the end: the first thing they do then is to ask the daemon for the exit code
                self._tell(process)
                process.streams.close("exited")
        if self._init.exit is not None and self._init not in self._ending:
            self._finish(self._init)

    def _tell(self, process: Process) -> None:
        assert process.exit is not None
        notice: protocol.Notice
        if process is self._init:
            notice = protocol.Exited(process.exit)
        else:
            self._codes[process.exec_id] = process.exit.code
            if len(self._codes) > REMEMBERED_CODES:
                del self._codes[next(iter(self._codes))]
            del self._execs[process.exec_id]
            notice = protocol.ExecExited(process.exec_id, process.exit.code)
        for connection in tuple(self.connections):
            connection.send(notice)

    def _finish(self, init: Process) -> None:
        """All is said; stay only while a slow client has not read everything, or an exec lives on."""
        for process in (*self._execs.values(), *self._ending):
            process.deadline = 0
        if self._ending:
            return
        # A client that does not read what is left for it keeps this process, but not the container nor the daemon.
        if init.streams is not None and init.streams.clients and self._kept is not None:
            self._part()  # which may end those that the daemon has held back
        self._over = init.streams is None or not init.streams.clients


def _ends_within(pid: int, seconds: float) -> bool:
    """Whether our child `pid` has ended, or does soon; it is not reaped."""
    deadline = time.monotonic() + seconds
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class _Kept:
    """What finds the container again: the handle on it is made when it is needed and dropped, for it weighs much."""

    def __init__(self, order: protocol.Start, seccomp: int | None) -> None:
        self._state_root, self._container_id, self._seccomp = order.state_root, order.container_id, seccomp
        self.other = order.directory if order.runtime else ""  # where a container of another runtime is found

    def load(self) -> Container | OtherContainer:
        """The container. Raises RuntimeFailure."""
        if self.other:
            container = OtherContainer.load(self.other, self._container_id)
            if container is None:
                raise RuntimeFailure("the container's runtime is not known any more")
            return container
        program = memory_files.read(self._seccomp) if self._seccomp is not None else None
        return Container.load(self._state_root, self._container_id, seccomp_program=program)


def _remove_remains(request: protocol.Start, spec: int) -> str:
    """What a starter that was killed has left of the container: processes (ours by then), cgroup, state.

    Returns why something is still there, or "".
    """
    other = OtherContainer.load(request.directory, request.container_id)
    if other is not None:
        try:
            other.delete(force=True, reap=True)
        except RuntimeFailure:
            pass  # it had made nothing
    try:
        children = [int(pid) for pid in _read(f"/proc/self/task/{os.getpid()}/children").split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        children = []
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass
    try:
        Container.load(request.state_root, request.container_id).delete(force=True)
        return ""
    except (OSError, RuntimeFailure):
        pass
    try:
        # no state of it yet: then nothing knows of the cgroup but the order
        wanted = runtime_spec.decode(memory_files.read(spec))
        if wanted.linux.cgroups_path:
            group = groups.of_spec(wanted, request.container_id, systemd=request.systemd_cgroup)
            if not group.pids():
                group.remove()
        state = f"{request.state_root}/{request.container_id}"
        for name in os.listdir(state):  # of a record that was being written
            os.unlink(f"{state}/{name}")
        os.rmdir(state)
    except FileNotFoundError:
        pass
    except OSError as error:
        return str(error)
    return ""


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _note_failure(message: str) -> None:
    """Into our own directory, where whoever looks for the reason finds it."""
    try:
        with open("error.log", "a") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {message}\n")
    except OSError:
        pass


def run(left: handover.Left) -> None:
    """A shim's life from the moment that a starter has left it a container."""
    try:
        Shim(left).run()
    except BaseException:
        _note_failure(traceback.format_exc())
        raise


def clear_up(left: handover.Left) -> None:
    """After a starter that was killed: take away what it has made and tell the daemon."""
    if left.order is not None and left.daemon is not None:
        remains = _remove_remains(left.order, left.spec)
        remove_files(left.order.directory)
        reason = "the container's starter ended unexpectedly"
        if remains:
            reason += f", and what it has left cannot be removed: {remains}"
        send(left.daemon, protocol.failed(left.order.seq, "runtime", reason, 1))
