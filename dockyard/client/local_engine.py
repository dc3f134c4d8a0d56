"""The engine of this host with its usual roots: found, started when nobody has, and stopped.

Where systemd runs and has a unit for it, systemd does that; else the daemon is a process of its own that writes to
LOG. What is told apart here is the daemon that holds the lock on its PID file, not who answers on the socket.
"""

from __future__ import annotations

import os
import sys

from dockyard.client.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = "/run/dockyard"
SOCKET = f"{FOLDER}/docker.sock"
PID_FILE = f"{FOLDER}/dockyard.pid"
LOG = f"{FOLDER}/dockyardd.log"
UNIT = "dockyard.service"
UNIT_FOLDERS = ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
PATIENCE = 30.0  # seconds, for a start
INTERVAL = 0.02


class EngineFailed(ClientError):
    """The engine of this host does not start or stop; the message says why."""


def pid() -> int | None:
    """The daemon's process, None when it does not run."""
    import fcntl

    try:
        fd = os.open(PID_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(fd, 32).strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(fd)
    return None


def answers() -> bool:
    """Whether somebody listens on the socket."""
    from _socket import AF_UNIX, SOCK_STREAM, socket

    peer = socket(AF_UNIX, SOCK_STREAM)
    try:
        peer.connect(SOCKET)
        return True
    except OSError:
        return False
    finally:
        peer.close()


def by_systemd() -> bool:
    """Whether the engine is a unit of systemd's here."""
    return os.path.isdir("/run/systemd/system") and any(
        os.path.exists(f"{folder}/systemd/system/{UNIT}") for folder in UNIT_FOLDERS
    )


def start(say: Callable[[str], None] = lambda line: None) -> bool:
    """Start the engine and wait until it answers; False when it ran already. Raises EngineFailed with its own reason.

    `say` is told before the wait begins. Two who start it at once get one engine.
    """
    if answers():
        return False
    if os.geteuid() != 0:
        raise EngineFailed("the engine is not running, and only root may start it: sudo dockyard engine start")
    if by_systemd():
        say(f"Starting the engine (systemctl start {UNIT})")
        _systemctl("start")
        _await(answers, lambda: False)
        return True
    import subprocess

    os.makedirs(FOLDER, mode=0o711, exist_ok=True)
    say(f"Starting the engine (log: {LOG})")
    with open(LOG, "ab") as log:
        begin = log.seek(0, os.SEEK_END)
        daemon = subprocess.Popen(
            _program(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
        )
    # another who starts it too is quicker, perhaps: then ours ends, and his is to be waited for
    if not _await(answers, lambda: daemon.poll() is not None and pid() is None):
        raise EngineFailed(_reason(begin))
    return True


def stop(patience: float = 60.0) -> bool:
    """End the engine; containers that outlive it (live-restore) go on. False when it did not run.

    Raises EngineFailed when it has not ended after `patience` seconds.
    """
    import signal

    if by_systemd() and pid() is not None:
        _systemctl("stop")
        return True
    process = pid()
    if process is None:
        return False
    try:
        os.kill(process, signal.SIGTERM)
    except PermissionError:
        raise EngineFailed("only root may stop the engine: sudo dockyard engine stop") from None
    except ProcessLookupError:
        return True
    if not _await(lambda: pid() != process, lambda: False, patience):
        raise EngineFailed(f"the engine (process {process}) has not ended after {patience:g} seconds")
    return True


def reset() -> None:
    """Remove everything that the engine of this host has made; it is stopped for that. Raises EngineFailed."""
    import subprocess

    if os.geteuid() != 0:
        raise EngineFailed("only root may reset the engine: sudo dockyard system reset")
    stop()
    done = subprocess.run([*_program(), "--reset"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise EngineFailed(
            f"the engine was not reset: {said[-1].removeprefix('dockyardd: ') if said else 'it says nothing'}"
        )


def _program() -> list[str]:
    """The daemon that belongs to the program that runs."""
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "dockyardd")
    own = os.path.join(sys.prefix, "bin", "dockyardd")
    for path in (beside, own):
        if os.access(path, os.X_OK):
            return [path]
    return [sys.executable, "-EP", "-m", "dockyard.daemon"]


def _await(done: Callable[[], bool], given_up: Callable[[], bool], patience: float = PATIENCE) -> bool:
    import time

    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if done():
            return True
        if given_up():
            return done()
        time.sleep(INTERVAL)
    return False


def _reason(begin: int) -> str:
    """Why the daemon has ended: its own last word in the log, which it began at byte `begin`."""
    with open(LOG, "rb") as log:
        log.seek(begin)
        lines = log.read().decode(errors="replace").strip().splitlines()
    own = [line for line in lines if line.startswith("dockyardd: ")]
    said = own[-1].removeprefix("dockyardd: ") if own else lines[-1] if lines else "it says nothing"
    return f"the engine did not start: {said} (log: {LOG})"


def _systemctl(what: str) -> None:
    import subprocess

    done = subprocess.run(["systemctl", what, UNIT], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or f"systemctl ends with {done.returncode}"
        raise EngineFailed(f"cannot {what} the engine: {said} (see journalctl -u {UNIT})")
