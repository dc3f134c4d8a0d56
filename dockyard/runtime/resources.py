"""The spec's resources as writes to cgroup files, on version 1 and version 2."""

from dockyard.linux.cgroups import Cgroup
from dockyard.oci.runtime_spec import BlockIO, Cpu, DeviceRule, Memory, Resources
from dockyard.runtime import device_filter
from dockyard.runtime.errors import RuntimeFailure

# The kernel's largest number of bytes a v1 limit holds; -1 sets it.
UNLIMITED = -1


def apply(group: Cgroup, resources: Resources) -> None:
    """Set every limit of `resources` on the existing cgroup `group`. Raises RuntimeFailure naming the file refused."""
    writes = version_2(resources) if group.version == 2 else version_1(resources, group)
    for controller, name, value in writes:
        try:
            group.write(controller, name, value)
        except FileNotFoundError:
            if _matters(name, value):
                raise RuntimeFailure(f"this kernel or host has no {name}: cannot set {value!r}") from None
        except OSError as error:
            raise RuntimeFailure(f"cannot set {name} to {value!r}: {error.strerror}") from error
    if resources.devices and group.version == 2:
        directory = group.directory("")
        assert directory is not None
        device_filter.attach(directory, resources.devices)


def _matters(name: str, value: str) -> bool:
    """Whether a missing file must be an error: a swap limit can't be kept on hosts without swap accounting."""
    return "swap" not in name and "memsw" not in name and "kmem" not in name


def version_1(resources: Resources, group: Cgroup) -> list[tuple[str, str, str]]:
    """(controller, file, value) in the order in which the kernel takes them."""
    writes: list[tuple[str, str, str]] = []
    if resources.devices:
        writes += [("devices", *_device_row(rule)) for rule in resources.devices]
    if resources.memory is not None:
        writes += _memory_1(resources.memory, group)
    if resources.cpu is not None:
        writes += _cpu_1(resources.cpu)
    if resources.pids is not None and resources.pids.limit:
        writes.append(("pids", "pids.max", str(resources.pids.limit) if resources.pids.limit > 0 else "max"))
    if resources.block_io is not None:
        writes += _block_io_1(resources.block_io)
    for page in resources.hugepage_limits:
        writes.append(("hugetlb", f"hugetlb.{page.page_size}.limit_in_bytes", str(page.limit)))
    return writes


def _device_row(rule: DeviceRule) -> tuple[str, str]:
    if rule.type in ("a", "") and rule.major is None and rule.minor is None:
        row = "a"
    else:
        major = "*" if rule.major is None or rule.major < 0 else rule.major
        minor = "*" if rule.minor is None or rule.minor < 0 else rule.minor
        row = f"{rule.type} {major}:{minor} {rule.access or 'rwm'}"
    return ("devices.allow" if rule.allow else "devices.deny", row)


def _memory_1(memory: Memory, group: Cgroup) -> list[tuple[str, str, str]]:
    limit = ("memory", "memory.limit_in_bytes", str(memory.limit)) if memory.limit else None
    swap = ("memory", "memory.memsw.limit_in_bytes", str(memory.swap)) if memory.swap else None
    writes = [write for write in (limit, swap) if write is not None]
    if limit is not None and swap is not None:
        # memsw must never be below the limit: raise it first when both go up
        present = group.number("memory", "memory.memsw.limit_in_bytes")
        wanted = (1 << 63) if memory.limit == UNLIMITED else memory.limit or 0
        if present and wanted > present:
            writes.reverse()
    for value, name in (
        (memory.reservation, "memory.soft_limit_in_bytes"),
        (memory.kernel_tcp, "memory.kmem.tcp.limit_in_bytes"),
    ):
        if value:
            writes.append(("memory", name, str(value)))
    if memory.swappiness is not None:
        writes.append(("memory", "memory.swappiness", str(memory.swappiness)))
    if memory.disable_oom_killer:
        writes.append(("memory", "memory.oom_control", "1"))
    return writes


