"""What a cgroup has used so far: the kernel's counters of version 1 and 2 in one form."""

from dataclasses import dataclass, field

from dockyard.linux.cgroups import Cgroup

UNLIMITED = (1 << 64) - 1
_USER_HZ_NS = 10_000_000  # USER_HZ is 100 on every machine
# What v1 says when there is no limit: the largest number of pages that fits a long, in bytes.
_V1_NO_LIMIT = 1 << 62

BlockRow = tuple[int, int, str, int]


@dataclass(frozen=True, slots=True)
class Usage:
    """Of memory or swap, in bytes; `failures` counts how often the limit was hit."""

    usage: int = 0
    peak: int = 0
    limit: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Pressure:
    """Pressure stall information (PSI): shares of time in percent over 10, 60 and 300 s, and the total in µs."""

    some: tuple[float, float, float, int]
    full: tuple[float, float, float, int] | None


@dataclass(frozen=True, slots=True)
class Counters:
    """Times in ns, sizes in bytes. `blocks` maps what is counted to rows of (major, minor, operation, value)."""

    pids: int = 0
    pids_limit: int = 0  # 0: none
    cpu_total: int = 0
    cpu_user: int = 0
    cpu_system: int = 0
    cpu_per: list[int] = field(default_factory=list)
    cpu_per_user: list[int] = field(default_factory=list)
    cpu_per_system: list[int] = field(default_factory=list)
    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0
    memory: Usage = Usage()
    memory_and_swap: Usage = Usage()
    kernel_memory: Usage = Usage()
    kernel_tcp: Usage = Usage()
    cache: int = 0
    memory_stat: dict[str, int] = field(default_factory=dict)
    oom_kills: int = 0
    blocks: dict[str, list[BlockRow]] = field(default_factory=dict)
    hugepages: dict[str, Usage] = field(default_factory=dict)
    cpuset: dict[str, list[int] | int] = field(default_factory=dict)
    pressure: dict[str, Pressure] = field(default_factory=dict)


def read(group: Cgroup) -> Counters:
    """The counters now; zeros for what the host does not count."""
    return _read_v2(group) if group.version == 2 else _read_v1(group)


# -- version 1


def _read_v1(group: Cgroup) -> Counters:
    ticks = group.table("cpuacct", "cpuacct.stat")
    throttling = group.table("cpu", "cpu.stat")
    stat = group.table("memory", "memory.stat")
    user, system = _per_cpu(group)
    return Counters(
        pids=group.number("pids", "pids.current"),
        pids_limit=_limit_of_tasks(group),
        cpu_total=group.number("cpuacct", "cpuacct.usage"),
        cpu_user=ticks.get("user", 0) * _USER_HZ_NS,
        cpu_system=ticks.get("system", 0) * _USER_HZ_NS,
        cpu_per=[int(value) for value in (group.read("cpuacct", "cpuacct.usage_percpu") or "").split()],
        cpu_per_user=user,
        cpu_per_system=system,
        periods=throttling.get("nr_periods", 0),
        throttled_periods=throttling.get("nr_throttled", 0),
        throttled_time=throttling.get("throttled_time", 0),
        memory=_usage_v1(group, "memory"),
        memory_and_swap=_usage_v1(group, "memory.memsw"),
        kernel_memory=_usage_v1(group, "memory.kmem"),
        kernel_tcp=_usage_v1(group, "memory.kmem.tcp"),
        cache=stat.get("cache", 0),
        memory_stat=stat,
        oom_kills=group.oom_kills(),
        blocks=_blocks_v1(group),
        hugepages={size: _hugepages_v1(group, size) for size in _page_sizes(group, "hugetlb", ".usage_in_bytes")},
        cpuset=_cpuset(group),
    )


def _limit_of_tasks(group: Cgroup) -> int:
    limit = group.number("pids", "pids.max")
    return limit if limit < _V1_NO_LIMIT else 0


