"""Containers that do harm: to no other one, and to no request about another."""

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.api_client import Api, ApiError
from tests.engine_process import EngineProcess
from tests.processes import eventually, gone
from tests.soak.inventory import settle

pytestmark = pytest.mark.slow

# A client's patience with an engine that has a wild container: seconds, on a slow and busy machine.
BEARABLE = 10.0


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("harm"), number=8) as process:
        yield process


@pytest.fixture
def api(engine: EngineProcess) -> Iterator[Api]:
    """The API; after the test everything that was made is removed, quickly, and nothing is left of it."""
    api = Api(engine.socket, timeout=60)
    yield api
    for entry in api.get("/containers/json", all=1):
        begun = time.monotonic()
        api.remove(entry["Id"])
        assert time.monotonic() - begun < BEARABLE
    settle(engine, api)


def others(api: Api, capsys: pytest.CaptureFixture[str], what: str) -> None:
    """Use the engine as if the wild container were not there; tell how long that takes."""
    took: dict[str, list[float]] = {"ps": [], "run": [], "exec": []}
    neighbour = api.run("sleep", "600")
    for _ in range(5):
        with _timed(took["ps"]):
            api.get("/containers/json")
        with _timed(took["run"]):
            assert api.wait(api.run("true")) == 0
        with _timed(took["exec"]):
            assert api.execute(neighbour, "echo", "well") == b"well\n"
    with capsys.disabled():
        medians = ", ".join(f"{name} {statistics.median(times) * 1000:.0f} ms" for name, times in took.items())
        print(f"\n  beside a container that {what}: {medians} (median)")
    assert max(max(times) for times in took.values()) < BEARABLE


@contextmanager
def _timed(times: list[float]) -> Iterator[None]:
    begun = time.monotonic()
    yield
    times.append(time.monotonic() - begun)


def test_one_that_does_nothing(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.run("sleep", "600")
    others(api, capsys, "does nothing")


def test_one_that_ignores_signals(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    wild = api.run("sh", "-c", "trap '' TERM INT HUP; while :; do sleep 1; done")
    others(api, capsys, "ignores signals")
    begun = time.monotonic()
    api.post(f"/containers/{wild}/stop", t=1)
    assert time.monotonic() - begun < BEARABLE
    assert api.inspect(wild)["State"]["ExitCode"] == 137


def test_one_that_floods_its_log(engine: EngineProcess, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    host = {"LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}}
    wild = api.run("yes", host=host)
    others(api, capsys, "floods its log")
    size = sum(path.stat().st_size for path in (engine.data_root / "containers" / wild).glob("*-json.log*"))
    assert size < 3 << 20
    assert api.inspect(wild)["State"]["Running"]


def test_one_that_floods_a_client_which_does_not_read(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    wild = api.create("yes", host={"LogConfig": {"Type": "none"}})
    with api.attach(wild, stdin=False):
        api.post(f"/containers/{wild}/start")
        others(api, capsys, "floods a client that does not read")
        pid = api.inspect(wild)["State"]["Pid"]
        shim = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        rows = Path(f"/proc/{shim}/status").read_text().splitlines()
        resident = next(int(row.split()[1]) for row in rows if row.startswith("VmRSS"))
        assert resident < 64 << 10  # what the client has not read is kept up to a bound


def test_one_that_forks_endlessly(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    wild = api.run("sh", "-c", "f() { f | f & }; f; sleep 600", host={"PidsLimit": 200, "NanoCpus": 500_000_000})
    others(api, capsys, "forks endlessly")
    try:
        api.execute(wild, "true")  # with no process left to it an exec may fail, but not hang
    except (ApiError, OSError):
        pass
    begun = time.monotonic()
    api.post(f"/containers/{wild}/kill")
    assert time.monotonic() - begun < BEARABLE


def test_one_that_eats_its_memory_is_reported(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    wild = api.run("tail", "/dev/zero", host={"Memory": 24 << 20, "MemorySwap": 24 << 20})
    others(api, capsys, "eats its memory")
    assert api.wait(wild) == 137
    assert api.inspect(wild)["State"]["OOMKilled"] is True


def test_one_that_eats_the_processors(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.run("sh", "-c", "for i in 1 2 3 4; do (while :; do :; done) & done; wait")
    others(api, capsys, "eats the processors")


def test_one_with_a_thousand_descriptors_and_zombies(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    script = "i=0; while [ $i -lt 300 ]; do (true &); i=$((i+1)); done; exec sleep 600 9</dev/zero"
    wild = api.run("sh", "-c", script)
    pid = api.inspect(wild)["State"]["Pid"]
    eventually(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
    others(api, capsys, "has hundreds of zombies")
    api.remove(wild)
    assert gone(pid)


def test_one_with_hundreds_of_mounts(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    script = "i=0; while [ $i -lt 400 ]; do mkdir -p /m/$i; mount -t tmpfs none /m/$i; i=$((i+1)); done; echo done"
    wild = api.run("sh", "-c", f"{script}; sleep 600", host={"Privileged": True})
    eventually(lambda: b"done" in api.logs(wild), 60)
    others(api, capsys, "has hundreds of mounts")


def test_one_that_lays_traps_in_its_files(api: Api) -> None:
    script = "rm -f /etc/passwd /etc/group; mkfifo /etc/passwd /etc/group; echo done; sleep 600"
    wild = api.run("sh", "-c", script)
    eventually(lambda: b"done" in api.logs(wild))
    begun = time.monotonic()
    body = {"AttachStdout": True, "Cmd": ["true"], "User": "nobody"}
    with pytest.raises(ApiError):
        api.post(f"/containers/{wild}/exec", body)
    api.get(f"/containers/{wild}/changes")
    api.get(f"/containers/{wild}/archive?path=/etc")
    assert time.monotonic() - begun < BEARABLE


def test_one_whose_output_never_ends_after_it(api: Api) -> None:
    # what it has left running in the host's PID namespace holds its output open
    wild = api.run("sh", "-c", "sleep 600 & exit 3", host={"PidMode": "host"})
    begun = time.monotonic()
    assert api.wait(wild) == 3
    assert time.monotonic() - begun < BEARABLE
    assert os.path.exists("/proc/self")
