"""The spec's resources on cgroup version 1."""

import pytest

from dockyard.linux.cgroups import Cgroup
from dockyard.oci.runtime_spec import BlockIO, Cpu, DeviceRule, Memory, Pids, Resources, ThrottleDevice
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.resources import limits as resources
from tests.cgroups.conftest import Spawn

MIB = 1 << 20


def test_every_limit_reaches_its_file(v1: Cgroup) -> None:
    resources.apply(
        v1,
        Resources(
            memory=Memory(limit=64 * MIB, swap=96 * MIB, reservation=32 * MIB, swappiness=10, kernel_tcp=8 * MIB),
            cpu=Cpu(shares=512, quota=50_000, period=200_000, burst=10_000, cpus="0", mems="0", idle=0),
            pids=Pids(limit=33),
            devices=[
                DeviceRule(allow=False, type="a", access="rwm"),
                DeviceRule(allow=True, type="c", major=1, minor=3),
            ],
        ),
    )
    assert v1.number("memory", "memory.limit_in_bytes") == 64 * MIB
    assert v1.number("memory", "memory.memsw.limit_in_bytes") == 96 * MIB
    assert v1.number("memory", "memory.soft_limit_in_bytes") == 32 * MIB
    assert v1.number("memory", "memory.swappiness") == 10
    # not every kernel has it
    assert v1.read("memory", "memory.kmem.tcp.limit_in_bytes") in (None, f"{8 * MIB}\n")
    assert v1.number("cpu", "cpu.shares") == 512
    assert v1.number("cpu", "cpu.cfs_quota_us") == 50_000
    assert v1.number("cpu", "cpu.cfs_period_us") == 200_000
    assert v1.number("cpuset", "cpuset.cpus") == 0
    assert v1.number("pids", "pids.max") == 33
    assert v1.read("devices", "devices.list") == "c 1:3 rwm\n"


def test_memory_and_swap_go_up_and_down_together(v1: Cgroup) -> None:
    for limit, swap in ((64, 64), (256, 512), (32, 40), (-1, -1), (64, 128)):
        sizes = [value * MIB if value > 0 else value for value in (limit, swap)]
        resources.apply(v1, Resources(memory=Memory(limit=sizes[0], swap=sizes[1])))
        if limit > 0:
            assert v1.number("memory", "memory.limit_in_bytes") == limit * MIB
            assert v1.number("memory", "memory.memsw.limit_in_bytes") == swap * MIB


def test_memory_without_limit_lifts_the_limit_of_swap(v1: Cgroup) -> None:
    resources.apply(v1, Resources(memory=Memory(limit=64 * MIB, swap=64 * MIB)))
    resources.apply(v1, Resources(memory=Memory(limit=-1)))
    assert v1.number("memory", "memory.memsw.limit_in_bytes") > 1 << 60


def test_a_limit_below_what_is_used_is_refused(v1: Cgroup, spawn: Spawn) -> None:
    process = spawn(v1, "x = bytearray(32 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\nprint('ok')\ninput()")
    assert process.stdout is not None
    assert process.stdout.readline() == "ok\n"
    with pytest.raises(RuntimeFailure, match=r"unable to set memory limit to 1048576 \(current usage: \d+"):
        resources.apply(v1, Resources(memory=Memory(limit=MIB, swap=MIB)))


def test_period_and_quota_that_bound_each_other_are_set_in_the_order_that_works(v1: Cgroup) -> None:
    resources.apply(v1, Resources(cpu=Cpu(quota=3000, period=10_000)))
    resources.apply(v1, Resources(cpu=Cpu(quota=200_000, period=1_000_000)))
    resources.apply(v1, Resources(cpu=Cpu(quota=3000, period=10_000, burst=2000)))
    assert v1.number("cpu", "cpu.cfs_quota_us") == 3000
    assert v1.number("cpu", "cpu.cfs_period_us") == 10_000


@pytest.mark.parametrize(("shares", "said"), [(1, "the minimum allowed cpu-shares is 2"), (300_000, "maximum")])
def test_shares_out_of_range_are_refused(v1: Cgroup, shares: int, said: str) -> None:
    with pytest.raises(RuntimeFailure, match=said):
        resources.apply(v1, Resources(cpu=Cpu(shares=shares)))


def test_a_value_that_the_kernel_refuses_is_named_with_its_file(v1: Cgroup) -> None:
    with pytest.raises(RuntimeFailure, match=r'failed to write "77": write .*/cpuset\.cpus: (invalid|numerical)'):
        resources.apply(v1, Resources(cpu=Cpu(cpus="77")))


def test_version_2_resources_are_refused(v1: Cgroup) -> None:
    with pytest.raises(RuntimeFailure, match="invalid configuration"):
        resources.apply(v1, Resources(unified={"memory.min": "1"}))


def test_a_device_is_throttled(v1: Cgroup) -> None:
    rows = _block_device()
    limits = BlockIO(
        throttle_read_bps_device=[ThrottleDevice(major=rows[0], minor=rows[1], rate=MIB)],
        throttle_write_iops_device=[ThrottleDevice(major=rows[0], minor=rows[1], rate=100)],
    )
    resources.apply(v1, Resources(block_io=limits))
    assert v1.read("blkio", "blkio.throttle.read_bps_device") == f"{rows[0]}:{rows[1]} {MIB}\n"
    assert v1.read("blkio", "blkio.throttle.write_iops_device") == f"{rows[0]}:{rows[1]} 100\n"


def _block_device() -> tuple[int, int]:
    with open("/proc/partitions") as rows:
        for row in rows.read().splitlines()[2:]:
            major, minor, _, name = row.split()
            if name.startswith(("vd", "sd", "nvme")):
                return int(major), int(minor)
    pytest.skip("this host has no disk")


def test_without_a_cgroup_a_limit_is_refused_and_nothing_else() -> None:
    nowhere = Cgroup("/dockyard-test/none", paths={"none": "/nowhere"})
    if nowhere.version != 1:
        pytest.skip("this host has cgroup version 2 alone")
    resources.apply(nowhere, Resources(memory=Memory(), devices=[DeviceRule(allow=False, access="rwm")]), rootless=True)
    with pytest.raises(RuntimeFailure, match="cannot set pids limit: container could not join or create cgroup"):
        resources.apply(nowhere, Resources(pids=Pids(limit=5)), rootless=True)
