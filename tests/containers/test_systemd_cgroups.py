"""Containers whose cgroups systemd keeps: `--exec-opt native.cgroupdriver=systemd`."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.config import Config, load
from dockyard.engine.containers.config import HostConfig
from dockyard.engine.containers.settings import settle
from dockyard.errors import InvalidParameter
from dockyard.linux import systemd
from dockyard.linux.cgroups import path_of
from tests import criu
from tests.api_client import Api, ApiError
from tests.engine_process import EngineProcess

SYSTEMD = "--exec-opt=native.cgroupdriver=systemd"
without_systemd = pytest.mark.skipif(systemd.is_running(), reason="systemd runs here")
needs_systemd = pytest.mark.skipif(not systemd.is_running(), reason="systemd does not run here")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineProcess]:
    engine = EngineProcess(tmp_path, number=31, arguments=(SYSTEMD, "--cgroup-parent=system.slice"))
    try:
        engine.start()
        Api(engine.socket).post("/images/create", fromImage="busybox", tag="latest")
        yield engine
    finally:
        engine.clean_up()
        if systemd.is_running():  # which keeps slices that have become empty
            subprocess.run(["systemctl", "stop", "dockyardtest.slice"], check=False)


def _settings(tmp_path: Path, *arguments: str, file: dict[str, object] | None = None) -> Config:
    path = tmp_path / "daemon.json"
    path.write_text(json.dumps(file or {}))
    return load([f"--config-file={path}", *arguments])[1]


def test_the_driver_is_chosen_by_flag_or_file(tmp_path: Path) -> None:
    assert not _settings(tmp_path).systemd_cgroups
    assert _settings(tmp_path, SYSTEMD).systemd_cgroups
    assert _settings(tmp_path, file={"exec-opts": ["native.cgroupdriver=systemd"]}).systemd_cgroups
    assert not _settings(tmp_path, "--exec-opt", "native.cgroupdriver=cgroupfs").systemd_cgroups


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--exec-opt=native.cgroupdriver=none"], "native.cgroupdriver option none not supported"),
        (["--exec-opt=native.cgroupdrive=systemd"], "unknown exec-opt: native.cgroupdrive=systemd"),
        (["--exec-opt=native.cgroupdriver"], "unknown exec-opt"),
        ([SYSTEMD, "--cgroup-parent=/mine"], "cgroup-parent for systemd cgroup should be a valid slice"),
    ],
)
def test_other_options_are_refused(tmp_path: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        _settings(tmp_path, *arguments)


@pytest.mark.parametrize("parent", ["/mine", "mine", ".slice"])
def test_a_containers_parent_must_be_a_slice(tmp_path: Path, parent: str) -> None:
    settings = _settings(tmp_path, SYSTEMD)
    with pytest.raises(InvalidParameter, match="should be a valid slice named as"):
        settle(HostConfig(cgroup_parent=parent), settings)
    settle(HostConfig(cgroup_parent="mine.slice"), settings)


def test_a_scopes_path_is_that_of_its_slice_and_name() -> None:
    assert systemd.scope_path("system.slice:docker:abc") == "/system.slice/docker-abc.scope"
    assert systemd.scope_path("a-b.slice:docker:abc") == "/a.slice/a-b.slice/docker-abc.scope"
    assert systemd.scope_path("-.slice:docker:abc") == "/docker-abc.scope"


@without_systemd
def test_without_systemd_a_start_says_so_and_leaves_nothing(engine: EngineProcess) -> None:
    api = Api(engine.socket)
    assert api.get("/info")["CgroupDriver"] == "systemd"
    made = api.create("true")
    with pytest.raises(ApiError, match=f'unable to start unit "docker-{made}.scope"'):
        api.post(f"/containers/{made}/start")
    assert api.get(f"/containers/{made}/json")["State"]["Status"] == "created"
    api.delete(f"/containers/{made}")


@needs_systemd
@pytest.mark.parametrize("parent", ["", "dockyardtest-inner.slice"])
def test_a_container_is_a_scope_in_its_slice(engine: EngineProcess, parent: str) -> None:
    api = Api(engine.socket)
    assert api.get("/info")["CgroupDriver"] == "systemd"
    made = api.run("sleep", "600", host={"CgroupParent": parent, "Memory": 64 << 20, "PidsLimit": 50})
    inside = "/dockyardtest.slice/dockyardtest-inner.slice" if parent else "/system.slice"
    path = f"{inside}/docker-{made}.scope"
    pid = api.get(f"/containers/{made}/json")["State"]["Pid"]
    assert _elsewhere(pid, path) == {}
    assert api.get(f"/containers/{made}/stats", stream="false")["memory_stats"]["limit"] == 64 << 20
    api.post(f"/containers/{made}/update", {"Memory": 80 << 20, "MemorySwap": 160 << 20})
    assert _elsewhere(pid, path) == {}
    engine.kill()
    engine.start()
    assert api.get(f"/containers/{made}/stats", stream="false")["memory_stats"]["limit"] == 80 << 20
    api.post(f"/containers/{made}/pause")
    api.post(f"/containers/{made}/unpause")
    assert api.get(f"/containers/{made}/top")["Processes"]
    api.delete(f"/containers/{made}", force="true")
    left = [top for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory") if os.path.exists(top + path)]
    assert not left
    assert not os.path.exists(f"/sys/fs/cgroup/freezer{inside}")


def _elsewhere(pid: int, path: str) -> dict[str, str]:
    """The hierarchies in which a process is in another cgroup than `path`."""
    # that one has no controller, and is there to make moving quick
    return {name: found for name, found in path_of(pid).items() if found != path and name != "name=dockyard"}


@needs_systemd
@criu.needed()
def test_a_restored_container_and_a_fork_are_scopes_too(engine: EngineProcess) -> None:
    api = Api(engine.socket)
    # not a bare sleep: CRIU 3.17 may restore one as interrupted, and it ends
    made = api.run("sh", "-c", "while :; do sleep 600; done", host={"Memory": 64 << 20})
    api.post(f"/containers/{made}/checkpoints", {"CheckpointID": "one", "Exit": True})
    api.post(f"/containers/{made}/start", checkpoint="one")
    forked = api.post(f"/dockyard/containers/{made}/fork", memory=1)["Id"]
    for container in (made, forked):
        pid = api.get(f"/containers/{container}/json")["State"]["Pid"]
        assert f"/system.slice/docker-{container}.scope" in path_of(pid).values()
        assert api.get(f"/containers/{container}/stats", stream="false")["memory_stats"]["limit"] == 64 << 20
        api.delete(f"/containers/{container}", force="true")
