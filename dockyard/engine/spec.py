"""From what was asked of a container to one OCI runtime spec: the only place that knows what each flag means."""

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from dockyard.engine.container_config import ContainerConfig, HostConfig, ThrottleRate
from dockyard.errors import InvalidParameter
from dockyard.linux import capabilities
from dockyard.oci.runtime_spec import (
    BlockIO,
    Box,
    Cpu,
    Device,
    DeviceRule,
    Linux,
    Memory,
    Mount,
    Namespace,
    Pids,
    Process,
    Resources,
    Rlimit,
    Root,
    Seccomp,
    Spec,
    ThrottleDevice,
    User,
    WeightDevice,
)
from dockyard.runtime import defaults

CPU_PERIOD = 100_000
DEFAULT_SHM_SIZE = 64 << 20
# What may be set per container without touching the host, and under which namespace (docker/cli opts, runc validate).
IPC_SYSCTLS = frozenset(
    f"kernel.{name}" for name in "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced".split()
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What of the host and of other containers goes into a container's spec, found out by the engine.

    `namespaces` are paths to join by type; a type in `host_namespaces` is shared with the host, others are made anew.
    `files` are (source, destination) of hosts, hostname, resolv.conf. `mounts` are the volumes and binds, resolved.
    """

    container_id: str
    rootfs: str
    cgroup_path: str
    hostname: str
    user: User
    home: str
    namespaces: Mapping[str, str] = field(default_factory=dict)
    host_namespaces: frozenset[str] = frozenset()
    files: Sequence[tuple[str, str]] = ()
    mounts: Sequence[Mount] = ()
    shm_source: str = ""
    seccomp: Seccomp | None = None
    no_new_privileges: bool = False
    init_path: str = ""
    rootfs_propagation: str = ""


def build(config: ContainerConfig, host: HostConfig, around: Surroundings) -> Spec:
    """The spec of a container. Raises InvalidParameter for what can't be."""
    granted = granted_capabilities(host.cap_add, host.cap_drop, host.privileged)
    spec = Spec(
        root=Root(path=around.rootfs, readonly=host.readonly_rootfs),
        hostname="" if "uts" in around.host_namespaces else around.hostname,
        domainname="" if "uts" in around.host_namespaces else config.domainname,
        process=process(config, host, around, granted),
        mounts=_mounts(host, around),
        annotations=host.annotations or {},
        linux=Linux(
            namespaces=_namespaces(around),
            sysctl=_sysctls(host, around),
            resources=resources(host),
            cgroups_path=around.cgroup_path,
            devices=_devices(host),
            seccomp=around.seccomp,
            masked_paths=_or_default(host.masked_paths, host.privileged, defaults.MASKED_PATHS),
            readonly_paths=_or_default(host.readonly_paths, host.privileged, defaults.READONLY_PATHS),
            rootfs_propagation=around.rootfs_propagation,
        ),
    )
    assert spec.linux.resources is not None
    spec.linux.resources.devices = _device_rules(host, spec.linux.devices)
    return spec


def process(config: ContainerConfig, host: HostConfig, around: Surroundings, granted: list[str]) -> Process:
    """The container's own process."""
    args = [*(config.entrypoint or []), *(config.cmd or [])]
    if around.init_path:
        args = ["/sbin/docker-init", "--", *args]
    return Process(
        terminal=config.tty,
        console_size=Box(*host.console_size) if config.tty and any(host.console_size) else None,
        user=around.user,
        args=args,
        env=environment(config.env or [], tty=config.tty, hostname=around.hostname, home=around.home),
        cwd=config.working_dir or "/",
        capabilities=defaults.capability_sets(granted),
        rlimits=[
            Rlimit(f"RLIMIT_{limit.name.upper()}", limit.soft % (1 << 64), limit.hard % (1 << 64))
            for limit in host.ulimits or []
        ],
        no_new_privileges=around.no_new_privileges,
        oom_score_adj=host.oom_score_adj,
    )


def environment(given: Iterable[str], *, tty: bool, hostname: str, home: str) -> list[str]:
    """PATH, HOSTNAME, TERM and HOME as every container has them, overridden and followed by what was given."""
    found = {"PATH": defaults.DEFAULT_PATH.partition("=")[2], "HOSTNAME": hostname}
    if tty:
        found["TERM"] = "xterm"
    for entry in given:
        key, equals, value = entry.partition("=")
        if equals:
            found[key] = value
        else:
            found.pop(key, None)  # `-e KEY` of a variable that the client lacks takes it away
    found.setdefault("HOME", home)
    return [f"{key}={value}" for key, value in found.items()]


def granted_capabilities(add: Sequence[str] | None, drop: Sequence[str] | None, privileged: bool) -> list[str]:
    """The default set with `--cap-add` and `--cap-drop`. Raises InvalidParameter for a name the kernel lacks."""
    if privileged:
        return capabilities.held()
    everything = capabilities.held()
    added, dropped = _capability_names(add), _capability_names(drop)
    base = list(defaults.DEFAULT_CAPABILITIES)
    if "ALL" in added:
        base = everything
    elif "ALL" in dropped:
        base = []
    kept = [name for name in base if name not in dropped]
    return kept + [name for name in added if name != "ALL" and name not in kept]


def _capability_names(given: Sequence[str] | None) -> list[str]:
    names = []
    for word in given or []:
        name = word.upper()
        if name != "ALL":
            name = name if name.startswith("CAP_") else f"CAP_{name}"
            if name not in capabilities.NUMBERS:
                raise InvalidParameter(f'invalid CapAdd: unknown capability: "{name}"')
        names.append(name)
    return names


def _or_default(given: list[str] | None, privileged: bool, default: list[str]) -> list[str]:
    if given is not None:
        return given
    return [] if privileged else default


def _namespaces(around: Surroundings) -> list[Namespace]:
    found = []
    for kind in ("mount", "network", "uts", "pid", "ipc", "cgroup"):
        if kind not in around.host_namespaces:
            found.append(Namespace(kind, around.namespaces.get(kind, "")))
    return found


# -- mounts


def _mounts(host: HostConfig, around: Surroundings) -> list[Mount]:
    """The default mounts, then files of ours, then what the user asked for; a user's mount replaces a default one."""
    chosen = {mount.destination for mount in around.mounts} | set(host.tmpfs or {})
    found: list[Mount] = []
    for mount in defaults.DEFAULT_MOUNTS:
        if mount.destination in chosen:
            continue
        options = list(mount.options)
        if mount.destination == "/dev/shm":
            if around.shm_source:
                found.append(Mount("/dev/shm", type="bind", source=around.shm_source, options=["rbind", "rprivate"]))
                continue
            if "ipc" in around.host_namespaces:
                found.append(Mount("/dev/shm", type="bind", source="/dev/shm", options=["rbind", "rprivate"]))
                continue
            size = host.shm_size or DEFAULT_SHM_SIZE
            options = [option for option in options if not option.startswith("size=")] + [f"size={size}"]
        if mount.destination == "/dev/mqueue" and "ipc" in around.host_namespaces:
            found.append(Mount("/dev/mqueue", type="bind", source="/dev/mqueue", options=["rbind", "rprivate"]))
            continue
        if host.privileged and mount.destination in ("/sys", "/sys/fs/cgroup"):
            options = ["rw" if option == "ro" else option for option in options]
        found.append(Mount(mount.destination, type=mount.type, source=mount.source, options=options))
    for source, destination in around.files:
        if destination not in chosen:
            options = ["rbind", "rprivate", *(["ro"] if host.readonly_rootfs else [])]
            found.append(Mount(destination, type="bind", source=source, options=options))
    for destination, given in (host.tmpfs or {}).items():
        found.append(Mount(destination, type="tmpfs", source="tmpfs", options=tmpfs_options(given)))
    found += around.mounts
    if around.init_path:
        found.append(Mount("/sbin/docker-init", type="bind", source=around.init_path, options=["bind", "ro"]))
    # A mount below another must come after it; /proc and /dev stay where they are, first.
    head = len(defaults.DEFAULT_MOUNTS)
    return found[:head] + sorted(found[head:], key=lambda mount: mount.destination.rstrip("/").count("/"))


def tmpfs_options(given: str) -> list[str]:
    """`--tmpfs`'s options on top of its defaults. Raises InvalidParameter for what tmpfs does not take."""
    options = ["noexec", "nosuid", "nodev"]
    opposite = {"exec": "noexec", "suid": "nosuid", "dev": "nodev"}
    for option in filter(None, given.split(",")):
        if option in opposite:
            options.remove(opposite[option])
        elif re.fullmatch(r"(size|mode|uid|gid|nr_inodes|nr_blocks|mpol)=\S+|\w+", option) is None:
            raise InvalidParameter(f'invalid tmpfs option "{option}"')
        elif option not in options:
            options.append(option)
    return options


# -- resources


def resources(host: HostConfig) -> Resources:
    """The limits of a container, without its devices."""
    return Resources(
        memory=_memory(host),
        cpu=_cpu(host),
        pids=Pids(host.pids_limit) if host.pids_limit else None,
        block_io=_block_io(host),
    )


def _memory(host: HostConfig) -> Memory | None:
    swap = host.memory_swap
    if host.memory > 0 and swap == 0:
        swap = 2 * host.memory  # as much swap again, by default
    memory = Memory(
        limit=host.memory or None,
        reservation=host.memory_reservation or None,
        swap=swap or None,
        swappiness=host.memory_swappiness if host.memory_swappiness not in (None, -1) else None,
        disable_oom_killer=host.oom_kill_disable or None,
    )
    return memory if memory != Memory() else None


def _cpu(host: HostConfig) -> Cpu | None:
    quota, period = host.cpu_quota, host.cpu_period
    if host.nano_cpus > 0:
        period = CPU_PERIOD
        quota = host.nano_cpus * period // 1_000_000_000
    cpu = Cpu(
        shares=host.cpu_shares or None,
        quota=quota or None,
        period=period or None,
        realtime_runtime=host.cpu_realtime_runtime or None,
        realtime_period=host.cpu_realtime_period or None,
        cpus=host.cpuset_cpus,
        mems=host.cpuset_mems,
    )
    return cpu if cpu != Cpu() else None


def _block_io(host: HostConfig) -> BlockIO | None:
    block = BlockIO(
        weight=host.blkio_weight or None,
        weight_device=[
            WeightDevice(*_block_device(device.path), weight=device.weight) for device in host.blkio_weight_device or []
        ],
        throttle_read_bps_device=_throttles(host.blkio_device_read_bps),
        throttle_write_bps_device=_throttles(host.blkio_device_write_bps),
        throttle_read_iops_device=_throttles(host.blkio_device_read_iops),
        throttle_write_iops_device=_throttles(host.blkio_device_write_iops),
    )
    return block if block != BlockIO() else None


def _throttles(rates: Sequence[ThrottleRate] | None) -> list[ThrottleDevice]:
    return [ThrottleDevice(*_block_device(rate.path), rate=rate.rate) for rate in rates or []]


def _block_device(path: str) -> tuple[int, int]:
    try:
        device = os.stat(path).st_rdev
    except OSError as error:
        raise InvalidParameter(f"stat {path}: {(error.strerror or '').lower()}") from None
    return os.major(device), os.minor(device)


# -- devices


def _devices(host: HostConfig) -> list[Device]:
    if host.privileged:
        return _host_devices("/dev", "/dev")
    found: list[Device] = []
    for mapping in host.devices or []:
        inside = mapping.path_in_container or mapping.path_on_host
        if os.path.isdir(mapping.path_on_host):
            found += _host_devices(os.path.realpath(mapping.path_on_host), inside)
        else:
            found.append(_device(mapping.path_on_host, inside))
    return found


def _device(path: str, inside: str) -> Device:
    try:
        status = os.stat(path)
    except OSError as error:
        message = (error.strerror or "").lower()
        raise InvalidParameter(
            f'error gathering device information while adding custom device "{path}": {message}'
        ) from None
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise InvalidParameter(
            f'error gathering device information while adding custom device "{path}": not a device node'
        )
    return Device(
        type="c" if stat.S_ISCHR(status.st_mode) else "b",
        path=inside,
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        file_mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
    )


def _host_devices(folder: str, inside: str) -> list[Device]:
    """Every device node below `folder`, but for terminals and what every container has anew."""
    found = []
    skipped = ("pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev")
    for entry in os.scandir(folder):
        if entry.name in skipped or entry.name == "console" or entry.is_symlink():
            continue
        if entry.is_dir():
            found += _host_devices(entry.path, f"{inside}/{entry.name}")
        elif not entry.is_file():
            try:
                found.append(_device(entry.path, f"{inside}/{entry.name}"))
            except InvalidParameter:
                continue  # a socket or a FIFO
    return found


def _device_rules(host: HostConfig, devices: Sequence[Device]) -> list[DeviceRule]:
    if host.privileged:
        return [DeviceRule(allow=True, access="rwm")]
    rules = list(defaults.DEVICE_RULES)
    access = {
        mapping.path_in_container or mapping.path_on_host: mapping.cgroup_permissions or "rwm"
        for mapping in host.devices or []
    }
    for device in devices:
        allowed = access.get(device.path, "rwm")
        rules.append(DeviceRule(True, device.type, device.major, device.minor, allowed))
    for text in host.device_cgroup_rules or []:
        match = re.fullmatch(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})", text)
        if match is None:
            raise InvalidParameter(f"invalid device cgroup rule format: '{text}'")
        major, minor = (None if number == "*" else int(number) for number in match.group(2, 3))
        rules.append(DeviceRule(True, match[1], major, minor, match[4]))
    return rules


