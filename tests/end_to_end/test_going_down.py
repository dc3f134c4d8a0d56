"""The system goes down: containers end in their own way, all at once, and run again after it has come up.

`conformance/reboots` does so with a machine; here an init of the old kind has written down that it is on its way.
"""

import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.linux import shutdown, systemd
from tests.engine_process import EngineProcess
from tests.processes import eventually

UTMP = Path("/run/utmp")
FAREWELL = "trap 'sleep 2; echo bye; exit 5' {}; echo up; while :; do sleep 0.1; done"

pytestmark = pytest.mark.skipif(systemd.is_running(), reason="systemd runs here, and says itself how it is")


def _run_level(level: str) -> bytes:
    """utmp(5) with another record before."""
    boot = struct.pack("h", 2).ljust(384, b"\0")
    return boot + struct.pack("hxxi", 1, ord("N") * 256 + ord(level)).ljust(384, b"\0")


@pytest.fixture
def utmp(tmp_path: Path) -> Iterator[Path]:
    """What is put in the host's place, which must be there for that."""
    made = not UTMP.exists()
    UTMP.touch()  # empty it tells nobody anything
    yield tmp_path / "utmp"
    if made:
        UTMP.unlink(missing_ok=True)


@pytest.mark.parametrize(("content", "expected"), [
    (None, False), (b"", False), (b"x" * 100, False), (_run_level("2"), False), (_run_level("0"), True),
    (_run_level("6"), True),
])  # fmt: skip
def test_the_run_level_tells_that_the_system_goes_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, expected: bool
) -> None:
    monkeypatch.setattr(shutdown, "UTMP", str(tmp_path / "utmp"))
    if content is not None:
        (tmp_path / "utmp").write_bytes(content)
    assert shutdown.is_under_way() is expected


def test_containers_that_no_daemon_looks_after_can_be_ended_in_their_own_way(tmp_path: Path) -> None:
    engine = EngineProcess(tmp_path / "engine", number=36)
    engine.start()
    ending = [sys.executable, "-m", "dockyard.daemon", *engine.arguments, "--stop-containers"]
    try:
        engine.docker("pull", "busybox")
        for name, *options in (("once",), ("again", "--restart=always")):
            engine.docker("run", "-d", "--name", name, *options, "busybox", "sh", "-c", FAREWELL.format("TERM"))
            eventually(lambda name=name: engine.docker("logs", name))  # type: ignore[misc]  # its trap is set
        engine.docker("create", "--name", "waiting", "--restart=always", "busybox", "true")
        refused = subprocess.run(ending, capture_output=True, text=True, timeout=60, check=False)
        assert refused.returncode == 1
        assert "is still running" in refused.stderr
        engine.stop()
        for _ in range(2):  # the second finds nothing to do
            subprocess.run(ending, timeout=60, check=True)
        engine.start()
        assert engine.inspect("once")["State"]["ExitCode"] == 5
        assert engine.inspect("waiting")["State"]["Status"] == "created"
        eventually(lambda: "again" in engine.docker("ps", "--format", "{{.Names}}").split())
        assert engine.docker("logs", "again").startswith("up\nbye\nup\n")
    finally:
        engine.clean_up()


def test_containers_end_in_their_own_way_when_the_system_goes_down(tmp_path: Path, utmp: Path) -> None:
    utmp.write_bytes(_run_level("2"))
    engine = EngineProcess(tmp_path / "engine", number=35)
    engine.prefix = ("unshare", "--mount", "sh", "-c", f'mount --bind {utmp} {UTMP} && exec "$@"', "in-place")
    engine.start()
    try:
        engine.docker("pull", "busybox")
        for name, signal, *options in (
            ("once", "TERM"), ("by-int", "INT", "--stop-signal=INT"), ("again", "TERM", "--restart=on-failure"),
            ("paused", "TERM", "--restart=always"), ("passing", "TERM", "--rm"),
        ):  # fmt: skip
            engine.docker("run", "-d", "--name", name, *options, "busybox", "sh", "-c", FAREWELL.format(signal))
        engine.docker("run", "-d", "--name", "failing", "--restart=always", "busybox", "false")
        for name in ("once", "by-int", "again", "paused"):
            eventually(lambda name=name: engine.docker("logs", name))  # type: ignore[misc]  # its trap is set
        engine.docker("pause", "paused")
        utmp.write_bytes(_run_level("6"))
        begin = time.monotonic()
        engine.stop()
        assert time.monotonic() - begin < 5 * 2  # side by side
        utmp.write_bytes(_run_level("2"))
        engine.start()
        for name in ("once", "by-int"):
            state = engine.inspect(name)["State"]
            assert (state["Status"], state["ExitCode"]) == ("exited", 5)
        for name in ("once", "by-int", "again", "paused"):
            assert engine.docker("logs", name).startswith("up\nbye\n")
        eventually(lambda: {"again", "paused"} <= set(engine.docker("ps", "--format", "{{.Names}}").split()))
        eventually(lambda: engine.inspect("failing")["RestartCount"])  # it was waiting for its next start
        assert "passing" not in engine.docker("ps", "-a", "--format", "{{.Names}}").split()
    finally:
        engine.clean_up()
