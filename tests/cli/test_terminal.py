"""Our client on a terminal, and with its standard streams as pipes."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess


class Screen:
    """A client on a terminal of its own."""

    def __init__(self, engine: EngineProcess, *arguments: str, width: int = 99, program: str = "") -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, width, 0, 0))
        self.process = subprocess.Popen(
            [*([program] if program else [sys.executable, "-m", "dockyard.cli.main"]), *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={"PATH": os.environ["PATH"], "HOME": str(engine.folder), "DOCKER_HOST": engine.host, "TERM": "xterm"},
        )
        os.close(slave)
        self.seen = b""

    def type(self, text: bytes) -> None:
        """Press keys."""
        os.write(self.master, text)

    def wait_for(self, text: bytes, patience: float = 60) -> None:
        """Fail unless `text` appears."""
        deadline = time.monotonic() + patience
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"waiting for {text!r}, saw {self.seen!r}"
            if select.select([self.master], [], [], left)[0]:
                try:
                    self.seen += os.read(self.master, 4096)
                except OSError:
                    assert text in self.seen, self.seen
                    return

    def rest(self) -> str:
        """All that it shows until it ends."""
        while True:
            try:
                piece = os.read(self.master, 4096)
            except OSError:  # EIO: nobody has the terminal any more
                piece = b""
            if not piece:
                return self.seen.decode()
            self.seen += piece

    def close(self) -> None:
        """End the client if need be."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def screens(engine: EngineProcess) -> Iterator[list[Screen]]:
    """Screens that are closed after the test."""
    opened: list[Screen] = []
    yield opened
    for screen in opened:
        screen.close()


def test_a_shell_on_a_terminal(engine: EngineProcess, screens: list[Screen]) -> None:
    screen = Screen(engine, "run", "-it", "--rm", "busybox", "sh")
    screens.append(screen)
    screen.wait_for(b"# ")
    screen.type(b"stty size; tty\n")
    screen.wait_for(b"33 99\r\n/dev/pts/0")
    fcntl.ioctl(screen.master, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 111, 0, 0))
    screen.process.send_signal(signal.SIGWINCH)
    time.sleep(0.3)
    screen.type(b"stty size\n")
    screen.wait_for(b"44 111")
    screen.type(b"sleep 99\n")
    time.sleep(0.3)
    screen.type(b"\x03")  # Ctrl-C goes to the container's process, not to the client
    screen.type(b"echo $?.\n")
    screen.wait_for(b"130.")
    screen.type(b"exit 7\n")
    assert screen.process.wait(timeout=60) == 7


def test_detach_and_attach_again(engine: EngineProcess, screens: list[Screen]) -> None:
    first = Screen(engine, "run", "-it", "--name", "left", "busybox", "sh")
    screens.append(first)
    first.wait_for(b"# ")
    first.type(b"\x10\x11")
    assert first.process.wait(timeout=60) == 0
    assert engine.inspect("left")["State"]["Running"]
    second = Screen(engine, "attach", "--detach-keys", "ctrl-a", "left")
    screens.append(second)
    time.sleep(0.5)
    second.type(b"echo here-$((1+1))\n")
    second.wait_for(b"here-2")
    second.type(b"\x01")
    second.wait_for(b"read escape sequence")
    assert second.process.wait(timeout=60) == 1  # as docker's
    leaving = Screen(engine, "exec", "-it", "left", "sh")
    screens.append(leaving)
    leaving.wait_for(b"# ")
    leaving.type(b"\x10\x11")
    leaving.wait_for(b"read escape sequence")
    assert leaving.process.wait(timeout=60) == 1
    third = Screen(engine, "exec", "-it", "left", "sh", "-c", "stty size; exit 9")
    screens.append(third)
    third.wait_for(b"33 99")
    assert third.process.wait(timeout=60) == 9
    engine.docker("rm", "-f", "left")


def test_an_end_is_not_taken_for_the_detach_keys_when_the_engine_is_slow(
    engine: EngineProcess, screens: list[Screen]
) -> None:
    assert engine.process is not None
    for _ in range(4):
        script = "echo begun; sleep 1; exit 7"
        screen = Screen(engine, "run", "-it", "--name", "slow-end", "busybox", "sh", "-c", script)
        screens.append(screen)
        screen.wait_for(b"begun")
        engine.process.send_signal(signal.SIGSTOP)  # the stream ends without it
        try:
            time.sleep(2)
        finally:
            engine.process.send_signal(signal.SIGCONT)
        assert screen.process.wait(timeout=60) == 7
        engine.docker("rm", "-f", "slow-end")


def test_the_end_of_stdin_ends_cat(engine: EngineProcess) -> None:
    data = os.urandom(3_000_000)
    done = engine.dockyard("run", "-i", "--rm", "busybox", "cat", input=data)
    assert (done.returncode, done.stdout == data) == (0, True)


def test_stdin_reaches_an_exec(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "--name", "fed", "busybox", "top")
    done = engine.dockyard("exec", "-i", "fed", "sh", "-c", "wc -c; echo e >&2", input=b"x" * 100_000)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"100000\n", b"e\n")
    engine.docker("rm", "-f", "fed")


