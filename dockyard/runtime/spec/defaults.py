"""What a container has when nobody says otherwise: Docker's defaults, as OCI types."""

from dockyard.oci.runtime_spec import (
    Capabilities,
    DeviceRule,
    Linux,
    Mount,
    Namespace,
    Process,
    Resources,
    Root,
    Seccomp,
    Spec,
)

DEFAULT_CAPABILITIES = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
]

# What tells of the host or reaches it through /proc and /sys.
MASKED_PATHS = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
]
READONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]

DEFAULT_MOUNTS = [
    Mount(destination="/proc", type="proc", source="proc", options=["nosuid", "noexec", "nodev"]),
    Mount(
        destination="/dev",
        type="tmpfs",
        source="tmpfs",
        options=["nosuid", "strictatime", "mode=755", "size=65536k"],
    ),
    Mount(
        destination="/dev/pts",
        type="devpts",
        source="devpts",
        options=["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    ),
    Mount(destination="/sys", type="sysfs", source="sysfs", options=["nosuid", "noexec", "nodev", "ro"]),
    Mount(destination="/sys/fs/cgroup", type="cgroup", source="cgroup", options=["ro", "nosuid", "noexec", "nodev"]),
    Mount(destination="/dev/mqueue", type="mqueue", source="mqueue", options=["nosuid", "noexec", "nodev"]),
    Mount(
        destination="/dev/shm",
        type="tmpfs",
        source="shm",
        options=["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"],
    ),
]

# Any node may be made, the harmless ones opened (runtime-spec config-linux.md "Default Devices").
DEVICE_RULES = [
    DeviceRule(allow=False, access="rwm"),
    DeviceRule(allow=True, type="c", access="m"),
    DeviceRule(allow=True, type="b", access="m"),
    DeviceRule(allow=True, type="c", major=1, minor=3, access="rwm"),
    DeviceRule(allow=True, type="c", major=1, minor=5, access="rwm"),
    DeviceRule(allow=True, type="c", major=1, minor=7, access="rwm"),
    DeviceRule(allow=True, type="c", major=1, minor=8, access="rwm"),
    DeviceRule(allow=True, type="c", major=1, minor=9, access="rwm"),
    DeviceRule(allow=True, type="c", major=5, minor=0, access="rwm"),
    DeviceRule(allow=True, type="c", major=5, minor=1, access="rwm"),
    DeviceRule(allow=True, type="c", major=5, minor=2, access="rwm"),
    DeviceRule(allow=True, type="c", major=136, access="rwm"),
    # /dev/net/tun: to open it gives nothing that CAP_NET_ADMIN does not, and VPN programs make the node themselves
    DeviceRule(allow=True, type="c", major=10, minor=200, access="rwm"),
]

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def default_seccomp(capabilities: list[str]) -> Seccomp:
    """The default system call filter for a container with these capabilities."""
    from dockyard.runtime.spec.default_seccomp import default_profile  # long, and most commands read a profile

    return default_profile(capabilities)


def capability_sets(names: list[str]) -> Capabilities:
    """`names` as Docker grants them: none is inheritable or ambient (moby CVE-2022-24769)."""
    return Capabilities(bounding=names, effective=names, permitted=names)


def default_spec() -> Spec:
    """A container with every namespace of its own but the user's, and no network but loopback."""
    return Spec(
        root=Root(path="rootfs"),
        process=Process(
            args=["sh"],
            env=[DEFAULT_PATH, "TERM=xterm"],
            capabilities=capability_sets(DEFAULT_CAPABILITIES),
        ),
        mounts=list(DEFAULT_MOUNTS),
        linux=Linux(
            namespaces=[Namespace(type=kind) for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            resources=Resources(devices=list(DEVICE_RULES)),
            masked_paths=list(MASKED_PATHS),
            readonly_paths=list(READONLY_PATHS),
        ),
    )
