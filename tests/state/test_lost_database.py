"""A state database that is lost, damaged or of another time: nothing is swept for it, and most of it comes back."""

import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.api_client import Api
from tests.engine_process import EngineProcess
from tests.soak.inventory import settle


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("lost"), number=12) as process:
        yield process


def _lose(engine: EngineProcess) -> None:
    for path in engine.data_root.glob("dockyard.db*"):
        path.unlink()


def _empty(engine: EngineProcess) -> None:
    _lose(engine)
    (engine.data_root / "dockyard.db").touch()


def _begin_anew(engine: EngineProcess) -> None:
    _lose(engine)
    with closing(sqlite3.connect(engine.data_root / "dockyard.db")) as database:
        database.execute("CREATE TABLE containers (key TEXT PRIMARY KEY NOT NULL, document BLOB NOT NULL)")
        database.commit()


def _lose_with_copies(engine: EngineProcess) -> None:
    _lose(engine)
    shutil.rmtree(engine.data_root / "backups")


def _damage(engine: EngineProcess) -> None:
    (engine.data_root / "dockyard.db-wal").unlink()  # which has all of it once more
    with (engine.data_root / "dockyard.db").open("r+b") as file:
        file.write(b"not a database, whatever it has been" * 200)


def _furnish(engine: EngineProcess) -> Api:
    """Containers, images, a network and a volume."""
    engine.docker("build", "-t", "built", "-", input=b"FROM busybox\nRUN echo built > /built\nLABEL a=b\n")
    engine.docker("network", "create", "--subnet", f"10.192.{engine.subnet.rpartition('.')[2]}.0/24", "net")
    engine.docker("volume", "create", "--label", "x=y", "vol")
    engine.docker("run", "--name", "ended", "-e", "SECRET=1", "-v", "vol:/v", "built", "sh", "-c", "cat /built > /kept")
    engine.docker("create", "--name", "idle", "--network", "net", "built", "true")
    engine.docker("run", "-d", "--name", "old", "--network", "net", "built", "sleep", "1000")
    engine.docker("rename", "old", "runs")
    engine.docker("tag", "built", "again:1")
    return Api(engine.socket)


def _tree(root: Path) -> set[str]:
    """What must not be swept."""
    found = {path.name for path in (root / "overlay2").iterdir() if path.name != "l"}
    return found | {path.name for path in (root / "containers").iterdir()}


@pytest.mark.parametrize("harm", [_lose, _empty, _begin_anew, _lose_with_copies, _damage])
def test_a_daemon_without_its_database_sweeps_nothing_and_recovers(
    engine: EngineProcess, harm: Callable[[EngineProcess], None]
) -> None:
    api = _furnish(engine)
    pid = engine.inspect("runs")["State"]["Pid"]
    engine.kill()
    before = _tree(engine.data_root)
    harm(engine)

    said = engine.refusal()
    assert str(engine.data_root / "dockyard.db") in said
    assert "dockyardd --recover" in said
    if harm is not _lose_with_copies:
        assert str(engine.data_root / "backups" / "dockyard.db.1") in said
    assert engine.refusal() == said
    assert _tree(engine.data_root) == before

    recovered = engine.once("--recover")
    assert (recovered.returncode, recovered.stderr) == (0, "")
    engine.start()
    assert set(engine.docker("ps", "-a", "--format", "{{.Names}}").split()) == {"ended", "idle", "runs"}
    assert set(engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()) == {
        "busybox:latest",
        "built:latest",
        "again:1",
    }
    assert engine.inspect("runs")["State"]["Pid"] == pid
    assert engine.docker("exec", "runs", "cat", "/built") == "built\n"
    assert engine.docker("cp", "ended:/kept", "-") != ""
    assert "SECRET=1" in engine.inspect("ended")["Config"]["Env"]
    assert json.loads(engine.docker("volume", "inspect", "vol"))[0]["Labels"] == {"x": "y"}
    engine.docker("start", "idle")
    assert engine.docker("run", "--rm", "built", "cat", "/built") == "built\n"
    engine.docker("stop", "-t", "0", "runs")
    engine.docker("start", "runs")
    settle(engine, api)


def test_what_nothing_is_known_of_is_put_aside(engine: EngineProcess) -> None:
    _furnish(engine)
    engine.docker("rm", "-f", "runs")
    engine.stop()
    _lose_with_copies(engine)
    ended = next(path.parent for path in engine.data_root.glob("containers/*/container.json"))
    (ended / "container.json").unlink()
    for document in (engine.data_root / "image/overlay2/layerdb").glob(f"{ended.name}*.json"):
        document.unlink()
    recovered = engine.once("--recover")
    assert recovered.returncode == 0
    assert f"put aside: {ended}" in recovered.stdout
    aside = next((engine.data_root / "aside").iterdir())
    assert (aside / "containers" / ended.name).is_dir()
    assert (aside / "overlay2" / ended.name / "diff").is_dir()
    engine.start()
    assert len(engine.docker("ps", "-aq").split()) == 1


def test_what_an_older_copy_does_not_know_is_kept(engine: EngineProcess) -> None:
    """Somebody has put the copy of yesterday in its place."""
    time.sleep(0.5)
    engine.stop()
    old = (engine.data_root / "dockyard.db").read_bytes()
    engine.start()
    _furnish(engine)
    engine.docker("rm", "-f", "runs")
    engine.stop()
    before = _tree(engine.data_root)
    _lose(engine)
    (engine.data_root / "dockyard.db").write_bytes(old)
    engine.start()
    assert engine.docker("ps", "-aq") == ""
    assert _tree(engine.data_root) == before
    assert engine.log().count("the database does not know it") >= 2
    engine.stop()
    assert engine.once("--recover").returncode == 0
    engine.start()
    assert set(engine.docker("ps", "-a", "--format", "{{.Names}}").split()) == {"ended", "idle"}
    assert engine.docker("run", "--rm", "again:1", "cat", "/built") == "built\n"


def test_recovery_keeps_out_of_a_daemons_way(engine: EngineProcess) -> None:
    refused = engine.once("--recover", f"--pidfile={engine.run}/other")
    assert refused.returncode == 1
    assert "stop the daemon first" in refused.stderr
    assert engine.docker("images", "-q") != ""


def test_an_older_daemon_refuses_newer_state(engine: EngineProcess) -> None:
    engine.stop()
    with closing(sqlite3.connect(engine.data_root / "dockyard.db")) as database:
        database.execute("PRAGMA user_version=1000")
    assert "was written by a newer Dockyard (schema 1000" in engine.refusal()
    with closing(sqlite3.connect(engine.data_root / "dockyard.db")) as database:
        database.execute("PRAGMA user_version=1")
    engine.start()
    assert engine.docker("images", "-q") != ""


def test_state_from_before_there_were_versions_is_taken_over(engine: EngineProcess) -> None:
    """Clients say -1 for no swappiness, and what once was kept so no runtime takes."""
    engine.docker("create", "--name", "old", "busybox", "echo", "started")
    engine.stop()
    with closing(sqlite3.connect(engine.data_root / "dockyard.db")) as database:
        [(key, document)] = database.execute("SELECT key, document FROM containers").fetchall()
        record = json.loads(document)
        record["host_config"]["MemorySwappiness"] = -1
        database.execute("UPDATE containers SET document = ? WHERE key = ?", (json.dumps(record).encode(), key))
        database.execute("PRAGMA user_version=0")
        database.commit()
    engine.start()
    assert engine.docker("start", "-a", "old") == "started\n"
