"""A container's program below a service manager: NOTIFY_SOCKET."""

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.runtime.bundle import python
from tests.runtime.conftest import Runtime

PROGRAM = """
import os, socket, time
end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
end.connect(os.environ["NOTIFY_SOCKET"])
end.send(b"STATUS=not yet")
time.sleep(0.5)
end.send(b"READY=1\\nSTATUS=what else")
time.sleep(WAIT)
"""


class Manager:
    """A service manager's socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(20)

    def next(self) -> str:
        """The next message; a barrier's pipe is closed at once."""
        message, fds, _, _ = socket.recv_fds(self._socket, 4096, 1)
        for fd in fds:
            os.close(fd)
        return message.decode()


@pytest.fixture
def manager(tmp_path: Path) -> Manager:
    return Manager(tmp_path / "manager")


def configure(runtime: Runtime, wait: int) -> dict[str, str]:
    """A program that says READY after half a second and ends `wait` seconds later; the runtime's environment."""

    def change(config: dict[str, object]) -> None:
        config["process"]["args"] = list(python(PROGRAM.replace("WAIT", str(wait))))  # type: ignore[index]
        config["mounts"] += [  # type: ignore[operator]
            {"destination": path, "type": "bind", "source": path, "options": ["rbind", "ro"]}
            for path in ("/usr", "/lib", "/lib64")
            if os.path.isdir(path)
        ]

    runtime.config(change)
    return {**os.environ, "NOTIFY_SOCKET": str(runtime.state.parent / "manager")}


@pytest.mark.parametrize("words", [("create", "start"), ("run",)])
def test_the_command_that_starts_waits_until_the_program_is_ready(
    runtime: Runtime, manager: Manager, words: tuple[str, ...]
) -> None:
    env = configure(runtime, 60)
    begun = time.monotonic()
    if "run" in words:
        running = subprocess.Popen(
            [runtime.program, "--root", runtime.state, "run", "-d", "served"], env=env, cwd=runtime.bundle
        )
    else:
        assert runtime("create", "served", env=env).returncode == 0
        running = subprocess.Popen([runtime.program, "--root", runtime.state, "start", "served"], env=env)
    said = [manager.next() for _ in range(3)]
    assert running.wait(20) == 0
    assert time.monotonic() - begun > 0.5
    pid = json.loads(runtime("state", "served").stdout)["pid"]
    assert said == ["READY=1\n", f"MAINPID={pid}\n", "BARRIER=1"]


def test_in_the_foreground_the_runtime_is_the_main_process_and_ends_with_the_container(
    runtime: Runtime, manager: Manager
) -> None:
    env = configure(runtime, 1)
    running = subprocess.Popen([runtime.program, "--root", runtime.state, "run", "served"], env=env, cwd=runtime.bundle)
    assert [manager.next() for _ in range(2)] == ["READY=1\n", f"MAINPID={running.pid}\n"]
    assert running.wait(20) == 0


def test_a_container_that_is_never_ready_holds_nobody_up_once_it_has_ended(runtime: Runtime, manager: Manager) -> None:
    runtime.command("sh", "-c", "[ -w /run/notify/notify.sock ] && echo $NOTIFY_SOCKET")
    env = {**os.environ, "NOTIFY_SOCKET": str(manager.path)}
    done = runtime("run", "unready", env=env)
    assert (done.returncode, done.stdout) == (0, "/run/notify/notify.sock\n")
    assert runtime("run", "-d", "unready", env=env).returncode == 0
