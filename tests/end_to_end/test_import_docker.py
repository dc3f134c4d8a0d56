"""Taking over the data root of a real Docker: all that is in it is here afterwards, and nothing in it has changed."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.engine.docker_import.bolt import Bolt
from dockyard.errors import InvalidParameter
from tests.end_to_end.test_beside_others import OtherDocker, Place
from tests.engine_process import EngineProcess
from tests.processes import eventually

pytestmark = pytest.mark.skipif(shutil.which("dockerd") is None, reason="needs Debian's docker.io")

SCRIPT = (
    "echo volume >/data/f; echo anonymous >/anonymous/f; echo written >/written; rm -f /made; rm -r /d; mkdir /d; "
    "echo said; exit 3"
)
PREPARE = [
    ["build", "-t", "mine:1", "-"],
    ["volume", "create", "--label", "a=b", "kept"],
    ["network", "create", "--subnet", "10.213.7.0/24", "--label", "x=y", "other"],
    ["run", "--name", "ended", "--network", "other", "--ip", "10.213.7.77", "-v", "kept:/data", "-v", "/anonymous",
     "-e", "A=B", "--restart", "on-failure:1", "mine:1", "sh", "-c",
     SCRIPT],
    ["create", "--name", "fresh", "--memory", "64m", "mine:1", "true"],
]  # fmt: skip
DOCKERFILE = b"FROM busybox\nRUN echo 1 >/made && mkdir /d && echo 2 >/d/old && ln /made /linked\nRUN echo 3 >/kept\n"


@pytest.fixture
def docker_root(tmp_path: Path, engine: EngineProcess) -> Iterator[Path]:
    """The data root of a Docker that was used and stopped."""
    engine.docker("pull", "busybox")
    engine.docker("save", "-o", str(tmp_path / "busybox.tar"), "busybox")
    folder = tmp_path / "docker"
    folder.mkdir()
    place = Place(tmp_path)
    try:
        other = OtherDocker(place, folder)
        try:
            other.load(tmp_path / "busybox.tar")

            def docker(*command: str) -> bytes:
                words = [*place.prefix, "docker", "-H", other.host, *command]
                check = command[0] != "run"
                return subprocess.run(
                    words, input=DOCKERFILE, capture_output=True, check=check,
                    env={**os.environ, "DOCKER_BUILDKIT": "0"},
                ).stdout  # fmt: skip

            for command in PREPARE:
                docker(*command)
            # run returns at the first end; the restart that is asked for comes a moment later
            state = "{{.RestartCount}} {{.State.Status}}"
            assert eventually(lambda: docker("inspect", "--format", state, "ended") == b"1 exited\n")
        finally:
            other.stop()
        yield folder / "data"
    finally:
        place.close()


def fingerprint(root: Path) -> str:
    """What all files of a tree are, their times too."""
    total = hashlib.sha256()
    for folder, _, names in sorted(os.walk(root)):
        for name in sorted(names):
            path = Path(folder, name)
            status = path.lstat()
            total.update(f"{path} {status.st_mtime_ns} {status.st_size} {status.st_mode}".encode())
    return total.hexdigest()


def test_a_docker_data_root_is_taken_over_and_left_as_it_was(engine: EngineProcess, docker_root: Path) -> None:
    before = fingerprint(docker_root)
    done = engine.dockyard("system", "import-docker", str(docker_root))
    assert done.returncode == 0, done.stdout + done.stderr
    assert fingerprint(docker_root) == before
    try:
        assert engine.docker("run", "--rm", "mine:1", "cat", "/linked", "/kept", "/d/old") == "1\n3\n2\n"
        assert json.loads(engine.docker("volume", "inspect", "kept"))[0]["Labels"] == {"a": "b"}
        assert engine.docker("run", "--rm", "-v", "kept:/v", "mine:1", "cat", "/v/f") == "volume\n"
        network = json.loads(engine.docker("network", "inspect", "other"))[0]
        assert (network["IPAM"]["Config"][0]["Subnet"], network["Labels"]) == ("10.213.7.0/24", {"x": "y"})
        ended = engine.inspect("ended")
        assert (ended["State"]["Status"], ended["State"]["ExitCode"]) == ("exited", 3)
        assert "A=B" in ended["Config"]["Env"]
        assert ended["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 1}
        assert engine.docker("logs", "ended") == "said\nsaid\n"
        assert "written\n" in engine.docker("cp", "ended:/written", "-")
        changes = set(engine.docker("diff", "ended").splitlines())
        assert {"A /written", "D /made", "D /d/old"} <= changes
        assert engine.inspect("fresh")["HostConfig"]["Memory"] == 64 << 20
        engine.run_docker("start", "-a", "ended")
        again = engine.inspect("ended")
        assert again["NetworkSettings"]["Networks"]["other"]["IPAMConfig"]["IPv4Address"] == "10.213.7.77"
        engine.docker("start", "-a", "fresh")
        # once more: everything is here
        said = engine.dockyard("system", "import-docker", str(docker_root)).stdout.decode()
        assert all(line.endswith("is here already") for line in said.splitlines()), said
    finally:
        engine.run_docker("rm", "-f", "-v", "ended", "fresh")
        engine.run_docker("rmi", "-f", "mine:1")
        engine.run_docker("network", "rm", "other")
        engine.run_docker("volume", "prune", "-af")


def test_what_is_no_data_root_is_refused(engine: EngineProcess, tmp_path: Path) -> None:
    done = engine.dockyard("system", "import-docker", str(tmp_path))
    assert done.returncode == 1
    assert f"{tmp_path} is not a data root of Docker" in done.stderr.decode()
    for folder in ("containers", "volumes", "image/zfs"):
        (tmp_path / folder).mkdir(parents=True)
    done = engine.dockyard("system", "import-docker", str(tmp_path))
    assert "are kept by zfs, not by overlay2: use `docker save` and `dockyard load`" in done.stderr.decode()


@pytest.mark.parametrize("content", [b"", b"x" * 100, bytes(16384), os.urandom(16384)])
def test_a_damaged_database_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "db").write_bytes(content)
    with pytest.raises(InvalidParameter, match="is not a bbolt database, or is damaged"):
        Bolt(tmp_path / "db")
