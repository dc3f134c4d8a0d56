"""What this host's kernel can limit: which cgroup files it has, which processors and memory nodes there are."""

import os
from dataclasses import dataclass, replace
from functools import lru_cache

from dockyard.errors import InvalidParameter
from dockyard.linux import cgroups


@dataclass(frozen=True, slots=True)
class HostLimits:
    """Each flag: whether the kernel takes that limit. `cpus`, `mems`: lists like 0-3, as the kernel writes them."""

    memory: bool
    swap: bool
    reservation: bool
    swappiness: bool
    oom_kill_disable: bool
    pids: bool
    cpu_shares: bool
    cpu_cfs: bool
    cpu_realtime: bool
    cpuset: bool
    io_weight: bool
    io_throttle: bool
    cpus: str = ""
    mems: str = ""


def host_limits() -> HostLimits:
    """What there is to limit, and by now: processors and memory may come and go."""
    layout = cgroups.layout()
    top = layout.tops.get("" if layout.version == 2 else "cpuset", "")
    names = ("cpuset.cpus.effective", "cpuset.mems.effective")
    if layout.version == 1:
        names = ("cpuset.effective_cpus", "cpuset.effective_mems")
    return replace(
        _of_kernel(),
        cpus=_read(f"{top}/{names[0]}") or _read("/sys/devices/system/cpu/online"),
        mems=_read(f"{top}/{names[1]}") or _read("/sys/devices/system/node/online"),
    )


@lru_cache(maxsize=1)
def _of_kernel() -> HostLimits:
    """Looked up once: a kernel does not change under a running engine."""
    layout = cgroups.layout()
    if layout.version == 2:
        return _version_2(layout.tops[""])

    def has(controller: str, *names: str) -> bool:
        top = layout.tops.get(controller)
        return top is not None and (not names or any(os.path.exists(f"{top}/{name}") for name in names))

    return HostLimits(
        memory=has("memory"),
        swap=has("memory", "memory.memsw.limit_in_bytes"),
        reservation=has("memory", "memory.soft_limit_in_bytes"),
        swappiness=has("memory", "memory.swappiness"),
        oom_kill_disable=has("memory", "memory.oom_control"),
        pids=has("pids"),
        cpu_shares=has("cpu", "cpu.shares"),
        cpu_cfs=has("cpu", "cpu.cfs_quota_us"),
        cpu_realtime=has("cpu", "cpu.rt_period_us"),
        cpuset=has("cpuset"),
        # Linux 5.0 has given the weights to the BFQ scheduler
        io_weight=has("blkio", "blkio.weight", "blkio.bfq.weight"),
        io_throttle=has("blkio", "blkio.throttle.read_bps_device"),
    )


def _version_2(top: str) -> HostLimits:
    controllers = set(_read(f"{top}/cgroup.controllers").split())
    memory = "memory" in controllers
    return HostLimits(
        memory=memory,
        swap=memory and os.path.exists("/proc/swaps"),
        reservation=memory,
        swappiness=False,
        oom_kill_disable=False,
        pids="pids" in controllers,
        cpu_shares="cpu" in controllers,
        cpu_cfs="cpu" in controllers,
        cpu_realtime=False,
        cpuset="cpuset" in controllers,
        io_weight="io" in controllers,
        io_throttle="io" in controllers,
    )


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def numbers_of(text: str) -> set[int]:
    """`0-2,4` as {0, 1, 2, 4}. Raises InvalidParameter."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        if not first.strip().isdecimal() or (dash and not last.strip().isdecimal()) or len(first) > 6 or len(last) > 6:
            raise InvalidParameter(f"invalid format: {text}")
        low, high = int(first), int(last or first)
        if high < low:
            raise InvalidParameter(f"invalid format: {text}")
        found.update(range(low, high + 1))
    return found
