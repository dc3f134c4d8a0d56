"""Control groups, version 1 and 2, behind one class: create, join, limit, freeze, count, remove.

Version 1 has a tree per controller, mounted apart; version 2 one tree with all of them; a hybrid host has version 2
beside version 1, without controllers, and a container's processes are in both. A cgroup here is named by its
path below the tops, like `docker/<id>`. Resources are given as file names and values by the caller
(runtime/resources/limits.py). Kernel: admin-guide/cgroup-v1, admin-guide/cgroup-v2.
"""

import contextlib
import errno
import os
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

from dockyard.linux import recorder

ROOT = "/sys/fs/cgroup"


@dataclass(frozen=True, slots=True)
class Layout:
    """How this host mounts cgroups: `tops` maps each v1 controller to its mount point; v2 has just one under "".

    A hybrid host is version 1 with the tree of version 2 mounted beside it, without controllers: it is under "" too.
    """

    version: int
    tops: dict[str, str]


@lru_cache(maxsize=1)
def layout() -> Layout:
    """Read once per process: the mounts do not change under a running engine."""
    tops: dict[str, str] = {}
    with open("/proc/self/mountinfo") as rows:
        for row in rows:
            fields, _, rest = row.partition(" - ")
            kind, _, options = rest.split()[:3]
            if not kind.startswith("cgroup"):
                continue
            _, _, _, root, target = fields.split(" ")[:5]
            if root.startswith("/.."):
                continue  # mounted in another cgroup namespace: what is below is not where /proc/self/cgroup says
            if kind == "cgroup2":
                tops.setdefault("", target)
            else:
                for option in options.split(","):
                    if option.startswith("name=") or option in _CONTROLLERS:
                        tops.setdefault(option, target)
    if "" in tops and not tops.keys() & _CONTROLLERS:
        return Layout(2, {"": tops[""]})
    return Layout(1, tops)


_CONTROLLERS = frozenset(
    "cpu cpuacct cpuset memory devices freezer blkio pids net_cls net_prio perf_event hugetlb rdma misc".split()
)


