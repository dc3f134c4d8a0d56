"""config.json of an OCI bundle as types (opencontainers/runtime-spec 1.2, config.md and config-linux.md).

Field names are the specification's in snake_case; JSON has them in camelCase. What the spec leaves optional has an
empty default; where "absent" means something else than zero, it is None.
"""

from typing import Annotated, Any

import msgspec

VERSION = "1.2.0"

# The number that is left over means "none" to the kernel: setresuid(2) would leave the id as it is.
LARGEST_ID = (1 << 32) - 2
Id = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_ID)]
"""A user's or group's number."""
Unsigned = Annotated[int, msgspec.Meta(ge=0)]


class Struct(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """The base of every part of the spec: unknown fields are ignored, as the spec asks of runtimes."""


class Box(Struct):
    """A terminal's size in characters."""

    height: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)] = 0
    width: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)] = 0


class User(Struct):
    """Who a process runs as; `umask` None is 022, and the container's for a further process."""

    uid: Id = 0
    gid: Id = 0
    umask: Annotated[int, msgspec.Meta(ge=0, le=0o7777)] | None = None
    additional_gids: list[Id] = []
    username: str = ""


class Rlimit(Struct):
    """setrlimit(2): `type` is RLIMIT_NOFILE etc.; the largest 64-bit number means no limit."""

    type: str
    soft: Unsigned
    hard: Unsigned


class Scheduler(Struct):
    """sched_setattr(2); runtime, deadline and period of SCHED_DEADLINE in ns."""

    policy: str
    nice: int = 0
    priority: int = 0
    flags: list[str] = []
    runtime: Unsigned = 0
    deadline: Unsigned = 0
    period: Unsigned = 0


class IOPriority(Struct):
    """ioprio_set(2): a class like IOPRIO_CLASS_BE and a level, 0 (first) to 7 (last)."""

    class_: str = msgspec.field(name="class")
    priority: int = 0


class CPUAffinity(Struct):
    """Lists of CPUs like 0-3,7 that an exec'ed process runs on before and after it joins the cgroup."""

    initial: str = ""
    final: str = ""


class Capabilities(Struct):
    """The five sets, by names like CAP_CHOWN."""

    bounding: list[str] = []
    effective: list[str] = []
    inheritable: list[str] = []
    permitted: list[str] = []
    ambient: list[str] = []


class Process(Struct):
    """What to execute, and as whom."""

    terminal: bool = False
    console_size: Box | None = None
    user: User = msgspec.field(default_factory=User)
    args: list[str] = []
    env: list[str] = []
    cwd: str = "/"
    capabilities: Capabilities | None = None
    rlimits: list[Rlimit] = []
    no_new_privileges: bool | None = None  # of a further process None is the container's
    apparmor_profile: str = ""
    oom_score_adj: int | None = None
    selinux_label: str = ""
    scheduler: Scheduler | None = None
    io_priority: IOPriority | None = None
    exec_cpu_affinity: CPUAffinity | None = msgspec.field(default=None, name="execCPUAffinity")


class Root(Struct):
    """The root file system; `path` is absolute or relative to the bundle."""

    path: str = "rootfs"
    readonly: bool = False


class IDMapping(Struct):
    """A range of ids: `size` of them from `container_id` on are those from `host_id` on outside."""

    container_id: Id = msgspec.field(name="containerID")
    host_id: Id = msgspec.field(name="hostID")
    size: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_ID + 1)] = 0


class Mount(Struct):
    """One mount of the container, made in the order of the list."""

    destination: str
    type: str = ""
    source: str = ""
    options: list[str] = []
    uid_mappings: list[IDMapping] = []
    gid_mappings: list[IDMapping] = []


class Hook(Struct):
    """A program run at a point of the life cycle with the container's state on its stdin; `timeout` in seconds."""

    path: str
    args: list[str] = []
    env: list[str] | None = None  # None: whatever runs it has
    timeout: int | None = None


class Hooks(Struct):
    """The six kinds of hooks."""

    prestart: list[Hook] = []
    create_runtime: list[Hook] = []
    create_container: list[Hook] = []
    start_container: list[Hook] = []
    poststart: list[Hook] = []
    poststop: list[Hook] = []


class Namespace(Struct):
    """A namespace to make, or with `path` to join; `type` is pid, network, mount, ipc, uts, user, cgroup or time."""

    type: str
    path: str = ""


