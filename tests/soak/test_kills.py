"""kill -9 of the daemon at random instants under the hands of fifty clients, and a look at the books after each."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api_client import Api, ApiError
from tests.engine_process import EngineProcess
from tests.processes import descriptors_of, eventually, gone, memory_of, shim_of, zygote_of
from tests.soak.clients import ABSENT, Books, Client, Gate, Thing
from tests.soak.inventory import settle

CLIENTS = int(os.environ.get("SOAK_CLIENTS", "50"))
KILLS = int(os.environ.get("SOAK_KILLS", "30"))
SEED = int(os.environ.get("SOAK_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
# How long a client may wait for the end of a request after the daemon's end, and the books may take to be right.
PATIENCE = 15.0


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("soak"), number=5) as process:
        yield process


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_9_of_the_daemon_loses_nothing_and_leaves_nothing(
    engine: EngineProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    api = Api(engine.socket, timeout=120)
    chance = random.Random(SEED)
    books, gate, counts = Books(), Gate(), Counter[str]()
    clients = [Client(number, api, SEED, books, gate) for number in range(CLIENTS)]
    with capsys.disabled():
        print(f"\nsoak: seed {SEED}, {CLIENTS} clients, {KILLS} kills")
    always = api.run("sh", "-c", "sleep 0.7; exit 1", name="always", host={"RestartPolicy": {"Name": "always"}})
    steady = api.run("sleep", "1000", name="steady", host={"RestartPolicy": {"Name": "unless-stopped"}})
    first = _sizes(engine)
    for client in clients:
        client.start()
    try:
        for turn in range(KILLS):
            gate.let_in()
            time.sleep(chance.uniform(0.3, 5.0))
            # now and then the daemon does not go alone
            assert engine.process is not None
            if turn % 5 == 4:
                _kill(zygote_of(engine.process.pid))
                counts["zygotes killed"] += 1
            engine.kill()
            begun = time.monotonic()
            waiting = gate.shut(PATIENCE)
            assert not waiting, f"clients that hang: {waiting}"
            assert not [client.failure for client in clients if client.failure]
            counts["slowest client's end, ms"] = max(
                counts["slowest client's end, ms"], int((time.monotonic() - begun) * 1000)
            )
            if turn % 4 == 1:
                counts["shims killed while no daemon lived"] += _kill_some_shim(clients, chance)
            time.sleep(chance.choice((0.0, 0.5)))
            begun = time.monotonic()
            engine.start()
            api.get("/_ping")
            counts["slowest start, ms"] = max(counts["slowest start, ms"], int((time.monotonic() - begun) * 1000))
            counts["things checked"] += _check(engine, api, clients)
            settle(engine, api)
            state = api.inspect(always)
            assert state["State"]["Status"] in ("running", "restarting", "exited"), state["State"]
            assert api.inspect(steady)["State"]["Running"]
        assert api.inspect(always)["RestartCount"] > 0
        _tidy(api)
        settle(engine, api, nothing=True)
    finally:
        gate.end()
        for client in clients:
            client.join(5)
        last = _sizes(engine)
        with capsys.disabled():
            print("  done:", ", ".join(f"{name} {count}" for name, count in sorted(books.done.items())))
            print(
                "  cut off by a kill:",
                ", ".join(f"{name} {count}" for name, count in sorted(books.interrupted.items())),
            )
            print("  refused:", *(f"\n    {count} × {what}" for what, count in sorted(books.refused.items())))
            print("  counts:", dict(counts))
            print(f"  daemon and zygote at first {first}, at last {last}")
    strange = [what for what in books.refused if ": 500" in what or ": 503" in what]
    assert not strange, strange


def _check(engine: EngineProcess, api: Api, clients: list[Client]) -> int:
    """Every thing must be in one of the states its client may expect; returns how many have been looked at."""
    containers = {entry["Names"][0][1:]: entry for entry in api.get("/containers/json", all=1)}
    volumes = {volume["Name"] for volume in api.get("/volumes")["Volumes"] or []}
    networks = {network["Name"] for network in api.get("/networks")}
    images = {tag for image in api.get("/images/json") for tag in image["RepoTags"] or []}
    present = {"volume": volumes, "network": networks, "image": images}
    wrong: list[str] = []
    number = 0
    for client in clients:
        for thing in client.things:
            number += 1
            if thing.kind == "container":
                actual = str(containers[thing.name]["State"]) if thing.name in containers else ABSENT
            else:
                actual = "present" if thing.name in present[thing.kind] else ABSENT
            if actual not in thing.states:
                expected = " or ".join(sorted(thing.states))
                wrong.append(f"{thing.kind} {thing.name} is {actual} and should be {expected}: {thing.history}")
            if thing.kind == "container" and actual != ABSENT:
                wrong += _look_into(api, thing)
            if not (thing.short and actual in ("running", "exited")) or actual == "exited":
                thing.states = frozenset({actual})
            if thing.kind == "container" and client.network is not None and actual != ABSENT:
                joined = api.inspect(thing.name)["NetworkSettings"]["Networks"]
                thing.connected = client.network.name in joined
    passing = [name for name in containers if name.startswith("p") and containers[name]["State"] != "created"]
    if passing:
        # they end in these very moments
        eventually(lambda: not _of_these(api, passing), PATIENCE)
    for name in [name for name in containers if name.startswith("p") and containers[name]["State"] == "created"]:
        api.remove(name)  # their client was cut off between create and start, as `docker run` may be
    for line in wrong:
        for entry in containers.values():
            if f" {entry['Names'][0][1:]} " in line:
                print(line, *(row for row in engine.log().splitlines() if entry["Id"] in row), sep="\n  ")
    assert not wrong, "\n".join(wrong)
    return number


def _of_these(api: Api, names: list[str]) -> set[str]:
    return {entry["Names"][0][1:] for entry in api.get("/containers/json", all=1)} & set(names)


def _look_into(api: Api, thing: Thing) -> list[str]:
    """A container that is there must be whole."""
    found = api.inspect(thing.name)
    state = found["State"]
    if thing.short and state["Status"] == "exited" and state["ExitCode"] not in (7, 137):
        return [f"{thing.name} ended with {state['ExitCode']}"]
    if state["Running"] and not os.path.exists(f"/proc/{state['Pid']}"):
        return [f"{thing.name} runs and has no process {state['Pid']}"]
    if state["Running"] and not state["Paused"] and not thing.short:
        try:
            if api.execute(thing.name, "cat", "/proc/1/comm") != b"sleep\n":
                return [f"{thing.name} does not answer"]
        except (ApiError, OSError) as error:
            return [f"{thing.name} cannot be entered: {error}"]
    return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _kill_some_shim(clients: list[Client], chance: random.Random) -> int:
    """kill -9 of one running container's shim: the next daemon must find the container ended."""
    running = [
        thing
        for client in clients
        for thing in client.containers
        if thing.states == frozenset({"running"}) and not thing.short and thing.id
    ]
    for thing in chance.sample(running, len(running)):
        pid = _first_process_of(thing.id)
        if pid:
            shim = shim_of(pid)
            _kill(shim)
            eventually(lambda shim=shim: gone(shim))
            thing.states = frozenset({"exited"})
            return 1
    return 0