def test_signals_are_passed_on(engine: EngineProcess) -> None:
    script = "trap 'echo got; exit 5' TERM; echo up; while :; do sleep 0.05; done"
    client = subprocess.Popen(
        [sys.executable, "-m", "dockyard.cli.main", "-H", engine.host, "run", "--rm", "busybox", "sh", "-c", script],
        stdout=subprocess.PIPE,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\n"
    client.terminate()
    assert client.stdout.read() == b"got\n"
    assert client.wait(timeout=60) == 5


def test_a_detached_run_prints_the_id(engine: EngineProcess) -> None:
    done = engine.dockyard("run", "-d", "busybox", "top")
    container = done.stdout.decode().strip()
    assert len(container) == 64
    assert engine.dockyard("rm", "-f", container).stdout.decode().strip() == container


def test_attaching_has_the_program_draw_its_screen_again(engine: EngineProcess, screens: list[Screen]) -> None:
    script = "trap 'echo drawn' WINCH; echo up; while :; do sleep 0.05; done"
    engine.docker("run", "-dt", "--name", "drawing", "busybox", "sh", "-c", script)
    screen = Screen(engine, "attach", "--no-stdin", "drawing")
    screens.append(screen)
    screen.wait_for(b"drawn")
    engine.docker("rm", "-f", "drawing")


@pytest.mark.parametrize("command", ["volume", "network", "container", "image", "system"])
def test_an_interrupt_at_a_question_is_no(engine: EngineProcess, screens: list[Screen], command: str) -> None:
    screen = Screen(engine, command, "prune")
    screens.append(screen)
    screen.wait_for(b"[y/N]")
    screen.process.send_signal(signal.SIGINT)
    assert screen.process.wait(timeout=60) == 0


def test_an_engine_behind_ssh_is_reached_through_the_client_there(engine: EngineProcess, tmp_path: Path) -> None:
    # in place of ssh: what it would run at the other end, run here
    (tmp_path / "ssh").write_text(
        '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\n[ "$2 $3 $4 $5" = "there docker system dial-stdio" ] &&'
        f" exec {sys.executable} -m dockyard.cli.main -H {engine.host} system dial-stdio\n"
    )
    (tmp_path / "ssh").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path), "DOCKER_HOST": "ssh://me@there"}
    for command in ([sys.executable, "-m", "dockyard.cli.main"], ["docker"]):
        done = subprocess.run(
            [*command, "run", "-i", "--rm", "busybox", "sh", "-c", "cat; exit 3"],
            input=b"through\n", capture_output=True, env=environment, check=False, timeout=60,
        )  # fmt: skip
        assert (done.stdout, done.returncode) == (b"through\n", 3), done.stderr


@pytest.mark.parametrize("width", [20, 45, 80, 300])
def test_every_width_is_filled_as_by_docker(engine: EngineProcess, tmp_path: Path, width: int) -> None:
    engine.docker("run", "--name", "wide", "busybox", "sh", "-c", "echo hello > /some-file; rm /bin/cat")
    engine.docker("save", "-o", str(tmp_path / "saved.tar"), "busybox")
    time.sleep(1)  # docker's client asks for events by the second
    now = int(time.time())
    try:
        for line in (
            "history busybox", "diff wide", "images busybox", "ps -a --filter name=wide",
            f"load -i {tmp_path}/saved.tar", f"events --since 0 --until {now} --filter container=wide",
        ):  # fmt: skip

            def shown(program: str, line: str = line) -> bytes:
                screen = Screen(engine, *line.split(), width=width, program=program)
                try:
                    return screen.rest()
                finally:
                    screen.close()

            # ages are told in seconds: what ours shows between two of docker's that are equal is shown at the same age
            for _ in range(20):
                before, ours, after = shown("docker"), shown(""), shown("docker")
                if before == after:
                    break
            assert before == after, line
            assert ours == before, line
    finally:
        engine.docker("rm", "wide")


def test_a_build_is_drawn_in_place(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo first; sleep 2; echo last\n")
    screen = Screen(engine, "build", str(tmp_path))
    screen.wait_for(b" => => # first")  # while it runs
    seen = screen.rest()
    assert "FINISHED" in seen
    assert re.search(r" => \[2/2\] RUN echo first; sleep 2; echo last +[0-9.]+s", seen)
    assert seen.rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_a_failed_step_can_be_looked_into(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("""FROM busybox
WORKDIR /here
RUN --mount=type=secret,id=s --mount=type=cache,target=/cache echo made > left && VALUE=1 false
""")
    (tmp_path / "secret").write_text("hush-hush")
    screen = Screen(engine, "build", "--debug", "--secret", f"id=s,src={tmp_path / 'secret'}", str(tmp_path))
    screen.wait_for(b"This is a shell in its container")
    screen.wait_for(b"/here # ")
    screen.type(b"cat left /run/secrets/s; ls -d /cache; stty size; exit\n")
    screen.wait_for(b"made\r\nhush-hush/cache\r\n33 99")
    seen = screen.rest()
    assert "ERROR: failed to build: failed to solve: process" in seen
    assert screen.process.wait(60) == 1
    assert engine.docker("ps", "-aq") == ""


def test_debugging_needs_a_terminal(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\n")
    done = engine.dockyard("build", "--debug", str(tmp_path))
    assert done.returncode == 1
    assert b"--debug opens a shell where a step fails, and needs a terminal" in done.stderr
