"""Cgroups made, found, frozen and killed."""

import os
import time
import uuid

import pytest

from dockyard.linux import cgroup_counters
from dockyard.linux.cgroups import Cgroup, layout, path_of
from dockyard.runtime.resources import statistics
from tests.cgroups.conftest import Spawn

FORKS = "import os\nprint('ok')\nwhile True:\n    if os.fork() == 0: os._exit(0)\n    os.wait()\n"


def test_a_relative_path_is_below_the_callers_own_cgroup() -> None:
    own = path_of("self")
    group = Cgroup("some/where")
    for name, directory in group.paths.items():
        base = own[name] if group.version == 1 else os.path.dirname(own[name])
        assert directory == layout().tops[name] + os.path.normpath(f"/{base}/some/where").replace("//", "/")


def test_the_cgroups_of_a_hybrid_host_are_joined_in_both_versions(v1: Cgroup, spawn: Spawn) -> None:
    process = spawn(v1, "input()")
    joined = {path for controller, path in path_of(process.pid).items() if controller in v1.paths}
    assert joined == {v1.path}


def test_a_cpuset_below_empty_ones_has_processors(v1: Cgroup, spawn: Spawn) -> None:
    top = v1.layout.tops["cpuset"]
    name = f"/dockyard-test-{uuid.uuid4().hex[:8]}"
    os.makedirs(f"{top}{name}/middle")
    group = Cgroup(f"{name}/middle/low", paths={"cpuset": f"{top}{name}/middle/low"})
    try:
        group.create()
        process = spawn(group, "input()")
        assert group.pids() == [process.pid]
        process.kill()
        process.wait()
    finally:
        group.remove()
        os.removedirs(f"{top}{name}/middle")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_group_that_forks_all_the_time_freezes(version: str, request: pytest.FixtureRequest, spawn: Spawn) -> None:
    group: Cgroup = request.getfixturevalue(version)
    process = spawn(group, FORKS)
    assert process.stdout is not None
    process.stdout.readline()
    for _ in range(5):
        group.freeze(True)
        assert group.frozen()
        before = _times_run(process.pid)
        time.sleep(0.05)
        assert _times_run(process.pid) - before <= 2  # a frozen process may be woken to see that it still is
        group.freeze(False)
        assert not group.frozen()


def _times_run(pid: int) -> int:
    with open(f"/proc/{pid}/schedstat") as file:
        return int(file.read().split()[2])


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_all_are_killed_at_once(version: str, request: pytest.FixtureRequest, spawn: Spawn) -> None:
    group: Cgroup = request.getfixturevalue(version)
    if "" not in group.paths:
        pytest.skip("this host has cgroup version 1 alone")
    processes = [spawn(group, "input()") for _ in range(3)]
    assert group.kill()
    assert [process.wait(5) for process in processes] == [-9, -9, -9]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_counters_count(version: str, request: pytest.FixtureRequest, spawn: Spawn) -> None:
    group: Cgroup = request.getfixturevalue(version)
    process = spawn(group, "x = bytearray(8 << 20)\nfor i in range(300000): pass\nprint('ok')\ninput()")
    assert process.stdout is not None
    process.stdout.readline()
    counters = cgroup_counters.read(group)
    assert counters.cpu_total > 0
    shown = statistics.of(group, process.pid)
    assert list(shown) == [
        "cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces",
    ]  # fmt: skip
    if group.version == 1 or "memory" in (group.read("", "cgroup.controllers") or ""):
        assert counters.pids == 1
        assert counters.memory.usage > 8 << 20
        assert shown["memory"]["usage"]["usage"] > 8 << 20
        assert shown["memory"]["raw"]
