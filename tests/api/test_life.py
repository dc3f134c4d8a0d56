"""Health, restart policies, stopping: what keeps containers running, and what ends them."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.api_client import Api, ApiError
from tests.engine_process import EngineProcess
from tests.processes import eventually


def state(engine: EngineProcess, name: str) -> Any:
    return engine.inspect(name)["State"]


def told(engine: EngineProcess, name: str, since: float) -> list[Any]:
    filters = quote(json.dumps({"container": [name]}))
    _, text = engine.api("GET", f"/events?since={since:.9f}&until={time.time():.9f}&filters={filters}")
    return [json.loads(line) for line in text.splitlines()] if isinstance(text, str) else [text]


def actions(engine: EngineProcess, name: str, since: float) -> list[str]:
    return [event["Action"] for event in told(engine, name, since)]


CHECK = ("--health-interval", "100ms", "--health-timeout", "2s", "--health-retries", "2")


def test_health_goes_from_starting_to_healthy_to_unhealthy_and_back(engine: EngineProcess) -> None:
    begin = time.time()
    engine.docker(
        "run", "-d", "--name", "hc", "--health-cmd", "echo said; test ! -e /ill", *CHECK, "busybox", "sleep", "1000"
    )
    assert state(engine, "hc")["Health"]["Status"] in ("starting", "healthy")
    eventually(lambda: state(engine, "hc")["Health"]["Status"] == "healthy")
    engine.docker("exec", "hc", "touch", "/ill")
    health = eventually(lambda: (found := state(engine, "hc")["Health"])["Status"] == "unhealthy" and found)
    assert health["FailingStreak"] >= 2
    assert health["Log"][-1]["ExitCode"] == 1
    assert health["Log"][-1]["Output"] == "said\n"
    assert len(health["Log"]) <= 5
    assert "(unhealthy)" in engine.docker("ps", "--filter", "name=hc", "--format", "{{.Status}}")
    engine.docker("exec", "hc", "rm", "/ill")
    eventually(lambda: state(engine, "hc")["Health"]["Status"] == "healthy")
    told = [action for action in actions(engine, "hc", begin) if action.startswith("health_status")]
    assert told == ["health_status: healthy", "health_status: unhealthy", "health_status: healthy"]
    engine.docker("rm", "-f", "hc")


def test_a_check_that_hangs_is_a_failure_and_start_period_forgives(engine: EngineProcess) -> None:
    engine.docker(
        "run", "-d", "--name", "hang", "--health-cmd", "sleep 60", "--health-interval", "50ms",
        "--health-timeout", "200ms", "--health-retries", "1", "--health-start-period", "2s",
        "--health-start-interval", "50ms", "busybox", "sleep", "1000",
    )  # fmt: skip
    first = eventually(lambda: state(engine, "hang")["Health"]["Log"])
    assert first[0]["Output"] == "Health check exceeded timeout (0.2s)"
    assert first[0]["ExitCode"] == -1
    assert state(engine, "hang")["Health"]["Status"] == "starting"  # forgiven
    eventually(lambda: state(engine, "hang")["Health"]["Status"] == "unhealthy")
    engine.docker("rm", "-f", "hang")


def test_no_check_when_it_is_turned_off(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "--name", "nohc", "--no-healthcheck", "busybox", "sleep", "1000")
    assert "Health" not in state(engine, "nohc")
    engine.docker("rm", "-f", "nohc")


@pytest.mark.parametrize("action", ["restart", "kill", "stop"])
def test_an_unhealthy_container_is_dealt_with(engine: EngineProcess, action: str) -> None:
    name = f"cure-{action}"
    done = engine.dockyard(
        "run", "-d", "--name", name, "--health-cmd", "test ! -e /ill", "--health-on-failure", action, *CHECK,
        "--stop-timeout", "1", "busybox", "sh", "-c", "trap 'exit 7' TERM; rm -f /ill; while :; do sleep 0.1; done",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    began = state(engine, name)["StartedAt"]
    eventually(lambda: state(engine, name)["Health"]["Status"] == "healthy")
    engine.docker("exec", name, "touch", "/ill")
    if action == "restart":
        eventually(lambda: state(engine, name)["StartedAt"] != began)
        eventually(lambda: state(engine, name)["Health"]["Status"] == "healthy")
    else:
        eventually(lambda: state(engine, name)["Status"] == "exited")
        assert state(engine, name)["ExitCode"] == (137 if action == "kill" else 7)
    engine.docker("rm", "-f", name)


def test_restarts_wait_twice_as_long_each_time(engine: EngineProcess) -> None:
    begin = time.time()
    engine.docker("run", "-d", "--name", "loop", "--restart", "on-failure:4", "busybox", "false")
    eventually(lambda: engine.inspect("loop")["RestartCount"] == 4 and state(engine, "loop")["Status"] == "exited")
    filters = quote(json.dumps({"container": ["loop"], "event": ["die", "start"]}))
    _, text = engine.api("GET", f"/events?since={begin:.9f}&until={time.time():.9f}&filters={filters}")
    told = [(event["Action"], event["timeNano"] / 1e9) for event in map(json.loads, text.splitlines())]
    deaths = [moment for action, moment in told if action == "die"]
    starts = [moment for action, moment in told if action == "start"][1:]
    pauses = [start - death for start, death in zip(starts, deaths, strict=False)]
    assert len(pauses) == 4
    for pause, least in zip(pauses, (0.1, 0.2, 0.4, 0.8), strict=True):
        assert least <= pause < least + 2
    engine.docker("rm", "loop")


def test_policies_hold_across_daemons(tmp_path: Path) -> None:
    engine = EngineProcess(tmp_path, number=21)
    engine.start()
    try:
        engine.docker("run", "--rm", "busybox", "true")
        for policy in ("no", "always", "unless-stopped", "on-failure"):
            engine.docker("run", "-d", "--name", policy, "--restart", policy, "busybox", "sleep", "1000")
            engine.docker("run", "-d", "--name", f"{policy}-stopped", "--restart", policy, "busybox", "sleep", "1000")
        engine.docker("run", "-d", "--name", "joined", "--restart", "always", "--net", "container:always", "busybox",
                      "sleep", "1000")  # fmt: skip
        engine.docker("stop", "-t", "0", *(f"{policy}-stopped" for policy in ("no", "always", "unless-stopped")))
        engine.docker("stop", "-t", "0", "on-failure-stopped")
        engine.arguments.append("--live-restore=false")
        engine.kill()
        engine.start()
        eventually(lambda: "always-stopped" in engine.docker("ps", "--format", "{{.Names}}").split())
        engine.stop()  # it stops its containers with it: as a host that goes down
        engine.arguments.pop()
        engine.start()
        running = {"always", "always-stopped", "unless-stopped", "on-failure", "joined"}
        eventually(lambda: set(engine.docker("ps", "--format", "{{.Names}}").split()) == running)
        assert engine.inspect("always")["RestartCount"] == 0
    finally:
        engine.clean_up()


@pytest.mark.parametrize("action", ["stop", "restart"])
@pytest.mark.parametrize(
    ("options", "command", "code"),
    [
        # PID 1 waits in sigwait, where /proc shows the signal as neither blocked nor caught
        (["--init"], "trap 'sleep 1; echo bye; exit 0' TERM; echo ready; while :; do sleep 0.1; done", 0),
        # it has a handler
        ([], "trap 'sleep 1; echo bye; exit 3' TERM; echo ready; while :; do sleep 0.1; done", 3),
        # it is deaf to the signal, but ends by itself in time
        ([], "echo ready; sleep 4; echo bye; exit 3", 3),
    ],
    ids=["init", "handler", "deaf"],
)
def test_whoever_may_end_by_itself_is_given_the_grace_period(
    engine: EngineProcess, action: str, options: list[str], command: str, code: int
) -> None:
    engine.docker("run", "-d", "--name", "polite", *options, "busybox", "sh", "-c", command)
    eventually(lambda: "ready" in engine.docker("logs", "polite"))
    begin = time.time()
    engine.docker(action, "polite")
    assert "bye" in engine.docker("logs", "polite")
    deaths = [event for event in told(engine, "polite", begin) if event["Action"] == "die"]
    assert [death["Actor"]["Attributes"]["exitCode"] for death in deaths] == [str(code)]
    engine.docker("rm", "-f", "polite")


def test_one_that_does_not_end_is_killed_after_ten_seconds_and_not_before(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "--name", "deaf", "busybox", "sleep", "1000")
    begin = time.monotonic()
    engine.docker("stop", "deaf")
    assert 10 <= time.monotonic() - begin < 20
    assert state(engine, "deaf")["ExitCode"] == 137
    engine.docker("rm", "deaf")


def test_a_kill_for_want_of_memory_is_told_while_the_container_lives_on(engine: EngineProcess) -> None:
    begin = time.time()
    engine.docker("run", "-d", "--name", "oomed", "--memory", "20m", "busybox", "sh", "-c",
                  "tail /dev/zero; sleep 1000")  # fmt: skip
    eventually(lambda: "oom" in actions(engine, "oomed", begin))
    told = state(engine, "oomed")
    assert told["Running"]
    assert told["OOMKilled"]
    engine.docker("rm", "-f", "oomed")
    assert actions(engine, "oomed", begin).count("oom") == 1


def test_who_detaches_is_told_of(engine: EngineProcess) -> None:
    from tests.api.test_attach import attached

    begin = time.time()
    engine.docker("run", "-dit", "--name", "leave", "busybox", "cat")
    with attached(engine, "leave", "stream=1&stdin=1&stdout=1&detachKeys=ctrl-a,x") as wire:
        wire.sendall(b"\x01x")
        assert wire.recv(100) == b""
    eventually(lambda: "detach" in actions(engine, "leave", begin))
    engine.docker("rm", "-f", "leave")


def test_a_failed_start_is_told_once(engine: EngineProcess) -> None:
    for further in ([], ["--rm"]):
        done = engine.run_docker("run", *further, "busybox", "no-such-program")
        assert done.returncode == 127
        assert b"Error waiting for container" not in done.stderr
        assert done.stderr.count(b"no-such-program") == 1
    engine.docker("container", "prune", "-f")


@pytest.mark.parametrize("told_by", ["wait", "die", "inspect", "list"])
def test_who_hears_of_an_end_can_have_what_the_container_held(engine: EngineProcess, told_by: str) -> None:
    """Its port, for one: `docker wait a && docker start b`."""
    api = Api(engine.socket)
    given: dict[str, Any] = {
        "host": {"PortBindings": {"80/tcp": [{"HostPort": "18087"}]}},
        "ExposedPorts": {"80/tcp": {}},
    }
    first, second = api.create("sleep", "0.05", **given), api.create("sleep", "0.05", **given)
    told: dict[str, Callable[[str, float], Any]] = {
        "wait": lambda container, _: str(api.wait(container)),
        "die": lambda container, begin: "die" in actions(engine, container, begin),
        "inspect": lambda container, _: not api.inspect(container)["State"]["Running"],
        "list": lambda container, _: not api.get("/containers/json", filters=json.dumps({"id": [container]})),
    }
    for container in [first, second] * 8:
        begin = time.time()
        api.post(f"/containers/{container}/start")
        while not told[told_by](container, begin):
            pass
    api.remove(first)
    api.remove(second)


REFUSED = [
    "SIG42",
    "0",
    "-5",
    "99",
    "65",
    "32",
    "SIGRTMIN+99",
    "RTMIN+16",
    "RTMIN-1",
    "RTMAX-15",
    "SIGSIGHUP",
    "x",
    " 9",
]


def test_a_signal_that_does_not_exist_is_refused(engine: EngineProcess) -> None:
    api = Api(engine.socket)
    container = api.run("sleep", "600")
    for name in REFUSED:
        number = name.lstrip("-").isdigit() and name != "0"
        words = f"the linux daemon does not support signal {name}" if number else f"invalid signal: {name}"
        with pytest.raises(ApiError) as caught:
            api.post(f"/containers/{container}/kill", signal=name)
        assert str(caught.value) == f"400: cannot kill container: {container}: {words}"
        if number:  # it can't be sent, so that the next one is, in Docker as well
            continue
        with pytest.raises(ApiError) as caught:
            api.post(f"/containers/{container}/stop", signal=name)
        assert str(caught.value) == f"400: cannot stop container: {container}: {words}"
        with pytest.raises(ApiError) as caught:
            api.create("true", StopSignal=name)
        assert str(caught.value) == f"400: {words}"
    assert api.inspect(container)["State"]["Running"]
    for name in ("CHLD", "sigcld", "+17", "URG", "winch"):
        api.post(f"/containers/{container}/kill", signal=name)
    api.post(f"/containers/{container}/kill", signal="RTMIN+15")
    api.remove(container)


@pytest.mark.parametrize("first", [None, 0, -1, 5])
def test_no_limit_of_processes_is_kept_as_docker_keeps_it(engine: EngineProcess, first: int | None) -> None:
    api = Api(engine.socket)
    container = api.run("sleep", "600", host={"PidsLimit": first})
    assert api.inspect(container)["HostConfig"]["PidsLimit"] == (5 if first == 5 else None)
    for wanted, kept in ((None, 5 if first == 5 else None), (-7, 0), (3, 3), (0, 0), (3, 3), (-1, 0)):
        api.post(f"/containers/{container}/update", {"PidsLimit": wanted})
        assert api.inspect(container)["HostConfig"]["PidsLimit"] == kept
    api.remove(container)


def pauses(engine: EngineProcess, name: str, after: int = 4) -> bool:
    """Whether it waits for a restart after its `after`th, for seconds by then."""
    shown = engine.inspect(name)
    return bool(shown["State"]["Status"] == "restarting" and shown["RestartCount"] > after)


@pytest.mark.parametrize("signal_name", ["", "TERM", "HUP"])
def test_a_kill_in_the_pause_before_a_restart_gives_that_up(engine: EngineProcess, signal_name: str) -> None:
    engine.docker("run", "-d", "--name", "again", "--restart", "always", "busybox", "sh", "-c", "exit 3")
    eventually(lambda: pauses(engine, "again"))
    waiting = subprocess.Popen(["docker", "-H", engine.host, "wait", "again"], stdout=subprocess.PIPE)
    time.sleep(0.3)
    engine.docker("kill", *(["-s", signal_name] if signal_name else []), "again")
    eventually(lambda: state(engine, "again")["Status"] == "exited")
    assert waiting.communicate(timeout=60)[0] == b"3\n"
    time.sleep(3)
    assert state(engine, "again")["Status"] == "exited"
    engine.docker("start", "again")
    eventually(lambda: engine.inspect("again")["RestartCount"] > 1)
    engine.docker("rm", "-f", "again")


def test_a_container_with_a_stop_signal_of_its_own_heeds_that_one_in_the_pause(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "--name", "again", "--stop-signal", "INT", "--restart", "always", "busybox", "false")
    eventually(lambda: pauses(engine, "again"))
    engine.docker("kill", "-s", "HUP", "again")
    count = engine.inspect("again")["RestartCount"]
    eventually(lambda: pauses(engine, "again", count))
    engine.docker("kill", "-s", "INT", "again")
    eventually(lambda: state(engine, "again")["Status"] == "exited")
    engine.docker("rm", "again")


def test_a_stop_right_after_the_start_is_heard_by_docker_init(engine: EngineProcess) -> None:
    for _ in range(5):
        name = engine.docker("run", "-d", "--init", "--stop-timeout", "60", "busybox", "sleep", "1000").strip()
        engine.docker("stop", name)
        assert state(engine, name)["ExitCode"] == 143
        engine.docker("rm", name)
