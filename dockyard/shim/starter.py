"""Starts one container in a process of its own, so that the shim's stays small.

What a start touches in an interpreter (the spec's objects, the code that reads them) would belong to the shim for the
container's whole life: 3 MB each. So the shim has a child do it, which is gone once the container runs. The container's
first process is the shim's child all the same: it is cloned with CLONE_PARENT.

A starter is forked before it is known what for, and waits.
"""

import os
import signal
import socket
from collections.abc import Callable

import msgspec

from dockyard.linux import memory_files, syscalls
from dockyard.oci import runtime_spec
from dockyard.runtime.container import Container, Stdio
from dockyard.runtime.errors import RuntimeFailure
from dockyard.shim import protocol

INIT_PATH = "/sbin/docker-init"
INIT_PROGRAMS = (
    "/usr/libexec/docker/docker-init",
    "/usr/bin/docker-init",
    "/usr/bin/tini-static",
    "/usr/sbin/docker-init",
    "/usr/local/bin/docker-init",
)
GO = b"go"


class Created(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The container is made and waits. Its terminal's master comes along as a descriptor when it has one."""

    pid: int
    cgroup: str  # "" when it has none of its own
    own_pids: bool  # whether it has a PID namespace of its own


class Running(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Its program runs."""


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """It does not, and nothing is left of it."""

    message: str
    exit_code: int


class Lost(RuntimeFailure):
    """The starter has been killed, and what it has made until then is still there."""


_answer = msgspec.msgpack.Decoder(Created | Running | Failed).decode
_order = msgspec.msgpack.Decoder(protocol.Start).decode


class Starter:
    """The shim's handle on its starter."""

    def __init__(self, serve: Callable[[socket.socket], None] | None = None) -> None:
        """`serve` is what the starter does with its end of the connection; by itself: start a container."""
        serve = serve or _serve
        self._socket, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                fd = theirs.fileno()
                os.closerange(3, fd)
                syscalls.close_range(fd + 1)
                serve(theirs)
            finally:
                os._exit(0)
        theirs.close()

    def create(
        self, request: protocol.Start, spec: int, seccomp: int | None, stdio: Stdio | None
    ) -> tuple[Created, int | None]:
        """Make the container; its terminal's master if it has one. Raises RuntimeFailure.

        `spec` and `seccomp` are files with its specification and its filter.
        """
        descriptors = [spec] if seccomp is None else [spec, seccomp]
        if stdio is not None:
            descriptors += (stdio.stdin, stdio.stdout, stdio.stderr)
        try:
            send(self._socket, request, descriptors)
        except OSError as error:
            raise Lost(f"the starter is gone: {error}") from error
        answer, received = self._receive()
        assert isinstance(answer, Created)
        return answer, received[0] if received else None

    def start(self) -> None:
        """Let the container's program run. Raises RuntimeFailure (exit_code 127: not found, 126: not executable)."""
        self._socket.sendall(GO)
        self._receive()
        self._socket.close()

    def _receive(self) -> tuple[Created | Running, list[int]]:
        frame = read_frame(self._socket)
        if frame is None:
            raise Lost("the starter ended unexpectedly")
        answer = _answer(frame[0])
        if isinstance(answer, Failed):
            raise RuntimeFailure(answer.message, answer.exit_code)
        return answer, frame[1]

    def close(self) -> None:
        """Give it up: what it has made, it takes away, which is waited for."""
        self._socket.close()
        try:
            os.waitpid(self._pid, 0)
        except ChildProcessError:
            pass


def send(peer: socket.socket, message: object, descriptors: list[int]) -> None:
    """Send a message of the two, with descriptors."""
    frame = protocol.pack(message, len(descriptors))
    sent = socket.send_fds(peer, [frame], descriptors) if descriptors else 0
    peer.sendall(memoryview(frame)[sent:])


def read_frame(peer: socket.socket) -> tuple[bytes, list[int]] | None:
    """The next message and its descriptors; None when the other has gone."""
    inbox = protocol.Inbox()
    while (frame := inbox.frame()) is None:
        try:
            data, descriptors, _, _ = socket.recv_fds(peer, 1 << 13, 5)
        except ConnectionResetError:
            return None
        inbox.descriptors += descriptors
        if not data:
            return None
        inbox.feed(data)
    return frame


# ---- in the starter


def _serve(shim: socket.socket) -> None:
    """One container; then the end."""
    frame = read_frame(shim)
    if frame is None:
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # hooks are waited for
    container: Container | None = None
    try:
        request = _order(frame[0])
        descriptors = frame[1]
        spec = runtime_spec.decode(take(descriptors))
        program = take(descriptors) if request.filtered else None
        if request.init:
            _add_init(spec)
        container = _create(request, spec, program, descriptors)
        started = container.process
        assert started is not None
        own_pids = any(kind.type == "pid" and not kind.path for kind in spec.linux.namespaces)
        created = Created(started.pid, spec.linux.cgroups_path, own_pids)
        send(shim, created, [started.console] if started.console is not None else [])
        if shim.recv(8) != GO:
            raise RuntimeFailure("the shim has given it up")
        container.start()
        send(shim, Running(), [])
    except BaseException as error:
        if container is not None:
            container.delete(force=True)
        failed = Failed(str(error), 1)
        if isinstance(error, RuntimeFailure):
            failed = Failed(error.message, error.exit_code)
        send(shim, failed, [])


def take(descriptors: list[int]) -> bytes:
    """What the first of the files holds."""
    fd = descriptors.pop(0)
    try:
        return memory_files.read(fd)
    finally:
        os.close(fd)


def _create(
    request: protocol.Start, spec: runtime_spec.Spec, seccomp_program: bytes | None, descriptors: list[int]
) -> Container:
    stdio = Stdio(*descriptors) if descriptors else None
    container = Container.create(
        request.state_root,
        request.container_id,
        request.bundle,
        spec,
        stdio,
        seccomp_program=seccomp_program,
        sibling=True,
    )
    for fd in descriptors:
        os.close(fd)
    return container


def _add_init(spec: runtime_spec.Spec) -> None:
    """Make PID 1 docker-init, which reaps and passes signals on, in front of the command."""
    if spec.process is None:
        return
    program = next((path for path in INIT_PROGRAMS if os.path.exists(path)), None)
    if program is None:
        raise RuntimeFailure("docker-init is not installed: install the package tini", 125)
    spec.mounts.append(runtime_spec.Mount(destination=INIT_PATH, type="bind", source=program, options=["bind", "ro"]))
    spec.process.args = [INIT_PATH, "--", *spec.process.args]
