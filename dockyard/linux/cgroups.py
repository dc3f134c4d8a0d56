"""Control groups, version 1 and 2, behind one class: create, join, limit, freeze, count, remove.

Version 1 has a tree per controller, mounted apart; version 2 one tree with all of them. A cgroup here is named by its
path below the tops, like `docker/<id>`. Resources are given as file names and values by the caller
(runtime/resources.py). Kernel: admin-guide/cgroup-v1, admin-guide/cgroup-v2.
"""

import contextlib
import errno
import os
import time
from dataclasses import dataclass
from functools import lru_cache

from dockyard.linux import recorder, syscalls

ROOT = "/sys/fs/cgroup"


@dataclass(frozen=True, slots=True)
class Layout:
    """How this host mounts cgroups: `tops` maps each v1 controller to its mount point; v2 has just one under ""."""

    version: int
    tops: dict[str, str]


@lru_cache(maxsize=1)
def layout() -> Layout:
    """Read once per process: the mounts do not change under a running engine."""
    tops: dict[str, str] = {}
    unified = ""
    with open("/proc/self/mountinfo") as rows:
        for row in rows:
            fields, _, rest = row.partition(" - ")
            kind, _, options = rest.split()[:3]
            target = fields.split(" ")[4]
            if kind == "cgroup2":
                unified = unified or target
            elif kind == "cgroup":
                for option in options.split(","):
                    if option.startswith("name=") or option in _CONTROLLERS:
                        tops.setdefault(option, target)
    if not tops and unified:
        return Layout(2, {"": unified})
    return Layout(1, tops)


def favor_dynmods() -> int:
    """Make moving a process into a cgroup quick; returns a descriptor that keeps it so, or -1 where it cannot be had.

    The kernel holds back every fork and exit of the machine while a process is moved, and finds the moment to do so by
    waiting for an RCU grace period: some 10 ms, most of what a container's start costs. With `favordynmods` (Linux
    6.0; admin-guide/cgroup-v2) forks and exits take a lock that costs them less than a microsecond, and moving waits
    for nobody. Any hierarchy may ask for it: here one of our own, without controllers, mounted nowhere.
    """
    try:
        context = syscalls.fsopen("cgroup")
    except OSError:
        return -1
    try:
        for key, value in (("none", None), ("name", "dockyard"), ("favordynmods", None)):
            command = syscalls.FSCONFIG_SET_STRING if value else syscalls.FSCONFIG_SET_FLAG
            syscalls.fsconfig(context, command, key, value)
        syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE)
        return syscalls.fsmount(context)
    except OSError:
        return -1
    finally:
        os.close(context)


_CONTROLLERS = frozenset(
    "cpu cpuacct cpuset memory devices freezer blkio pids net_cls net_prio perf_event hugetlb rdma misc".split()
)
# Controllers a v2 group's parents must hand down for a container's limits.
_V2_WANTED = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma")


def _write(path: str, value: str) -> None:
    recorder.note("write", path, value)
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
    finally:
        os.close(fd)
    return b"".join(parts).decode()


