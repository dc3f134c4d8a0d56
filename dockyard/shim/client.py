"""The daemon's side: starts shims through the zygote, talks to them, finds them again after a restart.

    shims = Shims(Path("/run/dockyard"))
    await shims.open()
    shim = await shims.start(StartRequest(...))
    status = await shim.wait()
    await shim.delete()
"""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

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

    `open_stdin`: keep stdin open for attachments, else it is /dev/null; `stdin_once`: close it when the first attachment
    that has stdin ends it. `attachments` are served from the first byte on. `init`: PID 1 is
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
    seccomp_program: bytes | None = None


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How the container's process ended: its exit code, or 128 + the signal's number."""

    code: int
    exited_at_ns: int
    oom_killed: bool = False


class Attached:
    """An attachment that the shim serves."""

    async def wait(self) -> str:
        """Until it is over: "exited", "detached" (the client typed its detach keys) or "gone" (the client went)."""
        raise NotImplementedError


class ExecProcess:
    """A process that was started in a running container."""

    exec_id: str
    pid: int

    async def wait(self) -> int:
        """Its exit code, when it has ended and its output is flushed; 128 + signal. Any number of waiters."""
        raise NotImplementedError

    async def resize(self, height: int, width: int) -> None:
        """Set its terminal's size."""

    async def signal(self, signo: int) -> None:
        """Send it a signal; no error when it has ended."""


class Shim:
    """One container's shim. Every method but `wait` and `delete` raises NotFound when the container has exited."""

    container_id: str
    pid: int  # the container's own process, as the host numbers it
    execs: dict[str, ExecProcess]  # those that run, also after a restart of the daemon
    exec_codes: dict[str, int]  # exit codes of those that ended

    async def wait(self) -> ExitStatus:
        """How the container ended, once it has, its output is flushed and its status recorded. Any number of waiters."""
        raise NotImplementedError

    async def attach(self, attachment: Attachment, exec_id: str = "") -> Attached:
        """Serve one more client of the container's streams, from now on."""
        raise NotImplementedError

    async def execute(self, request: ExecRequest) -> ExecProcess:
        """Start a further process. Raises RuntimeFailure(message, exit_code 126 | 127 | 125)."""
        raise NotImplementedError

    async def signal(self, signo: int, all: bool = False) -> None:
        """Signal PID 1, or everything inside."""

    async def pause(self) -> None:
        """Freeze every process."""

    async def resume(self) -> None:
        """Let them go on."""

    async def resize(self, height: int, width: int) -> None:
        """Set the terminal's size."""

    async def update(self, resources: bytes) -> None:
        """Change limits: the JSON of the OCI spec's linux.resources."""

    async def pids(self) -> list[int]:
        """Every process inside, by the host's numbers."""
        raise NotImplementedError

    async def delete(self) -> None:
        """After the exit: wait for the shim to end (cgroup and state are gone then), free its directory."""


class Shims:
    """All shims below `<exec_root>/shims`; the runtime's state is below `state_root`."""

    def __init__(self, exec_root: Path) -> None:
        self.exec_root = exec_root
        self.state_root = exec_root / "runtime"

    async def open(self) -> None:
        """Start the zygote. It is started anew whenever it dies."""

    async def close(self) -> None:
        """End the zygote and drop the connections; shims and containers go on."""

    async def start(self, request: StartRequest) -> Shim:
        """Start a container. Raises RuntimeFailure(message, exit_code): 127 command not found, 126 not executable, 125."""
        raise NotImplementedError

    async def recover(self, container_id: str) -> Shim | ExitStatus | None:
        """After a restart: its live shim, how it ended meanwhile (then call `forget`), or None when nothing is known."""
        raise NotImplementedError

    async def forget(self, container_id: str) -> None:
        """Free what a container that has exited left in the exec root."""


_ = asyncio
