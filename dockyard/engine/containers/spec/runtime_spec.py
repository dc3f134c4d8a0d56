"""From what was asked of a container to one OCI runtime spec: the only place that knows what each flag means."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dockyard.engine.containers.config import ContainerConfig, HostConfig
from dockyard.engine.containers.spec import limits
from dockyard.engine.containers.spec.devices import devices_of
from dockyard.engine.containers.spec.security import granted_capabilities
from dockyard.engine.system.id_ranges import IdRange
from dockyard.errors import InvalidParameter
from dockyard.oci.runtime_spec import Box, Linux, Mount, Namespace, Process, Root, Seccomp, Spec, User
from dockyard.runtime.spec import defaults

DEFAULT_SHM_SIZE = 64 << 20
# What may be set per container without touching the host, and under which namespace (runc's validator).
IPC_SYSCTLS = frozenset(
    f"kernel.{name}" for name in "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced".split()
)
# tmpfs(5)'s options that take a value; and its switches, by what they switch.
TMPFS_VALUES = frozenset("size mode uid gid nr_inodes nr_blocks mpol huge".split())
TMPFS_SWITCHES = {
    "ro": "rw", "rw": "rw", "suid": "suid", "nosuid": "suid", "dev": "dev", "nodev": "dev", "exec": "exec",
    "noexec": "exec", "sync": "sync", "async": "sync", "atime": "atime", "noatime": "atime", "diratime": "diratime",
    "nodiratime": "diratime", "relatime": "relatime", "norelatime": "relatime", "strictatime": "strictatime",
    "nostrictatime": "strictatime", "dirsync": "dirsync", "mand": "mand", "nomand": "mand",
}  # fmt: skip
PROPAGATIONS = frozenset("private rprivate shared rshared slave rslave unbindable runbindable bind rbind".split())


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What of the host and of other containers goes into a container's spec, found out by the engine.

    `namespaces` are paths to join by type; a type in `host_namespaces` is shared with the host, others are made anew.
    `files` are (source, destination) of hosts, hostname, resolv.conf; `fixed_files`: nothing can be written there.
    `mounts` are the volumes and binds, resolved.
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
    fixed_files: bool = False
    mounts: Sequence[Mount] = ()
    shm_source: str = ""
    seccomp: Seccomp | None = None
    no_new_privileges: bool = False
    apparmor: str = ""
    writable_cgroups: bool = False
    init_path: str = ""
    rootfs_propagation: str = ""
    link_variables: Sequence[str] = ()
    secret_variables: Sequence[str] = ()
    ids: IdRange | None = None
    open_files: tuple[int, int] | None = None


def build(config: ContainerConfig, host: HostConfig, around: Surroundings) -> Spec:
    """The spec of a container. Raises InvalidParameter for what can't be."""
    granted = granted_capabilities(host.cap_add, host.cap_drop, host.privileged)
    devices = devices_of(host)
    resources = limits.resources(host)
    resources.devices = devices.rules
    return Spec(
        root=Root(path=around.rootfs, readonly=host.readonly_rootfs),
        hostname="" if "uts" in around.host_namespaces else around.hostname,
        domainname="" if "uts" in around.host_namespaces else config.domainname,
        process=process(config, host, around, granted),
        mounts=_mounts(host, around),
        annotations=dict(host.annotations or {}),
        linux=Linux(
            namespaces=_namespaces(around),
            sysctl=_sysctls(host, around),
            resources=resources,
            cgroups_path=around.cgroup_path,
            devices=devices.nodes,
            seccomp=around.seccomp,
            masked_paths=_or_default(host.masked_paths, host.privileged, defaults.MASKED_PATHS),
            readonly_paths=_or_default(host.readonly_paths, host.privileged, defaults.READONLY_PATHS),
            rootfs_propagation=around.rootfs_propagation,
        ),
    )


