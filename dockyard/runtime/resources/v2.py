"""The spec's resources, which are version 1's, as writes to the files of cgroup version 2.

How its numbers become version 2's is the runtimes' common understanding (runc's and crun's documentation, "cgroup v2").
Kernel: admin-guide/cgroup-v2.
"""

import errno
import math

import msgspec

from dockyard.linux.cgroups import Cgroup
from dockyard.oci.runtime_spec import BlockIO, Cpu, Memory, Resources
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.resources import device_filter
from dockyard.runtime.resources.files import most_tasks, offer, rdma_row, refused, write


def apply(group: Cgroup, resources: Resources, *, rootless: bool) -> None:
    """Set every limit of `resources`. Raises RuntimeFailure, OSError."""
    if resources.pids is not None:
        write(group, "", "pids.max", most_tasks(resources.pids.limit))
    if resources.memory is not None:
        _set_memory(group, resources.memory)
    if resources.block_io is not None:
        _set_block_io(group, resources.block_io)
    if resources.cpu is not None:
        _set_cpu(group, resources.cpu)
    if resources.devices:
        _set_devices(group, resources, rootless)
    for page in resources.hugepage_limits:
        write(group, "", f"hugetlb.{page.page_size}.max", str(page.limit))
        offer(group, "", f"hugetlb.{page.page_size}.rsvd.max", str(page.limit))
    for device, limits in resources.rdma.items():
        write(group, "", "rdma.max", rdma_row(device, limits))
    for name, value in resources.unified.items():
        _set_unified(group, name, value)


def completed(group: Cgroup, resources: Resources) -> Resources:
    """A change of limits with what version 2 sets together with them, as it is now: swap needs the limit of memory,
    a quota its period and the other way round.
    """
    memory, cpu = resources.memory, resources.cpu
    if memory is not None and memory.swap and memory.swap > 0 and not memory.limit:
        text = (group.read("", "memory.max") or "max").strip()
        memory = msgspec.structs.replace(memory, limit=-1 if text == "max" else int(text))
    if cpu is not None and bool(cpu.quota) != bool(cpu.period):
        quota, _, period = (group.read("", "cpu.max") or "max 100000").partition(" ")
        now = -1 if quota == "max" else int(quota)
        cpu = msgspec.structs.replace(cpu, quota=cpu.quota or now, period=cpu.period or int(period))
    return msgspec.structs.replace(resources, memory=memory, cpu=cpu)


def check_memory(group: Cgroup, memory: Memory) -> None:
    """With `checkBeforeUpdate`: refuse a limit that would have the kernel kill at once. Raises RuntimeFailure."""
    usage = group.number("", "memory.current")
    if not memory.check_before_update or not usage:
        return
    if memory.swap and 0 < memory.swap <= usage:
        raise RuntimeFailure(f"rejecting memory+swap limit {memory.swap} <= usage {usage}")
    if memory.limit and 0 < memory.limit <= usage:
        raise RuntimeFailure(f"rejecting memory limit {memory.limit} <= usage {usage}")


def swap_only(memory: Memory) -> int | None:
    """memory.swap.max: the spec's number is memory and swap together. None: leave it; -1: no limit.

    Raises RuntimeFailure when the two limits make no sense together.
    """
    limit, swap = memory.limit or 0, memory.swap or 0
    if limit == -1 and not swap:
        return -1  # as version 1 does
    if not swap:
        return None
    if swap == -1 or limit == -1:
        return swap
    if not limit:
        raise RuntimeFailure("unable to set swap limit without memory limit")
    if limit < 0:
        raise RuntimeFailure(f"invalid memory value: {limit}")
    if swap < limit:
        raise RuntimeFailure("memory+swap limit should be >= memory limit")
    return swap - limit


def _set_memory(group: Cgroup, memory: Memory) -> None:
    check_memory(group, memory)
    swap = swap_only(memory)
    # a kernel without swap accounting can neither limit swap nor, as wanted then, leave it unlimited
    if swap is not None and (swap > 0 or group.read("", "memory.swap.max") is not None):
        write(group, "", "memory.swap.max", _most(swap))
    if memory.limit:
        write(group, "", "memory.max", _most(memory.limit))
    if memory.reservation:
        write(group, "", "memory.low", _most(memory.reservation))


