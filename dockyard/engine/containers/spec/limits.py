"""A container's limits: what of them can be, what they become in the runtime spec, how an update changes them.

What the kernel lacks is left out with a warning; what contradicts itself is refused. The words are those of moby's
verifyPlatformContainerResources, which programs match on.
"""

import os
from collections.abc import Sequence

import msgspec

from dockyard.engine.containers.config import HostConfig, ThrottleRate, Ulimit
from dockyard.engine.system.host_limits import HostLimits, numbers_of
from dockyard.errors import Conflict, InvalidParameter
from dockyard.oci.runtime_spec import BlockIO, Cpu, Memory, Pids, Resources, Rlimit, ThrottleDevice, WeightDevice

CPU_PERIOD = 100_000  # µs
LEAST_MEMORY = 6 << 20
LEAST_KERNEL_MEMORY = 4 << 20
ULIMITS = frozenset(
    """
    as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack
    """.split()
)
# What `update` changes: fields that 0, "" or None leaves as they are.
UPDATED = (
    "blkio_weight",
    "blkio_weight_device",
    "blkio_device_read_bps",
    "blkio_device_write_bps",
    "blkio_device_read_iops",
    "blkio_device_write_iops",
    "cpu_shares",
    "nano_cpus",
    "cpu_period",
    "cpu_quota",
    "cpuset_cpus",
    "cpuset_mems",
    "memory",
    "memory_swap",
    "memory_reservation",
    "kernel_memory_tcp",
    "cpu_realtime_period",
    "cpu_realtime_runtime",
    "pids_limit",
)


# -- what can be


def verify(host: HostConfig, can: HostLimits, *, update: bool = False) -> list[str]:
    """Check the limits of `host` and take out those that the kernel lacks; returns warnings about these.

    Raises InvalidParameter.
    """
    warnings: list[str] = []
    _verify_memory(host, can, warnings, update)
    _verify_cpu(host, can, warnings)
    _verify_cpuset(host, can, warnings)
    _verify_block_io(host, can, warnings)
    if host.pids_limit is not None and not can.pids:
        if host.pids_limit > 0:
            warnings.append(_lacks("PIDs limit capabilities") + " PIDs limit discarded.")
        host.pids_limit = None
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidParameter(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if host.shm_size < 0:
        raise InvalidParameter("SHM size can not be less than 0")
    for limit in host.ulimits or []:
        _verify_ulimit(limit)
    return warnings


def _lacks(what: str) -> str:
    return f"Your kernel does not support {what} or the cgroup is not mounted."


def _verify_memory(host: HostConfig, can: HostLimits, warnings: list[str], update: bool) -> None:
    if host.memory_swappiness == -1:
        host.memory_swappiness = None
    if host.memory and host.memory < LEAST_MEMORY:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if host.memory > 0 and not can.memory:
        warnings.append(_lacks("memory limit capabilities") + " Limitation discarded.")
        host.memory, host.memory_swap = 0, -1
    if host.memory > 0 and host.memory_swap != -1 and not can.swap:
        warnings.append(_lacks("swap limit capabilities") + " Memory limited without swap.")
        host.memory_swap = -1
    if host.memory > 0 and 0 < host.memory_swap < host.memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
    if host.memory == 0 and host.memory_swap > 0 and not update:
        raise InvalidParameter("You should always set the Memory limit when using Memoryswap limit, see usage")
    if host.memory_swappiness is not None and not can.swappiness:
        warnings.append(_lacks("memory swappiness capabilities") + " Memory swappiness discarded.")
        host.memory_swappiness = None
    if host.memory_swappiness is not None and not 0 <= host.memory_swappiness <= 100:
        raise InvalidParameter(f"Invalid value: {host.memory_swappiness}, valid memory swappiness range is 0-100")
    if host.memory_reservation > 0 and not can.reservation:
        warnings.append(_lacks("memory soft limit capabilities") + " Limitation discarded.")
        host.memory_reservation = 0
    if 0 < host.memory_reservation < LEAST_MEMORY:
        raise InvalidParameter("Minimum memory reservation allowed is 6MB")
    if 0 < host.memory < host.memory_reservation:
        raise InvalidParameter("Minimum memory limit can not be less than memory reservation limit, see usage")
    if host.kernel_memory:
        if host.kernel_memory < LEAST_KERNEL_MEMORY:
            raise InvalidParameter("Minimum kernel memory limit allowed is 4MB")
        # Linux 5.16 has taken the limit away; memory limits count the kernel's memory in anyway.
        warnings.append("Kernel memory limits are not supported by this kernel any more. Limitation discarded.")
        host.kernel_memory = 0
    if host.oom_kill_disable is not None and not can.oom_kill_disable:
        if host.oom_kill_disable:
            warnings.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
        host.oom_kill_disable = None
    if host.oom_kill_disable and not host.memory:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system "
            "running out of resources."
        )


