"""A data root that is full: what needs room fails with a clear error, what makes room works, the books stay right."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from tests.api_client import Api, ApiError
from tests.engine.test_images import tar
from tests.engine_process import EngineProcess
from tests.small_disk import fill, small_disk
from tests.soak.inventory import settle

SIZE = 64 << 20


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine with a file system of its own."""
    folder = tmp_path_factory.mktemp("full")
    with small_disk(folder, SIZE) as place, EngineProcess.with_busybox(place / "engine", number=9) as process:
        yield process


def test_with_a_full_disk_containers_end_and_go_and_nothing_is_half_made(engine: EngineProcess) -> None:
    api = Api(engine.socket, timeout=60)
    talks = api.run("sh", "-c", "while :; do echo line; sleep 0.05; done", Volumes={"/data": {}})
    ends = api.run("sh", "-c", "read line; exit 5", OpenStdin=True)
    idle = api.create("true")
    writes = api.run("sh", "-c", "dd if=/dev/zero of=/data bs=1M; echo full >&2; exit 9")
    assert api.wait(writes) == 9
    ballast = engine.data_root / "ballast"
    fill(ballast)

    # what little room is left may be enough for some of it
    refusals = _refusals(lambda: api.create("true", Volumes={"/data": {}}), lambda: api.post("/volumes/create", {}))
    assert all(error.status == 500 and "space" in str(error).lower() for error in refusals)
    assert "space" in _built(engine).lower()

    # what happens all the same is written down, and what makes room is done
    with api.attach(ends) as client:
        client.write(b"\n")
    assert api.wait(ends) == 5
    assert api.inspect(talks)["State"]["Running"]
    api.post(f"/containers/{talks}/stop", t=0)
    engine.kill()
    engine.start()
    assert api.inspect(ends)["State"]["ExitCode"] == 5
    assert api.inspect(talks)["State"]["ExitCode"] == 137
    for container in (talks, ends, idle, writes):
        api.remove(container)
    ballast.unlink()

    for entry in api.get("/containers/json", all=1):
        api.remove(entry["Id"])
    for volume in api.get("/volumes")["Volumes"] or []:
        api.delete(f"/volumes/{volume['Name']}")
    assert api.wait(api.run("true", host={"AutoRemove": True})) == 0
    settle(engine, api)


def test_what_does_not_fit_leaves_nothing_behind(engine: EngineProcess) -> None:
    """12 MB of room, and 30 MB that are to be loaded, imported or built."""
    api = Api(engine.socket, timeout=60)
    data = os.urandom(30 << 20)
    room = os.statvfs(engine.data_root)
    with (engine.data_root / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - (12 << 20))
    before = _used(engine)
    for command, given in (
        (["load"], tar({"manifest.json": b"[]", "layer.tar": data})),
        (["import", "-", "imported"], tar({"file": data})),
        (["build", "-"], tar({"Dockerfile": b"FROM busybox\nCOPY file /file\n", "file": data})),
        (["build", "--force-rm", "-"], tar({"Dockerfile": b"FROM busybox\nRUN dd if=/dev/urandom of=/f bs=1M\n"})),
        # of our own client: a graph of steps
        (["build", "--progress=plain", "-"], tar({"Dockerfile": b"FROM busybox\nCOPY file /file\n", "file": data})),
    ):
        run = engine.dockyard if "--progress=plain" in command else engine.run_docker
        done = run(*command, input=given)
        assert done.returncode != 0
        if "--force-rm" not in command:
            assert b"no space left on device" in done.stderr, done.stderr
    assert [entry["RepoTags"] for entry in api.get("/images/json", all=1)] == [["busybox:latest"]]
    deadline = time.monotonic() + 10
    while abs(_used(engine) - before) > 1 << 20 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert abs(_used(engine) - before) <= 1 << 20
    settle(engine, api)

    (engine.data_root / "ballast").unlink()
    assert "Loaded" in engine.docker(
        "load",
        input=subprocess.run(["docker", "-H", engine.host, "save", "busybox"], check=True, capture_output=True).stdout,
    )


def _used(engine: EngineProcess) -> int:
    """Bytes that the file system has given away."""
    os.sync()
    found = os.statvfs(engine.data_root)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def _refusals(*requests: Callable[[], object]) -> list[ApiError]:
    found = []
    for request in requests:
        try:
            request()
        except ApiError as error:
            found.append(error)
    return found


def _built(engine: EngineProcess) -> str:
    """What a build says that needs more room than there is."""
    context = tar({"Dockerfile": b"FROM busybox\nCOPY big /big\n", "big": b"y" * (8 << 20)})
    done = engine.run_docker("build", "-", input=context)
    assert done.returncode != 0
    return (done.stderr + done.stdout).decode()