def _first_process_of(container: str) -> int:
    for top in os.scandir("/sys/fs/cgroup"):
        for folder, _, files in os.walk(top.path):
            if os.path.basename(folder) == container and "cgroup.procs" in files:
                for pid in map(int, Path(folder, "cgroup.procs").read_text().split()):
                    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
                    if any(row.startswith("NSpid") and row.split()[-1] == "1" for row in rows):
                        return pid
    return 0


def _tidy(api: Api) -> None:
    """Remove all there is but the base image."""
    for entry in api.get("/containers/json", all=1):
        api.remove(entry["Id"])
    for network in api.get("/networks"):
        if network["Name"] not in ("bridge", "host", "none"):
            api.delete(f"/networks/{network['Id']}")
    for volume in api.get("/volumes")["Volumes"] or []:
        api.delete(f"/volumes/{volume['Name']}")
    for image in api.get("/images/json"):
        for tag in image["RepoTags"] or []:
            if tag.startswith("soak-"):
                api.delete(f"/images/{tag}")


def _sizes(engine: EngineProcess) -> str:
    if engine.process is None or engine.process.poll() is not None:
        return "gone"
    zygote = zygote_of(engine.process.pid)
    return ", ".join(
        f"{name} {descriptors_of(pid)} descriptors {memory_of(pid) / 1024:.1f} MB"
        for name, pid in (("daemon", engine.process.pid), ("zygote", zygote))
    )
