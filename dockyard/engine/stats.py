"""How much of the machine a container uses now: counters of its cgroup and its network devices."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from dockyard.engine.container import Container
from dockyard.engine.containers import ContainerService
from dockyard.engine.networks import NetworkService
from dockyard.linux.cgroups import Cgroup

NO_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class InterfaceCounters:
    """Bytes, packets, errors and drops of one network device, in both directions."""

    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters at `read_ns` (UNIX ns). Times in ns, sizes in bytes; `blocks` are (major, minor, operation, bytes)."""

    read_ns: int
    pids: int = 0
    pids_limit: int = 0
    cpu_total: int = 0
    cpu_per: list[int] = field(default_factory=list)
    cpu_user: int = 0
    cpu_system: int = 0
    throttling: dict[str, int] = field(default_factory=dict)
    host_cpu: int = 0
    online_cpus: int = 0
    memory_usage: int = 0
    memory_max: int = 0
    memory_limit: int = 0
    memory_stats: dict[str, int] = field(default_factory=dict)
    memory_failures: int = 0
    blocks: list[tuple[int, int, str, int]] = field(default_factory=list)
    networks: dict[str, InterfaceCounters] = field(default_factory=dict)


class StatsService:
    """Reads counters on demand; nothing is kept."""

    def __init__(self, containers: ContainerService, networks: NetworkService) -> None:
        self._containers = containers
        self._networks = networks
        self._host_memory = _host_memory()

    def sample(self, container: Container) -> Sample:
        """The counters of a running container now; zeros when it does not run."""
        now = time.time_ns()
        if not container.state.running:
            return Sample(now)
        group = Cgroup(self._containers.cgroup_path(container))
        read = _read_v2 if group.version == 2 else _read_v1
        values = read(group)
        limit = int(values.pop("memory_limit"))  # type: ignore[call-overload]  # a number by construction
        host_cpu, online = _host_cpu()
        return Sample(
            read_ns=now,
            host_cpu=host_cpu,
            online_cpus=online,
            memory_limit=min(limit, self._host_memory) if limit else self._host_memory,
            networks=_interfaces(container),
            **values,  # type: ignore[arg-type]  # a dict of this dataclass's fields
        )


def _read_v1(group: Cgroup) -> dict[str, object]:
    usage = group.number("cpuacct", "cpuacct.usage")
    ticks = group.table("cpuacct", "cpuacct.stat")
    tick = 10_000_000  # USER_HZ is 100 on every machine
    per = (group.read("cpuacct", "cpuacct.usage_percpu") or "").split()
    blocks = []
    for row in (group.read("blkio", "blkio.throttle.io_service_bytes_recursive") or "").splitlines():
        fields = row.split()
        if len(fields) == 3 and ":" in fields[0]:
            major, minor = fields[0].split(":")
            blocks.append((int(major), int(minor), fields[1].lower(), int(fields[2])))
    limit = group.number("memory", "memory.limit_in_bytes")
    pids_limit = group.number("pids", "pids.max")
    return {
        "pids": group.number("pids", "pids.current"),
        "pids_limit": pids_limit if pids_limit < NO_LIMIT else 0,
        "cpu_total": usage,
        "cpu_per": [int(value) for value in per],
        "cpu_user": ticks.get("user", 0) * tick,
        "cpu_system": ticks.get("system", 0) * tick,
        "throttling": group.table("cpu", "cpu.stat"),
        "memory_usage": group.number("memory", "memory.usage_in_bytes"),
        "memory_max": group.number("memory", "memory.max_usage_in_bytes"),
        "memory_limit": limit if limit < NO_LIMIT else 0,
        "memory_stats": group.table("memory", "memory.stat"),
        "memory_failures": group.number("memory", "memory.failcnt"),
        "blocks": blocks,
    }


def _read_v2(group: Cgroup) -> dict[str, object]:
    cpu = group.table("cpu", "cpu.stat")
    blocks = []
    for row in (group.read("io", "io.stat") or "").splitlines():
        device, *pairs = row.split()
        major, minor = device.split(":")
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key in ("rbytes", "wbytes"):
                blocks.append((int(major), int(minor), "read" if key == "rbytes" else "write", int(value)))
    limit, pids_limit = group.number("memory", "memory.max"), group.number("pids", "pids.max")
    return {
        "pids": group.number("pids", "pids.current"),
        "pids_limit": pids_limit if pids_limit < NO_LIMIT else 0,
        "cpu_total": cpu.get("usage_usec", 0) * 1000,
        "cpu_user": cpu.get("user_usec", 0) * 1000,
        "cpu_system": cpu.get("system_usec", 0) * 1000,
        "throttling": {
            "nr_periods": cpu.get("nr_periods", 0),
            "nr_throttled": cpu.get("nr_throttled", 0),
            "throttled_time": cpu.get("throttled_usec", 0) * 1000,
        },
        "memory_usage": group.number("memory", "memory.current"),
        "memory_limit": limit if limit < NO_LIMIT else 0,
        "memory_stats": group.table("memory", "memory.stat"),
        "memory_failures": group.table("memory", "memory.events").get("max", 0),
        "blocks": blocks,
    }


def _host_cpu() -> tuple[int, int]:
    """(time all processors have spent on anything, ns; how many are on line)."""
    lines = Path("/proc/stat").read_text().splitlines()
    ticks = sum(int(value) for value in lines[0].split()[1:9])
    return ticks * 10_000_000, sum(line.startswith("cpu") for line in lines) - 1


def _host_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def _interfaces(container: Container) -> dict[str, InterfaceCounters]:
    """The devices of the container's network namespace but loopback, by /proc/<pid>/net/dev."""
    if container.host_config.network_mode == "host":
        return {}
    found = {}
    try:
        rows = Path(f"/proc/{container.state.pid}/net/dev").read_text().splitlines()[2:]
    except OSError:
        return {}
    for row in rows:
        name, _, rest = row.partition(":")
        values = [int(value) for value in rest.split()]
        if name.strip() != "lo" and len(values) >= 12:
            found[name.strip()] = InterfaceCounters(*values[0:4], *values[8:12])
    return found
