"""The keys of `up` on a terminal."""

import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.compose.conftest import ComposeFolder

PATIENCE = 90  # s, on a slow, busy machine


class OnTerminal:
    """A command whose three streams are a terminal."""

    def __init__(self, process: "subprocess.Popen[bytes]", terminal: int) -> None:
        self.process = process
        self.terminal = terminal
        self.said = ""

    def press(self, keys: str) -> None:
        """Type something; what was said before counts no more."""
        self.said = ""
        os.write(self.terminal, keys.encode())

    def wait_for(self, text: str) -> None:
        """Read until it is there."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.said:
            assert time.monotonic() < deadline, self.said
            if select.select([self.terminal], [], [], 0.2)[0]:
                self.said += os.read(self.terminal, 1 << 16).decode(errors="replace")


@contextmanager
def on_terminal(compose: ComposeFolder, *arguments: str) -> Iterator[OnTerminal]:
    terminal, other = pty.openpty()
    before = termios.tcgetattr(other)
    process = subprocess.Popen(
        [sys.executable, "-m", "dockyard.cli.main", "compose", *arguments],
        cwd=compose.folder,
        env={**compose.environment, "TERM": "xterm"},
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
        # Ctrl-C is for who has the terminal
        preexec_fn=lambda: __import__("fcntl").ioctl(0, termios.TIOCSCTTY, 0),
    )
    try:
        yield OnTerminal(process, terminal)
        process.wait(PATIENCE)
        assert termios.tcgetattr(other) == before
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(other)
        os.close(terminal)


def test_watching_begins_and_ends_by_a_key(compose: ComposeFolder) -> None:
    compose.write(
        """
services:
  a:
    image: busybox
    command: sh -c 'echo ready; exec sleep 1000'
    init: true
    stop_grace_period: 0s
    develop: {watch: [{action: sync, path: ./files, target: /files}]}
"""
    )
    compose.write("one", "files/one")
    with on_terminal(compose, "up", "--menu") as up:
        up.wait_for("ready")
        up.wait_for("Enable Watch")
        up.press("w")
        up.wait_for("Watch enabled")
        up.wait_for("Disable Watch")
        compose.write("two", "files/two")
        up.wait_for('Syncing service "a"')
        up.press("w")
        up.wait_for("Watch disabled")
        up.press("\x03")
        up.wait_for("Gracefully Stopping")
        assert up.process.wait(PATIENCE) == 130


def test_without_a_develop_section_the_key_says_what_is_missing(compose: ComposeFolder) -> None:
    compose.write("services: {a: {image: busybox, command: sleep 1000, init: true, stop_grace_period: 0s}}")
    with on_terminal(compose, "up", "--menu") as up:
        up.wait_for("Enable Watch")
        up.press("w")
        up.wait_for("watch is not yet configured")
        up.press("\n")
        up.wait_for("Enable Watch")
        up.press("\x03")
        assert up.process.wait(PATIENCE) == 130
    with on_terminal(compose, "up", "--menu=false") as up:
        up.wait_for("Started")
        up.press("\x03")
        up.wait_for("Gracefully Stopping")
        assert up.process.wait(PATIENCE) == 130
        assert "Watch" not in up.said
