"""Checkpoints of containers through the Engine API, by CRIU on the real kernel."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests import criu
from tests.engine_process import EngineProcess
from tests.processes import eventually

with_criu = criu.needed()


@pytest.fixture
def counter(engine: EngineProcess) -> Iterator[str]:
    """A container that counts, in memory alone."""
    script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"
    engine.docker("run", "-d", "--name", "counter", "busybox", "sh", "-c", script)
    yield "counter"
    engine.run_docker("rm", "-f", "counter")


def checkpoint(engine: EngineProcess, name: str, *, leave_running: bool) -> tuple[int, Any]:
    body = {"CheckpointID": name, "Exit": not leave_running}
    return engine.api("POST", "/containers/counter/checkpoints", body)


def numbers(engine: EngineProcess) -> list[int]:
    return [int(line) for line in engine.docker("logs", "counter").split()]


def last_number(engine: EngineProcess) -> int:
    return max(numbers(engine), default=0)


def counts_on(engine: EngineProcess, before: int) -> bool:
    """Whether it comes to a higher number, in the time that a slow machine takes."""
    return eventually(lambda: last_number(engine) > before)


@with_criu
def test_a_container_goes_on_where_it_was(engine: EngineProcess, counter: str) -> None:
    status, answer = checkpoint(engine, "first", leave_running=False)
    assert status == 201, answer
    assert not engine.inspect(counter)["State"]["Running"]
    before = numbers(engine)
    assert engine.api("GET", "/containers/counter/checkpoints") == (200, [{"Name": "first"}])
    status, answer = engine.api("POST", "/containers/counter/start?checkpoint=first")
    assert status == 204, answer
    assert engine.docker("exec", counter, "echo", "in") == "in\n"
    engine.docker("stop", "-t", "0", counter)
    after = numbers(engine)
    assert after == list(range(1, after[-1] + 1))
    assert after[-1] >= before[-1]
    assert engine.api("DELETE", "/containers/counter/checkpoints/first")[0] == 204
    assert engine.api("POST", "/containers/counter/start?checkpoint=first")[0] == 404


@with_criu
def test_a_checkpoint_may_leave_it_running(engine: EngineProcess, counter: str) -> None:
    pid = engine.inspect(counter)["State"]["Pid"]
    assert checkpoint(engine, "snap", leave_running=True)[0] == 201
    assert engine.inspect(counter)["State"]["Pid"] == pid
    status, answer = checkpoint(engine, "snap", leave_running=True)
    assert status == 409
    assert answer["message"].endswith("counter: checkpoint with name snap already exists for container counter")


@pytest.mark.skipif(not criu.reason_why_not(), reason="CRIU works here")
def test_a_checkpoint_that_fails_says_why_and_leaves_all_as_it_was(engine: EngineProcess, counter: str) -> None:
    status, answer = checkpoint(engine, "first", leave_running=False)
    assert status in (500, 501)
    assert "CRIU is not installed" in answer["message"] or "criu failed: dump" in answer["message"]
    assert engine.inspect(counter)["State"]["Running"]
    assert engine.api("GET", "/containers/counter/checkpoints")[1] is None
    assert engine.docker("exec", counter, "echo", "on") == "on\n"
    assert list(Path(engine.data_root / "containers").glob("*/checkpoints/.*")) == []


def test_what_cannot_be_is_told_in_dockers_words(engine: EngineProcess, counter: str) -> None:
    allowed = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
    assert checkpoint(engine, "../out", leave_running=True) == (
        400,
        {"message": f"Invalid checkpoint ID (../out), only {allowed} are allowed"},
    )
    missing = {"message": "checkpoint zz does not exist for container counter"}
    assert engine.api("DELETE", "/containers/counter/checkpoints/zz") == (404, missing)
    assert engine.api("POST", "/containers/counter/start?checkpoint=zz")[0] == 304
    assert engine.api("GET", "/containers/counter/checkpoints?dir=/nowhere")[0] == 404
    engine.docker("stop", "-t", "0", counter)
    assert engine.api("POST", "/containers/counter/start?checkpoint=zz") == (404, missing)
    assert checkpoint(engine, "one", leave_running=True) == (409, {"message": "Container counter not running"})
    assert engine.api("GET", "/containers/none/checkpoints")[0] == 404


@with_criu
def test_the_stock_client_needs_an_experimental_daemon(tmp_path: Path) -> None:
    engine = EngineProcess(tmp_path, number=32, arguments=("--experimental",))
    engine.start()
    try:
        engine.docker("run", "-d", "--name", "one", "-t", "-m", "100m", "-v", "/etc:/host:ro", "busybox", "cat")
        assert engine.docker("checkpoint", "create", "--checkpoint-dir", str(tmp_path / "kept"), "one", "c1") == "c1\n"
        assert engine.docker("checkpoint", "ls", "--checkpoint-dir", str(tmp_path / "kept"), "one").split()[-1] == "c1"
        engine.docker("start", "--checkpoint-dir", str(tmp_path / "kept"), "--checkpoint", "c1", "one")
        assert engine.inspect("one")["State"]["Running"]
        engine.docker("checkpoint", "rm", "--checkpoint-dir", str(tmp_path / "kept"), "one", "c1")
        until = str(int(time.time()) + 1)
        happened = engine.docker("events", "--since", "1m", "--until", until, "--format", "{{.Action}}").split()
        assert [action for action in happened if action in ("checkpoint", "die", "start")] == [
            "start", "die", "checkpoint", "start",
        ]  # fmt: skip
    finally:
        engine.clean_up()


def address(engine: EngineProcess, name: str) -> str:
    networks = engine.inspect(name)["NetworkSettings"]["Networks"]
    return str(next(iter(networks.values()))["IPAddress"])


@with_criu
def test_connections_live_on_as_the_address_is_kept(engine: EngineProcess) -> None:
    script = "nc -l -p 7 -e sh -c 'while read word; do echo got $word; done'"
    engine.docker("run", "-d", "--name", "server", "busybox", "sh", "-c", script)
    try:
        where = address(engine, "server")
        with connected(where, 7) as client:
            client.sendall(b"one\n")
            assert client.recv(100) == b"got one\n"
            body = {"CheckpointID": "talk", "Exit": True}
            status, answer = engine.api("POST", "/containers/server/checkpoints", body)
            assert status == 201, answer
            status, answer = engine.api("POST", "/containers/server/start?checkpoint=talk")
            assert status == 204, answer
            assert address(engine, "server") == where
            client.sendall(b"two\n")
            assert client.recv(100) == b"got two\n"
    finally:
        engine.run_docker("rm", "-f", "server")


def connected(host: str, port: int) -> socket.socket:
    """A connection, as soon as somebody listens."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection((host, port), 10)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@with_criu
