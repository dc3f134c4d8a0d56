"""Whether there is a CRIU here that can do what it is for. Another than the system's is found by PATH."""

import functools
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest


@functools.cache
def reason_why_not() -> str:
    """Why nothing can be checkpointed here, tried on a process; empty when it can be.

    `criu check` says nothing of what matters: version 3.17 is content with a Linux 6.18 whose vDSO it cannot dump.
    """
    program = shutil.which("criu")
    if program is None:
        return "CRIU is not installed"
    null = subprocess.DEVNULL
    with tempfile.TemporaryDirectory(prefix="criu-") as folder, socket.create_server(("127.0.0.1", 0)) as held:
        # with a socket: 4.1 knows the memory of that kernel, and not its sockets
        victim = subprocess.Popen(
            ["sleep", "60"],
            cwd="/",
            stdin=null,
            stdout=null,
            stderr=null,
            start_new_session=True,
            pass_fds=[held.fileno()],
        )
        try:
            words = [program, "dump", "--tree", str(victim.pid), "--images-dir", folder, "-v1", "--log-file", "log"]
            if subprocess.run(words, stdout=null, stderr=null, check=False).returncode == 0:
                return ""
            log = Path(folder) / "log"
            errors = [row for row in log.read_text().splitlines() if "RLIMIT" not in row] if log.exists() else []
            said = errors[0].partition("Error ")[2] if errors else ""
            return f"CRIU cannot dump a process here: {said or 'it does not say why'}"
        finally:
            victim.kill()
            victim.wait()


def needed() -> pytest.MarkDecorator:
    """Mark for what cannot be tested without it."""
    return pytest.mark.skipif(bool(reason_why_not()), reason=reason_why_not())
