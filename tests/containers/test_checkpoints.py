"""Checkpoints of containers through the Engine API, by CRIU on the real kernel."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests import criu
from tests.engine_process import EngineProcess

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
    assert checkpoint(engine, "snap", leave_running=True)[0] == 409
    assert checkpoint(engine, "../out", leave_running=True)[0] == 400


@pytest.mark.skipif(not criu.reason_why_not(), reason="CRIU works here")
def test_a_checkpoint_that_fails_says_why_and_leaves_all_as_it_was(engine: EngineProcess, counter: str) -> None:
    status, answer = checkpoint(engine, "first", leave_running=False)
    assert status == 500
    assert "CRIU is not installed" in answer["message"] or "criu failed: dump" in answer["message"]
    assert engine.inspect(counter)["State"]["Running"]
    assert engine.api("GET", "/containers/counter/checkpoints")[1] is None
    assert engine.docker("exec", counter, "echo", "on") == "on\n"
    assert checkpoint(engine, "../out", leave_running=True)[0] == 400
