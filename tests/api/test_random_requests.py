"""Whatever a client may say, a 500 is only ever a fault of ours or of the host, and the log has no traceback."""

import http.client
import json
import os
import socket
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.api.requests_at_random import Description, Maker, Request
from tests.engine_process import EngineProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", 6000))
SEED = int(os.environ.get("FUZZ_SEED", 1))
PATIENCE = 5.0  # seconds for an answer; who waits for a container to end may wait longer
RENEW = 100  # after how many requests what is asked about is looked after


@pytest.fixture
def attacked(tmp_path: Path) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path / "engine", number=9) as engine:
        yield engine


def test_the_description_has_every_route() -> None:
    described = {operation for operation, _, _ in Description().routes}
    assert len(described) > 108


def test_no_request_is_answered_500(attacked: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    maker = Maker(SEED, str(tmp_path))
    identifiers: dict[str, list[str]] = {"exec": []}
    answers: dict[int, int] = {}
    wrong: dict[str, str] = {}
    told = len(attacked.log())
    for number, request in enumerate(islice(maker.requests(identifiers), REQUESTS)):
        if number % RENEW == 0:
            _renew(attacked)
            identifiers["exec"] = [_exec(attacked) for _ in range(3)]
        status, answer = _send(attacked, request)
        answers[status] = answers.get(status, 0) + 1
        if status == 500:
            wrong.setdefault(f"{request.method} {request.route}: {answer.decode(errors='replace')[:200]}", str(request))
        if status == 201 and request.route == "/containers/create":
            started = Request("POST", "start", f"/containers/{json.loads(answer)['Id']}/start", {}, b"")
            status, answer = _send(attacked, started)
            if status == 500:
                wrong.setdefault(f"start: {answer.decode(errors='replace')[:200]}", str(request))
        log = attacked.log()
        if "Traceback" in log[told:]:
            wrong.setdefault(log[told:][log[told:].index("Traceback") :][-500:], str(request))
        told = len(log)
    print(f"seed {SEED}, {REQUESTS} requests: {sorted(answers.items())}")
    assert not wrong, "\n\n".join(f"{what}\n  {request}" for what, request in wrong.items())
    assert all(answers.get(status) for status in (200, 201, 204, 400, 404, 409))


def _renew(engine: EngineProcess) -> None:
    """What requests are about is there, and nothing else."""
    everything = [found["Id"] for found in engine.api("GET", "/containers/json?all=1")[1]]
    for container in everything:
        engine.api("DELETE", f"/containers/{container}?force=1&v=1")
    engine.docker("network", "prune", "-f")
    engine.docker("volume", "prune", "-af")
    engine.docker("network", "create", "fuzznet")
    engine.docker("volume", "create", "fuzzvol")
    if engine.api("GET", "/images/busybox/json")[0] != 200:
        engine.docker("pull", "busybox")
    engine.docker("run", "-d", "--name", "probe", "--stop-signal", "KILL", "busybox", "sleep", "10000")
    engine.docker("create", "--name", "idle", "busybox", "sleep", "10000")


def _exec(engine: EngineProcess) -> str:
    return str(engine.api("POST", "/containers/probe/exec", {"Cmd": ["true"], "AttachStdout": True})[1]["Id"])


def _send(engine: EngineProcess, request: Request) -> tuple[int, bytes]:
    """(status, beginning of the answer); status 0 when none has come in time."""
    with socket.socket(socket.AF_UNIX) as wire:
        wire.settimeout(PATIENCE)
        wire.connect(str(engine.socket))
        lines = [f"{request.method} {request.target} HTTP/1.1", "Host: d", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        lines += [f"Content-Length: {len(request.body)}", "", ""]
        try:
            wire.sendall("\r\n".join(lines).encode() + request.body)
            response = http.client.HTTPResponse(wire, method=request.method)
            response.begin()
            return response.status, response.read1(4096) if response.status >= 201 else b""
        except TimeoutError:
            return 0, b""