def process(config: ContainerConfig, host: HostConfig, around: Surroundings, granted: list[str]) -> Process:
    """The container's own process."""
    args = [*(config.entrypoint or []), *(config.cmd or [])]
    if around.init_path:
        args = ["/sbin/docker-init", "--", *args]
    size = [number & 0xFFFF for number in host.console_size]  # as much of it as a terminal takes
    return Process(
        terminal=config.tty,
        console_size=Box(*size) if config.tty and any(size) else None,
        user=around.user,
        args=args,
        env=environment(
            [*around.link_variables, *(config.env or []), *around.secret_variables],
            tty=config.tty,
            hostname=around.hostname,
            home=around.home,
        ),
        cwd=config.working_dir or "/",
        capabilities=defaults.capability_sets(granted),
        rlimits=limits.rlimits(host, around.open_files),
        no_new_privileges=around.no_new_privileges,
        apparmor_profile=around.apparmor,
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


def _or_default(given: list[str] | None, privileged: bool, default: list[str]) -> list[str]:
    if given is not None:
        return given
    return [] if privileged else default


def _namespaces(around: Surroundings) -> list[Namespace]:
    found = []
    if "user" in around.namespaces:
        found.append(Namespace("user", around.namespaces["user"]))
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
        if mount.destination in chosen or ("/dev" in chosen and mount.destination.startswith("/dev/")):
            continue
        options = list(mount.options)
        if mount.destination == "/dev/shm":
            if host.ipc_mode == "none":
                continue
            if around.shm_source:
                found.append(Mount("/dev/shm", type="bind", source=around.shm_source, options=["rbind", "rprivate"]))
                continue
            if "ipc" in around.host_namespaces:
                found.append(Mount("/dev/shm", type="bind", source="/dev/shm", options=["rbind", "rprivate"]))
                continue
            size = host.shm_size or DEFAULT_SHM_SIZE
            options = [option for option in options if not option.startswith("size=")] + [f"size={size}"]
        if (host.privileged and mount.destination == "/sys") or (
            around.writable_cgroups and mount.destination == "/sys/fs/cgroup"
        ):
            options = ["rw" if option == "ro" else option for option in options]
        found.append(Mount(mount.destination, type=mount.type, source=mount.source, options=options))
    for source, destination in around.files:
        if destination not in chosen:
            options = ["rbind", "rprivate", *(["ro"] if host.readonly_rootfs or around.fixed_files else [])]
            bound = Mount(destination, type="bind", source=source, options=options)
            if around.ids is not None:
                bound.uid_mappings, bound.gid_mappings = around.ids.uids, around.ids.gids
            found.append(bound)
    for destination, given in (host.tmpfs or {}).items():
        found.append(Mount(destination, type="tmpfs", source="tmpfs", options=tmpfs_options(given)))
    found += around.mounts
    if around.init_path:
        found.append(Mount("/sbin/docker-init", type="bind", source=around.init_path, options=["bind", "ro"]))
    # A mount below another must come after it; /proc and /dev stay where they are, first.
    head = len(defaults.DEFAULT_MOUNTS)
    return found[:head] + sorted(found[head:], key=lambda mount: mount.destination.rstrip("/").count("/"))


def tmpfs_options(given: str) -> list[str]:
    """`--tmpfs`'s options on top of its defaults; a later one wins. Raises InvalidParameter for an unknown one."""
    options: dict[str, str] = {"exec": "noexec", "suid": "nosuid", "dev": "nodev"}
    for option in filter(None, given.split(",")):
        name, equals, _ = option.partition("=")
        if option == "defaults":
            continue
        if option in TMPFS_SWITCHES:
            key = TMPFS_SWITCHES[option]
        elif option in PROPAGATIONS:
            key = "propagation"
        elif equals and name in TMPFS_VALUES:
            key = name
        else:
            raise InvalidParameter(f'invalid tmpfs option "{name}"')
        options.pop(key, None)
        options[key] = option
    return list(options.values())


# -- kernel settings


def _sysctls(host: HostConfig, around: Surroundings) -> dict[str, str]:
    """The asked ones, each of which must be a namespace's that is not the host's."""
    found: dict[str, str] = {}
    for name, value in (host.sysctls or {}).items():
        dotted = name.replace("/", ".")
        if dotted.startswith("net."):
            if "network" in around.host_namespaces:
                raise InvalidParameter(f'sysctl "{name}" not allowed in host network namespace')
        elif _is_ipc(dotted):
            if "ipc" in around.host_namespaces:
                raise InvalidParameter(f'sysctl "{name}" is not allowed in the hosts ipc namespace')
        elif dotted == "kernel.domainname":
            if "uts" in around.host_namespaces:
                raise InvalidParameter(f'sysctl "{name}" is not allowed in the host uts namespace')
        elif dotted == "kernel.hostname":
            raise InvalidParameter(
                f'sysctl "{name}" is not allowed as it conflicts with the OCI hostname field: use --hostname'
            )
        else:
            raise InvalidParameter(f'sysctl "{name}" is not in a separate kernel namespace')
        found[name] = value
    return found


def _is_ipc(name: str) -> bool:
    return name in IPC_SYSCTLS or name.startswith("fs.mqueue.")
