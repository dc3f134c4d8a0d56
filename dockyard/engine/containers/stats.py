"""How much of the machine a container uses now: counters of its cgroup and its network devices."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from dockyard.engine.containers.container import Container
from dockyard.engine.containers.service import ContainerService
from dockyard.engine.networks.service import NetworkService
from dockyard.linux import cgroup_counters
from dockyard.linux.cgroup_counters import Counters
from dockyard.linux.cgroups import Cgroup


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
    """Counters at `read_ns` (UNIX ns), with the host's to compare them to. `used` is None when it does not run."""

    read_ns: int
    used: Counters | None = None
    memory_limit: int = 0
    host_cpu: int = 0
    online_cpus: int = 0
    networks: dict[str, InterfaceCounters] = field(default_factory=dict)


class StatsService:
    """Reads counters on demand; nothing is kept."""

    def __init__(self, containers: ContainerService, networks: NetworkService) -> None:
        self._containers = containers
        self._networks = networks
        self._host_memory = _host_memory()

    def sample(self, container: Container) -> Sample:
        """The counters of a running container now; none when it does not run."""
        now = time.time_ns()
        if not container.state.running:
            return Sample(now)
        used = cgroup_counters.read(Cgroup(self._containers.cgroup_path(container)))
        host_cpu, online = _host_cpu()
        limit = used.memory.limit
        return Sample(
            read_ns=now,
            used=used,
            memory_limit=min(limit, self._host_memory) if limit else self._host_memory,
            host_cpu=host_cpu,
            online_cpus=online,
            networks=_interfaces(container),
        )


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