def _usage_v1(group: Cgroup, prefix: str) -> Usage:
    if group.read("memory", f"{prefix}.usage_in_bytes") is None:
        return Usage()
    return Usage(
        group.number("memory", f"{prefix}.usage_in_bytes"),
        group.number("memory", f"{prefix}.max_usage_in_bytes"),
        group.number("memory", f"{prefix}.limit_in_bytes"),
        group.number("memory", f"{prefix}.failcnt"),
    )


def _per_cpu(group: Cgroup) -> tuple[list[int], list[int]]:
    """(user, system) of each processor: lines of `cpu user system` below a heading."""
    rows = [row.split() for row in (group.read("cpuacct", "cpuacct.usage_all") or "").splitlines()[1:]]
    rows = [row for row in rows if len(row) == 3]
    return [int(row[1]) for row in rows], [int(row[2]) for row in rows]


# Files by what they count; the first set that the kernel has is taken whole (BFQ with debugging, BFQ, throttling).
_BFQ_DEBUG = {
    "sectors": "sectors_recursive",
    "service_time": "io_service_time_recursive",
    "wait_time": "io_wait_time_recursive",
    "merged": "io_merged_recursive",
    "queued": "io_queued_recursive",
    "time": "time_recursive",
    "serviced": "io_serviced_recursive",
    "service_bytes": "io_service_bytes_recursive",
}
_FEW = {"serviced": "io_serviced_recursive", "service_bytes": "io_service_bytes_recursive"}
_BLOCK_FILES = (("blkio.bfq.", _BFQ_DEBUG), ("blkio.bfq.", _FEW), ("blkio.", _BFQ_DEBUG), ("blkio.throttle.", _FEW))


def _blocks_v1(group: Cgroup) -> dict[str, list[BlockRow]]:
    for prefix, files in _BLOCK_FILES:
        found: dict[str, list[BlockRow]] = {}
        for kind, name in files.items():
            text = group.read("blkio", prefix + name)
            if text is None:
                break
            found[kind] = _block_rows(text)
        else:
            # a scheduler that the devices do not use has counted nothing
            if any(found.values()) or prefix == "blkio.throttle.":
                return found
    return {}


def _block_rows(text: str) -> list[BlockRow]:
    rows: list[BlockRow] = []
    for line in text.splitlines():
        device, *rest = line.split()
        major, colon, minor = device.partition(":")
        if colon and rest:
            rows.append((int(major), int(minor), rest[0] if len(rest) > 1 else "", int(rest[-1])))
    return rows


def _page_sizes(group: Cgroup, controller: str, suffix: str) -> list[str]:
    """The sizes of huge pages that the group counts: hugetlb.2MB.usage_in_bytes → 2MB."""
    found = set()
    for name in group.files(controller):
        if name.startswith("hugetlb.") and name.endswith(suffix):
            found.add(name.split(".")[1])
    return sorted(found)


def _hugepages_v1(group: Cgroup, size: str) -> Usage:
    prefix = f"hugetlb.{size}"
    if group.read("hugetlb", f"{prefix}.rsvd.usage_in_bytes") is not None:
        prefix += ".rsvd"  # reservations are what a container can fail at
    return Usage(
        group.number("hugetlb", f"{prefix}.usage_in_bytes"),
        group.number("hugetlb", f"{prefix}.max_usage_in_bytes"),
        group.number("hugetlb", f"{prefix}.limit_in_bytes"),
        group.number("hugetlb", f"{prefix}.failcnt"),
    )


_CPUSET_FLAGS = (
    "cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page", "memory_spread_slab",
    "memory_pressure", "sched_load_balance", "sched_relax_domain_level",
)  # fmt: skip


def _cpuset(group: Cgroup) -> dict[str, list[int] | int]:
    if group.directory("cpuset") is None:
        return {}
    found: dict[str, list[int] | int] = {
        name: numbers(group.read("cpuset", f"cpuset.{name}") or "") for name in ("cpus", "mems")
    }
    for name in _CPUSET_FLAGS:
        found[name] = group.number("cpuset", f"cpuset.{name}")
    return found


