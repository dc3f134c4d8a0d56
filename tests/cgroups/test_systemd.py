"""What is said to systemd; and, where it runs, that it does it."""

import os
import subprocess
import uuid

import pytest

from dockyard.linux import dbus, systemd
from dockyard.linux.cgroups import path_of
from dockyard.oci.runtime_spec import Cpu, Linux, Memory, Pids, Resources, Spec
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.resources import groups, systemd_properties
from dockyard.runtime.resources import limits as resources

needs_systemd = pytest.mark.skipif(not systemd.is_running(), reason="systemd does not run here")


def test_values_survive_the_wire() -> None:
    signature = "sa(sv)yt(ib)a{sv}aayd"
    values = ["text", [("a", ("u", 7)), ("b", ("as", ["x", "yz"]))], 3, 1 << 63, (-5, True), [], [b"\1\2"], 0.5]
    data = dbus.pack(signature, *values)
    reader = dbus._Reader(data, "<", 0)
    found = [reader.value(part)[0] for part in dbus.split(signature)]
    assert found == ["text", [("a", ("u", 7)), ("b", ("as", ["x", "yz"]))], 3, 1 << 63, (-5, True), [], [[1, 2]], 0.5]


@needs_systemd
def test_a_first_short_call_is_answered_by_a_systemd_that_wakes_late() -> None:
    # On its processor and before it, so that systemd wakes only when all has been sent and read it at once.
    ours, its = os.sched_getaffinity(0), os.sched_getaffinity(1)
    os.sched_setaffinity(0, {0})
    os.sched_setaffinity(1, {0})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        for _ in range(20):
            connection = dbus.Connection("/run/systemd/private", bus=False, timeout=10)
            try:
                properties, wanted = "org.freedesktop.DBus.Properties", (systemd.MANAGER, "Version")
                connection.call(systemd.BUS, systemd.MANAGER_PATH, properties, "Get", "ss", *wanted)
            finally:
                connection.close()
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(1, its)
        os.sched_setaffinity(0, ours)


@pytest.mark.parametrize(
    ("name", "path"),
    [("-.slice", "/"), ("a.slice", "/a.slice"), ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice")],
)
def test_slices_are_nested_by_their_dashes(name: str, path: str) -> None:
    assert systemd.expand_slice(name) == path


@pytest.mark.parametrize("name", ["", ".slice", "a--b.slice", "-a.slice", "a/b.slice", "a.scope"])
def test_other_names_are_no_slices(name: str) -> None:
    with pytest.raises(ValueError):
        systemd.expand_slice(name)


@pytest.mark.parametrize(("text", "bits"), [("0", b"\1"), ("0-3,8", b"\x0f\1"), (" 1, 3-5,", b"\x3a")])
def test_processors_are_bits(text: str, bits: bytes) -> None:
    assert systemd_properties.cpu_bits(text) == bits


@pytest.mark.parametrize("text", ["", "3-1", "x", "-1"])
def test_other_texts_are_no_processors(text: str) -> None:
    with pytest.raises(RuntimeFailure):
        systemd_properties.cpu_bits(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", ("b", True)),
        ("uint64 123", ("t", 123)),
        ("'a b'", ("s", "a b")),
        ("['x', 'y']", ("as", ["x", "y"])),
        ("-3", ("i", -3)),
        ("@u 7", ("u", 7)),
    ],
)
def test_annotations_are_gvariant(text: str, value: tuple[str, object]) -> None:
    assert systemd_properties._from_annotations({"org.systemd.property.Some": text}) == [("Some", value)]


def test_seconds_are_given_in_microseconds() -> None:
    found = systemd_properties._from_annotations({"org.systemd.property.TimeoutStopSec": "uint64 2"})
    assert found == [("TimeoutStopUSec", ("t", 2_000_000))]


def test_a_path_that_names_no_unit_is_refused() -> None:
    with pytest.raises(RuntimeFailure, match='expected cgroupsPath to be of format "slice:prefix:name"'):
        groups.of_spec(Spec(linux=Linux(cgroups_path="/docker/x")), "x", systemd=True)


