"""The daemon's side: starts shims through the zygote and finds them again after a restart.

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
from collections.abc import Collection
from pathlib import Path

import msgspec

from dockyard.errors import NotFound, SystemFailure, Unavailable
from dockyard.folders import own_folder
from dockyard.linux import memory_files, syscalls
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.lifecycle.container import Container
from dockyard.runtime.lifecycle.handle import ContainerHandle
from dockyard.runtime.state import record as records
from dockyard.shim import protocol, zygote
from dockyard.shim.connection import Shim, status_of
from dockyard.shim.orders import ExitStatus, Runtime, StartRequest
from dockyard.shim.other_runtime import OtherContainer

log = logging.getLogger("dockyard.shims")

# How many seccomp filters are at hand at once; nearly every container has the same one.
FILTERS_KEPT = 32
# A daemon that comes back does not wait longer for one shim; it goes on listening for the answer.
HELLO_PATIENCE = 2.0
# How long a zygote may take to come to life on a machine that is very busy, before it is taken not to answer, s.
START_UP = 10.0
# How often a start is given to another shim when the one that should have taken it is killed or stopped.
ATTEMPTS = 3


class Shims:
    """All shims below `<exec_root>/shims`; the runtime's state is below `state_root`."""

    def __init__(self, exec_root: Path) -> None:
        self.exec_root = exec_root
        self.state_root = exec_root / "runtime"
        self._zygote: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._helpers: socket.socket | None = None
        self._spawned_at = 0.0
        self._live: weakref.WeakSet[Shim] = weakref.WeakSet()
        self._filters: dict[bytes, int] = {}

    async def open(self) -> None:
        """Start the zygote. It is started anew whenever it dies."""
        own_folder(self.exec_root / "shims")
        own_folder(self.state_root)
        self._spawn()

    async def close(self) -> None:
        """End the zygote and drop the connections; shims and containers go on."""
        for shim in list(self._live):
            shim.close(ended=False)
        while self._filters:
            os.close(self._filters.popitem()[1])
        self._hang_up()
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
        process, self._zygote = self._zygote, None
        self._hang_up()
        if process is not None:
            process.kill()
            await self._end(process)

    def _hang_up(self) -> None:
        for connection in (self._connection, self._helpers):
            if connection is not None:
                connection.close()
        self._connection = self._helpers = None

    def fork_helper(self, function: str, peer: socket.socket) -> None:
        """Have the zygote fork a process that calls `function` ("module:function") with the connection `peer`.

        Nothing answers if that comes to nothing: `peer`'s other end is then at its end. Raises OSError.
        """
        if self._helpers is None:
            raise ConnectionError("there is no zygote")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [peer.fileno()]))]
        self._helpers.sendmsg([function.encode()], rights, socket.MSG_DONTWAIT)

    def _spawn(self) -> None:
        self._hang_up()
        self._zygote, self._connection, self._helpers = zygote.spawn()
        self._spawned_at = time.monotonic()

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

    def other_container(self, container_id: str) -> OtherContainer | None:
        """The running container, if another runtime has made it."""
        return OtherContainer.load(str(self._directory(container_id)), container_id)

    def _directory(self, container_id: str) -> Path:
        return self.exec_root / "shims" / container_id

    def _shim(self, container_id: str, peer: socket.socket) -> Shim:
        shim = Shim(
            container_id,
            self._directory(container_id),
            peer,
            lambda: self._lost(container_id),
            lambda signo: self._signal(container_id, signo),
        )
        self._live.add(shim)
        return shim

    def _signal(self, container_id: str, signo: int) -> None:
        """Signal a container's first process past its shim. Raises NotFound when it has ended."""
        try:
            (self.other_container(container_id) or ContainerHandle.load(str(self.state_root), container_id)).kill(signo)
        except RuntimeFailure as failure:
            raise NotFound(f"container {container_id} is not running") from failure

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
                options.sent,
            ),
            [shim.options_of(attachment) for attachment in request.attachments],
            request.init,
            request.console_size,
            list(request.runtime.command) if request.runtime is not None else [],
            request.checkpoint,
            request.systemd_cgroup,
            request.moved,
        )
        descriptors = [spec]
        # its own: before it is sent, the one that is kept may be given up for another's
        filter_ = -1 if request.seccomp_program is None else os.dup(self._filter(request.seccomp_program))
        if filter_ >= 0:
            descriptors.append(filter_)
        descriptors += [attachment.fd for attachment in request.attachments]
        asking = asyncio.ensure_future(shim.request(message, descriptors, patience=None))
        try:
            try:
                await shim.taken(max(self._spawned_at + START_UP - time.monotonic(), 0))
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
            # First of all hang up. A starter that has looked before whether we are there has left a record by then, for
            # us to find; one that looks later takes back what it has made.
            shim.close(ended=False)
            await asyncio.to_thread(self._lost, request.container_id)
            raise
        finally:
            if not shim.pid:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                shim.close(ended=False)
            if filter_ >= 0:
                os.close(filter_)

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
                return status_of(reply.exit)
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
