"""Finding a daemon's helpers among the machine's processes: its zygote, the ready shim, and who holds a container."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dockyard.linux.cgroups import layout

T = TypeVar("T")


def parent_of(pid: int) -> int:
    """Its parent's PID."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def state_of(pid: int) -> str:
    """R, S, T, Z…; "" when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def gone(pid: int) -> bool:
    """Whether it has ended; an init that reaps is not a matter of ours."""
    return state_of(pid) in ("", "Z", "X")


def children_of(parent: int) -> list[int]:
    """The processes whose parent is `parent`."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if parent_of(int(entry)) == parent:
                    found.append(int(entry))
            except OSError:
                continue
    return found


def named(name: str, parent: int) -> list[int]:
    """The children of `parent` that are called `name`."""
    found = []
    for pid in children_of(parent):
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                found.append(pid)
        except OSError:
            continue
    return found


def zygote_of(daemon: int) -> int:
    """The daemon's zygote."""
    return eventually(lambda: named("dockyard-zygote", daemon))[0]


def shim_of(container_pid: int) -> int:
    """The shim whose child a container's first process is."""
    return parent_of(container_pid)


def descriptors_of(pid: int) -> int:
    """How many it has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory_of(pid: int) -> int:
    """Its proportional share of memory, in KiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def eventually(look: Callable[[], T], seconds: float = 60) -> T:
    """What `look` finds, once it finds something; `seconds` are for a slow, busy machine."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still {found!r} after {seconds} s")
        time.sleep(0.02)
    return found


def cgroup_beside_ours(controller: str, name: str) -> Path:
    """Where the runtime makes a cgroup for which no place is given: below the caller's own, as runc does."""
    rows = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    if layout().version == 2:
        return Path(f"/sys/fs/cgroup{rows[0][2]}".rstrip("/"), name)
    own = next(path for _, controllers, path in rows if controller in controllers.split(","))
    return Path(f"/sys/fs/cgroup/{controller}{own}".rstrip("/"), name)
