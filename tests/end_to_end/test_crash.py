"""Kill -9 of the daemon, then a new one: containers never notice, nothing that was acknowledged is lost."""

import signal
import time
from collections.abc import Iterator

import pytest

from tests.api_client import Api
from tests.engine_process import EngineProcess


@pytest.fixture
def crashing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    process = EngineProcess(tmp_path_factory.mktemp("crashing"), number=1)
    process.start()
    try:
        yield process
    finally:
        process.clean_up()


def test_containers_outlive_a_killed_daemon(crashing: EngineProcess) -> None:
    counting = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done"
    crashing.docker("run", "-d", "--name", "stays", "-p", "127.0.0.1:0:80", "busybox", "sh", "-c", counting)
    crashing.docker("run", "-d", "--name", "ends", "busybox", "sh", "-c", "sleep 1.5; exit 5")
    pid = crashing.inspect("stays")["State"]["Pid"]
    crashing.kill()
    time.sleep(2)
    crashing.start()
    assert crashing.inspect("stays")["State"]["Pid"] == pid
    assert crashing.inspect("stays")["State"]["Running"] is True
    assert crashing.inspect("ends")["State"]["ExitCode"] == 5
    numbers = [int(line) for line in crashing.docker("logs", "stays").split()]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 30
    assert crashing.docker("exec", "stays", "echo", "still here") == "still here\n"
    crashing.docker("stop", "-t", "0", "stays")
    assert crashing.docker("wait", "stays") == "137\n"
    crashing.docker("rm", "stays", "ends")


def test_a_daemon_told_to_stop_while_it_starts_stops_well(crashing: EngineProcess) -> None:
    assert crashing.process is not None
    crashing.stop()
    crashing.start()  # as soon as its socket is there: it is still looking its containers over
    crashing.process.send_signal(signal.SIGHUP)
    crashing.stop()
    assert crashing.process.returncode == 0
    assert not crashing.socket.exists()
    crashing.start()


def test_a_reload_takes_up_what_can_change_and_nothing_else(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("reloading")
    file = folder / "daemon.json"
    file.write_text('{"labels": ["a=1"], "log-driver": "local"}')
    engine = EngineProcess(folder, number=2, arguments=(f"--config-file={file}",))
    try:
        engine.start()
        assert engine.process is not None
        api = Api(engine.socket)
        api.get("/_ping")
        file.write_text('{"labels": ["b=2"], "log-driver": "none"}')
        engine.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while (info := api.get("/info"))["Labels"] != ["b=2"] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (info["Labels"], info["LoggingDriver"]) == (["b=2"], "local")
    finally:
        engine.clean_up()


def test_a_container_is_reported_as_gone_after_its_volumes(crashing: EngineProcess) -> None:
    crashing.docker("run", "-d", "--name", "going", "-v", "/data", "busybox", "sleep", "600")
    crashing.docker("rm", "-f", "-v", "going")
    until = f"{time.time():.3f}"  # "0s" would be the last whole second
    shown = crashing.docker("events", "--since", "10m", "--until", until, "--format", "{{.Type}} {{.Action}}")
    told = shown.split("\n")
    assert told.index("volume destroy") < told.index("container destroy")
