"""The zygote by itself, without a daemon."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import children_of, eventually, named

# A zygote whose warm-up fails at a chosen call of what it uses, with an error that nobody foresees.
FAILING = """
import importlib, sys
owner, name = importlib.import_module(sys.argv[1]), sys.argv[2]
def fail(*arguments, **named):
    raise KeyError("unforeseen")
setattr(owner, name, fail)
from dockyard.shim import zygote
zygote.main()
"""


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("dockyard.shim.warm_up", "warm_up"),
        ("dockyard.shim.warm_up", "_order"),
        ("dockyard.shim.warm_up", "listen"),
    ],
)
def test_a_rehearsal_that_fails_in_any_way_leaves_a_working_zygote(module: str, name: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            zygote = subprocess.Popen(
                [sys.executable, "-c", FAILING, module, name], stdin=theirs, stderr=subprocess.PIPE, text=True
            )
        (spare,) = eventually(lambda: named("dockyard-shim", zygote.pid))
        (starter,) = eventually(lambda: named("dockyard-start", zygote.pid))
        assert os.readlink(f"/proc/{zygote.pid}/cwd") == "/"
        assert not os.path.exists(f"/run/dockyard-warm-up-{zygote.pid}")
        # the daemon, what shims offer themselves by, what starters tell by, where failures are told, and the two
        assert {os.readlink(f"/proc/{zygote.pid}/fd/{fd}").partition(":")[0] for fd in (0, 1, 2)} >= {"/dev/null"}
        assert len(os.listdir(f"/proc/{zygote.pid}/fd")) <= 13
        eventually(lambda: set(children_of(zygote.pid)) == {spare, starter})  # what the warm-up forked has ended
    _, told = zygote.communicate(timeout=60)
    assert zygote.returncode == 0
    assert "the warm-up has failed: KeyError('unforeseen')" in told


# A zygote whose first forks are killed before it has looked at them.
KILLING = """
import os, signal, sys, time
opened, left = os.pidfd_open, 3
def open_late(pid, flags=0):
    global left
    if left and sys._getframe(1).f_code.co_name == "_fork":
        left -= 1
        os.kill(pid, signal.SIGKILL)
        while os.path.exists(f"/proc/{pid}"):
            time.sleep(0.001)
    return opened(pid, flags)
os.pidfd_open = open_late
from dockyard.shim import zygote
zygote.main()
"""


def test_forks_that_end_at_once_are_made_up_for() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            zygote = subprocess.Popen([sys.executable, "-c", KILLING], stdin=theirs, stderr=subprocess.PIPE, text=True)
        # one of each and no more: those of the warm-up have ended

        def made_up_for() -> bool:
            kinds = [len(named(name, zygote.pid)) for name in ("dockyard-shim", "dockyard-start")]
            return kinds == [1, 1] and len(children_of(zygote.pid)) == 2

        eventually(made_up_for)
    _, told = zygote.communicate(timeout=60)
    assert zygote.returncode == 0, told


# A life in which the daemon has yet to release a client, for which there is nothing, when the container is over.
HOLDING = """
import msgspec, sys
from dockyard.shim import warm_up
order = warm_up._order
def holding(directory):
    made = order(directory)
    made.attachments[0] = msgspec.structs.replace(made.attachments[0], stdout=False, stderr=False, held=True)
    return made
warm_up._order = holding
warm_up.warm_up(sys.argv[1])
"""


def test_a_client_held_back_to_the_end_does_not_keep_the_shim(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLDING, tmp_path / "life"], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
