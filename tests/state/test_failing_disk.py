"""A data root that has become read-only, as ext4 makes it after an error, or full: what ends processes works."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api_client import Api
from tests.engine_process import EngineProcess
from tests.small_disk import fill, small_disk


@pytest.fixture
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with small_disk(tmp_path_factory.mktemp("failing"), 64 << 20) as place:
        yield place


@pytest.fixture
def engine(disk: Path) -> Iterator[EngineProcess]:
    """An engine whose data root alone is on the disk."""
    process = EngineProcess(disk.parent / "engine", number=14)
    process.data_root = disk / "data"
    process.arguments = [f"--data-root={process.data_root}" if "--data-root" in a else a for a in process.arguments]
    process.start()
    process.docker("pull", "busybox")
    try:
        yield process
    finally:
        process.abandon()


def _break(disk: Path) -> None:
    """As after an error of the device: nothing can be written any more, whatever is open."""
    subprocess.run(["mount", "-o", "remount,abort", disk], check=True)
    with pytest.raises(OSError, match="Read-only"):
        (disk / "file").touch()


def test_processes_are_stopped_killed_and_frozen_without_the_disk(engine: EngineProcess, disk: Path) -> None:
    api = Api(engine.socket)
    polite = 'trap "exit 7" TERM; while :; do sleep 0.05; done'
    stopped = api.run("sh", "-c", polite, host={"RestartPolicy": {"Name": "always"}})
    killed, frozen, passing = api.run("sleep", "100"), api.run("sleep", "100"), api.run("sleep", "100")
    own = api.run("sleep", "100", host={"AutoRemove": True})
    talks = api.run("sh", "-c", "while :; do echo line; sleep 0.01; done")
    time.sleep(1)
    _break(disk)

    engine.docker("pause", frozen)
    assert api.inspect(frozen)["State"]["Paused"]
    engine.docker("unpause", frozen)
    assert not api.inspect(frozen)["State"]["Paused"]
    assert engine.docker("exec", passing, "echo", "fine") == "fine\n"
    engine.docker("stop", stopped)
    assert api.inspect(stopped)["State"]["ExitCode"] == 7
    engine.docker("kill", killed)
    assert api.inspect(killed)["State"]["ExitCode"] == 137
    engine.docker("pause", frozen)
    engine.docker("kill", frozen)
    assert not api.inspect(frozen)["State"]["Running"]
    engine.docker("kill", own, talks)
    assert engine.docker("wait", talks) == "137\n"
    assert len(engine.docker("ps", "-q").split()) == 1
    engine.docker("kill", passing)
    refused = engine.run_docker("run", "busybox", "true")
    assert refused.returncode == 125
    # SQLite's words depend on what it was doing
    told = (b"ead-only file system", b"readonly", b"disk I/O error")
    assert any(words in refused.stderr for words in told), refused.stderr
    assert "Traceback" not in engine.log()
    engine.stop()
    assert engine.process is not None
    assert engine.process.returncode == 0
    assert "Traceback" not in engine.log()
    assert "ead-only" in (said := engine.refusal()) or "readonly" in said


def test_a_daemon_starts_on_a_full_disk(engine: EngineProcess, disk: Path) -> None:
    """After an orderly end, which gives the database's log back, as well as after a kill."""
    api = Api(engine.socket)
    runs = api.run("sleep", "100")
    for end in (engine.stop, engine.kill):
        end()
        fill(disk / "ballast")
        engine.start()
        assert api.inspect(runs)["State"]["Running"]
        (disk / "ballast").unlink()
    fill(disk / "ballast")
    engine.stop()
    engine.start()
    api.post(f"/containers/{runs}/stop", t=0)
    api.remove(runs)
    (disk / "ballast").unlink()
    assert engine.docker("run", "--rm", "busybox", "echo", "fine") == "fine\n"
