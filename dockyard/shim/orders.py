"""What the daemon asks of shims, in its own words; `protocol` has the wire's."""

from collections.abc import Sequence
from dataclasses import dataclass, field

DEFAULT_DETACH_KEYS = b"\x10\x11"  # ctrl-p ctrl-q


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Where a container's output goes.

    `driver` "none" keeps nothing, any other has its file, in json-file's format. A file that has reached `max_size`
    bytes is rotated to `path`.1 (`compress`: .1.gz) and so on, `max_file` files in all (1: it is emptied instead);
    `max_size` <= 0 means no limit.
    `attributes` goes into every row of json-file (`attrs`): the labels and environment the log options select.
    `sent` is the note of a forwarder that follows the files: the process waits before any is lost that is not sent.
    """

    driver: str = "json-file"
    path: str = ""
    max_size: int = -1
    max_file: int = 1
    attributes: dict[str, str] = field(default_factory=dict)
    compress: bool = False
    sent: str = ""


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
    `checkpoint`: it goes on from what is in that directory, `moved` if that is of another container.
    `systemd_cgroup`: its cgroup is a scope unit of systemd's, which the spec's cgroupsPath names as
    "slice:prefix:name".
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
    moved: bool = False
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
