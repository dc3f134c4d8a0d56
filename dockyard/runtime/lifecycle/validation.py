"""What a runtime refuses before it does anything: a config.json that contradicts itself or that can't be kept.

One clear error, in the words runc uses where engines and their users know them.
"""

import os
from collections.abc import Sequence

from dockyard.linux import namespaces
from dockyard.oci.runtime_spec import LARGEST_ID, DeviceRule, Mount, Process, Seccomp, Spec
from dockyard.runtime.birth import hooks, scheduling, sysctls
from dockyard.runtime.birth import rlimits as limits
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.resources import intel_rdt
from dockyard.runtime.rootfs import devices, mount_options
from dockyard.runtime.rootfs.mount_options import PROPAGATION
from dockyard.runtime.rootfs.mount_sources import is_mapped
from dockyard.runtime.security import labels

CLOCKS = ("monotonic", "boottime")


def check(spec: Spec, bundle: str, *, pivot: bool = True) -> None:
    """Raise RuntimeFailure for the first thing wrong."""
    if not _is_known_version(spec.oci_version):
        raise RuntimeFailure(f'ociVersion "{spec.oci_version}" is not one of a specification that this runtime knows')
    if not spec.root.path:
        raise RuntimeFailure("root must be specified")
    root = os.path.join(bundle, spec.root.path)
    if not os.path.isdir(root):
        raise RuntimeFailure(f"invalid rootfs: stat {root}: no such file or directory")
    kinds = _check_namespaces(spec)
    if (spec.hostname or spec.domainname) and "uts" not in kinds:
        what = "hostname" if spec.hostname else "domainname"
        raise RuntimeFailure(f"unable to set {what} without a private UTS namespace")
    if (spec.linux.masked_paths or spec.linux.readonly_paths) and "mount" not in kinds:
        raise RuntimeFailure("unable to restrict sys entries without a private MNT namespace")
    if spec.linux.net_devices and "network" not in kinds:
        raise RuntimeFailure("unable to move network devices without a NET namespace")
    if spec.linux.net_devices:
        from dockyard.runtime.birth import net_devices  # hardly ever, and netlink takes long to import

        net_devices.check(spec.linux.net_devices)
    propagation = spec.linux.rootfs_propagation
    if propagation and propagation not in PROPAGATION:
        raise RuntimeFailure(f"rootfsPropagation={propagation} is not supported")
    if not pivot and propagation in ("private", "rprivate"):
        raise RuntimeFailure("rootfsPropagation of [r]private is not safe without pivot_root")
    for wanted in spec.mounts:
        _check_mount(wanted, userns="user" in kinds)
    for path in (*spec.linux.masked_paths, *spec.linux.readonly_paths):
        if not path.startswith("/"):
            raise RuntimeFailure(f"path {path!r} to be masked or read-only is not absolute")
    devices.check(spec.linux.devices)
    if spec.linux.resources is not None:
        check_device_rules(spec.linux.resources.devices)
    sysctls.check(spec)
    labels.check(spec)
    hooks.check(spec.hooks)
    if spec.linux.seccomp is not None:
        _check_seccomp(spec.linux.seccomp)
    if spec.linux.memory_policy is not None:
        scheduling.check_memory_policy(spec.linux.memory_policy)
    if spec.linux.personality is not None:
        scheduling.check_personality(spec.linux.personality)
    if spec.linux.intel_rdt is not None:
        intel_rdt.check(spec.linux.intel_rdt)
    if spec.process is not None:
        check_process(spec.process)


def check_device_rules(rules: Sequence[DeviceRule]) -> None:
    """Raise RuntimeFailure for a rule that is not plain: what was taken for "everything" would allow everything."""
    for number, rule in enumerate(rules):
        if rule.type not in ("a", "b", "c", ""):
            raise RuntimeFailure(f'invalid cgroup device type "{rule.type}"')
        if not rule.access:
            raise RuntimeFailure(f"device access at {number} field cannot be empty")
        # an "a" beside others says nothing, as with runc; alone it would be no access at all
        if not set("rwm") & set(rule.access) or not set(rule.access) <= set("rwma"):
            raise RuntimeFailure(f'invalid cgroup device access "{rule.access}"')


def _is_known_version(version: str) -> bool:
    """Whether it is `major.minor.patch`, perhaps with `-…` or `+…`, and of a specification that is compatible."""
    numbers = version.replace("+", "-").partition("-")[0].split(".")
    return len(numbers) == 3 and all(number.isdecimal() for number in numbers) and int(numbers[0]) <= 1


