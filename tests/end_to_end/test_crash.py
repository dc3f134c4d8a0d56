"""Kill -9 of the daemon, then a new one: containers never notice, nothing that was acknowledged is lost."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

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
        deadline = time.monotonic() + 60
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


def test_without_live_restore_what_outlived_a_killed_daemon_is_stopped_in_its_own_way(crashing: EngineProcess) -> None:
    crashing.stop()
    crashing.arguments.append("--live-restore=false")
    crashing.start()
    polite = "trap 'echo bye; exit 7' USR1; while :; do sleep 0.05; done"
    polite_run = ("--stop-signal", "USR1", "busybox", "sh", "-c", polite)
    crashing.docker("run", "-d", "--name", "plain", *polite_run)
    crashing.docker("run", "-d", "--name", "always", "--restart", "always", *polite_run)
    crashing.docker("run", "-d", "--name", "gone", "--rm", *polite_run)
    crashing.docker("run", "-d", "--name", "frozen", *polite_run)
    crashing.docker("pause", "frozen")
    pid = crashing.inspect("always")["State"]["Pid"]
    crashing.kill()
    crashing.start()
    for name in ("plain", "frozen"):
        state = crashing.inspect(name)["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 7)
        assert crashing.docker("logs", name) == "bye\n"
    assert crashing.docker("ps", "-aq", "--filter", "name=gone") == ""
    deadline = time.monotonic() + 60
    while crashing.inspect("always")["State"]["Status"] != "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    state = crashing.inspect("always")["State"]
    assert state["Status"] == "running"
    assert state["Pid"] != pid
    assert crashing.docker("logs", "always") == "bye\n"


def test_health_starts_anew_with_a_new_daemon(crashing: EngineProcess) -> None:
    check = ("--health-cmd", "test -e /well", "--health-interval", "100ms", "--health-retries", "1")
    crashing.docker("run", "-d", "--name", "ill", *check, "busybox", "sleep", "100")

    def wait_for(status: str) -> None:
        deadline = time.monotonic() + 60
        while crashing.inspect("ill")["State"]["Health"]["Status"] != status:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    wait_for("unhealthy")
    crashing.docker("exec", "ill", "touch", "/well")
    wait_for("healthy")
    crashing.docker("exec", "ill", "mv", "/well", "/gone")
    crashing.docker("pause", "ill")  # nothing is asked while it is frozen
    before = crashing.inspect("ill")["State"]["Health"]["Status"]
    crashing.kill()
    crashing.start()
    health = crashing.inspect("ill")["State"]["Health"]
    assert before in ("healthy", "unhealthy")
    assert (health["Status"], health["FailingStreak"]) == ("starting", 0)
    assert health["Log"]
    crashing.docker("unpause", "ill")
    wait_for("unhealthy")


def test_a_container_keeps_its_network_under_a_daemon_that_sees_anothers_sys(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """In a network namespace of its own with the host's /sys, where no link of ours is shown."""
    namespace = f"dyt{os.getpid()}"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    engine = EngineProcess(tmp_path_factory.mktemp("elsewhere"), number=3)
    engine.prefix = ("nsenter", f"--net=/run/netns/{namespace}")
    try:
        engine.start()
        engine.docker("network", "create", "lan")
        own = ("--network", "name=lan,driver-opt=com.docker.network.endpoint.ifname=mine0")
        engine.docker("run", "-d", "--name", "own-name", *own, "busybox", "sleep", "100")
        engine.docker("run", "-d", "--name", "usual", "--network", "lan", "busybox", "sleep", "100")
        for end in (engine.kill, engine.stop):
            end()
            engine.start()
            for name in ("own-name", "usual"):
                engine.docker("run", "--rm", "--network", "lan", "busybox", "ping", "-c1", "-W2", name)
    finally:
        engine.clean_up()
        subprocess.run(["ip", "netns", "delete", namespace], check=True)


def test_the_service_manager_is_asked_for_time_while_outlived_containers_end(
    crashing: EngineProcess, tmp_path: Path
) -> None:
    crashing.stop()
    crashing.arguments.append("--live-restore=false")
    crashing.start()
    crashing.docker(
        "run", "-d", "--name", "deaf", "--stop-timeout", "2", "busybox", "sh", "-c", "trap '' TERM; sleep 99"
    )
    crashing.kill()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        crashing.prefix = ("env", f"NOTIFY_SOCKET={tmp_path / 'notify'}")
        crashing.start()
        said: list[str] = []
        while "READY=1" not in said:
            said += manager.recv(4096).decode().splitlines()
    assert said[0].startswith("EXTEND_TIMEOUT_USEC=")
    assert crashing.inspect("deaf")["State"]["ExitCode"] == 137