def _verify_cpu(host: HostConfig, can: HostLimits, warnings: list[str]) -> None:
    if host.nano_cpus > 0 and host.cpu_period > 0:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if host.nano_cpus > 0 and host.cpu_quota > 0:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if host.nano_cpus > 0 and not can.cpu_cfs:
        raise InvalidParameter(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted"
        )
    cpus = os.cpu_count() or 1
    if not 0 <= host.nano_cpus <= cpus * 10**9:
        raise InvalidParameter(f"range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available")
    if host.cpu_shares < 0:
        raise InvalidParameter(f"invalid CPU shares ({host.cpu_shares}): value must be a positive integer")
    if host.cpu_shares > 0 and not can.cpu_shares:
        warnings.append(_lacks("CPU shares") + " Shares discarded.")
        host.cpu_shares = 0
    if (host.cpu_period or host.cpu_quota) and not can.cpu_cfs:
        warnings.append("Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.")
        host.cpu_period = host.cpu_quota = 0
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        raise InvalidParameter("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < host.cpu_quota < 1000:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if (host.cpu_realtime_period or host.cpu_realtime_runtime) and not can.cpu_realtime:
        raise InvalidParameter("Your kernel does not support CPU real-time scheduler")
    if host.cpu_realtime_period and host.cpu_realtime_runtime > host.cpu_realtime_period:
        raise InvalidParameter("cpu real-time runtime cannot be higher than cpu real-time period")
    if host.cpu_percent > 0:
        warnings.append("linux does not support CPU percent. Percent discarded.")
        host.cpu_percent = 0


def _verify_cpuset(host: HostConfig, can: HostLimits, warnings: list[str]) -> None:
    if (host.cpuset_cpus or host.cpuset_mems) and not can.cpuset:
        warnings.append(_lacks("cpuset") + " Cpuset discarded.")
        host.cpuset_cpus = host.cpuset_mems = ""
    for asked, there, kind, named in (
        (host.cpuset_cpus, can.cpus, "cpuset cpus", "CPUs"),
        (host.cpuset_mems, can.mems, "cpuset mems", "memory nodes"),
    ):
        if not asked:
            continue
        try:
            wanted = numbers_of(asked)
        except InvalidParameter as error:
            raise InvalidParameter(f"Invalid value {asked} for {kind}: {error.message}") from None
        if not wanted <= numbers_of(there):
            raise InvalidParameter(f"Requested {named} are not available - requested {asked}, available: {there}")


def _verify_block_io(host: HostConfig, can: HostLimits, warnings: list[str]) -> None:
    if host.io_maximum_bandwidth or host.io_maximum_iops:
        raise InvalidParameter("Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps")
    if host.blkio_weight > 0 and not can.io_weight:
        warnings.append(_lacks("Block I/O weight") + " Weight discarded.")
        host.blkio_weight = 0
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    if host.blkio_weight_device and not can.io_weight:
        warnings.append(_lacks("Block I/O weight_device") + " Weight-device discarded.")
        host.blkio_weight_device = []
    for name, way, unit in (
        ("blkio_device_read_bps", "read", "BPS Block I/O"),
        ("blkio_device_write_bps", "write", "BPS Block I/O"),
        ("blkio_device_read_iops", "read", "IOPS Block"),
        ("blkio_device_write_iops", "write", "IOPS Block"),
    ):
        if getattr(host, name) and not can.io_throttle:
            kind = unit.partition(" ")[0]
            warnings.append(_lacks(f"{unit} {way} limit") + f" Block I/O {kind} {way} limit discarded.")
            setattr(host, name, [])


def _verify_ulimit(limit: Ulimit) -> None:
    if limit.name not in ULIMITS:
        raise InvalidParameter(f"invalid ulimit type: {limit.name}")
    unlimited = limit.hard == -1
    if not unlimited and (limit.soft > limit.hard or limit.soft == -1):
        raise InvalidParameter(
            f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}"
        )


# -- what they become