class Device(Struct):
    """A device node to make; `type` is c, b, u or p."""

    type: str
    path: str
    major: int = 0
    minor: int = 0
    file_mode: Unsigned | None = None
    uid: Id | None = None
    gid: Id | None = None


class DeviceRule(Struct):
    """A row of the device allow list; `type` is a, c or b, `access` of r, w and m; None is any number."""

    allow: bool
    type: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = ""


class Memory(Struct):
    """Bytes, but for swappiness (percent); -1 means no limit."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    kernel_tcp: int | None = msgspec.field(default=None, name="kernelTCP")
    swappiness: int | None = None
    disable_oom_killer: bool | None = msgspec.field(default=None, name="disableOOMKiller")
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class Cpu(Struct):
    """Shares are relative; quota, period, burst and realtime times in µs."""

    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None


class Pids(Struct):
    """How many tasks; -1 means no limit, 0 is taken as 1."""

    limit: int = 0


class WeightDevice(Struct):
    """A block device's share of IO time."""

    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(Struct):
    """A block device's limit in bytes or operations a second."""

    major: int
    minor: int
    rate: int


class BlockIO(Struct):
    """Block device limits."""

    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: list[WeightDevice] = []
    throttle_read_bps_device: list[ThrottleDevice] = []
    throttle_write_bps_device: list[ThrottleDevice] = []
    throttle_read_iops_device: list[ThrottleDevice] = msgspec.field(default_factory=list, name="throttleReadIOPSDevice")
    throttle_write_iops_device: list[ThrottleDevice] = msgspec.field(
        default_factory=list, name="throttleWriteIOPSDevice"
    )


class HugepageLimit(Struct):
    """`page_size` like 2MB; `limit` in bytes."""

    page_size: str
    limit: int


class InterfacePriority(Struct):
    """The priority of traffic that leaves through the interface `name`."""

    name: str
    priority: Unsigned


class Network(Struct):
    """The net_cls and net_prio controllers of cgroup version 1."""

    class_id: Id | None = msgspec.field(default=None, name="classID")
    priorities: list[InterfacePriority] = []


class Rdma(Struct):
    """Limits of an RDMA device."""

    hca_handles: Unsigned | None = None
    hca_objects: Unsigned | None = None


class Resources(Struct):
    """Limits that the container's cgroup enforces."""

    devices: list[DeviceRule] = []
    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None
    block_io: BlockIO | None = msgspec.field(default=None, name="blockIO")
    hugepage_limits: list[HugepageLimit] = []
    network: Network | None = None
    rdma: dict[str, Rdma] = {}
    unified: dict[str, str] = {}


class SeccompArg(Struct, omit_defaults=False):
    """A condition on one argument of a system call."""

    index: Annotated[int, msgspec.Meta(ge=0, le=5)]
    value: Unsigned
    value_two: Unsigned = 0
    op: str = "SCMP_CMP_EQ"


class SeccompRule(Struct):
    """What to do with system calls of these names, if all of `args` hold."""

    names: list[str]
    action: str
    errno_ret: Unsigned | None = None
    args: list[SeccompArg] = []


class Seccomp(Struct):
    """A system call filter. `flags` None, not given, is not the same as none."""

    default_action: str
    default_errno_ret: Unsigned | None = None
    architectures: list[str] = []
    flags: list[str] | None = None
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: list[SeccompRule] = []


class TimeOffset(Struct):
    """How far a clock of a time namespace is ahead of the host's."""

    secs: int = 0
    nanosecs: Annotated[int, msgspec.Meta(ge=0, lt=1_000_000_000)] = 0


class Personality(Struct):
    """personality(2): `domain` is LINUX or LINUX32."""

    domain: str
    flags: list[str] = []


class IntelRdt(Struct):
    """A class of service of Intel's Resource Director Technology (resctrl): shares of caches and memory bandwidth."""

    clos_id: str = msgspec.field(default="", name="closID")
    l3_cache_schema: str = msgspec.field(default="", name="l3CacheSchema")
    mem_bw_schema: str = ""
    schemata: list[str] = []
    enable_monitoring: bool = False


class MemoryPolicy(Struct):
    """set_mempolicy(2): `mode` like MPOL_BIND, `nodes` a list like 0-3,7, `flags` like MPOL_F_STATIC_NODES."""

    mode: str = ""
    nodes: str = ""
    flags: list[str] = []


