"""Cgroups that systemd keeps: a container as a transient scope unit of it, asked for by D-Bus.

Where systemd rules the cgroups, it wants to be the only one who makes any outside of what it has delegated; a scope is
such a delegation. Interface: org.freedesktop.systemd1(5); systemd.resource-control(5); "Control Group APIs and
Delegation".
"""

import contextlib
import errno
import os
from typing import Any

from dockyard.linux import recorder
from dockyard.linux.cgroups import Cgroup, Layout, hand_down, layout, own_pid, path_of, pids_below
from dockyard.linux.dbus import Connection, DBusError

BUS, MANAGER_PATH = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
MANAGER = "org.freedesktop.systemd1.Manager"
INFINITY = (1 << 64) - 1

# The controllers of v1 that systemd keeps itself: the other hierarchies have of its slices what we make there.
SYSTEMDS_OWN = frozenset(("cpu", "cpuacct", "blkio", "memory", "devices", "pids"))

Property = tuple[str, tuple[str, Any]]


def is_running() -> bool:
    """Whether this host was booted with systemd (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")


def own_service() -> str:
    """The service that this process belongs to; "" for none."""
    try:
        groups = path_of("self")
    except OSError:
        return ""
    name = os.path.basename(groups.get("name=systemd") or groups.get("", ""))
    return name if name.endswith(".service") else ""


def expand_slice(name: str) -> str:
    """The cgroup path of a slice: test-a.slice is /test.slice/test-a.slice. Raises ValueError for no slice's name."""
    if not name.endswith(".slice") or "/" in name or name == ".slice":
        raise ValueError(f"invalid slice name: {name}")
    stem = name.removesuffix(".slice")
    if stem == "-":
        return "/"
    parts = stem.split("-")
    if "" in parts:
        raise ValueError(f"invalid slice name: {name}")
    return "".join(f"/{'-'.join(parts[: number + 1])}.slice" for number in range(len(parts)))


def scope_path(cgroups_path: str) -> str:
    """The cgroup path of the scope that a spec's cgroupsPath "slice:prefix:name" means. Raises ValueError."""
    slice_name, prefix, name = cgroups_path.split(":")
    return f"{expand_slice(slice_name or 'system.slice').rstrip('/')}/{prefix}-{name}.scope"


class Manager:
    """The system's systemd, or with `user` the caller's own."""

    def __init__(self, *, user: bool = False) -> None:
        self._connection = _connect(user)
        self._version = 0

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _call(self, member: str, signature: str = "", *arguments: Any) -> list[Any]:
        recorder.note("systemd", member, *arguments)
        return self._connection.call(BUS, MANAGER_PATH, MANAGER, member, signature, *arguments)

    def value_of(self, name: str) -> Any:
        """One of the manager's properties."""
        interface = "org.freedesktop.DBus.Properties"
        ((_, value),) = self._connection.call(BUS, MANAGER_PATH, interface, "Get", "ss", MANAGER, name)
        return value

    @property
    def version(self) -> int:
        """Like 252."""
        if not self._version:
            digits = ""
            for letter in str(self.value_of("Version")).lstrip("v"):
                if not letter.isdigit():
                    break
                digits += letter
            self._version = int(digits or "0")
        return self._version

    def start(self, unit: str, properties: list[Property]) -> None:
        """Start a transient unit; returns when it is up. Raises DBusError."""
        for attempt in range(2):
            try:
                (job,) = self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "replace", properties, [])
                break
            except DBusError as error:
                if attempt or not error.name.endswith(".UnitExists"):
                    raise
                self.reset_failed(unit)  # one of that name may have failed and be kept to be looked at
        result = self._wait_for(job)
        if result != "done":
            self.reset_failed(unit)
            raise DBusError("", f"error creating systemd unit `{unit}`: got `{result}`")

    def stop(self, unit: str) -> None:
        """Stop a unit, killing what is inside; no error when there is none."""
        try:
            (job,) = self._call("StopUnit", "ss", unit, "replace")
            self._wait_for(job)
        except DBusError as error:
            if not error.name.endswith(".NoSuchUnit"):
                raise
        self.reset_failed(unit)

    def reset_failed(self, unit: str) -> None:
        """Have systemd forget a unit that has failed."""
        with contextlib.suppress(DBusError):
            self._call("ResetFailedUnit", "s", unit)

    def set_properties(self, unit: str, properties: list[Property]) -> None:
        """Change a running unit, until the next boot. Raises DBusError."""
        self._call("SetUnitProperties", "sba(sv)", unit, True, properties)

    def attach(self, unit: str, pid: int) -> None:
        """Move a process into the unit's cgroup. Raises DBusError."""
        self._call("AttachProcessesToUnit", "ssau", unit, "/", [pid])

    def _wait_for(self, job: str) -> str:
        """How the job has ended: done, failed, timeout, canceled, …"""
        for signal in self._connection.signals("JobRemoved"):
            if signal.body[1] == job:
                return str(signal.body[3])
        return "lost"