# What a caller without privileges is told.
_FORBIDDEN = frozenset((errno.EPERM, errno.EACCES, errno.EROFS))


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
    """One cgroup, in every hierarchy. The directories need not exist until `create`.

    `path` is below the hierarchies' tops; one without a leading slash is below the caller's own cgroup, as the runtime
    spec has it (config-linux.md, "Cgroups Path"). `paths` finds a cgroup again by what its `paths` were.
    """

    unit = ""  # the name of the systemd unit that keeps it, if one does (see linux/systemd.py)
    user = False  # that of the caller's own systemd

    def __init__(self, path: str, kind: Layout | None = None, *, paths: dict[str, str] | None = None) -> None:
        self.layout = kind or layout()
        self.version = self.layout.version
        self.path = "/" + os.path.normpath("/" + path).strip("/")
        # by controller, as in `layout.tops`
        self.paths = dict(paths) if paths else self._paths(path)

    def _paths(self, path: str) -> dict[str, str]:
        if path.startswith("/"):
            return {name: top + self.path for name, top in self.layout.tops.items()}
        own = path_of("self")
        found = {}
        for name, top in self.layout.tops.items():
            base = own.get(name, "/")
            if self.version == 2:
                # a group with processes of its own hands no controllers down: beside ours, not below
                base = os.path.dirname(base)
            found[name] = top + os.path.normpath(f"/{base}{self.path}").replace("//", "/")
        return found

    @property
    def directories(self) -> list[str]:
        """Each directory once: cpu and cpuacct may be one mount."""
        return list(dict.fromkeys(self.paths.values()))

    def directory(self, controller: str) -> str | None:
        """Where `controller` keeps this cgroup, or None when the host lacks it."""
        return self.paths.get("" if self.version == 2 else controller)

    def create(self, *, tolerant: bool = False) -> None:
        """Make the directories, parents too. Raises OSError; then what was made is gone again.

        `tolerant`: do without those that may not be made, as befits a caller who is not root.
        """
        made: list[str] = []
        try:
            for directory in self.directories:
                try:
                    self._create(directory, made)
                except OSError as error:
                    if not tolerant or error.errno not in _FORBIDDEN:
                        raise
                    self.paths = {name: path for name, path in self.paths.items() if path != directory}
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
            hand_down(os.path.dirname(directory), self.layout.tops[""])
        elif directory.startswith(self.layout.tops.get("cpuset", "\0") + "/"):
            _inherit_cpuset(directory)

    @property
    def joined_from_outside(self) -> bool:
        """Whether a process can't join by itself once it is in the container's namespaces."""
        return False

    def join(self, pid: int, *, like: int = 0) -> None:
        """Move the process `pid` (0: the caller) into every hierarchy.

        A v2 group whose processes have gone to groups below it, to limit them, takes no process any more: then `pid`
        goes where the process `like` is.
        """
        for directory in self.directories:
            try:
                _write(f"{directory}/cgroup.procs", str(pid))
            except OSError as error:
                if error.errno != errno.EBUSY or not like or self.version != 2:
                    raise
                _write(f"{self.layout.tops['']}{path_of(like)['']}/cgroup.procs", str(pid))

    def step_out(self, pid: int) -> None:
        """Move the process `pid` to where the caller is, as far as processes are counted there."""
        for name in {"pids"} & self.layout.tops.keys() or {""} & self.layout.tops.keys():
            _write(f"{self.layout.tops[name]}{path_of('self')[name]}/cgroup.procs", str(pid))

    def give(self, uid: int) -> None:
        """Let the user `uid` manage the group (v2): what the kernel names as safe to delegate becomes theirs."""
        directory = self.directory("")
        if self.version != 2 or directory is None:
            return
        try:
            names = _read("/sys/kernel/cgroup/delegate").split()
        except OSError:
            names = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"]
        for path in (directory, *(f"{directory}/{name}" for name in names)):
            with contextlib.suppress(FileNotFoundError):
                recorder.note("chown", path, uid)
                os.chown(path, uid, -1)

    def write(self, controller: str, name: str, value: str) -> None:
        """Set `name` (e.g. memory.limit_in_bytes). Raises FileNotFoundError when this kernel has no such file."""
        directory = self.directory(controller)
        if directory is None:
            raise FileNotFoundError(errno.ENOENT, f"no {controller} controller on this host", name)
        _write(f"{directory}/{name}", value)

    def append(self, controller: str, name: str, values: Iterable[str], *, tolerated: Collection[int] = ()) -> None:
        """Write one value after the other to `name`, which adds them up (devices.allow). Raises as `write` does.

        `tolerated`: numbers of errors for which a value is passed over.
        """
        directory = self.directory(controller)
        if directory is None:
            raise FileNotFoundError(errno.ENOENT, f"no {controller} controller on this host", name)
        path = f"{directory}/{name}"
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for value in values:
                recorder.note("write", path, value)
                try:
                    os.write(fd, value.encode())
                except OSError as error:
                    if error.errno not in tolerated:
                        raise
        finally:
            os.close(fd)

    def read(self, controller: str, name: str) -> str | None:
        """The text of `name`, or None when there is none."""
        directory = self.directory(controller)
        if directory is None:
            return None
        try:
            return _read(f"{directory}/{name}")
        except OSError:
            return None

    def files(self, controller: str) -> list[str]:
        """The names of all files that `controller` has here."""
        directory = self.directory(controller)
        try:
            return os.listdir(directory) if directory is not None else []
        except OSError:
            return []

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
        directory = self.directory("devices") or self.directory("pids") or next(iter(self.paths.values()), None)
        if directory is None:
            return []
        return pids_below(directory) if below else _pids_of([directory])

    def exists(self) -> bool:
        """Whether any of the directories is there."""
        return any(os.path.isdir(directory) for directory in self.directories)

    def freeze(self, frozen: bool) -> None:
        """Stop, or let go on, every process inside; returns when it is so. Raises OSError(ETIMEDOUT) after 5 s."""
        if self.version == 2:
            self.write("", "cgroup.freeze", "1" if frozen else "0")
        else:
            self.write("freezer", "freezer.state", "FROZEN" if frozen else "THAWED")
        deadline = time.monotonic() + 5
        tries = 0
        while self.frozen() is not frozen:
            if time.monotonic() > deadline:
                if frozen:
                    self.write(
                        *(("", "cgroup.freeze", "0") if self.version == 2 else ("freezer", "freezer.state", "THAWED"))
                    )
                raise TimeoutError(errno.ETIMEDOUT, "the freezer does not settle", self.path)
            tries += 1
            time.sleep(0.0002 if tries < 50 else 0.005)
            if self.version == 1 and frozen:
                # While processes keep forking, v1 can hang at FREEZING for good; asking again helps, and now and then
                # only letting them all run for a moment does (runc's experience; v2 has no such fault).
                if tries % 50 == 49:
                    self.write("freezer", "freezer.state", "THAWED")
                    time.sleep(0.01)
                self.write("freezer", "freezer.state", "FROZEN")

    def frozen(self) -> bool:
        """Whether all processes inside are stopped by the freezer."""
        if self.version == 2:
            return self.table("", "cgroup.events").get("frozen") == 1
        return (self.read("freezer", "freezer.state") or "").strip() == "FROZEN"

    def kill(self) -> bool:
        """SIGKILL everything inside at once where the kernel can (v2, Linux 5.14; hybrid); False when it can't."""
        directory = self.paths.get("")
        if directory is None:
            return False
        try:
            _write(f"{directory}/cgroup.kill", "1")
        except OSError:
            return False
        return True

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