class NetDevice(Struct):
    """A network device of the host that moves into the container, there called `name` if that is not empty."""

    name: str = ""


class Linux(Struct):
    """The Linux part."""

    uid_mappings: list[IDMapping] = []
    gid_mappings: list[IDMapping] = []
    sysctl: dict[str, str] = {}
    resources: Resources | None = None
    cgroups_path: str = ""
    namespaces: list[Namespace] = []
    devices: list[Device] = []
    seccomp: Seccomp | None = None
    rootfs_propagation: str = ""
    masked_paths: list[str] = []
    readonly_paths: list[str] = []
    mount_label: str = ""
    time_offsets: dict[str, TimeOffset] = {}
    personality: Personality | None = None
    intel_rdt: IntelRdt | None = None
    memory_policy: MemoryPolicy | None = None
    net_devices: dict[str, NetDevice] = {}


class Spec(Struct):
    """config.json."""

    oci_version: str = VERSION
    root: Root = msgspec.field(default_factory=Root)
    hostname: str = ""
    domainname: str = ""
    mounts: list[Mount] = []
    process: Process | None = None
    hooks: Hooks | None = None
    annotations: dict[str, str] = {}
    linux: Linux = msgspec.field(default_factory=Linux)


class State(Struct):
    """What `state` prints and hooks read (runtime.md, "State")."""

    oci_version: str = VERSION
    id: str = ""
    status: str = ""
    pid: int = 0
    bundle: str = ""
    annotations: dict[str, str] = {}


class ContainerProcessState(Struct):
    """What a seccomp agent reads from listenerPath along with the descriptors named in `fds`."""

    oci_version: str = VERSION
    fds: list[str] = []
    pid: int = 0
    metadata: str = ""
    state: State = msgspec.field(default_factory=State)


_decode = msgspec.json.Decoder(Spec).decode
_decode_process = msgspec.json.Decoder(Process).decode
_decode_resources = msgspec.json.Decoder(Resources).decode
_encode = msgspec.json.Encoder().encode


def decode(data: bytes) -> Spec:
    """Parse config.json. Raises msgspec.DecodeError."""
    if b"\\u0000" in data:
        _refuse_nul(msgspec.json.decode(data))
    try:
        return _decode(data)
    except msgspec.ValidationError:
        return msgspec.convert(_without_nulls(msgspec.json.decode(data)), Spec)


def decode_process(data: bytes) -> Process:
    """Parse a process.json, as `exec --process` takes. Raises msgspec.DecodeError."""
    if b"\\u0000" in data:
        _refuse_nul(msgspec.json.decode(data))
    try:
        return _decode_process(data)
    except msgspec.ValidationError:
        return msgspec.convert(_without_nulls(msgspec.json.decode(data)), Process)


def _refuse_nul(value: Any) -> None:
    """No string that the kernel gets may hold a NUL: it would end there, and what was checked not be what is done."""
    if isinstance(value, str):
        if "\0" in value:
            raise msgspec.ValidationError(f"{value!r} contains a null byte")
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_nul(key)
            _refuse_nul(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_nul(item)


def _without_nulls(value: Any) -> Any:
    """Engines written in Go say null for an empty list or object; absent means the same."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def decode_resources(data: bytes) -> Resources:
    """Parse what `linux.resources` holds, as `update --resources` takes it. Raises msgspec.DecodeError."""
    return _decode_resources(data)


def encode(value: Any) -> bytes:
    """The JSON of any part of the spec, with what the spec requires even where it is our default."""
    data = msgspec.to_builtins(value)
    if isinstance(value, Spec | State | ContainerProcessState):
        data = {"ociVersion": value.oci_version, **data}
    if isinstance(value, Spec):
        data["root"] = {"path": value.root.path, **data.get("root", {})}
        if value.process is not None:
            data["process"] |= _required(value.process)
    elif isinstance(value, Process):
        data |= _required(value)
    elif isinstance(value, ContainerProcessState):
        data["state"] = {"ociVersion": value.state.oci_version, **data.get("state", {})}
    return _encode(data)


def _required(process: Process) -> dict[str, Any]:
    return {"cwd": process.cwd, "user": {"uid": 0, "gid": 0, **msgspec.to_builtins(process.user)}}
