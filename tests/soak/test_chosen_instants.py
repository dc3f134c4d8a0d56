"""kill -9 of the daemon at chosen instants of what it does in several steps: half done stays nothing."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.api_client import Api, ApiError
from tests.engine_process import EngineProcess
from tests.processes import eventually
from tests.soak.clients import ABSENT
from tests.soak.inventory import settle

pytestmark = pytest.mark.slow

# A daemon that kills itself when it comes to a given function: `before` or `after` its call.
DOOMED = """
import importlib, inspect, os, signal, sys
module, kind, name, moment = sys.argv[1].split(":")
owner = getattr(importlib.import_module(module), kind)
original = getattr(owner, name)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

if inspect.iscoroutinefunction(original):
    async def doomed(*arguments, **named):
        if moment == "before":
            die()
        await original(*arguments, **named)
        die()
else:
    def doomed(*arguments, **named):
        if moment == "before":
            die()
        original(*arguments, **named)
        die()
setattr(owner, name, doomed)
from dockyard.daemon.main import main
sys.exit(main(sys.argv[2:]))
"""


class Fragile(EngineProcess):
    """An engine that can be started so that it dies at a chosen instant."""

    def start_doomed(self, instant: str) -> None:
        with (self.folder / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", DOOMED, instant, "--debug", *self.arguments], stdout=log, stderr=log
            )

        def answers() -> bool:
            try:
                Api(self.socket).get("/_ping")
                return True
            except OSError:
                return False

        eventually(answers)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fragile]:
    with Fragile.with_busybox(tmp_path_factory.mktemp("instants"), number=11) as process:
        yield process


def create(api: Api, name: str = "victim", **host: Any) -> str:
    return api.create("sleep", "600", name=name, host={"PublishAllPorts": True, **host}, Volumes={"/data": {}})


def run(api: Api, **host: Any) -> str:
    container = create(api, **host)
    api.post(f"/containers/{container}/start")
    return container


ENGINE = "dockyard.engine"
CREATED: Callable[[Api], object] = create
RUNNING: Callable[[Api], object] = run


def _do(api: Api, act: object) -> None:
    if act == "remove":
        api.delete("/containers/victim", v=1, force=1)
    elif isinstance(act, str):
        api.post(f"/containers/victim/{act}")
        api.wait("victim")
    else:
        create(api)


@pytest.mark.parametrize(
    ("instant", "prepare", "act", "allowed"),
    [
        pytest.param(instant, prepare, act, allowed, id=f"{instant.partition(':')[2]}")
        for instant, prepare, act, allowed in (
            (f"{ENGINE}.containers.layers:ContainerLayers:create:after", None, create, {ABSENT}),
            (f"{ENGINE}.containers.index:ContainerIndex:add:before", None, create, {ABSENT}),
            (f"{ENGINE}.containers.index:ContainerIndex:add:after", None, create, {"created"}),
            (f"{ENGINE}.networks.service:NetworkService:join:after", CREATED, "start", {"created"}),
            ("dockyard.shim.client:Shims:start:before", CREATED, "start", {"created"}),
            ("dockyard.shim.client:Shims:_fork:after", CREATED, "start", {"created"}),
            ("dockyard.shim.connection:Shim:taken:after", CREATED, "start", {"created", "running", "exited"}),
            ("dockyard.shim.client:Shims:start:after", CREATED, "start", {"running"}),
            ("dockyard.shim.connection:Shim:pause:after", RUNNING, "pause", {"running"}),
            ("dockyard.shim.connection:Shim:signal:after", RUNNING, "kill", {"exited"}),
            ("dockyard.shim.connection:Shim:signal:after", RUNNING, "remove", {ABSENT}),
            (f"{ENGINE}.containers.layers:ContainerLayers:release:before", RUNNING, "remove", {ABSENT}),
            (f"{ENGINE}.containers.runs:ContainerRuns:end:before", RUNNING, "kill", {"exited"}),
            ("dockyard.shim.connection:Shim:delete:after", RUNNING, "kill", {"exited"}),
            (f"{ENGINE}.networks.service:NetworkService:leave:after", RUNNING, "kill", {"exited"}),
            (f"{ENGINE}.containers.layers:ContainerLayers:release:before", CREATED, "remove", {"created", ABSENT}),
            (f"{ENGINE}.containers.layers:ContainerLayers:release:after", CREATED, "remove", {ABSENT}),
            (f"{ENGINE}.containers.index:ContainerIndex:remove:after", CREATED, "remove", {ABSENT}),
            (f"{ENGINE}.volumes.service:VolumeService:remove_marked:before", CREATED, "remove", {ABSENT}),
            ("dockyard.volumes.local:LocalDriver:remove:after", CREATED, "remove", {ABSENT}),
        )
    ],
)
def test_a_daemon_killed_in_the_middle(
    engine: Fragile, instant: str, prepare: Callable[[Api], object] | None, act: object, allowed: set[str]
) -> None:
    api = Api(engine.socket, timeout=30)
    if prepare is not None:
        prepare(api)
    engine.stop()
    engine.start_doomed(instant)
    with contextlib.suppress(OSError):  # the connection ends, if the daemon's end comes before the answer
        _do(api, act)
    assert engine.process is not None
    assert engine.process.wait(10) == -9
    engine.start()
    try:
        status = str(api.inspect("victim")["State"]["Status"])
    except ApiError:
        status = ABSENT
    assert status in allowed
    settle(engine, api)
    if status != ABSENT:
        # and it can still do everything
        if status != "running":
            api.post("/containers/victim/start")
        assert api.execute("victim", "echo", "well") == b"well\n"
        api.remove("victim")
    settle(engine, api, nothing=True)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", ["create", "forget", "connect", "disconnect"])
def test_a_daemon_killed_while_networks_change(engine: Fragile, step: str, moment: str) -> None:
    api = Api(engine.socket, timeout=30)
    acts: dict[str, Callable[[], object]] = {
        "create": lambda: api.post("/networks/create", {"Name": "changing"}),
        "forget": lambda: api.delete("/networks/changing"),
        "connect": lambda: api.post("/networks/changing/connect", {"Container": "victim"}),
        "disconnect": lambda: api.post("/networks/changing/disconnect", {"Container": "victim"}),
    }
    if step != "create":
        acts["create"]()
        run(api)
    if step == "disconnect":
        acts["connect"]()
    engine.stop()
    instant = f"dockyard.networks.controller:Controller:{step}:{moment}"
    if step == "create":  # the daemon makes networks at its start, too
        instant = (
            f"{ENGINE}.networks.service:NetworkService:_settle_pools:after"
            if moment == "before"
            else f"{ENGINE}.networks.service:NetworkService:_emit:before"
        )
    engine.start_doomed(instant)
    with pytest.raises(OSError):
        acts[step]()
    assert engine.process is not None
    assert engine.process.wait(10) == -9
    engine.start()
    settle(engine, api)
    for entry in api.get("/containers/json", all=1):
        assert api.execute(entry["Id"], "ip", "route").count(b"default") == 1
        api.remove(entry["Id"])
    for network in api.get("/networks"):
        if network["Name"] == "changing":
            api.delete("/networks/changing")
    settle(engine, api, nothing=True)