def _set_cpu(group: Cgroup, cpu: Cpu) -> None:
    if cpu.idle is not None:
        write(group, "", "cpu.idle", str(cpu.idle))
    if cpu.shares and not cpu.idle:  # an idle group has no weight to set
        write(group, "", "cpu.weight", str(shares_to_weight(cpu.shares)))
    burst = "" if cpu.burst is None else str(cpu.burst)
    if burst:
        try:
            group.write("", "cpu.max.burst", burst)
            burst = ""
        except OSError as error:
            # more than the quota that is about to change
            if error.errno != errno.EINVAL or not cpu.quota:
                raise refused(group, "", "cpu.max.burst", burst, error) from error
    if cpu.quota or cpu.period:
        quota = str(cpu.quota) if cpu.quota and cpu.quota > 0 else "max"
        write(group, "", "cpu.max", f"{quota} {cpu.period or 100_000}")
        if burst:
            write(group, "", "cpu.max.burst", burst)
    if cpu.cpus:
        write(group, "", "cpuset.cpus", cpu.cpus)
    if cpu.mems:
        write(group, "", "cpuset.mems", cpu.mems)


def shares_to_weight(shares: int) -> int:
    """cpu.shares (2 to 262144, usually 1024) as cpu.weight (1 to 10000, usually 100): the curve through these three.

    A straight line, the convention until 2025, gave a container of the usual shares less than half a usual group's
    weight (opencontainers/runc issue 4772).
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    logarithm = math.log2(shares)
    return math.ceil(10 ** ((logarithm * logarithm + 125 * logarithm) / 612 - 7 / 34))


def io_weight(weight: int) -> int:
    """blkio's weight (10 to 1000) as io.weight (1 to 10000)."""
    return 1 + (weight - 10) * 9999 // 990


def _set_block_io(group: Cgroup, limits: BlockIO) -> None:
    if limits.weight and not offer(group, "", "io.bfq.weight", str(limits.weight)):
        write(group, "", "io.weight", str(io_weight(limits.weight)))
    for device in limits.weight_device:
        if device.weight:
            row = f"{device.major}:{device.minor} "
            if not offer(group, "", "io.bfq.weight", row + str(device.weight)):
                write(group, "", "io.weight", row + str(io_weight(device.weight)))
    for devices, key in (
        (limits.throttle_read_bps_device, "rbps"),
        (limits.throttle_write_bps_device, "wbps"),
        (limits.throttle_read_iops_device, "riops"),
        (limits.throttle_write_iops_device, "wiops"),
    ):
        for throttled in devices:
            # to io.max no limit is "max", to blkio 0
            rate = throttled.rate or "max"
            write(group, "", "io.max", f"{throttled.major}:{throttled.minor} {key}={rate}")


def _set_devices(group: Cgroup, resources: Resources, rootless: bool) -> None:
    directory = group.directory("")
    if directory is None:
        return
    try:
        device_filter.attach(directory, resources.devices)
    except OSError as error:
        # only root may load the filter; who is not root cannot make devices either
        if not rootless or error.errno not in (errno.EPERM, errno.EACCES):
            raise RuntimeFailure(f"cannot filter devices: bpf: {error.strerror}") from error


def _set_unified(group: Cgroup, name: str, value: str) -> None:
    for row in value.splitlines():  # io.max takes a row at a time
        try:
            group.write("", name, row)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES, errno.ENOENT):
                controller, dot, _ = name.partition(".")
                if not dot:
                    text = f'unified resource "{name}" must be in the form CONTROLLER.PARAMETER'
                    raise RuntimeFailure(text) from error
                available = (group.read("", "cgroup.controllers") or "").split()
                if controller not in available and controller != "cgroup":
                    text = f'unified resource "{name}" can\'t be set: controller "{controller}" not available'
                    raise RuntimeFailure(text) from error
            text = f'unable to set unified resource "{name}": {refused(group, "", name, row, error).message}'
            raise RuntimeFailure(text) from error


def _most(value: int) -> str:
    return "max" if value < 0 else str(value)
