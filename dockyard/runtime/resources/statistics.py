"""A container's counters in the shape that `events` prints, which is runc's: engines read it.

Shape: types/events.go of opencontainers/runc. Zero is left out where runc leaves it out.
"""

from typing import Any

from dockyard.linux.cgroup_counters import BlockRow, Pressure, Usage, read
from dockyard.linux.cgroups import Cgroup


def of(group: Cgroup, pid: int = 0) -> dict[str, Any]:
    """The `data` of a `stats` event: times in ns, sizes in bytes. `pid` is in the container's network namespace."""
    counters = read(group)
    cpu: dict[str, Any] = {
        "usage": _some(
            total=counters.cpu_total,
            percpu=counters.cpu_per,
            percpu_kernel=counters.cpu_per_system,
            percpu_user=counters.cpu_per_user,
        )
        | {"kernel": counters.cpu_system, "user": counters.cpu_user},
        "throttling": _some(
            periods=counters.periods,
            throttledPeriods=counters.throttled_periods,
            throttledTime=counters.throttled_time,
        ),
    }
    memory: dict[str, Any] = {
        **_some(cache=counters.cache),
        "usage": _memory(counters.memory),
        "swap": _memory(counters.memory_and_swap),
        "kernel": _memory(counters.kernel_memory),
        "kernelTCP": _memory(counters.kernel_tcp),
        **_some(raw=counters.memory_stat),
    }
    blocks: dict[str, Any] = {
        "ioServiceBytesRecursive": _blocks(counters.blocks.get("service_bytes")),
        "ioServicedRecursive": _blocks(counters.blocks.get("serviced")),
        "ioQueueRecursive": _blocks(counters.blocks.get("queued")),
        "ioServiceTimeRecursive": _blocks(counters.blocks.get("service_time")),
        "ioWaitTimeRecursive": _blocks(counters.blocks.get("wait_time")),
        "ioMergedRecursive": _blocks(counters.blocks.get("merged")),
        "ioTimeRecursive": _blocks(counters.blocks.get("time")),
        "sectorsRecursive": _blocks(counters.blocks.get("sectors")),
    }
    blocks = _some(**blocks)
    for part, name in ((cpu, "cpu"), (memory, "memory"), (blocks, "io")):
        if name in counters.pressure:
            part["psi"] = _pressure(counters.pressure[name])
    return {
        "cpu": cpu,
        "cpuset": _cpuset(counters.cpuset),
        "memory": memory,
        "pids": _some(current=counters.pids, limit=counters.pids_limit),
        "blkio": blocks,
        "hugetlb": {
            size: _some(usage=usage.usage, max=usage.peak) | {"failcnt": usage.failures}
            for size, usage in counters.hugepages.items()
        },
        "intel_rdt": {},
        "network_interfaces": _interfaces(pid) if pid else None,
    }


def _some(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def _memory(usage: Usage) -> dict[str, int]:
    return {"limit": usage.limit, **_some(usage=usage.usage, max=usage.peak), "failcnt": usage.failures}


def _blocks(rows: list[BlockRow] | None) -> list[dict[str, Any]]:
    return [_some(major=major, minor=minor, op=name, value=value) for major, minor, name, value in rows or []]


def _cpuset(values: dict[str, list[int] | int]) -> dict[str, Any]:
    flags = (
        "cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page",
        "memory_spread_slab", "memory_pressure", "sched_load_balance", "sched_relax_domain_level",
    )  # fmt: skip
    return _some(cpus=values.get("cpus"), mems=values.get("mems")) | {name: values.get(name, 0) for name in flags}


def _pressure(pressure: Pressure) -> dict[str, Any]:
    names = ("avg10", "avg60", "avg300", "total")
    shown = {"some": dict(zip(names, pressure.some, strict=True))}
    if pressure.full is not None:
        shown["full"] = dict(zip(names, pressure.full, strict=True))
    return shown


def _interfaces(pid: int) -> list[dict[str, Any]]:
    """The devices of the process's network namespace but loopback."""
    names = ("Bytes", "Packets", "Errors", "Dropped")
    found = []
    try:
        with open(f"/proc/{pid}/net/dev") as rows:
            lines = rows.read().splitlines()[2:]
    except OSError:
        return []
    for row in lines:
        device, _, rest = row.partition(":")
        values = [int(value) for value in rest.split()]
        if device.strip() == "lo" or len(values) < 12:
            continue
        entry: dict[str, Any] = {"Name": device.strip()}
        for direction, first in (("Rx", 0), ("Tx", 8)):
            entry |= {direction + name: value for name, value in zip(names, values[first : first + 4], strict=True)}
        found.append(entry)
    return found
