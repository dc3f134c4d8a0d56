"""The spec's resources as writes to the files of cgroup version 1. Kernel: admin-guide/cgroup-v1."""

import errno
import itertools

from dockyard.linux.cgroups import Cgroup
from dockyard.oci.runtime_spec import BlockIO, Cpu, DeviceRule, Memory, Network, Resources
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.resources.files import most_tasks, offer, rdma_row, refused, write

# What the kernel makes of cpu.shares outside these.
LEAST_SHARES, MOST_SHARES = 2, 262144


def apply(group: Cgroup, resources: Resources, *, rootless: bool) -> None:
    """Set every limit of `resources`. Raises RuntimeFailure, OSError."""
    if resources.cpu is not None:
        _set_cpuset(group, resources.cpu)
    if resources.devices:
        _set_devices(group, resources.devices, rootless)
    if resources.memory is not None:
        _set_memory(group, resources.memory)
    if resources.cpu is not None:
        _set_cpu(group, resources.cpu)
    if resources.pids is not None:
        write(group, "pids", "pids.max", most_tasks(resources.pids.limit))
    if resources.block_io is not None:
        _set_block_io(group, resources.block_io)
    for page in resources.hugepage_limits:
        write(group, "hugetlb", f"hugetlb.{page.page_size}.limit_in_bytes", str(page.limit))
        # reservations count apart since Linux 5.7
        offer(group, "hugetlb", f"hugetlb.{page.page_size}.rsvd.limit_in_bytes", str(page.limit))
    if resources.network is not None:
        _set_network(group, resources.network)
    for device, limits in resources.rdma.items():
        write(group, "rdma", "rdma.max", rdma_row(device, limits))


def _set_cpuset(group: Cgroup, cpu: Cpu) -> None:
    if cpu.cpus:
        write(group, "cpuset", "cpuset.cpus", cpu.cpus)
    if cpu.mems:
        write(group, "cpuset", "cpuset.mems", cpu.mems)


def _set_devices(group: Cgroup, rules: list[DeviceRule], rootless: bool) -> None:
    directory = group.directory("devices")
    if directory is None:
        if rootless:
            return
        raise RuntimeFailure("cannot set devices limit: container could not join or create cgroup")
    # in a user namespace nobody may change the list; what the parent refuses stays refused
    tolerated = (errno.EPERM,) if rootless else ()
    for allow, alike in itertools.groupby(rules, key=lambda rule: rule.allow):
        name = "devices.allow" if allow else "devices.deny"
        group.append("devices", name, map(_device_row, alike), tolerated=tolerated)


def _device_row(rule: DeviceRule) -> str:
    if rule.type not in ("b", "c"):
        return "a"  # the kernel looks at nothing else then
    major = "*" if rule.major is None or rule.major < 0 else rule.major
    minor = "*" if rule.minor is None or rule.minor < 0 else rule.minor
    # the kernel refuses letters that it does not know
    access = "".join(letter for letter in rule.access if letter in "rwm")
    return f"{rule.type} {major}:{minor} {access or 'rwm'}"


def _set_memory(group: Cgroup, memory: Memory) -> None:
    limit, swap = memory.limit or 0, memory.swap or 0
    has_swap = group.read("memory", "memory.memsw.limit_in_bytes") is not None
    if limit == -1 and not swap and has_swap:
        swap = -1  # the limit of memory and swap together cannot stay below the one of memory
    if not has_swap:
        swap = 0  # a host that does not account for swap cannot limit it
    # memsw must at no time be below the limit: what goes up goes up first
    if limit and swap and (swap == -1 or swap > group.number("memory", "memory.limit_in_bytes")):
        write(group, "memory", "memory.memsw.limit_in_bytes", str(swap))
        _set_memory_limit(group, limit)
    else:
        if limit:
            _set_memory_limit(group, limit)
        if swap:
            write(group, "memory", "memory.memsw.limit_in_bytes", str(swap))
    # memory.kmem.limit_in_bytes takes nothing since Linux 5.16, and runtimes ignore it since long
    if memory.kernel_tcp:
        offer(group, "memory", "memory.kmem.tcp.limit_in_bytes", str(memory.kernel_tcp))
    if memory.reservation:
        write(group, "memory", "memory.soft_limit_in_bytes", str(memory.reservation))
    if memory.disable_oom_killer:
        write(group, "memory", "memory.oom_control", "1")
    if memory.swappiness is not None:
        write(group, "memory", "memory.swappiness", str(memory.swappiness))


