"""A start and an end of the daemon wait for nothing without a word and without a bound."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.watchdog import Watchdog
from tests.api_client import Api
from tests.engine_process import EngineProcess


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    process = EngineProcess(tmp_path_factory.mktemp("waits"), number=16, arguments=("--shutdown-timeout=4",))
    process.start()
    process.docker("pull", "busybox")
    try:
        yield process
    finally:
        process.clean_up()


def test_what_takes_long_is_said_and_what_takes_too_long_is_ended(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    left: list[int] = []
    gone = threading.Event()

    def leave(status: int) -> None:
        left.append(status)
        gone.set()

    watchdog = Watchdog(leave)
    watchdog.at("a disk", 0.2, 3)
    watchdog.at("a network", 0.3, 4)
    watchdog.done()
    time.sleep(0.5)
    assert left == []
    watchdog.at("a cgroup", 6, 5)
    assert gone.wait(10)
    assert left == [5]
    assert [record.getMessage() for record in caplog.records] == ["waiting for a cgroup since 5 seconds"]
    assert capsys.readouterr().err == "dockyardd: giving up: a cgroup took more than 6 seconds\n"


def test_a_start_that_hangs_says_what_it_waits_for(engine: EngineProcess) -> None:
    """A file that never can be read stands for a disk that does not answer."""
    engine.stop()
    names = engine.data_root / "image" / "names.json"
    kept = names.read_bytes()
    names.unlink()
    os.mkfifo(names)
    starting = subprocess.Popen(
        [sys.executable, "-m", "dockyard.daemon", *engine.arguments], stderr=subprocess.PIPE, text=True
    )
    try:
        assert starting.stderr is not None
        told = next(line for line in starting.stderr if "level=WARNING" in line)
        assert f"waiting for layers, images and volumes in {engine.data_root} since 5 seconds" in told
    finally:
        starting.kill()
        starting.wait()
        starting.stderr.close() if starting.stderr else None
        names.unlink()
        names.write_bytes(kept)
        engine.start()


def _open(engine: EngineProcess, request: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(engine.socket))
    client.sendall(f"{request} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
    return client


def test_clients_that_wait_do_not_hold_up_the_end(engine: EngineProcess) -> None:
    api = Api(engine.socket)
    runs = api.run("sleep", "1000", OpenStdin=True)
    asked = api.post(f"/containers/{runs}/exec", {"Cmd": ["sleep", "1000"], "AttachStdout": True})["Id"]
    clients = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for client in clients:
        client.connect(str(engine.socket))
    clients += [_open(engine, "GET /_ping") for _ in range(20)]
    for request in (
        "GET /events",
        f"GET /containers/{runs}/logs?follow=1&stdout=1",
        f"GET /containers/{runs}/stats",
        f"POST /containers/{runs}/attach?stream=1&stdin=1&stdout=1",
        f"POST /containers/{runs}/wait",
        f"POST /containers/{runs}/stop?t=1000",
        f"POST /exec/{asked}/start",
        "POST /build",
        "POST /images/load",
        "POST /dockyard/leases",
    ):
        clients += [_open(engine, request) for _ in range(5)]
    half = socket.socket(socket.AF_UNIX)
    half.connect(str(engine.socket))
    half.sendall(b"POST /build HTTP/1.1\r\nHost: d\r\nContent-Length: 100000\r\n\r\nhalf")
    time.sleep(1)
    assert engine.process is not None
    began = time.monotonic()
    engine.process.send_signal(signal.SIGTERM)
    assert engine.process.wait(timeout=30) == 0
    took = time.monotonic() - began
    for client in (*clients, half):
        client.close()
    assert took < 8, f"{took:.1f} s: {engine.log()[-2000:]}"
    engine.start()
    assert api.inspect(runs)["State"]["Running"]


def test_what_hangs_is_not_waited_for_longer_than_the_shutdown_timeout(engine: EngineProcess) -> None:
    folder = engine.data_root / "image" / "imagedb"
    os.mkfifo(folder / "hangs.json")
    client = _open(engine, "GET /dockyard/fsck")
    time.sleep(1)
    assert engine.process is not None
    began = time.monotonic()
    engine.process.send_signal(signal.SIGTERM)
    assert engine.process.wait(timeout=30) == 0
    took = time.monotonic() - began
    client.close()
    (folder / "hangs.json").unlink()
    assert 2 < took < 10, f"{took:.1f} s"
    assert "giving up: what is under way to end (--shutdown-timeout) took more than 4 seconds" in engine.log()
    engine.start()
    assert engine.docker("images", "-q") != ""


def test_a_daemon_told_to_stop_while_its_start_hangs_ends(engine: EngineProcess, tmp_path: Path) -> None:
    """The start of a container's volume hangs, as one on a dead server does."""
    engine.docker("run", "-d", "--name", "runs", "busybox", "sleep", "1000")
    engine.stop()
    shim = next((engine.run / "shims").glob("*/pid"))
    os.kill(int(shim.read_text().split()[0]), signal.SIGSTOP)
    try:
        engine.start()
        began = time.monotonic()
        engine.stop()
        assert time.monotonic() - began < 15
    finally:
        os.kill(int(shim.read_text().split()[0]), signal.SIGCONT)
        engine.start()