def check_process(process: Process) -> None:
    """As `check`, for a process: a container's first or a later one."""
    user = process.user
    if any(not 0 <= wanted <= LARGEST_ID for wanted in (user.uid, user.gid, *user.additional_gids)):
        raise RuntimeFailure(f"uids and gids must be in range 0-{LARGEST_ID}")
    labels.check_process(process)
    scheduling.check_process(process)
    limits.check(process.rlimits)


def _check_namespaces(spec: Spec) -> dict[str, str]:
    """The kinds that the spec names, each with its path."""
    kinds: dict[str, str] = {}
    for namespace in spec.linux.namespaces:
        if namespace.type not in namespaces.CLONE_FLAGS:
            raise RuntimeFailure(f'namespace "{namespace.type}" does not exist')
        if namespace.type in kinds:
            raise RuntimeFailure(f'malformed spec file: duplicated ns "{namespace.type}"')
        if namespace.path and not namespace.path.startswith("/"):
            raise RuntimeFailure(f"path {namespace.path!r} of the {namespace.type} namespace is not absolute")
        kinds[namespace.type] = namespace.path
    mapped = bool(spec.linux.uid_mappings or spec.linux.gid_mappings)
    if "user" not in kinds:
        if mapped:
            raise RuntimeFailure("user namespace mappings specified, but user namespace isn't enabled in the config")
    elif not kinds["user"] and not (spec.linux.uid_mappings and spec.linux.gid_mappings):
        raise RuntimeFailure(
            "user namespaces enabled, but no namespace path to join nor mappings to apply specified"
            if not mapped
            else "user namespaces enabled, but not both uid and gid mappings specified"
        )
    for kind in ("user", "time"):  # the others every kernel has
        if kinds.get(kind) == "" and not os.path.exists(f"/proc/self/ns/{kind}"):
            raise RuntimeFailure(f"{kind} namespaces aren't enabled in the kernel")
    if spec.linux.time_offsets:
        if "time" not in kinds:
            raise RuntimeFailure("time namespace offsets specified, but time namespace isn't enabled in the config")
        if kinds["time"]:
            raise RuntimeFailure(
                "time namespace enabled, but both namespace path and time offsets specified -- you may only provide one"
            )
        for clock in spec.linux.time_offsets:
            if clock not in CLOCKS:
                raise RuntimeFailure(f'time namespace offset of unknown clock "{clock}"')
    return kinds


def _check_mount(wanted: Mount, *, userns: bool) -> None:
    options = mount_options.parse(wanted.options)
    bind = options.bind or wanted.type == "bind"
    if not wanted.destination.strip("/"):
        raise RuntimeFailure(f'mountpoint "{wanted.destination}" is on the top of rootfs')
    if bind and not wanted.source:
        raise RuntimeFailure(f"invalid mount on {wanted.destination}: a bind mount needs a source")
    if bind and options.data:
        # the kernel would not look at them, and "readonly" is none of its words
        raise RuntimeFailure(
            f"invalid mount on {wanted.destination}: bind mounts cannot have any filesystem-specific options applied: "
            f"{options.data}"
        )
    if not bind and not wanted.type:
        raise RuntimeFailure(f"invalid mount on {wanted.destination}: it has no type")
    if is_mapped(wanted, options):
        where = f"invalid mount of {wanted.source} on {wanted.destination}: "
        if not bind:
            raise RuntimeFailure(where + "id-mapped mounts are only supported for bind-mounts")
        if bool(wanted.uid_mappings) != bool(wanted.gid_mappings) or (not wanted.uid_mappings and not userns):
            raise RuntimeFailure(where + "id-mapped mounts must have both uid and gid mappings specified")


def _check_seccomp(wanted: Seccomp) -> None:
    if wanted.listener_metadata and not wanted.listener_path:
        raise RuntimeFailure("seccomp listenerMetadata is set, but listenerPath is not")
    for rule in wanted.syscalls:
        if not rule.names:
            raise RuntimeFailure("a seccomp rule names no system call")
        if rule.action == "SCMP_ACT_NOTIFY" and not wanted.listener_path:
            raise RuntimeFailure("seccomp listenerPath is not set, but SCMP_ACT_NOTIFY is used")