def test_another_runtimes_containers_go_on_too(engine: EngineProcess) -> None:
    if shutil.which("runc") is None:
        pytest.skip("runc is not installed")
    script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"
    engine.docker("run", "-d", "--name", "counter", "--runtime", "runc", "busybox", "sh", "-c", script)
    try:
        assert checkpoint(engine, "first", leave_running=True)[0] == 201
        assert checkpoint(engine, "second", leave_running=False)[0] == 201
        assert not engine.inspect("counter")["State"]["Running"]
        assert engine.api("POST", "/containers/counter/start?checkpoint=second")[0] == 204
        assert engine.docker("exec", "counter", "echo", "in") == "in\n"
        engine.docker("stop", "-t", "0", "counter")
        after = numbers(engine)
        assert after == list(range(1, after[-1] + 1))
    finally:
        engine.run_docker("rm", "-f", "counter")


@with_criu
def test_a_daemon_killed_amid_a_checkpoint_or_a_restore_leaves_nothing_half_done(tmp_path: Path) -> None:
    engine = EngineProcess(tmp_path, number=33)
    engine.start()
    try:
        script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
        engine.docker("run", "-d", "--name", "counter", "busybox", "sh", "-c", script)
        body = {"CheckpointID": "one", "Exit": True}
        for number, moment in enumerate((0.02, 0.06, 0.1, 0.15, 0.2, 0.3, 0.05, 0.2)):
            running = engine.inspect("counter")["State"]["Running"]
            place = "/containers/counter/checkpoints" if running else "/containers/counter/start?checkpoint=one"
            asking = threading.Thread(target=_ask, args=(engine, place, body if running else None))
            asking.start()
            time.sleep(moment)
            engine.kill()
            asking.join()
            engine.start()
            whole = engine.api("GET", "/containers/counter/checkpoints")[1]
            if engine.inspect("counter")["State"]["Running"]:
                before = last_number(engine)
                assert counts_on(engine, before), number
                assert engine.docker("exec", "counter", "echo", "in") == "in\n"
                if whole:
                    assert engine.api("DELETE", "/containers/counter/checkpoints/one")[0] == 204
            else:
                assert whole == [{"Name": "one"}], number
            assert list((engine.data_root / "containers").glob("*/checkpoints/.*")) == []
    finally:
        engine.clean_up()


@with_criu
def test_a_daemon_killed_amid_a_fork_leaves_the_first_running_and_no_half_of_a_second(tmp_path: Path) -> None:
    engine = EngineProcess(tmp_path, number=34)
    engine.start()
    try:
        script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
        engine.docker("run", "-d", "--name", "counter", "busybox", "sh", "-c", script)
        for moment in (0.03, 0.1, 0.2, 0.3, 0.4, 0.6):
            place = "/dockyard/containers/counter/fork?name=second&memory=1"
            asking = threading.Thread(target=_ask, args=(engine, place, None))
            asking.start()
            time.sleep(moment)
            engine.kill()
            asking.join()
            engine.start()
            before = last_number(engine)
            assert counts_on(engine, before), moment
            if "second" in engine.docker("ps", "-a", "--format", "{{.Names}}").split():
                engine.docker("start", "second")
                assert engine.docker("exec", "second", "echo", "in") == "in\n"
                engine.docker("rm", "-f", "second")
            containers = engine.data_root / "containers"
            assert list(containers.glob("*/checkpoints/.*")) == []
            assert len(list(containers.iterdir())) == 1
    finally:
        engine.clean_up()


def _ask(engine: EngineProcess, place: str, body: Any) -> None:
    with suppress(OSError, HTTPException):
        engine.api("POST", place, body)