class Cgroup:
    """One cgroup, in every hierarchy. The directories need not exist until `create`."""

    def __init__(self, path: str, kind: Layout | None = None) -> None:
        self.layout = kind or layout()
        self.path = "/" + os.path.normpath("/" + path).strip("/")
        self.version = self.layout.version
        # cpu and cpuacct may be one mount (cpu,cpuacct): each directory once
        self.directories = list(dict.fromkeys(top + self.path for top in self.layout.tops.values()))

    def directory(self, controller: str) -> str | None:
        """Where `controller` keeps this cgroup, or None when the host lacks it."""
        top = self.layout.tops.get("" if self.version == 2 else controller)
        return None if top is None else top + self.path

    def create(self) -> None:
        """Make the directories, parents too. Raises OSError; then what was made is gone again."""
        made: list[str] = []
        try:
            for directory in self.directories:
                self._create(directory, made)
        except BaseException:
            for directory in reversed(made):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
            raise

    def _create(self, directory: str, made: list[str]) -> None:
        recorder.note("mkdir", directory)
        try:
            os.mkdir(directory, 0o755)
        except FileNotFoundError:
            self._create(os.path.dirname(directory), [])
            self._create(directory, made)
            return
        except FileExistsError:
            return
        made.append(directory)
        if self.version == 2:
            _hand_down(os.path.dirname(directory), self.layout.tops[""])
        elif directory.startswith(self.layout.tops.get("cpuset", "\0") + "/"):
            # a new v1 cpuset is empty and takes no process until it has processors and memory nodes
            parent = os.path.dirname(directory)
            for name in ("cpuset.cpus", "cpuset.mems"):
                _write(f"{directory}/{name}", _read(f"{parent}/{name}"))

    def join(self, pid: int) -> None:
        """Move the process `pid` (0: the caller) into every hierarchy."""
        for directory in self.directories:
            _write(f"{directory}/cgroup.procs", str(pid))

    def write(self, controller: str, name: str, value: str) -> None:
        """Set `name` (e.g. memory.limit_in_bytes). Raises FileNotFoundError when this kernel has no such file."""
        directory = self.directory(controller)
        if directory is None:
            raise FileNotFoundError(errno.ENOENT, f"no {controller} controller on this host", name)
        _write(f"{directory}/{name}", value)

    def read(self, controller: str, name: str) -> str | None:
        """The text of `name`, or None when there is none."""
        directory = self.directory(controller)
        if directory is None:
            return None
        try:
            return _read(f"{directory}/{name}")
        except OSError:
            return None

    def number(self, controller: str, name: str) -> int:
        """The number in `name`; 0 when there is none, "max" is a number no machine reaches."""
        text = (self.read(controller, name) or "0").strip()
        return (1 << 63) - 1 if text == "max" else int(text) if text.lstrip("-").isdigit() else 0

    def table(self, controller: str, name: str) -> dict[str, int]:
        """A file of `key number` lines, like memory.stat."""
        rows = (line.split() for line in (self.read(controller, name) or "").splitlines())
        return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].lstrip("-").isdigit()}

    def pids(self, *, below: bool = True) -> list[int]:
        """Processes in this cgroup and, unless told otherwise, the ones below it."""
        directory = self.directory("pids") or self.directory("memory") or self.directories[0]
        found: list[int] = []
        for folder, _, _ in os.walk(directory) if below else [(directory, [], [])]:
            with contextlib.suppress(OSError):
                found.extend(int(pid) for pid in _read(f"{folder}/cgroup.procs").split())
        return found

    def exists(self) -> bool:
        """Whether any of the directories is there."""
        return any(os.path.isdir(directory) for directory in self.directories)

    def freeze(self, frozen: bool) -> None:
        """Stop, or let go on, every process inside; returns when it is so. Raises OSError(ETIMEDOUT) after 2 s."""
        if self.version == 2:
            self.write("", "cgroup.freeze", "1" if frozen else "0")
        else:
            self.write("freezer", "freezer.state", "FROZEN" if frozen else "THAWED")
        deadline = time.monotonic() + 2
        while self.frozen() is not frozen:
            if time.monotonic() > deadline:
                if frozen:
                    self.freeze(False)
                raise TimeoutError(errno.ETIMEDOUT, "the freezer does not settle", self.path)
            if self.version == 1 and frozen:
                # a process that forks while freezing can leave the state at FREEZING: ask again (runc does)
                self.write("freezer", "freezer.state", "FROZEN")
            time.sleep(0.001)

    def frozen(self) -> bool:
        """Whether all processes inside are stopped by the freezer."""
        if self.version == 2:
            return self.table("", "cgroup.events").get("frozen") == 1
        return (self.read("freezer", "freezer.state") or "").strip() == "FROZEN"

    def kill(self) -> bool:
        """SIGKILL everything inside at once where the kernel can (v2, Linux 5.14); False when it can't."""
        if self.version == 2:
            with contextlib.suppress(OSError):
                self.write("", "cgroup.kill", "1")
                return True
        return False

    def oom_kills(self) -> int:
        """How many processes inside the kernel has killed for want of memory."""
        if self.version == 2:
            return self.table("memory", "memory.events").get("oom_kill", 0)
        return self.table("memory", "memory.oom_control").get("oom_kill", 0)

    def remove(self, *, patience: float = 2.0) -> None:
        """Remove the directories and all below them. Waits up to `patience` s for processes that are just ending.

        Raises OSError(EBUSY) when processes stay inside.
        """
        for directory in self.directories:
            delay = 0.0005
            deadline = time.monotonic() + patience
            while not _remove_tree(directory):
                if time.monotonic() > deadline:
                    raise OSError(errno.EBUSY, "cgroup still has processes", directory)
                time.sleep(delay)
                delay = min(delay * 2, 0.05)


def _remove_tree(directory: str) -> bool:
    """rmdir `directory` and what is below; True when it is gone."""
    recorder.note("rmdir", directory)
    try:
        os.rmdir(directory)
        return True
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    for folder, _, _ in os.walk(directory, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return not os.path.isdir(directory)


def _hand_down(parent: str, top: str) -> None:
    """Enable in `parent` (v2) the controllers its children's limits need, as far as it has them."""
    try:
        available = set(_read(f"{parent}/cgroup.controllers").split())
        enabled = set(_read(f"{parent}/cgroup.subtree_control").split())
    except OSError:
        return
    for controller in _V2_WANTED:
        if controller in available and controller not in enabled:
            with contextlib.suppress(OSError):
                _write(f"{parent}/cgroup.subtree_control", f"+{controller}")


def path_of(pid: int | str) -> dict[str, str]:
    """The cgroup paths of a process by controller ("" is v2), as /proc/<pid>/cgroup tells them."""
    found = {}
    with open(f"/proc/{pid}/cgroup") as rows:
        for row in rows:
            _, controllers, path = row.rstrip("\n").split(":", 2)
            for controller in controllers.split(","):
                found[controller] = path
    return found
