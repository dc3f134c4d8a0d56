"""Containers made by other OCI runtimes, which the daemon treats as its own."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess

HYBRID = Path("/sys/fs/cgroup/unified/cgroup.controllers")


def _unusable(name: str) -> str:
    """Why a runtime can't be tried on this machine; "" when it can."""
    if not shutil.which(name):
        return f"{name} is not installed"
    if name == "crun" and HYBRID.exists() and HYBRID.read_text().strip():
        return "crun refuses hosts whose hybrid cgroup hierarchy has controllers"
    return ""


RUNTIMES = [
    pytest.param(name, marks=pytest.mark.skipif(bool(_unusable(name)), reason=_unusable(name)))
    for name in ("runc", "crun", "runsc")
]
COUNTING = "trap 'echo term; exit 7' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    folder = tmp_path_factory.mktemp("runtimes")
    settings = folder / "daemon.json"
    runc = {"path": shutil.which("runc") or "runc", "runtimeArgs": ["--systemd-cgroup=false"]}
    settings.write_text(json.dumps({"runtimes": {"mine": runc, "gone": {"path": "/nowhere/runtime"}}}))
    process = EngineProcess(folder, number=7, arguments=(f"--config-file={settings}",))
    process.start()
    try:
        process.docker("pull", "-q", "busybox")
        yield process
    finally:
        process.clean_up()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_output_and_exit_code_arrive(engine: EngineProcess, runtime: str) -> None:
    script = "echo out; echo err >&2; exit 3"
    done = engine.run_docker("run", "--rm", "--runtime", runtime, "busybox", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_program_that_does_not_exist_is_127(engine: EngineProcess, runtime: str) -> None:
    done = engine.run_docker("run", "--rm", "--runtime", runtime, "busybox", "nonexistent")
    assert done.returncode == 127
    assert b"nonexistent" in done.stderr


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_whole_life_of_a_container(engine: EngineProcess, runtime: str) -> None:
    engine.docker("run", "-d", "--name", "life", "--runtime", runtime, "busybox", "sh", "-c", COUNTING)
    try:
        time.sleep(0.5)
        assert engine.inspect("life")["HostConfig"]["Runtime"] == runtime
        exec_ = engine.run_docker("exec", "-i", "life", "sh", "-c", "cat; echo err >&2; exit 5", input=b"typed")
        assert (exec_.returncode, exec_.stdout, exec_.stderr) == (5, b"typed", b"err\n")
        engine.docker("exec", "-d", "life", "sleep", "100")
        assert len(engine.docker("top", "life").splitlines()) > 1
        assert '"' in engine.docker("stats", "--no-stream", "--format", "{{json .}}", "life")
        engine.docker("pause", "life")
        assert engine.inspect("life")["State"]["Paused"] is True
        before = engine.docker("logs", "life")
        time.sleep(0.5)
        assert engine.docker("logs", "life") == before
        engine.docker("unpause", "life")
        engine.docker("restart", "-t", "5", "life")
        assert engine.inspect("life")["State"]["Running"] is True
        begun = time.monotonic()
        engine.docker("stop", "-t", "20", "life")
        assert time.monotonic() - begun < 15
        assert engine.inspect("life")["State"]["ExitCode"] == 7
        engine.docker("start", "life")
        engine.docker("kill", "life")
        assert engine.docker("wait", "life") == "137\n"
    finally:
        engine.docker("rm", "-f", "life")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_terminal_and_a_client_that_attaches_later(engine: EngineProcess, runtime: str) -> None:
    script = "test -t 1 && echo terminal; read word; echo got $word"
    engine.docker("create", "-i", "-t", "--name", "typed", "--runtime", runtime, "busybox", "sh", "-c", script)
    try:
        engine.docker("start", "typed")
        # the stock client wants a terminal of its own to attach to one
        status, _ = engine.api("POST", "/v1.43/containers/typed/resize?h=30&w=90")
        assert status == 200
        assert engine.docker("exec", "typed", "echo", "here") == "here\n"
        deadline = time.monotonic() + 10
        while "terminal" not in engine.docker("logs", "typed"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        engine.docker("rm", "-f", "typed")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_hosts_null_device_stays_roots(engine: EngineProcess, runtime: str) -> None:
    """gVisor gives its streams to nobody: /dev/null of the host, where a container has no stdin."""
    before = Path("/dev/null").stat().st_ctime_ns  # it changes with the owner, also when somebody sets that right again
    engine.docker("run", "-d", "--name", "silent", "--runtime", runtime, "-u", "5", "busybox", "sleep", "60")
    try:
        engine.docker("exec", "-d", "silent", "true")
        engine.docker("exec", "silent", "sh", "-c", "cat; echo >/dev/null")
        assert Path("/dev/null").stat().st_ctime_ns == before
    finally:
        engine.docker("rm", "-f", "silent")


@pytest.mark.parametrize("runtime", RUNTIMES[:2])
def test_limits_change_while_it_runs(engine: EngineProcess, runtime: str) -> None:
    engine.docker("run", "-d", "--name", "limited", "--runtime", runtime, "-m", "64m", "busybox", "sleep", "60")
    try:
        engine.docker("update", "-m", "96m", "--memory-swap", "128m", "limited")
        limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true"
        assert engine.docker("exec", "limited", "sh", "-c", limit) == f"{96 << 20}\n"
    finally:
        engine.docker("rm", "-f", "limited")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_containers_outlive_a_killed_daemon(engine: EngineProcess, runtime: str) -> None:
    engine.docker("run", "-d", "--name", "stays", "--runtime", runtime, "busybox", "sh", "-c", COUNTING)
    engine.docker("run", "-d", "--name", "ends", "--runtime", runtime, "busybox", "sh", "-c", "sleep 0.5; exit 5")
    engine.kill()
    time.sleep(1.5)
    engine.start()
    try:
        assert engine.inspect("ends")["State"]["ExitCode"] == 5
        numbers = [int(line) for line in engine.docker("logs", "stays").split()]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) > 5
        assert engine.docker("exec", "stays", "echo", "still here") == "still here\n"
        engine.docker("stop", "-t", "0", "stays")
    finally:
        engine.docker("rm", "-f", "stays", "ends")


def test_a_runtime_of_the_configuration_is_asked_for_by_its_name(engine: EngineProcess) -> None:
    if not shutil.which("crun"):
        pytest.skip("crun is not installed")
    assert engine.docker("run", "--rm", "--runtime", "mine", "busybox", "echo", "hello") == "hello\n"


def test_an_unknown_runtime_is_refused_in_dockers_words(engine: EngineProcess) -> None:
    status, said = engine.api(
        "POST", "/v1.43/containers/create", {"Image": "busybox", "HostConfig": {"Runtime": "nonsense"}}
    )
    assert (status, said["message"]) == (400, "unknown or invalid runtime name: nonsense")


def test_a_runtime_that_is_not_there_leaves_nothing(engine: EngineProcess) -> None:
    done = engine.run_docker("run", "--name", "none", "--runtime", "gone", "busybox", "true")
    assert done.returncode != 0
    assert b"cannot run the runtime /nowhere/runtime: No such file or directory" in done.stderr
    engine.docker("rm", "none")


def test_info_lists_all_runtimes(engine: EngineProcess) -> None:
    _, info = engine.api("GET", "/v1.43/info")
    assert info["DefaultRuntime"] == "dockyard-runc"
    assert {"dockyard-runc", "io.containerd.runc.v2", "runc", "mine", "gone"} <= set(info["Runtimes"])
    assert info["Runtimes"]["mine"]["runtimeArgs"] == ["--systemd-cgroup=false"]