def _inherit_cpuset(directory: str) -> None:
    """A new v1 cpuset is empty and takes no process until it has processors and memory nodes: its parent's.

    Parents that someone else has made may be empty as well.
    """
    parent = os.path.dirname(directory)
    for name in ("cpuset.cpus", "cpuset.mems"):
        value = _read(f"{parent}/{name}")
        if not value.strip():
            _inherit_cpuset(parent)
            value = _read(f"{parent}/{name}")
        if not _read(f"{directory}/{name}").strip():
            _write(f"{directory}/{name}", value)


def hand_down(parent: str, top: str) -> None:
    """Enable in `parent` (v2), and before in those above it, every controller that they have for their children."""
    try:
        available = set(_read(f"{top}/cgroup.controllers").split())
        if available <= set(_read(f"{parent}/cgroup.subtree_control").split()):
            return
    except OSError:
        return
    if len(parent) > len(top):
        hand_down(os.path.dirname(parent), top)
    try:
        _write(f"{parent}/cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(available)))
    except OSError:
        # one of them cannot be had here (a cpu controller with realtime processes, a host's delegation): all others
        for name in available:
            with contextlib.suppress(OSError):
                _write(f"{parent}/cgroup.subtree_control", f"+{name}")


def pids_below(directory: str) -> list[int]:
    """Processes in the cgroup of that directory and in those below it."""
    return _pids_of(folder for folder, _, _ in os.walk(directory))


def _pids_of(directories: Iterable[str]) -> list[int]:
    found: list[int] = []
    for directory in directories:
        with contextlib.suppress(OSError):
            found.extend(int(pid) for pid in _read(f"{directory}/cgroup.procs").split())
    return found


def own_pid() -> int:
    """The caller's PID as /proc and systemd number it: it may be in a PID namespace already, where it is 1."""
    return int(os.readlink("/proc/self"))


def path_of(pid: int | str) -> dict[str, str]:
    """The cgroup paths of a process by controller ("" is v2), as /proc/<pid>/cgroup tells them."""
    found = {}
    with open(f"/proc/{pid}/cgroup") as rows:
        for row in rows:
            _, controllers, path = row.rstrip("\n").split(":", 2)
            for controller in controllers.split(","):
                found[controller] = path
    return found
