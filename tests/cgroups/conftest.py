"""Cgroups to try things on, and processes to put into them."""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator

import pytest

from dockyard.linux.cgroups import Cgroup, Layout, layout

HYBRID = "/sys/fs/cgroup/unified"


@pytest.fixture
def v1() -> Iterator[Cgroup]:
    """A cgroup of version 1, made."""
    if layout().version != 1:
        pytest.skip("this host has cgroup version 2 alone")
    yield from _made(Cgroup(f"/dockyard-test/{uuid.uuid4().hex[:8]}"))


@pytest.fixture
def v2() -> Iterator[Cgroup]:
    """A cgroup of version 2, made: the host's, or the one beside version 1, which has no controllers to speak of."""
    tops = layout().tops
    if "" not in tops:
        pytest.skip("this host has cgroup version 1 alone")
    yield from _made(Cgroup(f"/dockyard-test/{uuid.uuid4().hex[:8]}", Layout(2, {"": tops[""]})))


def _made(group: Cgroup) -> Iterator[Cgroup]:
    group.create()
    try:
        yield group
    finally:
        for pid in group.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        group.remove()
        for directory in group.directories:
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(directory))


Spawn = Callable[[Cgroup, str], "subprocess.Popen[str]"]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Run Python code in a cgroup: its process, stdin and stdout piped. It starts when it is inside."""
    processes: list[subprocess.Popen[str]] = []

    def start(group: Cgroup, code: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", "input()\n" + code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )
        processes.append(process)
        group.join(process.pid)
        assert process.stdin is not None
        process.stdin.write("go\n")
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