def _cpu_1(cpu: Cpu) -> list[tuple[str, str, str]]:
    writes = []
    for value, name in (
        (cpu.shares, "cpu.shares"),
        (cpu.realtime_period, "cpu.rt_period_us"),
        (cpu.realtime_runtime, "cpu.rt_runtime_us"),
        (cpu.period, "cpu.cfs_period_us"),
        (cpu.quota, "cpu.cfs_quota_us"),
        (cpu.burst, "cpu.cfs_burst_us"),
    ):
        if value:
            writes.append(("cpu", name, str(value)))
    if cpu.cpus:
        writes.append(("cpuset", "cpuset.cpus", cpu.cpus))
    if cpu.mems:
        writes.append(("cpuset", "cpuset.mems", cpu.mems))
    return writes


def _block_io_1(limits: BlockIO) -> list[tuple[str, str, str]]:
    writes = []
    if limits.weight:
        writes.append(("blkio", "blkio.bfq.weight", str(limits.weight)))
    for device in limits.weight_device:
        writes.append(("blkio", "blkio.bfq.weight_device", f"{device.major}:{device.minor} {device.weight}"))
    for devices, name in (
        (limits.throttle_read_bps_device, "blkio.throttle.read_bps_device"),
        (limits.throttle_write_bps_device, "blkio.throttle.write_bps_device"),
        (limits.throttle_read_iops_device, "blkio.throttle.read_iops_device"),
        (limits.throttle_write_iops_device, "blkio.throttle.write_iops_device"),
    ):
        writes += [("blkio", name, f"{device.major}:{device.minor} {device.rate}") for device in devices]
    return writes


def version_2(resources: Resources) -> list[tuple[str, str, str]]:
    """(controller "", file, value)."""
    writes: list[tuple[str, str, str]] = []
    memory, cpu, block = resources.memory, resources.cpu, resources.block_io
    if memory is not None:
        if memory.limit:
            writes.append(("memory", "memory.max", _most(memory.limit)))
        if memory.swap:
            # v1's number is memory and swap together, v2's is swap alone
            swap = memory.swap if memory.swap < 0 else memory.swap - (memory.limit or 0)
            writes.append(("memory", "memory.swap.max", _most(swap)))
        if memory.reservation:
            writes.append(("memory", "memory.low", _most(memory.reservation)))
    if cpu is not None:
        if cpu.shares:
            writes.append(("cpu", "cpu.weight", str(shares_to_weight(cpu.shares))))
        if cpu.quota or cpu.period:
            quota = str(cpu.quota) if cpu.quota and cpu.quota > 0 else "max"
            writes.append(("cpu", "cpu.max", f"{quota} {cpu.period or 100_000}"))
        if cpu.burst:
            writes.append(("cpu", "cpu.max.burst", str(cpu.burst)))
        if cpu.cpus:
            writes.append(("cpuset", "cpuset.cpus", cpu.cpus))
        if cpu.mems:
            writes.append(("cpuset", "cpuset.mems", cpu.mems))
    if resources.pids is not None and resources.pids.limit:
        writes.append(("pids", "pids.max", _most(resources.pids.limit if resources.pids.limit > 0 else -1)))
    if block is not None:
        if block.weight:
            writes.append(("io", "io.bfq.weight", str(block.weight)))
        for devices, key in (
            (block.throttle_read_bps_device, "rbps"),
            (block.throttle_write_bps_device, "wbps"),
            (block.throttle_read_iops_device, "riops"),
            (block.throttle_write_iops_device, "wiops"),
        ):
            writes += [("io", "io.max", f"{device.major}:{device.minor} {key}={device.rate}") for device in devices]
    for page in resources.hugepage_limits:
        writes.append(("hugetlb", f"hugetlb.{page.page_size}.max", str(page.limit)))
    writes += [("", name, value) for name, value in resources.unified.items() if "/" not in name]
    return writes


def _most(value: int) -> str:
    return "max" if value < 0 else str(value)


def shares_to_weight(shares: int) -> int:
    """cpu.shares (2 to 262144) as cpu.weight (1 to 10000), by the line that systemd and runc draw."""
    return 1 + ((max(2, min(shares, 262144)) - 2) * 9999) // 262142
