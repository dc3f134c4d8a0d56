"""Terminals: ours in the foreground, the caller's through a socket."""

import os
import pty
import socket
import subprocess
import termios
import tty
from pathlib import Path

from tests.runtime.conftest import Runtime


class Screen:
    """A terminal with a program on it."""

    def __init__(self, runtime: Runtime, *words: str, size: tuple[int, int] = (33, 111)) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, size)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            [runtime.program, "--root", runtime.state, *words],
            cwd=runtime.bundle, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: None,
        )  # fmt: skip

    def read_until(self, wanted: bytes) -> bytes:
        seen = b""
        while wanted not in seen:
            seen += os.read(self.master, 4096)
        return seen

    def end(self) -> int:
        status = self.process.wait(20)
        assert termios.tcgetattr(self.slave) == self.before, "the terminal is not as it was"
        os.close(self.slave)
        os.close(self.master)
        return status


def test_a_shell_on_a_terminal_knows_its_size_and_follows_it(runtime: Runtime) -> None:
    runtime.command("sh", terminal=True)
    screen = Screen(runtime, "run", "one")
    screen.read_until(b"# ")
    os.write(screen.master, b"stty size; tty\n")
    assert b"33 111\r\n/dev/pts/0\r\n" in screen.read_until(b"pts/0\r\n")
    termios.tcsetwinsize(screen.master, (44, 222))
    screen.process.send_signal(28)  # SIGWINCH
    os.write(screen.master, b"sleep 0.1; stty size\n")
    screen.read_until(b"44 222")
    os.write(screen.master, b"exit 5\n")
    assert screen.end() == 5


def test_control_c_is_the_containers(runtime: Runtime) -> None:
    runtime.started("one")
    screen = Screen(
        runtime,
        "exec",
        "-t",
        "one",
        "sh",
        "-c",
        "trap 'echo interrupted; exit 4' INT; echo ready; while :; do sleep 0.1; done",
    )
    screen.read_until(b"ready")
    os.write(screen.master, b"\x03")
    screen.read_until(b"interrupted")
    assert screen.end() == 4


def test_the_first_line_has_one_line_end(runtime: Runtime) -> None:
    """Our terminal adds the carriage return; if the container's did too there would be two."""
    runtime.started("one")
    for _ in range(5):
        screen = Screen(runtime, "exec", "-t", "one", "echo", "hello")
        assert screen.read_until(b"\n") == b"hello\r\n"
        screen.end()


def test_a_detached_container_sends_its_terminal(runtime: Runtime, tmp_path: Path) -> None:
    runtime.command("sh", terminal=True)
    path = str(tmp_path / "console")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(20)
        done = runtime("create", "--console-socket", path, "one")
        assert done.returncode == 0, done.stderr
        peer, _ = listener.accept()
        _, fds, _, _ = socket.recv_fds(peer, 4096, 4)
    (master,) = fds
    tty.setraw(master)
    assert runtime("start", "one").returncode == 0
    os.write(master, b"echo $((40+2))\n")
    seen = b""
    while b"42" not in seen:
        seen += os.read(master, 4096)
    os.close(master)


def test_terminal_and_console_socket_must_go_together(runtime: Runtime) -> None:
    runtime.command("sh", terminal=True)
    assert "cannot allocate tty if runc will detach" in runtime("run", "-d", "one").stderr
    runtime.command("sh")
    assert "cannot use console socket" in runtime("run", "-d", "--console-socket", "x", "one").stderr