def resources(host: HostConfig) -> Resources:
    """The limits for the runtime, without devices. Raises InvalidParameter for a block device that is not there."""
    return Resources(
        memory=_memory(host),
        cpu=_cpu(host),
        pids=None if host.pids_limit is None else Pids(host.pids_limit if host.pids_limit > 0 else -1),
        block_io=_block_io(host),
    )


def _memory(host: HostConfig) -> Memory | None:
    memory = Memory(
        limit=host.memory or None,
        reservation=host.memory_reservation or None,
        swap=host.memory_swap or None,
        kernel_tcp=host.kernel_memory_tcp or None,
        swappiness=host.memory_swappiness,
        disable_oom_killer=host.oom_kill_disable or None,
    )
    if not host.memory and host.memory_swap == -1:
        memory.swap = None  # no limit on memory: none on swap either, and nothing to write
    return memory if memory != Memory() else None


def _cpu(host: HostConfig) -> Cpu | None:
    quota, period = host.cpu_quota, host.cpu_period
    if host.nano_cpus > 0:
        period = CPU_PERIOD
        quota = host.nano_cpus * period // 1_000_000_000
    cpu = Cpu(
        shares=host.cpu_shares or None,
        quota=quota or None,
        period=period or None,
        realtime_runtime=host.cpu_realtime_runtime or None,
        realtime_period=host.cpu_realtime_period or None,
        cpus=host.cpuset_cpus,
        mems=host.cpuset_mems,
    )
    return cpu if cpu != Cpu() else None


def _block_io(host: HostConfig) -> BlockIO | None:
    block = BlockIO(
        weight=host.blkio_weight or None,
        weight_device=[
            WeightDevice(*_block_device(device.path), weight=device.weight) for device in host.blkio_weight_device or []
        ],
        throttle_read_bps_device=_throttles(host.blkio_device_read_bps),
        throttle_write_bps_device=_throttles(host.blkio_device_write_bps),
        throttle_read_iops_device=_throttles(host.blkio_device_read_iops),
        throttle_write_iops_device=_throttles(host.blkio_device_write_iops),
    )
    return block if block != BlockIO() else None


def _throttles(rates: Sequence[ThrottleRate] | None) -> list[ThrottleDevice]:
    return [ThrottleDevice(*_block_device(rate.path), rate=rate.rate) for rate in rates or []]


def _block_device(path: str) -> tuple[int, int]:
    try:
        device = os.stat(path).st_rdev
    except OSError as error:
        raise InvalidParameter(f"stat {path}: {(error.strerror or '').lower()}") from None
    return os.major(device), os.minor(device)


def rlimits(host: HostConfig, open_files: tuple[int, int] | None) -> list[Rlimit]:
    """The ulimits for the runtime; -1 is no limit. `open_files`: (soft, hard) where a container says nothing of it."""
    wanted = {limit.name.upper(): (limit.soft, limit.hard) for limit in host.ulimits or []}
    if open_files is not None:
        wanted.setdefault("NOFILE", open_files)
    return [Rlimit(f"RLIMIT_{name}", soft % (1 << 64), hard % (1 << 64)) for name, (soft, hard) in wanted.items()]


# -- how they change


def updated(present: HostConfig, wanted: HostConfig) -> HostConfig:
    """`present` with what is set in `wanted`. Raises Conflict for what can't be changed like that."""
    for one, one_name, other, other_name in (
        ("nano_cpus", "Nano CPUs", "cpu_period", "CPU Period"),
        ("nano_cpus", "Nano CPUs", "cpu_quota", "CPU Quota"),
        ("cpu_period", "CPU Period", "nano_cpus", "NanoCPUs"),
        ("cpu_quota", "CPU Quota", "nano_cpus", "NanoCPUs"),
    ):
        if getattr(wanted, one) > 0 and getattr(present, other) > 0:
            raise Conflict(f"Conflicting options: {one_name} cannot be updated as {other_name} has already been set")
    if wanted.memory and not wanted.memory_swap and 0 < present.memory_swap < wanted.memory:
        raise Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
    changed = {name: getattr(wanted, name) for name in UPDATED if getattr(wanted, name) not in (None, 0, "")}
    if wanted.pids_limit is not None:
        changed["pids_limit"] = max(wanted.pids_limit, 0)  # none, as moby keeps it
    if wanted.restart_policy.name:
        if present.auto_remove and wanted.restart_policy.name != "no":
            raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
        changed["restart_policy"] = wanted.restart_policy
    return msgspec.structs.replace(present, **changed)
