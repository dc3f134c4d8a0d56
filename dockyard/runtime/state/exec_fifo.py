"""How a created container waits for `start`, a command of another process, and how that hears of its success.

Two FIFOs in the state directory, and a file. PID 1 reads from the one FIFO, `go`, until a line with the number of a
starter comes; that it writes to the file, `answer`, for of several starters one alone has started it. The other FIFO,
`done`, it holds open for writing: it closes by itself when execve succeeds. What goes wrong before that is `answer`'s
second line. A shell can do the other side (packaging/dockyard-runc), which takes a tenth of the time that a Python
takes to start.
"""

import os
import signal

from dockyard.oci import quick_json
from dockyard.runtime.errors import RuntimeFailure

GO = "go/exec.fifo"
DONE = "done/exec.fifo"
ANSWER = "answer"
# Made by whoever has started the container.
STARTED = "started"


class ExecFifo:
    """PID 1's side. Both ends of both are open in it, so that no open ever blocks and no write finds nobody."""

    def __init__(self, directory: str) -> None:
        for name in (GO, DONE):
            os.mkdir(os.path.join(directory, os.path.dirname(name)), 0o700)
            os.mkfifo(os.path.join(directory, name), 0o600)
        self._go = os.open(os.path.join(directory, GO), os.O_RDWR | os.O_CLOEXEC)
        self._done = os.open(os.path.join(directory, DONE), os.O_RDWR | os.O_CLOEXEC)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._answer = os.open(os.path.join(directory, ANSWER), flags, 0o600)

    def wait(self) -> None:
        """Sleep until somebody says start.

        The first process of a PID namespace is deaf to signals that it has no handler for; one that waits can be ended
        by those that would end any program. execve takes the handlers away.
        """
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os._exit(128 + number))
        accept(self._go, self._answer)

    def fail(self, failure: BaseException) -> None:
        """Tell whoever said start what has gone wrong."""
        text = failure.message if isinstance(failure, RuntimeFailure) else repr(failure)
        code = failure.exit_code if isinstance(failure, RuntimeFailure) else 1
        tell(self._answer, text, code)

    def descriptors(self) -> list[int]:
        """`go`, `done` and `answer`, for who waits in PID 1's place."""
        return [self._go, self._done, self._answer]

    def close(self) -> None:
        """For the process that has made it, when it has handed it on."""
        for fd in self.descriptors():
            os.close(fd)


def accept(go: int, answer: int) -> None:
    """Wait for who says start; `go` is closed: who looks sees that nobody waits here any more."""
    first, _, _ = os.read(go, 64).partition(b"\n")
    os.write(answer, first + b"\n")
    os.close(go)


def tell(answer: int, text: str, exit_code: int) -> None:
    """Say to whoever said start, in `answer`, why the program does not run."""
    os.write(answer, quick_json.dumps({"text": text, "exit_code": exit_code}).encode() + b"\n")


def is_waiting(directory: str) -> bool:
    """Whether the container's PID 1 waits at the exec FIFO."""
    try:
        os.close(os.open(os.path.join(directory, GO), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False  # no such FIFO, or nobody reads
    return True


def start(directory: str) -> None:
    """Let it go on, and wait until its program runs. Raises RuntimeFailure when it can't."""
    done = os.open(os.path.join(directory, DONE), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        try:
            go = os.open(os.path.join(directory, GO), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            raise RuntimeFailure("cannot start an already running container") from None
        starter = b"%d" % os.getpid()
        os.write(go, starter + b"\n")
        os.close(go)
        os.set_blocking(done, True)
        os.read(done, 1)  # until the only writer left has become the program, or ended
    finally:
        os.close(done)
    with open(os.path.join(directory, ANSWER), "rb") as file:
        accepted, _, said = file.read().partition(b"\n")
    if not accepted:
        raise RuntimeFailure("cannot start a container that has stopped")
    if accepted != starter:
        raise RuntimeFailure("cannot start an already running container")
    os.close(os.open(os.path.join(directory, STARTED), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    if said:
        raise failure_of(said.decode())


def failure_of(line: str) -> RuntimeFailure:
    """What PID 1 has said."""
    told = quick_json.loads(line)
    return RuntimeFailure(told["text"], told["exit_code"])
