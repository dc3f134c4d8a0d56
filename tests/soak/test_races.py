"""Many clients at one container at once: one outcome, no error but those that say so, nothing left."""

import threading
from collections.abc import Callable, Iterator

import pytest

from tests.api_client import Api, ApiError
from tests.engine_process import EngineProcess
from tests.soak.inventory import settle


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("races"), number=7) as process:
        yield process


@pytest.fixture
def api(engine: EngineProcess) -> Iterator[Api]:
    api = Api(engine.socket, timeout=60)
    yield api
    for entry in api.get("/containers/json", all=1):
        api.remove(entry["Id"])
    settle(engine, api)


def at_once(number: int, work: Callable[[int], object]) -> list[int]:
    """Do `work` in so many threads that begin together; the statuses: 0 for success."""
    statuses: list[int] = []
    barrier = threading.Barrier(number)

    def run(index: int) -> None:
        barrier.wait()
        try:
            work(index)
            statuses.append(0)
        except ApiError as error:
            statuses.append(error.status)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not [thread for thread in threads if thread.is_alive()]
    return sorted(statuses)


def test_of_fifty_creations_of_one_name_one_wins(api: Api) -> None:
    statuses = at_once(50, lambda _: api.create("true", name="wanted", Volumes={"/data": {}}))
    assert statuses == [0] + [409] * 49
    assert len(api.get("/containers/json", all=1)) == 1


def test_fifty_starts_at_once_start_once(api: Api) -> None:
    container = api.create("sleep", "60")
    # 304 for all but one, which counts as done
    assert at_once(50, lambda _: api.post(f"/containers/{container}/start")) == [0] * 50
    assert api.inspect(container)["RestartCount"] == 0
    assert len(api.get(f"/containers/{container}/top")["Processes"]) == 1


@pytest.mark.slow
def test_starts_and_stops_of_one_container_from_all_sides(api: Api) -> None:
    container = api.create("sleep", "60")

    def flip(index: int) -> None:
        for turn in range(4):
            if (index + turn) % 2:
                api.post(f"/containers/{container}/start")
            else:
                api.post(f"/containers/{container}/stop", t=0)

    assert at_once(50, flip) == [0] * 50
    assert api.inspect(container)["State"]["Status"] in ("running", "exited")


def test_a_removal_waits_for_a_start_that_is_under_way(api: Api) -> None:
    for _ in range(8):
        container = api.create("sleep", "60")
        outcomes: list[int] = []

        def act(index: int, container: str = container, outcomes: list[int] = outcomes) -> None:
            try:
                if index:
                    api.delete(f"/containers/{container}", force=1)
                else:
                    api.post(f"/containers/{container}/start")
                outcomes.append(0)
            except ApiError as error:
                outcomes.append(error.status)

        at_once(2, act)
        assert set(outcomes) <= {0, 404, 409}
        assert container not in [entry["Id"] for entry in api.get("/containers/json", all=1)]


def test_execs_while_a_container_is_stopped_end_and_say_so(api: Api) -> None:
    container = api.run("sleep", "60")

    def act(index: int) -> None:
        if index == 0:
            api.post(f"/containers/{container}/stop", t=0)
        else:
            api.execute(container, "sleep", "0.2")

    statuses = at_once(20, act)
    assert set(statuses) <= {0, 404, 409}
    assert api.inspect(container)["State"]["Status"] == "exited"


def test_kill_pause_and_removal_at_once_leave_nothing(api: Api) -> None:
    for _ in range(5):
        container = api.run("sleep", "60")
        acts = [
            lambda container=container: api.post(f"/containers/{container}/pause"),
            lambda container=container: api.post(f"/containers/{container}/kill"),
            lambda container=container: api.delete(f"/containers/{container}", force=1),
            lambda container=container: api.post(f"/containers/{container}/restart", t=0),
        ]
        statuses = at_once(4, lambda index, acts=acts: acts[index]())
        assert set(statuses) <= {0, 404, 409}, statuses
        assert container not in [entry["Id"] for entry in api.get("/containers/json", all=1)]


def test_a_volume_that_a_container_is_being_made_with_is_not_removed(api: Api) -> None:
    for turn in range(10):
        api.post("/volumes/create", {"Name": f"contested-{turn}"})

        def act(index: int, turn: int = turn) -> None:
            if index:
                api.delete(f"/volumes/contested-{turn}")
            else:
                api.run("true", host={"Binds": [f"contested-{turn}:/data"]})

        assert set(at_once(2, act)) <= {0, 404, 409}
    for entry in api.get("/containers/json", all=1):
        api.remove(entry["Id"])
    left = {volume["Name"] for volume in api.get("/volumes")["Volumes"] or []}
    for name in left:
        api.delete(f"/volumes/{name}")
