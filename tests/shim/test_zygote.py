"""The zygote by itself, without a daemon."""

import os
import socket
import subprocess
import sys

import pytest

from tests.processes import children_of, eventually, named

# A zygote whose rehearsal fails at a chosen call of what it uses, with an error that nobody foresees.
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
        ("dockyard.shim.rehearsal", "rehearse"),
        ("dockyard.shim.rehearsal", "_order"),
        ("dockyard.shim.rehearsal", "listen"),
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
        assert not os.path.exists(f"/run/dockyard-rehearsal-{zygote.pid}")
        # the daemon, what shims offer themselves by, what starters tell by, where failures are told, and the two
        assert {os.readlink(f"/proc/{zygote.pid}/fd/{fd}").partition(":")[0] for fd in (0, 1, 2)} >= {"/dev/null"}
        assert len(os.listdir(f"/proc/{zygote.pid}/fd")) <= 13
        eventually(lambda: set(children_of(zygote.pid)) == {spare, starter})  # what the rehearsal forked has ended
    _, told = zygote.communicate(timeout=10)
    assert zygote.returncode == 0
    assert "the rehearsal has failed: KeyError('unforeseen')" in told
