"""How a created container waits for `start`, a command of another process, and how that hears of its success.

Two FIFOs in the state directory. PID 1 reads from the one, `go`, until a line comes; the other, `done`, it holds open
for writing: it closes by itself when execve succeeds, and before that only an error can be written to it. A shell can
do the other side (packaging/dockyard-runc), which takes a tenth of the time that a Python takes to start.
"""

import os
import signal

from dockyard.oci import quick_json
from dockyard.runtime.errors import RuntimeFailure

GO = "go/exec.fifo"
DONE = "done/exec.fifo"
# Made by whoever has started the container.
STARTED = "started"


class Gate:
    """PID 1's side. Both ends of both are open in it, so that no open ever blocks and no write finds nobody."""

    def __init__(self, directory: str) -> None:
        for name in (GO, DONE):
            os.mkdir(os.path.join(directory, os.path.dirname(name)), 0o700)
            os.mkfifo(os.path.join(directory, name), 0o600)
        self._go = os.open(os.path.join(directory, GO), os.O_RDWR | os.O_CLOEXEC)
        self._done = os.open(os.path.join(directory, DONE), os.O_RDWR | os.O_CLOEXEC)

    def wait(self) -> None:
        """Sleep until somebody says start.

        The first process of a PID namespace is deaf to signals that it has no handler for; one that waits can be ended
        by those that would end any program. execve takes the handlers away.
        """
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os._exit(128 + number))
        os.read(self._go, 16)
        os.close(self._go)  # who looks sees that nobody waits here any more

    def fail(self, failure: BaseException) -> None:
        """Tell whoever said start what has gone wrong."""
        text = failure.message if isinstance(failure, RuntimeFailure) else repr(failure)
        code = failure.exit_code if isinstance(failure, RuntimeFailure) else 1
        tell(self._done, text, code)

    def descriptors(self) -> list[int]:
        """`go` and `done`, for who waits in PID 1's place."""
        return [self._go, self._done]

    def close(self) -> None:
        """For the process that has made it, when it has handed it on."""
        os.close(self._go)
        os.close(self._done)


def tell(done: int, text: str, exit_code: int) -> None:
    """Say to whoever said start, through `done`, why the program does not run."""
    os.write(done, quick_json.dumps({"text": text, "exit_code": exit_code}).encode() + b"\n")


def is_waiting(directory: str) -> bool:
    """Whether the container's PID 1 waits behind the gate."""
    try:
        os.close(os.open(os.path.join(directory, GO), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False  # no such gate, or nobody reads
    return True


def start(directory: str) -> None:
    """Let it go on, and wait until its program runs. Raises RuntimeFailure when it can't."""
    done = os.open(os.path.join(directory, DONE), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        try:
            go = os.open(os.path.join(directory, GO), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            raise RuntimeFailure("cannot start an already running container") from None
        os.write(go, b"start\n")
        os.close(go)
        os.set_blocking(done, True)
        said = b""
        while part := os.read(done, 4096):
            said += part
    finally:
        os.close(done)
    os.close(os.open(os.path.join(directory, STARTED), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    if said:
        raise failure_of(said.decode())


def failure_of(line: str) -> RuntimeFailure:
    """What PID 1 has said."""
    told = quick_json.loads(line)
    return RuntimeFailure(told["text"], told["exit_code"])