def _set_memory_limit(group: Cgroup, limit: int) -> None:
    try:
        group.write("memory", "memory.limit_in_bytes", str(limit))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise refused(group, "memory", "memory.limit_in_bytes", str(limit), error) from error
        usage = group.number("memory", "memory.usage_in_bytes")
        peak = group.number("memory", "memory.max_usage_in_bytes")
        text = f"unable to set memory limit to {limit} (current usage: {usage}, peak usage: {peak})"
        raise RuntimeFailure(text) from error


def _set_cpu(group: Cgroup, cpu: Cpu) -> None:
    if cpu.shares:
        write(group, "cpu", "cpu.shares", str(cpu.shares))
        if cpu.shares > MOST_SHARES:
            raise RuntimeFailure(f"the maximum allowed cpu-shares is {MOST_SHARES}")
        if cpu.shares < LEAST_SHARES:
            raise RuntimeFailure(f"the minimum allowed cpu-shares is {LEAST_SHARES}")
    burst = None if cpu.burst is None else str(cpu.burst)
    _set_related(
        group,
        ("cpu.cfs_period_us", str(cpu.period) if cpu.period else None),
        ("cpu.cfs_burst_us", burst if group.read("cpu", "cpu.cfs_burst_us") is not None else None),
        last=("cpu.cfs_quota_us", str(cpu.quota) if cpu.quota else None),
    )
    if cpu.idle is not None:
        write(group, "cpu", "cpu.idle", str(cpu.idle))
    _set_related(
        group,
        ("cpu.rt_period_us", str(cpu.realtime_period) if cpu.realtime_period else None),
        last=("cpu.rt_runtime_us", str(cpu.realtime_runtime) if cpu.realtime_runtime else None),
    )


def _set_related(group: Cgroup, *first: tuple[str, str | None], last: tuple[str, str | None]) -> None:
    """Set values that bound each other: what the kernel refuses now it may take once `last` has its new value."""
    again = []
    for name, value in first:
        if value is None:
            continue
        try:
            group.write("cpu", name, value)
        except OSError as error:
            if error.errno != errno.EINVAL or last[1] is None:
                raise refused(group, "cpu", name, value, error) from error
            again.append((name, value))
    if last[1] is not None:
        write(group, "cpu", last[0], last[1])
    for name, value in again:
        write(group, "cpu", name, value)


def _set_block_io(group: Cgroup, limits: BlockIO) -> None:
    # the CFQ scheduler's files went with it in Linux 5.0; BFQ's remain
    prefix = "blkio" if group.read("blkio", "blkio.weight") is not None else "blkio.bfq"
    if limits.weight:
        write(group, "blkio", f"{prefix}.weight", str(limits.weight))
    if limits.leaf_weight:
        write(group, "blkio", "blkio.leaf_weight", str(limits.leaf_weight))
    for device in limits.weight_device:
        if device.weight:
            write(group, "blkio", f"{prefix}.weight_device", f"{device.major}:{device.minor} {device.weight}")
        if device.leaf_weight:
            write(group, "blkio", "blkio.leaf_weight_device", f"{device.major}:{device.minor} {device.leaf_weight}")
    for devices, name in (
        (limits.throttle_read_bps_device, "blkio.throttle.read_bps_device"),
        (limits.throttle_write_bps_device, "blkio.throttle.write_bps_device"),
        (limits.throttle_read_iops_device, "blkio.throttle.read_iops_device"),
        (limits.throttle_write_iops_device, "blkio.throttle.write_iops_device"),
    ):
        for throttled in devices:
            write(group, "blkio", name, f"{throttled.major}:{throttled.minor} {throttled.rate}")


def _set_network(group: Cgroup, network: Network) -> None:
    if network.class_id:
        write(group, "net_cls", "net_cls.classid", str(network.class_id))
    for interface in network.priorities:
        write(group, "net_prio", "net_prio.ifpriomap", f"{interface.name} {interface.priority}")
