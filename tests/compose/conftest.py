"""Projects in folders of their own, handled by `dockyard compose` on the run's engine."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess


class ComposeFolder:
    """A folder with Compose files, and the command line in it."""

    def __init__(self, folder: Path, host: str) -> None:
        self.folder = folder
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "DOCKER_HOST": host}

    def write(self, text: str, name: str = "compose.yaml") -> Path:
        """Write a file of the project."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run(self, *arguments: str, timeout: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command; everything it gave back."""
        return subprocess.run(
            [sys.executable, "-m", "dockyard.cli.main", "compose", *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def __call__(self, *arguments: str, timeout: float = 60, **environment: str) -> str:
        """Run a command that must succeed; its stdout."""
        done = self.run(*arguments, timeout=timeout, **environment)
        assert done.returncode == 0, f"compose {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}"
        return done.stdout

    def error(self, *arguments: str, **environment: str) -> str:
        """Run a command that must fail; its stderr, without warnings."""
        done = self.run(*arguments, **environment)
        assert done.returncode != 0, done.stdout
        return "\n".join(line for line in done.stderr.splitlines() if not line.startswith("time="))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command; its output goes to a pipe."""
        return subprocess.Popen(
            [sys.executable, "-m", "dockyard.cli.main", "compose", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def files(tmp_path: Path) -> ComposeFolder:
    """A project's folder, without an engine."""
    folder = tmp_path / "shop"
    folder.mkdir()
    return ComposeFolder(folder, "unix:///nonexistent.sock")


@pytest.fixture
def compose(tmp_path: Path, engine: EngineProcess) -> Iterator[ComposeFolder]:
    """A project's folder on the run's engine, which has busybox; what is left of the project goes at the end."""
    engine.docker("pull", "busybox")
    folder = tmp_path / f"shop{os.getpid()}"
    folder.mkdir()
    project = ComposeFolder(folder, engine.host)
    yield project
    if (folder / "compose.yaml").exists():
        project.run("down", "-v", "--remove-orphans", "-t", "0")


def page(address: str, timeout: float = 10) -> str:
    """What a web server says, once it does."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}/", timeout=2) as answer:
                return str(answer.read().decode())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
