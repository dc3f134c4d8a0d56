"""A container's cgroup: which it is by its spec, made with its limits, and found again by its record."""

import contextlib
import errno
import os

import msgspec

from dockyard.linux.cgroups import Cgroup
from dockyard.linux.syscalls import CLONE_NEWCGROUP, CLONE_NEWUSER
from dockyard.oci.runtime_spec import DeviceRule, IDMapping, Resources, Spec
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.resources import limits as resources
from dockyard.runtime.spec.defaults import DEVICE_RULES


def of_spec(spec: Spec, container_id: str, *, systemd: bool = False, rootless: bool = False) -> Cgroup:
    """The cgroup that the spec asks for, not yet made. Raises RuntimeFailure.

    `systemd`: a scope unit, cgroupsPath is "slice:prefix:name". `rootless`: the caller may be allowed nothing.
    """
    if systemd:
        from dockyard.runtime.resources import systemd_properties  # only where systemd keeps the cgroups

        return systemd_properties.scope(spec, container_id, rootless=rootless)
    path = spec.linux.cgroups_path
    return Cgroup(os.path.normpath(path) if path else container_id)


def unusual_paths(group: Cgroup) -> dict[str, str]:
    """What a record must say of the group beside its path."""
    return group.paths if group.unit or group.paths != Cgroup(group.path).paths else {}


def make(group: Cgroup, spec: Spec, *, rootless: bool = False) -> None:
    """Make the group and set its limits; systemd's is made later, by `start`. Raises RuntimeFailure.

    A group that was not there before is not there after a failure.
    """
    found = group.exists()
    if found:
        count = len(group.pids())
        if count:
            raise RuntimeFailure(f"container's cgroup is not empty: {count} process(es) found")
        if group.frozen():
            raise RuntimeFailure(f"container's cgroup unexpectedly frozen: {group.path}")
    try:
        _make(group, spec, rootless=rootless)
    except BaseException:
        if not found:
            with contextlib.suppress(OSError):
                group.remove(patience=0)
        raise


def _make(group: Cgroup, spec: Spec, *, rootless: bool) -> None:
    try:
        # what is asked for by name must be had
        group.create(tolerant=rootless and not spec.linux.cgroups_path)
    except OSError as error:
        raise _refused("mkdir", error) from error
    if not group.unit:
        resources.apply(group, _with_default_devices(spec.linux.resources), rootless=rootless)


def _with_default_devices(wanted: Resources | None) -> Resources:
    """`wanted`, and of devices only what it allows and every container has (runtime-spec, "Default Devices")."""
    wanted = wanted or Resources()
    rules = [plain for rule in wanted.devices for plain in _plain(rule)]
    if rules and rules[-1].allow and _is_whole(rules[-1]):
        return wanted
    if not rules or not _is_whole(rules[0]):
        rules.insert(0, DEVICE_RULES[0])  # a new group has what the one above it has
    return msgspec.structs.replace(wanted, devices=rules + [rule for rule in DEVICE_RULES[1:] if rule not in rules])


def _plain(rule: DeviceRule) -> list[DeviceRule]:
    """The rule as the kernel has it: of devices of all types there it knows only every use of all."""
    if rule.type in ("b", "c") or _is_whole(rule):
        return [rule]
    return [msgspec.structs.replace(rule, type=kind) for kind in ("b", "c")]


def _is_whole(rule: DeviceRule) -> bool:
    """Whether it is about every use of every device."""
    numbered = any(number is not None and number >= 0 for number in (rule.major, rule.minor))
    return rule.type in ("a", "") and not numbered and set(rule.access) == set("rwm")


def start(group: Cgroup, spec: Spec, pid: int = 0, *, rootless: bool = False) -> None:
    """Have systemd make the group with a container's process to be inside (0: the caller); then set its limits."""
    from dockyard.linux.systemd import Scope
    from dockyard.runtime.resources import systemd_properties

    assert isinstance(group, Scope)
    limits = _with_default_devices(spec.linux.resources)
    linux = msgspec.structs.replace(spec.linux, resources=limits)
    systemd_properties.start(group, pid, msgspec.structs.replace(spec, linux=linux))
    resources.apply(group, limits, rootless=rootless)


def join(group: Cgroup, pid: int = 0, *, like: int = 0) -> None:
    """Move a process (0: the caller) into the group. `like` is one of the container's. Raises RuntimeFailure."""
    try:
        group.join(pid, like=like)
    except OSError as error:
        raise _refused("write", error) from error


def _refused(act: str, error: OSError) -> RuntimeFailure:
    reason = (error.strerror or os.strerror(error.errno or errno.EIO)).lower()
    return RuntimeFailure(f"unable to apply cgroup configuration: {act} {error.filename}: {reason}")


def owner(spec: Spec, flags: int) -> int | None:
    """Who shall own the group: the container's user, where it has a cgroup namespace and a writable cgroup mount."""
    if not flags & CLONE_NEWCGROUP or not flags & CLONE_NEWUSER or spec.process is None:
        return None
    for mount in spec.mounts:
        if mount.source == "cgroup" and os.path.normpath(mount.destination) == "/sys/fs/cgroup":
            return None if "ro" in mount.options else _host_id(spec.process.user.uid, spec.linux.uid_mappings)
    return None


def _host_id(inside: int, mappings: list[IDMapping]) -> int | None:
    for row in mappings:
        if row.container_id <= inside < row.container_id + row.size:
            return row.host_id + inside - row.container_id
    return None
