"""A bundle to try a runtime on: a busybox tree, a config.json, and containers run from it in a process of their own."""

import contextlib
import os
import pickle
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dockyard.oci.runtime_spec import IDMapping, Mount, Namespace, Process, Spec
from dockyard.runtime.lifecycle.container import Container, RuntimeFailure, Stdio
from dockyard.runtime.spec import defaults

APPLETS = "sh cat ls echo stat id sleep touch mkdir mkfifo chmod mount umount grep env hostname readlink uname wc true"
MAPPING = [IDMapping(container_id=0, host_id=100000, size=1000), IDMapping(container_id=1000, host_id=200000, size=500)]
T = TypeVar("T")


@dataclass
class Result:
    """How a container's program ended: its status, and what it wrote to stdout and stderr together."""

    status: int
    output: str

    @property
    def lines(self) -> list[str]:
        """The output by lines."""
        return self.output.splitlines()


@dataclass
class Bundle:
    """A directory with a tree `rootfs`."""

    path: Path
    number: int = field(default=0)

    @staticmethod
    def make(path: Path) -> "Bundle":
        """A tree with busybox and the directories a system has."""
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "root", "usr", "x"):
            (path / "rootfs" / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", path / "rootfs/bin/busybox")
        for name in APPLETS.split():
            (path / "rootfs/bin" / name).symlink_to("busybox")
        (path / "rootfs/etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
        for folder in (path, path / "rootfs"):
            folder.chmod(0o755)
        return Bundle(path)

    @property
    def root(self) -> Path:
        """The tree."""
        return self.path / "rootfs"

    @property
    def state(self) -> str:
        """Where the runtime keeps its containers' states."""
        return str(self.path / "state")

    def spec(self, *args: str) -> Spec:
        """What a container has by default, with the command `args`."""
        spec = defaults.default_spec()
        spec.mounts = list(spec.mounts)
        assert spec.process is not None
        spec.process.args = list(args)
        self.number += 1
        spec.linux.cgroups_path = f"/dockyard-test-{os.getpid()}-{self.number}"
        return spec

    def run(self, spec: Spec, *, before: Callable[[Container], None] | None = None, **options: Any) -> Result:
        """Create, start, wait and delete. Raises RuntimeFailure as the runtime does."""

        def act() -> Result:
            with self.created(spec, **options) as (container, output):
                if before is not None:
                    before(container)
                container.start()
                assert container.process is not None
                console = container.process.console
                text = _read_terminal(console).decode() if console is not None else ""
                return Result(_wait(container), _read(output) + text)

        return apart(act)

    @contextlib.contextmanager
    def created(self, spec: Spec, **options: Any) -> Iterator[tuple[Container, int]]:
        """A container up to `start`, and the file its output goes to. Only in a process of its own: see `apart`."""
        with tempfile.TemporaryFile() as output, open("/dev/null", "r+b") as null:
            stdio = None
            if spec.process is not None and not spec.process.terminal:
                stdio = Stdio(null.fileno(), output.fileno(), output.fileno())
            container = Container.create(self.state, f"c{self.number}", str(self.path), spec, stdio, **options)
            try:
                yield container, output.fileno()
            finally:
                with contextlib.suppress(RuntimeFailure):
                    container.kill(signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(container.record.pid, 0)
                container.delete(force=True)

    @contextlib.contextmanager
    def running(self, spec: Spec, **options: Any) -> Iterator[tuple[Container, int]]:
        """As `created`, started."""
        with self.created(spec, **options) as (container, output):
            container.start()
            yield container, output


def with_user_namespace(spec: Spec) -> Spec:
    """The spec in a user namespace of two ranges of ids."""
    spec.linux.namespaces.append(Namespace(type="user"))
    spec.linux.uid_mappings = spec.linux.gid_mappings = MAPPING
    return spec


def execute(container: Container, process: Process, **options: Any) -> Result:
    """Run one more process in a container, to its end."""
    with tempfile.TemporaryFile() as output, open("/dev/null", "r+b") as null:
        stdio = None if process.terminal else Stdio(null.fileno(), output.fileno(), output.fileno())
        started = container.execute(process, stdio, **options)
        os.close(started.pidfd)
        text = b""
        if started.console is not None:
            text = _read_terminal(started.console)
        status = os.waitstatus_to_exitcode(os.waitpid(started.pid, 0)[1])
        return Result(status, _read(output.fileno()) + text.decode())


def process(*args: str, **others: Any) -> Process:
    """A process with the capabilities a container has by default."""
    capabilities = defaults.capability_sets(defaults.DEFAULT_CAPABILITIES)
    return Process(args=list(args), env=[defaults.DEFAULT_PATH], capabilities=capabilities, **others)


def bind(source: str | Path, destination: str, *options: str) -> Mount:
    """A bind mount."""
    return Mount(destination=destination, type="bind", source=str(source), options=["bind", *options])


def host_python(spec: Spec) -> None:
    """Give the container the host's Python, so that what it does can be written down here."""
    spec.mounts += [bind(path, path, "ro") for path in ("/usr", "/lib", "/lib64") if os.path.isdir(path)]


def python(code: str) -> tuple[str, str, str]:
    """The command that runs `code` where `host_python` is."""
    return ("/usr/bin/python3", "-c", code)


def apart(act: "Callable[[], T]") -> "T":
    """Do `act` in a forked process, single-threaded as a runtime's is; its result, or what it raised."""
    answers, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(answers)
        answer: Any
        try:
            answer = (True, act())
        except BaseException as failure:
            answer = (False, failure)
        try:
            data = pickle.dumps(answer)
        except Exception:
            data = pickle.dumps((False, RuntimeError(repr(answer[1]))))
        with open(tell, "wb") as file:
            file.write(data)
        os._exit(0)
    os.close(tell)
    with open(answers, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    assert data, "the process ended without an answer"
    good, result = pickle.loads(data)
    if not good:
        raise result
    return result  # type: ignore[no-any-return]


def _wait(container: Container) -> int:
    assert container.process is not None
    status = os.waitstatus_to_exitcode(os.waitpid(container.process.pid, 0)[1])
    os.close(container.process.pidfd)
    return status


def _read(fd: int) -> str:
    return os.pread(fd, 1 << 20, 0).decode(errors="replace")


def _read_terminal(master: int) -> bytes:
    text = b""
    with contextlib.suppress(OSError):
        while piece := os.read(master, 4096):
            text += piece
    os.close(master)
    return text
