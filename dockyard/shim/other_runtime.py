"""A container of another OCI runtime: a program with runc's command line, like runc, crun, runsc or kata-runtime.

The program makes the container and goes; the container's process, orphaned, becomes the shim's child, and so its
streams, its exit and everything else are the shim's as if we had made it. Command line: opencontainers/runtime-tools
docs/command-line-interface.md, and what runc, crun and runsc have in common beyond it.
"""

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from dockyard.linux import null_device
from dockyard.linux.cgroups import Cgroup
from dockyard.oci.runtime_spec import Process, Resources, decode, encode
from dockyard.runtime.birth import exec_defaults
from dockyard.runtime.birth.environment import kept
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.lifecycle.container import Started, Stdio

# A command that takes longer hangs: making a sandbox with a kernel of its own takes seconds on a busy machine.
TIMEOUT = 60.0
SHORT_DIRECTORY = "/run"  # for sockets: their paths may have 107 bytes
# What Python ignores a program has by default.
_IGNORED = [getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ", "SIGINT") if hasattr(signal, name)]


class Program(msgspec.Struct, frozen=True):
    """A runtime: its command before the global flags that we give, and the directory for its state.

    `cgroup` is the container's, `bundle` has its config.json. Kept in our directory as `runtime.json`, for who finds
    the container without its shim.
    """

    command: list[str]
    root: str
    cgroup: str = ""
    bundle: str = ""


FILE = "runtime.json"
# What a checkpoint may hold on to: connections, sockets and locks outside of the container.
_OUTSIDE = ["--tcp-established", "--ext-unix-sk", "--file-locks"]


@dataclass(frozen=True, slots=True)
class OtherContainer:
    """A container of `program`. `directory` is ours, for files that the program writes or reads."""

    program: Program
    container_id: str
    directory: str

    @staticmethod
    def load(directory: str, container_id: str) -> "OtherContainer | None":
        """The container of our directory, if it is another runtime's."""
        try:
            with open(f"{directory}/{FILE}", "rb") as file:
                return OtherContainer(msgspec.json.decode(file.read(), type=Program), container_id, directory)
        except (OSError, msgspec.MsgspecError):
            return None

    def create(self, bundle: str, spec: bytes, terminal: bool, stdio: Stdio | None) -> Started:
        """Make it, to wait for `start`. Raises RuntimeFailure; then nothing is left."""
        self._prepare(bundle, spec)
        return self._begin(["create", "--bundle", bundle], terminal, stdio)

    def restore(self, bundle: str, spec: bytes, terminal: bool, stdio: Stdio | None, images: str) -> Started:
        """Make it go on from a checkpoint. Raises RuntimeFailure; then nothing is left."""
        self._prepare(bundle, spec)
        words = ["restore", "--detach", "--bundle", bundle, "--image-path", images, "--work-path", self.directory]
        return self._begin([*words, *_OUTSIDE], terminal, stdio)

    def checkpoint(self, images: str, *, leave_running: bool) -> None:
        """Write its processes to files; they end, unless they are left running. Raises RuntimeFailure."""
        words = ["checkpoint", "--image-path", images, "--work-path", images, *_OUTSIDE]
        self._do([*words, *(["--leave-running"] if leave_running else []), self.container_id])

    def _prepare(self, bundle: str, spec: bytes) -> None:
        os.makedirs(self.program.root, mode=0o711, exist_ok=True)
        with open(f"{self.directory}/{FILE}", "wb") as file:
            file.write(msgspec.json.encode(self.program))
        with open(f"{bundle}/config.json", "wb") as file:
            file.write(spec)

    def start(self) -> None:
        """Let its program run. Raises RuntimeFailure."""
        self._do(["start", self.container_id])

    def execute(self, wanted: Process, stdio: Stdio | None) -> Started:
        """Run one more process in it. Raises RuntimeFailure."""
        # runtimes differ in what they make of what is left out; runc of noNewPrivileges: false
        exec_defaults.complete(wanted, self._own_process())
        path = f"{self.directory}/process-{os.getpid()}-{time.monotonic_ns()}.json"
        with open(path, "wb") as file:
            file.write(encode(wanted))
        try:
            return self._begin(["exec", "--detach", "--process", path], wanted.terminal, stdio)
        finally:
            os.unlink(path)

    def _own_process(self) -> Process | None:
        """The first process, as config.json has it."""
        try:
            with open(f"{self.program.bundle}/config.json", "rb") as file:
                return decode(file.read()).process
        except (OSError, msgspec.MsgspecError):  # made by an earlier release, which did not note the bundle
            return None

    def kill(self, signo: int, *, all: bool = False) -> None:
        """Signal its first process, or all. Raises RuntimeFailure when it has ended."""
        self._do(["kill", *(["--all"] if all else []), self.container_id, str(int(signo))])

    def pause(self) -> None:
        """Stop every process. Raises RuntimeFailure."""
        self._do(["pause", self.container_id])

    def resume(self) -> None:
        """Let them go on. Raises RuntimeFailure."""
        self._do(["resume", self.container_id])

    def update(self, wanted: Resources) -> None:
        """Set new limits. Raises RuntimeFailure."""
        path = f"{self.directory}/resources.json"
        with open(path, "wb") as file:
            file.write(encode(wanted))
        try:
            self._do(["update", "--resources", path, self.container_id])
        finally:
            os.unlink(path)

    def pids(self) -> list[int]:
        """Its processes, as the host numbers them: of a runtime with a kernel of its own, those of the sandbox."""
        found = Cgroup(self.program.cgroup).pids() if self.program.cgroup.startswith("/") else []
        if found:
            return found
        try:
            return msgspec.json.decode(self._do(["ps", "--format", "json", self.container_id]), type=list[int])
        except (RuntimeFailure, msgspec.MsgspecError):
            return []

    def delete(self, *, force: bool = False, reap: bool = False) -> None:
        """Take away what is left of it. Raises RuntimeFailure.

        With `reap` the caller's other children are reaped meanwhile: it is the shim, which inherits the container's.
        The runtime waits until they are gone: gVisor for the server of its files.
        """
        self._do(["delete", *(["--force"] if force else []), self.container_id], reap=reap)

    # -- the program

    def _begin(self, words: list[str], terminal: bool, stdio: Stdio | None) -> Started:
        """A command that makes a process: the process, an orphan by then, and its terminal's master."""
        pid_file = f"{self.directory}/pid-{os.getpid()}-{time.monotonic_ns()}"
        words = [*words, "--pid-file", pid_file]
        with contextlib.ExitStack() as undo:
            undo.callback(_remove, pid_file)
            listener = undo.enter_context(_console_socket()) if terminal else None
            if listener is not None:
                words += ["--console-socket", listener.getsockname()]
            self._do([*words, self.container_id], stdio)
            with open(pid_file) as file:
                pid = int(file.read())
            console = _receive_console(listener) if listener is not None else None
        return Started(pid, os.pidfd_open(pid), console)

    def _do(self, words: list[str], stdio: Stdio | None = None, *, reap: bool = False) -> str:
        """Run a command to its end; what it has printed. Raises RuntimeFailure with its own words."""
        log = f"{self.directory}/runtime-{os.getpid()}-{time.monotonic_ns()}.log"
        argv = [*self.program.command, "--root", self.program.root, "--log", log, "--log-format", "json", *words]
        output = os.memfd_create("output", os.MFD_CLOEXEC)
        # gVisor gives its streams to the user that its sandbox runs as, and the host's /dev/null with them
        null = null_device.open_own()
        try:
            given = (stdio.stdin, stdio.stdout, stdio.stderr) if stdio is not None else (null, output, output)
            ends = tuple(null if null_device.is_null(fd) else fd for fd in given)
            code = _run(argv, ends, reap)
            printed = _content(output)
            if code:
                raise _failure(argv[0], words[0], code, log, printed)
            return printed
        finally:
            os.close(output)
            os.close(null)
            _remove(log)


def _run(argv: list[str], ends: tuple[int, ...], reap: bool) -> int:
    """The program's exit status; 128 + signal. `ends`: its stdin, stdout and stderr.

    Raises RuntimeFailure when there is no such program or it hangs.
    """
    environment = kept()
    environment.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    # copies above the three, so that none is overwritten before it is used
    copies = [os.dup(fd) for fd in ends]
    try:
        actions = [(os.POSIX_SPAWN_DUP2, copy, number) for number, copy in enumerate(copies)]
        pid = os.posix_spawnp(argv[0], argv, environment, file_actions=actions, setsigdef=_IGNORED, setsigmask=[])
    except OSError as error:
        raise RuntimeFailure(f"cannot run the runtime {argv[0]}: {error.strerror}") from error
    finally:
        for copy in copies:
            os.close(copy)
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        deadline = time.monotonic() + TIMEOUT
        while not (ended := poll.poll(20 if reap else TIMEOUT * 1000)) and time.monotonic() < deadline:
            _reap_others(pid)
        hangs = not ended
        if hangs:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(pidfd)
    if hangs:
        raise RuntimeFailure(f"the runtime {argv[0]} has not answered for {TIMEOUT:.0f} s")
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _reap_others(pid: int) -> None:
    """Every child that has ended but `pid`."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid == pid:
            return
        os.waitpid(ended.si_pid, 0)


class _LogRow(msgspec.Struct):
    level: str = "error"
    msg: str = ""


def _failure(program: str, command: str, code: int, log: str, printed: str) -> RuntimeFailure:
    """What the runtime says of its failure: the last error of its log, else what it has printed."""
    said = ""
    with contextlib.suppress(OSError), open(log, errors="replace") as rows:
        for row in rows:
            with contextlib.suppress(msgspec.MsgspecError):
                entry = msgspec.json.decode(row, type=_LogRow)
                if entry.level in ("error", "fatal", "warning"):
                    said = entry.msg or said
    said = (said or printed).strip()
    if not said or said.startswith("Usage:"):
        return RuntimeFailure(f"the runtime {os.path.basename(program)} cannot {command} (exit status {code})")
    # the daemon says these for every runtime
    for prefix in ("runc create failed: ", "unable to start container process: ", "exec failed: "):
        said = said.removeprefix(prefix)
    said = said.removeprefix("unable to start container process: ")
    if said.startswith("executable file `"):
        # crun's; command lines know a command that does not exist by runc's words (docker/cli container/run.go)
        name = said.split("`")[1]
        said = f'exec: "{name}": executable file not found in $PATH'
    return RuntimeFailure(said, _exit_code(said))


def _exit_code(said: str) -> int:
    """A command line's exit code for it: the shell's 127 and 126 are known only by the runtime's words."""
    if "executable file not found" in said or "no such file or directory" in said.lower():
        return 127
    return 126 if "permission denied" in said.lower() else 1


@contextlib.contextmanager
def _console_socket() -> Iterator[socket.socket]:
    """A socket to which the runtime sends the terminal's master."""
    directory = f"{SHORT_DIRECTORY}/dockyard-console-{os.getpid()}"
    os.mkdir(directory, 0o700)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(f"{directory}/socket")
            listener.listen(1)
            yield listener
    finally:
        _remove(f"{directory}/socket")
        os.rmdir(directory)


def _receive_console(listener: socket.socket) -> int:
    listener.settimeout(10)
    try:
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(10)
            _, descriptors, _, _ = socket.recv_fds(peer, 4096, 1)
    except TimeoutError:
        descriptors = []
    if not descriptors:
        raise RuntimeFailure("the runtime gave no terminal")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _content(fd: int) -> str:
    os.lseek(fd, 0, os.SEEK_SET)
    return os.read(fd, 1 << 20).decode(errors="replace")


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
