"""What daemon and shim say to each other: frames of msgpack on a UNIX stream socket, descriptors by SCM_RIGHTS.

A frame is its body's length (u32, little endian), the number of descriptors that come with it (u8), and the body. The
descriptors travel with the frame's first byte, so they are here no later than the frame.

A shim outlives the daemon that started it and is met by later releases. What is said may therefore only grow: fields
are added at a struct's end and with a default (msgspec reads an array that is shorter, or longer, than it knows), a
request that a shim does not know is answered with a failure, a notice that a daemon does not know is passed over.
VERSION counts the steps of this growth; each side tells the other its own (Hello, Taken, Reply).

A daemon waits for an answer only so long. `before_ns` (CLOCK_MONOTONIC; 0: none) says until when a request is to be
begun, so that a shim that was stopped does not do later what its daemon has given up and reported as not done.
"""

import socket
import struct

import msgspec

from dockyard.linux import descriptors

HEAD = struct.Struct("<IB")
MAX_FRAME = 64 << 20
MAX_DESCRIPTORS = 80  # 64 attachments and what else a start needs
VERSION = 2


class AttachmentOptions(msgspec.Struct, frozen=True, array_like=True):
    """An attachment without its socket, which travels beside it. `number` is the sender's name for it."""

    number: int
    stdin: bool
    stdout: bool
    stderr: bool
    detach_keys: bytes
    raw: bool
    blocking: bool = False  # since 2
    held: bool = False  # since 2


class LogOptions(msgspec.Struct, frozen=True, array_like=True):
    """See orders.LogConfig."""

    driver: str
    path: str
    max_size: int
    max_file: int
    attributes: dict[str, str]
    compress: bool = False
    sent: str = ""


class Start(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The first request to a new shim. Descriptors: the spec; if `filtered` the seccomp filter; one per attachment.

    Spec and filter are files in memory, so that the shim, which has no use for the text, never holds it.
    """

    seq: int
    container_id: str
    directory: str
    state_root: str
    bundle: str
    filtered: bool
    terminal: bool
    open_stdin: bool
    stdin_once: bool
    log: LogOptions
    attachments: list[AttachmentOptions]
    init: bool
    console_size: tuple[int, int] | None
    runtime: list[str] = []  # another runtime's command; empty: ours
    checkpoint: str = ""  # the directory of the checkpoint to go on from
    systemd_cgroup: bool = False  # the spec's cgroupsPath names a scope of systemd's
    moved: bool = False  # the checkpoint is of another container


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The first request of a daemon that comes back; answered by a Reply with everything still known."""

    seq: int
    version: int = 0


class Attach(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """One descriptor: the socket. `exec_id` empty means the container's own process."""

    seq: int
    exec_id: str
    attachment: AttachmentOptions
    before_ns: int = 0


class Execute(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """One descriptor when there is an attachment."""

    seq: int
    exec_id: str
    process: bytes
    terminal: bool
    open_stdin: bool
    attachment: AttachmentOptions | None
    console_size: tuple[int, int] | None
    before_ns: int = 0


class Signal(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """`everyone`: each process of the container; `exec_id`: that one instead of the container's own."""

    seq: int
    signo: int
    everyone: bool
    exec_id: str = ""
    before_ns: int = 0


class Freeze(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Pause (True) or resume."""

    seq: int
    frozen: bool
    before_ns: int = 0


class Resize(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The terminal's new size."""

    seq: int
    exec_id: str
    height: int
    width: int


class Update(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """New limits: the JSON of the OCI spec's linux.resources."""

    seq: int
    resources: bytes


class Pids(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Ask for every process of the container."""

    seq: int


class Release(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Let an attachment that was held have its output. Since 2."""

    seq: int
    number: int


Request = Start | Release | Hello | Attach | Execute | Signal | Freeze | Resize | Update | Pids


class Exit(msgspec.Struct, frozen=True, array_like=True):
    """How a process ended; also what exit.json holds (as an object, see shim.ExitRecord)."""

    code: int
    exited_at_ns: int
    oom_killed: bool


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """`kind` is "runtime" (RuntimeFailure with its exit code), "missing" or "system"."""

    kind: str
    message: str
    exit_code: int


class Reply(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The answer to the request `seq`. `exec_pids` and what follows only to Hello."""

    seq: int
    failure: Failure | None = None
    pid: int = 0
    pids: list[int] = []
    exit: Exit | None = None
    exec_pids: dict[str, int] = {}
    exec_codes: dict[str, int] = {}
    frozen: bool = False
    version: int = 0
    log_position: tuple[int, int] = (0, 0)  # to Attach: where in the log the stream begins (inode, offset). Since 2


class Taken(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The shim `pid` has a container to start: it is alive, and from now on answers for it."""

    pid: int
    version: int


class Exited(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The container's process has ended, its output is flushed and its status recorded."""

    exit: Exit


class ExecExited(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """An exec's process has ended and its output is flushed."""

    exec_id: str
    code: int


class Detached(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """An attachment is over: `reason` is "exited", "detached" (by its keys) or "gone" (the client went)."""

    number: int
    reason: str


Notice = Reply | Taken | Exited | ExecExited | Detached


class ExitRecord(msgspec.Struct, frozen=True):
    """The contents of exit.json."""

    code: int
    exited_at_ns: int
    oom_killed: bool = False
    execs: dict[str, int] = {}


class Inbox:
    """Puts frames together again from what arrives; descriptors wait here for their frame."""

    __slots__ = ("_bytes", "descriptors")

    def __init__(self) -> None:
        self._bytes = bytearray()
        self.descriptors: list[int] = []

    def feed(self, data: bytes) -> None:
        """Add what has been received."""
        self._bytes += data

    def frame(self) -> tuple[bytes, list[int]] | None:
        """The next whole frame and its descriptors. Raises ValueError on one too long."""
        if len(self._bytes) < HEAD.size:
            return None
        length, count = HEAD.unpack_from(self._bytes)
        if length > MAX_FRAME:
            raise ValueError(f"frame of {length} bytes")
        end = HEAD.size + length
        if len(self._bytes) < end or len(self.descriptors) < count:
            return None
        body = bytes(self._bytes[HEAD.size : end])
        del self._bytes[:end]
        descriptors = self.descriptors[:count]
        del self.descriptors[:count]
        return body, descriptors


def pack(message: object, descriptors: int = 0) -> bytes:
    """A whole frame."""
    body = msgspec.msgpack.encode(message)
    return HEAD.pack(len(body), descriptors) + body


def receive(peer: socket.socket, size: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """Bytes and descriptors (close-on-exec) from a UNIX socket."""
    return descriptors.receive(peer, size, MAX_DESCRIPTORS, flags)


def failed(seq: int, kind: str, message: str, exit_code: int) -> Reply:
    """The answer that it did not work."""
    return Reply(seq, failure=Failure(kind, message, exit_code))