# -- kernel settings


def _sysctls(host: HostConfig, around: Surroundings) -> dict[str, str]:
    """The asked ones, and two that let users do without privileges what is harmless in a namespace of one's own."""
    found: dict[str, str] = {}
    for name, value in (host.sysctls or {}).items():
        dotted = name.replace("/", ".")
        needed = "network" if dotted.startswith("net.") else "ipc" if _is_ipc(dotted) else "uts"
        if needed == "uts" and dotted != "kernel.domainname":
            raise InvalidParameter(f"sysctl '{name}' is not allowed")
        if needed in around.host_namespaces:
            raise InvalidParameter(f"sysctl '{name}' is not allowed in the host {needed} namespace")
        found[name] = value
    return found


def _is_ipc(name: str) -> bool:
    return name in IPC_SYSCTLS or name.startswith("fs.mqueue.")


@dataclass(frozen=True, slots=True)
class SecurityOptions:
    """`--security-opt`, parsed. `seccomp` is "" for the default, "unconfined" or a profile's JSON."""

    no_new_privileges: bool = False
    seccomp: str = ""
    unmasked: bool = False


def security_options(given: Sequence[str] | None) -> SecurityOptions:
    """Parse `--security-opt`. Raises InvalidParameter for an unknown one."""
    no_new_privileges = unmasked = False
    seccomp = ""
    for option in given or []:
        # key=value, or, as of old, key:value
        key, separator, value = option.partition("=") if "=" in option else option.partition(":")
        if key == "no-new-privileges":
            no_new_privileges = not separator or value.lower() == "true"
        elif key == "seccomp":
            seccomp = "" if value == "builtin" else value
        elif key == "systempaths" and value == "unconfined":
            unmasked = True
        elif key not in ("apparmor", "label", "writable-cgroups"):
            raise InvalidParameter(f'invalid --security-opt 2: "{option}"')
    return SecurityOptions(no_new_privileges, seccomp, unmasked)