def _connect(user: bool) -> Connection:
    """By systemd's own socket, which is there without a message bus and takes root alone; else by the bus."""
    directory = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}" if user else "/run"
    with contextlib.suppress(OSError, DBusError):
        return Connection(f"{directory}/systemd/private", bus=False)
    path = f"{directory}/bus" if user else "/run/dbus/system_bus_socket"
    address = os.environ.get("DBUS_SESSION_BUS_ADDRESS", "") if user else ""
    for part in address.split(";"):
        if part.startswith("unix:path="):
            path = part.removeprefix("unix:path=").partition(",")[0]
    connection = Connection(path, bus=True)
    rule = f"type='signal',sender='{BUS}',interface='{MANAGER}',member='JobRemoved'"
    connection.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s", rule)
    connection.call(BUS, MANAGER_PATH, MANAGER, "Subscribe")
    return connection


class Scope(Cgroup):
    """The cgroup of a unit `<prefix>-<name>.scope` in `slice`, or of the slice `name`."""

    def __init__(
        self,
        slice_name: str,
        unit: str,
        *,
        user: bool = False,
        kind: Layout | None = None,
        paths: dict[str, str] | None = None,
    ) -> None:
        self.slice = slice_name or ("user.slice" if user else "system.slice")
        self.unit = unit
        self.user = user
        self._manager: Manager | None = None
        top = ""
        if user and paths is None:
            # like /user.slice/user-1000.slice/user@1000.service
            top = str(self.manager().value_of("ControlGroup"))
        super().__init__(f"{top}{expand_slice(self.slice).rstrip('/')}/{unit}", kind or layout(), paths=paths)

    def manager(self) -> Manager:
        """The connection to systemd, made at first need. Raises OSError, DBusError."""
        if self._manager is None:
            self._manager = Manager(user=self.user)
        return self._manager

    def create(self, *, tolerant: bool = False) -> None:
        """Nothing yet: systemd makes a scope for a process that is there. See `start`."""

    def start(self, pid: int, properties: list[Property]) -> None:
        """Make the unit with the process `pid` (0: the caller) inside. Raises OSError, DBusError.

        Hierarchies of v1 that systemd leaves alone are joined by hand.
        """
        everything: list[Property] = [("Description", ("s", f"container {self.unit}"))]
        if self.unit.endswith(".slice"):
            everything.append(("Wants", ("as", [self.slice])))
        else:
            everything += [("Slice", ("s", self.slice)), ("Delegate", ("b", True))]
        everything.append(("PIDs", ("au", [pid or own_pid()])))
        accounted = ("Memory", "CPU", "IO" if self.version == 2 else "BlockIO", "Tasks")
        everything += [(f"{name}Accounting", ("b", True)) for name in accounted]
        everything.append(("DefaultDependencies", ("b", False)))
        self.manager().start(self.unit, everything + properties)
        if self.version == 2 and not self.user:
            hand_down(os.path.dirname(self.directories[0]), self.layout.tops[""])  # systemd has no hugetlb, rdma, misc
        if self.version == 1:
            for name, directory in self._controllers():
                self._create(directory, [])
                self._alone(name).join(pid)

    def gather(self) -> None:
        """Bring back processes that systemd has moved to the slice's group of a controller (v1). Raises OSError.

        It does so to all below a slice that begins to use a controller, as with the first container with device rules.
        """
        tracked = self.paths.get("name=systemd")
        if self.version != 1 or tracked is None:
            return
        members = set(pids_below(tracked))
        for name, directory in self._controllers():
            for pid in members.difference(pids_below(directory)):
                with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                    self._alone(name).join(pid)

    def _controllers(self) -> list[tuple[str, str]]:
        """The hierarchies of v1 and their directories, without the one in which systemd keeps account."""
        return [(name, path) for name, path in self.paths.items() if name not in ("", "name=systemd")]

    def _alone(self, name: str) -> Cgroup:
        """The cgroup in one hierarchy of v1."""
        return Cgroup("/", self.layout, paths={name: self.paths[name]})

    @property
    def joined_from_outside(self) -> bool:
        """A user's systemd knows its user by the id, which is another inside."""
        return self.user

    def join(self, pid: int, *, like: int = 0) -> None:
        """Move the process `pid` (0: the caller) into it. Raises OSError."""
        if self.user:
            # between systemd's own groups only systemd moves processes that are not root's
            try:
                self.manager().attach(self.unit, pid or own_pid())
            except DBusError as error:
                raise OSError(errno.EPERM, error.message, self.unit) from error
        else:
            super().join(pid, like=like)

    def remove(self, *, patience: float = 2.0) -> None:
        """Stop the unit and remove the directories. Raises OSError(EBUSY) when processes stay inside."""
        try:
            self.manager().stop(self.unit)
        except DBusError as error:
            raise OSError(0, error.message, self.unit) from error
        super().remove(patience=patience)
        for name, directory in self._controllers():
            if name not in SYSTEMDS_OWN:
                self._remove_parents(directory, self.layout.tops[name])

    def _remove_parents(self, directory: str, top: str) -> None:
        """Remove the slices' directories that only `start` needed, and nobody needs now."""
        while (directory := os.path.dirname(directory)) != top:
            try:
                os.rmdir(directory)
            except OSError:
                return
