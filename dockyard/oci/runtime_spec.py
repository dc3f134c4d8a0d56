"""config.json of an OCI bundle as types (opencontainers/runtime-spec 1.2, config.md and config-linux.md).

Field names are the specification's in snake_case; JSON has them in camelCase. What the spec leaves optional has an
empty default; where "absent" means something else than zero, it is None.
"""

from typing import Any

import msgspec

VERSION = "1.2.0"


class Struct(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """The base of every part of the spec: unknown fields are ignored, as the spec asks of runtimes."""


class Box(Struct):
    """A terminal's size in characters."""

    height: int = 0
    width: int = 0


class User(Struct):
    """Who a process runs as; `umask` None keeps the runtime's."""

    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: list[int] = []
    username: str = ""


class Rlimit(Struct):
    """setrlimit(2): `type` is RLIMIT_NOFILE etc.; the largest 64-bit number means no limit."""

    type: str
    soft: int
    hard: int


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
    no_new_privileges: bool = False
    apparmor_profile: str = ""
    oom_score_adj: int | None = None
    selinux_label: str = ""


class Root(Struct):
    """The root file system; `path` is absolute or relative to the bundle."""

    path: str = "rootfs"
    readonly: bool = False


class IDMapping(Struct):
    """A range of ids: `size` of them from `container_id` on are those from `host_id` on outside."""

    container_id: int = msgspec.field(name="containerID")
    host_id: int = msgspec.field(name="hostID")
    size: int = 0


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
    env: list[str] = []
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
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


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
    """How many tasks; 0 or less means no limit."""

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


class Resources(Struct):
    """Limits that the container's cgroup enforces."""

    devices: list[DeviceRule] = []
    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None
    block_io: BlockIO | None = msgspec.field(default=None, name="blockIO")
    hugepage_limits: list[HugepageLimit] = []
    unified: dict[str, str] = {}


class SeccompArg(Struct):
    """A condition on one argument of a system call."""

    index: int
    value: int
    value_two: int = 0
    op: str = "SCMP_CMP_EQ"


class SeccompRule(Struct):
    """What to do with system calls of these names, if all of `args` hold."""

    names: list[str]
    action: str
    errno_ret: int | None = None
    args: list[SeccompArg] = []


class Seccomp(Struct):
    """A system call filter."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] = []
    flags: list[str] = []
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: list[SeccompRule] = []


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
    """What `state` prints and hooks read (runtime.md, State)."""

    oci_version: str = VERSION
    id: str = ""
    status: str = ""
    pid: int = 0
    bundle: str = ""
    annotations: dict[str, str] = {}


_decode = msgspec.json.Decoder(Spec).decode
_decode_process = msgspec.json.Decoder(Process).decode
_encode = msgspec.json.Encoder().encode


def decode(data: bytes) -> Spec:
    """Parse config.json. Raises msgspec.DecodeError."""
    return _decode(data)


def decode_process(data: bytes) -> Process:
    """Parse a process.json, as `exec --process` takes. Raises msgspec.DecodeError."""
    return _decode_process(data)


def encode(value: Any) -> bytes:
    """The JSON of any part of the spec; `ociVersion` is always there."""
    data = msgspec.to_builtins(value)
    if isinstance(value, Spec | State):
        data = {"ociVersion": value.oci_version, **data}
    return _encode(data)