def numbers(text: str) -> list[int]:
    """A list like "0-2,5" told in full."""
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, dash, last = part.partition("-")
        found.extend(range(int(first), int(last if dash else first) + 1))
    return found


# -- version 2


def _read_v2(group: Cgroup) -> Counters:
    cpu = group.table("", "cpu.stat")
    stat = group.table("", "memory.stat")
    memory = _usage_v2(group, "memory")
    swap = _usage_v2(group, "memory.swap")
    both_limit = UNLIMITED if UNLIMITED in (swap.limit, memory.limit) else swap.limit + memory.limit
    return Counters(
        pids=group.number("", "pids.current"),
        pids_limit=_limit_of_tasks(group),
        cpu_total=cpu.get("usage_usec", 0) * 1000,
        cpu_user=cpu.get("user_usec", 0) * 1000,
        cpu_system=cpu.get("system_usec", 0) * 1000,
        periods=cpu.get("nr_periods", 0),
        throttled_periods=cpu.get("nr_throttled", 0),
        throttled_time=cpu.get("throttled_usec", 0) * 1000,
        memory=memory,
        memory_and_swap=Usage(memory.usage + swap.usage, 0, both_limit, swap.failures),
        cache=stat.get("file", 0),
        memory_stat=stat,
        oom_kills=group.oom_kills(),
        blocks=_blocks_v2(group),
        hugepages={size: _hugepages_v2(group, size) for size in _page_sizes(group, "", ".current")},
        pressure=_pressures(group),
    )


def _usage_v2(group: Cgroup, prefix: str) -> Usage:
    if group.read("", f"{prefix}.current") is None:
        return Usage()
    return Usage(
        group.number("", f"{prefix}.current"),
        group.number("", f"{prefix}.peak"),
        _limit_v2(group, f"{prefix}.max"),
        group.table("", f"{prefix}.events").get("max", 0),
    )


def _limit_v2(group: Cgroup, name: str) -> int:
    return UNLIMITED if (group.read("", name) or "").strip() == "max" else group.number("", name)


_IO_KEYS = {
    "rbytes": ("service_bytes", "Read"),
    "wbytes": ("service_bytes", "Write"),
    "dbytes": ("service_bytes", "Discard"),
    "rios": ("serviced", "Read"),
    "wios": ("serviced", "Write"),
    "dios": ("serviced", "Discard"),
}


def _blocks_v2(group: Cgroup) -> dict[str, list[BlockRow]]:
    found: dict[str, list[BlockRow]] = {}
    for line in (group.read("", "io.stat") or "").splitlines():
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key in _IO_KEYS and value.isdigit():
                kind, operation = _IO_KEYS[key]
                found.setdefault(kind, []).append((int(major), int(minor), operation, int(value)))
    return found


def _hugepages_v2(group: Cgroup, size: str) -> Usage:
    prefix = f"hugetlb.{size}"
    events = group.table("", f"{prefix}.events")
    if group.read("", f"{prefix}.rsvd.current") is not None:
        prefix += ".rsvd"
    return Usage(group.number("", f"{prefix}.current"), 0, _limit_v2(group, f"{prefix}.max"), events.get("max", 0))


def _pressures(group: Cgroup) -> dict[str, Pressure]:
    found = {}
    for name in ("cpu", "memory", "io"):
        rows = {}
        for line in (group.read("", f"{name}.pressure") or "").splitlines():
            kind, *pairs = line.split()
            values = dict(pair.split("=") for pair in pairs)
            rows[kind] = (
                float(values["avg10"]), float(values["avg60"]), float(values["avg300"]), int(values["total"])
            )  # fmt: skip
        if "some" in rows:
            found[name] = Pressure(rows["some"], rows.get("full"))
    return found