class _ProfileRule(msgspec.Struct, rename="camel"):
    names: list[str] = []
    name: str = ""
    action: str = ""
    errno_ret: int | None = None
    args: list[dict[str, int | str]] | None = None
    includes: dict[str, list[str] | str] | None = None
    excludes: dict[str, list[str] | str] | None = None


class _Profile(msgspec.Struct, rename="camel"):
    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] | None = None
    arch_map: list[dict[str, str | list[str]]] | None = None
    syscalls: list[_ProfileRule] = []


def seccomp_profile(text: str, granted: Sequence[str]) -> Seccomp:
    """A profile in Docker's format for a container with these capabilities. Raises InvalidParameter."""
    from dockyard.linux.seccomp import native_architectures
    from dockyard.oci.runtime_spec import SeccompArg, SeccompRule

    try:
        profile = msgspec.json.decode(text, type=_Profile)
    except msgspec.DecodeError as error:
        raise InvalidParameter(f"decoding seccomp profile failed: {error}") from None
    rules = []
    for rule in profile.syscalls:
        if not _applies(rule, granted):
            continue
        try:
            arguments = [
                SeccompArg(
                    index=int(argument.get("index", 0)),
                    value=int(argument.get("value", 0)),
                    value_two=int(argument.get("valueTwo", 0)),
                    op=str(argument.get("op", "SCMP_CMP_EQ")),
                )
                for argument in rule.args or []
            ]
        except ValueError as error:
            raise InvalidParameter(f"decoding seccomp profile failed: {error}") from None
        rules.append(SeccompRule(rule.names or [rule.name], rule.action, rule.errno_ret, arguments))
    return Seccomp(
        default_action=profile.default_action,
        default_errno_ret=profile.default_errno_ret,
        architectures=profile.architectures or native_architectures(),
        syscalls=rules,
    )


def _applies(rule: _ProfileRule, granted: Sequence[str]) -> bool:
    """Whether a rule's conditions on capabilities hold; those on other machines are left to libseccomp."""
    wanted = (rule.includes or {}).get("caps") or []
    unwanted = (rule.excludes or {}).get("caps") or []
    return all(name in granted for name in wanted) and not any(name in granted for name in unwanted)
