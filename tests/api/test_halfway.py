"""Every operation while its object comes, goes, or is in a state of its own: an answer in words, no fault of ours."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.api_client import Api, ApiError
from tests.engine_process import EngineProcess

pytestmark = pytest.mark.timeout(300)

SECONDS = 5.0  # for which an object comes and goes
EXEC = {"Cmd": ["true"], "AttachStdout": True}
# (method, path, body) of what may be asked of NAME
ON_CONTAINERS = [
    ("GET", "/containers/NAME/json?size=1", None),
    ("GET", "/containers/NAME/top", None),
    ("GET", "/containers/NAME/logs?stdout=1", None),
    ("GET", "/containers/NAME/changes", None),
    ("GET", "/containers/NAME/export", None),
    ("GET", "/containers/NAME/stats?stream=0&one-shot=1", None),
    ("POST", "/containers/NAME/resize?h=10&w=10", None),
    ("POST", "/containers/NAME/start", None),
    ("POST", "/containers/NAME/stop?t=0", None),
    ("POST", "/containers/NAME/restart?t=0", None),
    ("POST", "/containers/NAME/kill", None),
    ("POST", "/containers/NAME/kill?signal=USR1", None),
    ("POST", "/containers/NAME/update", {"CpuShares": 512}),
    ("POST", "/containers/NAME/rename?name=NAME2", None),
    ("POST", "/containers/NAME2/rename?name=NAME", None),
    ("POST", "/containers/NAME/pause", None),
    ("POST", "/containers/NAME/unpause", None),
    ("POST", "/containers/NAME/attach?stream=0&logs=1&stdout=1", None),
    ("POST", "/containers/NAME/exec", EXEC),
    ("HEAD", "/containers/NAME/archive?path=/etc", None),
    ("GET", "/containers/NAME/archive?path=/etc", None),
    ("PUT", "/containers/NAME/archive?path=/tmp", None),
    ("POST", "/commit?container=NAME&repo=halfway-NAME&pause=0", None),
    ("POST", "/networks/NET/connect", {"Container": "NAME"}),
    ("POST", "/networks/NET/disconnect", {"Container": "NAME", "Force": True}),
    ("GET", "/containers/NAME/checkpoints", None),
    ("GET", "/containers/json?all=1&size=1&filters=%7B%22name%22%3A%5B%22NAME%22%5D%7D", None),
    ("GET", "/containers/json?all=1&filters=%7B%22before%22%3A%5B%22NAME%22%5D%7D", None),
    ("GET", "/system/df", None),
    *(
        ("POST", "/containers/create?name=other-NAME", {"Image": "busybox", "HostConfig": host})
        for host in ({"NetworkMode": "container:NAME"}, {"VolumesFrom": ["NAME"]}, {"Links": ["NAME:x"]})
    ),
    ("POST", "/containers/create?name=NAME", {"Image": "busybox"}),
    ("POST", "/containers/other-NAME/start", None),
    ("DELETE", "/containers/other-NAME?force=1", None),
]  # fmt: skip
ON_IMAGES = [
    ("GET", "/images/NAME/json", None),
    ("GET", "/images/NAME/history", None),
    ("GET", "/images/NAME/get", None),
    ("GET", "/images/json?all=1", None),
    ("GET", "/images/json?filters=%7B%22before%22%3A%5B%22NAME%22%5D%7D", None),
    ("POST", "/images/NAME/tag?repo=NAME&tag=two", None),
    ("DELETE", "/images/NAME:two", None),
    ("DELETE", "/images/NAME?force=1", None),
    ("POST", "/images/prune", None),
    ("POST", "/containers/create?name=of-NAME", {"Image": "NAME", "Cmd": ["true"]}),
    ("DELETE", "/containers/of-NAME?force=1", None),
    ("GET", "/system/df", None),
]
ON_NETWORKS = [
    ("GET", "/networks/NAME?verbose=1", None),
    ("GET", "/networks", None),
    ("DELETE", "/networks/NAME", None),
    ("POST", "/networks/NAME/connect", {"Container": "guest"}),
    ("POST", "/networks/NAME/disconnect", {"Container": "guest", "Force": True}),
    ("POST", "/networks/create", {"Name": "NAME"}),
    ("POST", "/networks/prune", None),
    ("POST", "/containers/create?name=on-NAME", {"Image": "busybox", "HostConfig": {"NetworkMode": "NAME"}}),
    ("POST", "/containers/on-NAME/start", None),
    ("DELETE", "/containers/on-NAME?force=1", None),
]
ON_VOLUMES = [
    ("GET", "/volumes/NAME", None),
    ("GET", "/volumes", None),
    ("DELETE", "/volumes/NAME", None),
    ("DELETE", "/volumes/NAME?force=1", None),
    ("POST", "/volumes/create", {"Name": "NAME"}),
    ("POST", "/volumes/prune?filters=%7B%22all%22%3A%5B%22true%22%5D%7D", None),
    ("POST", "/containers/create?name=with-NAME", {"Image": "busybox", "HostConfig": {"Binds": ["NAME:/etc"]}}),
    ("POST", "/containers/with-NAME/start", None),
    ("DELETE", "/containers/with-NAME?force=1", None),
    ("GET", "/dockyard/archive?of=volume:NAME&path=/", None),
    ("GET", "/system/df", None),
]
ON_EXECS = [
    ("GET", "/exec/NAME/json", None),
    ("POST", "/exec/NAME/resize?h=10&w=10", None),
    ("POST", "/exec/NAME/start", {"Detach": True}),
    ("POST", "/exec/NAME/start", {"Detach": False}),
]
Operation = tuple[str, str, object]


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("halfway"), number=8) as engine:
        engine.docker("network", "create", "NET")
        yield engine


@pytest.mark.parametrize("state", ["created", "running", "paused", "exited", "restarting", "dead name"])
def test_every_operation_answers_in_every_state_of_a_container(halfway: EngineProcess, state: str) -> None:
    answers = []
    for method, path, body in ON_CONTAINERS:
        _into(halfway, state)
        answers.append(_asked(Api(halfway.socket, timeout=30), (method, path, body), "still"))
        for name in ("still", "still2", "other-still"):
            halfway.api("DELETE", f"/containers/{name}?force=1")
    _judge(halfway, answers)


def test_a_name_that_is_only_reserved_is_not_found(halfway: EngineProcess) -> None:
    halfway.docker("create", "--name", "first", "busybox", "true")
    done = threading.Event()
    api = Api(halfway.socket)

    def make() -> None:
        while not done.is_set():
            container = api.create("true", name="reserved")
            api.remove(container)

    thread = threading.Thread(target=make)
    thread.start()
    found = set()
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        found.add(halfway.api("GET", "/containers/reserved/json")[0])
    done.set()
    thread.join()
    halfway.docker("rm", "first")
    assert found == {200, 404}


def test_a_container_can_not_join_itself(halfway: EngineProcess) -> None:
    for kind in ("NetworkMode", "PidMode", "IpcMode"):
        body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {kind: "container:itself"}}
        status, created = halfway.api("POST", "/containers/create?name=itself", body)
        if status == 201:
            status, created = halfway.api("POST", "/containers/itself/start")
            halfway.docker("rm", "-f", "itself")
        assert status in (400, 404, 409), created


def test_operations_on_a_container_that_comes_and_goes(halfway: EngineProcess) -> None:
    def life(api: Api) -> None:
        container = api.create("sh", "-c", "while :; do sleep 1; done", name="brief", host={"AutoRemove": True})
        api.post(f"/containers/{container}/start")
        time.sleep(0.02)
        api.remove(container)

    _judge(halfway, _hammer(halfway, life, ON_CONTAINERS, "brief"))


def test_operations_on_an_image_that_comes_and_goes(halfway: EngineProcess, tmp_path: Path) -> None:
    halfway.docker("create", "--name", "model", "busybox", "true")

    def life(api: Api) -> None:
        api.post("/commit", container="model", repo="brief-image", tag="latest", comment=str(time.time()))
        time.sleep(0.01)
        api.delete("/images/brief-image", force=1)

    _judge(halfway, _hammer(halfway, life, ON_IMAGES, "brief-image"))
    halfway.docker("rm", "model")


def test_operations_on_a_network_that_comes_and_goes(halfway: EngineProcess) -> None:
    halfway.docker("run", "-d", "--name", "guest", "busybox", "sleep", "1000")

    def life(api: Api) -> None:
        api.post("/networks/create", {"Name": "brief-net"})
        time.sleep(0.05)
        api.delete("/networks/brief-net")

    _judge(halfway, _hammer(halfway, life, ON_NETWORKS, "brief-net"))
    halfway.docker("rm", "-f", "guest")


def test_operations_on_a_volume_that_comes_and_goes(halfway: EngineProcess) -> None:
    def life(api: Api) -> None:
        api.post("/volumes/create", {"Name": "brief-volume"})
        time.sleep(0.01)
        api.delete("/volumes/brief-volume")

    _judge(halfway, _hammer(halfway, life, ON_VOLUMES, "brief-volume"))


def test_operations_on_execs_whose_container_comes_and_goes(halfway: EngineProcess) -> None:
    known: list[str] = ["0" * 64]

    def life(api: Api) -> None:
        container = api.run("sleep", "1000", name="host-of-execs")
        for _ in range(4):
            known.append(api.post(f"/containers/{container}/exec", EXEC)["Id"])
            time.sleep(0.02)
        api.remove(container)

    _judge(halfway, _hammer(halfway, life, ON_EXECS, lambda: random.choice(known[-8:])))


def _into(engine: EngineProcess, state: str) -> None:
    """Make the container `still`, in that state."""
    if state == "dead name":
        return
    host = {"RestartPolicy": {"Name": "always"}} if state == "restarting" else {}
    command = {"exited": ["true"], "restarting": ["false"]}.get(state, ["sleep", "1000"])
    api = Api(engine.socket)
    container = api.create(*command, name="still", host=host)
    if state != "created":
        api.post(f"/containers/{container}/start")
    if state == "paused":
        api.post(f"/containers/{container}/pause")
    deadline = time.monotonic() + 10
    while api.inspect(container)["State"]["Status"] != state:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _hammer(
    engine: EngineProcess,
    life: Callable[[Api], None],
    operations: list[Operation],
    name: str | Callable[[], str],
) -> list[str]:
    """What has been answered amiss while an object lived again and again and three clients asked all sorts of it."""
    done = threading.Event()
    answers: list[str] = []

    def ask(seed: int) -> None:
        order, api = random.Random(seed), Api(engine.socket, timeout=30)
        while not done.is_set():
            answers.append(_asked(api, order.choice(operations), name if isinstance(name, str) else name()))

    def live() -> None:
        api = Api(engine.socket, timeout=30)
        while not done.is_set():
            try:
                life(api)
            except ApiError as error:
                answers.append(_told("its life", error.status, str(error)))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)] + [threading.Thread(target=live)]
    for thread in threads:
        thread.start()
    time.sleep(SECONDS)
    done.set()
    for thread in threads:
        thread.join()
    return answers


def _asked(api: Api, operation: Operation, name: str) -> str:
    method, path, body = operation
    try:
        api.call(method, path.replace("NAME", name), _named(body, name))
    except ApiError as error:
        return _told(f"{method} {path}", error.status, str(error))
    except ConnectionError:
        pass  # a stream that its object's end has cut
    return ""


def _named(body: object, name: str) -> object:
    if isinstance(body, dict):
        return {key: _named(value, name) for key, value in body.items()}
    if isinstance(body, list):
        return [_named(value, name) for value in body]
    return body.replace("NAME", name) if isinstance(body, str) else body


def _told(what: str, status: int, said: str) -> str:
    """What is wrong with an answer."""
    return f"{what}: {status} {said}" if status in (500, 503) else ""


def _judge(engine: EngineProcess, answers: list[str]) -> None:
    wrong = sorted({answer for answer in answers if answer})
    assert not wrong, "\n".join(wrong)
    log = engine.log()
    assert "Traceback" not in log, log[log.index("Traceback") :][:3000]
