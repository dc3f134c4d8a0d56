"""`watch`: what changes in the project's files gets into running containers."""

import signal
import time

from tests.compose.conftest import ComposeFolder

PROJECT = """
services:
  web:
    image: busybox
    command: sh -c 'cat /proc/uptime > /started; exec sleep 1000'
    stop_grace_period: 0s
    develop:
      watch:
        - {path: ./src, action: sync, target: /app, ignore: ["*.log"], initial_sync: true}
        - {path: ./config, action: sync+restart, target: /config}
        - {path: ./hook, action: sync+exec, target: /hook, exec: {command: "touch /hooked"}}
"""


def inside(compose: ComposeFolder, *command: str, wanted: str, seconds: float = 15) -> None:
    """Wait until a command in the container gives what is wanted."""
    deadline = time.monotonic() + seconds
    while (found := compose.run("exec", "-T", "web", *command).stdout) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def test_changed_files_are_copied_removed_and_acted_on(compose: ComposeFolder) -> None:
    for name in ("src", "hook"):
        (compose.folder / name).mkdir()
    (compose.folder / "src" / "old").write_text("old")
    compose.write(PROJECT)
    watching = compose.start("watch")
    try:
        assert watching.stdout is not None
        assert "Watch enabled" in watching.stdout.readline()
        inside(compose, "ls", "/app", wanted="old\n")
        (compose.folder / "src" / "new").write_text("new")
        (compose.folder / "src" / "noise.log").write_text("")
        (compose.folder / "src" / "old").unlink()
        inside(compose, "ls", "/app", wanted="new\n")
        (compose.folder / "hook" / "one").write_text("1")
        inside(compose, "ls", "/hooked", wanted="/hooked\n")
        started = compose("exec", "-T", "web", "cat", "/started")
        (compose.folder / "config").mkdir()
        (compose.folder / "config" / "c").write_text("c")
        inside(compose, "cat", "/config/c", wanted="c")
        deadline = time.monotonic() + 15
        while compose.run("exec", "-T", "web", "cat", "/started").stdout in ("", started):
            assert time.monotonic() < deadline
    finally:
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=20)