@needs_systemd
def test_a_scope_is_made_limited_changed_and_stopped() -> None:
    name = uuid.uuid4().hex[:8]
    limits = Resources(memory=Memory(limit=64 << 20), cpu=Cpu(shares=512, quota=50_000), pids=Pids(limit=20))
    spec = Spec(linux=Linux(cgroups_path=f"system.slice:dockyard-test:{name}", resources=limits))
    group = groups.of_spec(spec, name, systemd=True)
    process = subprocess.Popen(["sleep", "60"])
    try:
        groups.make(group, spec)
        systemd_properties.start(group, process.pid, spec)
        resources.apply(group, limits)
        assert group.path == f"/system.slice/dockyard-test-{name}.scope"
        assert group.path in path_of(process.pid).values()
        assert set(group.pids()) == {process.pid}
        shown = _show(group.unit, "MemoryMax" if group.version == 2 else "MemoryLimit", "TasksMax", "Slice")
        assert shown == [str(64 << 20), "20", "system.slice"]
        resources.apply(group, Resources(memory=Memory(limit=80 << 20)))
        again = systemd.Scope("", group.unit, paths=groups.unusual_paths(group))
        assert again.number("memory", "memory.max" if group.version == 2 else "memory.limit_in_bytes") == 80 << 20
        again.remove()
        assert process.wait(10) != 0
        assert not any(os.path.exists(directory) for directory in group.directories)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("quota", "period", "kept"),
    [(500_000, 900_000, 504_000), (50_000, None, 50_000), (4000, 10_000, 4000), (333, 1000, 340), (-1, 900_000, -1)],
)
def test_a_quota_is_written_as_systemd_rounds_it(quota: int, period: int | None, kept: int) -> None:
    once = systemd_properties.rounded(Resources(cpu=Cpu(quota=quota, period=period)))
    assert once.cpu is not None
    assert once.cpu.quota == kept
    assert systemd_properties.rounded(once) == once


@needs_systemd
def test_a_scope_has_every_controller_of_the_host() -> None:
    # systemd does not hand down those that it knows nothing about: hugetlb, rdma
    name = uuid.uuid4().hex[:8]
    spec = Spec(linux=Linux(cgroups_path=f"system.slice:dockyard-test:{name}"))
    group = groups.of_spec(spec, name, systemd=True)
    if group.version != 2:
        pytest.skip("this host has cgroup version 1")
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            groups.start(group, spec, process.pid)
            with open("/sys/fs/cgroup/cgroup.controllers") as file:
                assert (group.read("", "cgroup.controllers") or "").split() == file.read().split()
        finally:
            process.kill()
            group.remove()


@needs_systemd
def test_a_weight_beside_idle_is_left_out_and_said() -> None:
    name = uuid.uuid4().hex[:8]
    spec = Spec(linux=Linux(cgroups_path=f"system.slice:dockyard-test:{name}"))
    group = groups.of_spec(spec, name, systemd=True)
    if group.version != 2:
        pytest.skip("on this host's cgroup version 1 systemd knows no idle unit")
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            groups.start(group, spec, process.pid)
            both = Resources(cpu=Cpu(shares=200, idle=1))
            (said,) = systemd_properties.left_out(group, both)
            assert said.startswith("unable to apply both")
            resources.apply(group, both)
            assert group.number("", "cpu.idle") == 1
            weight = Resources(cpu=Cpu(shares=200))
            assert systemd_properties.left_out(group, weight) == []
            resources.apply(group, weight)
            assert group.number("", "cpu.idle") == 0
        finally:
            process.kill()
            group.remove()


def _show(unit: str, *properties: str) -> list[str]:
    found = {}
    for row in subprocess.check_output(["systemctl", "show", unit], text=True).splitlines():
        key, _, value = row.partition("=")
        found[key] = value
    return [found[name] for name in properties]
