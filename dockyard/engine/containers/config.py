"""What a container was asked to be: the parts of `POST /containers/create`, kept as they came.

Field names and JSON are the Engine API's (they are also what `inspect` shows and what the database keeps); what the
fields mean for the kernel is spec.py's business.
"""

from typing import Any

import msgspec

from dockyard.oci.image_config import ContainerConfig, Healthcheck

__all__ = [
    "ContainerConfig",
    "DeviceMapping",
    "DeviceRequest",
    "EndpointSettings",
    "Healthcheck",
    "HostConfig",
    "LogSettings",
    "MountSpec",
    "PortBinding",
    "RestartPolicy",
    "ThrottleRate",
    "Ulimit",
    "WeightOf",
]


class Part(msgspec.Struct, rename="pascal"):
    """The base of every part; unknown fields are ignored, as Docker does."""


class PortBinding(Part):
    """Where a container's port is reachable on the host; empty: anywhere, any."""

    host_ip: str = ""
    host_port: str = ""


class RestartPolicy(Part):
    """`name`: "", no, always, unless-stopped, on-failure."""

    name: str = ""
    maximum_retry_count: int = 0


class LogSettings(Part):
    """The log driver and its options."""

    type: str = ""
    config: dict[str, str] | None = None


class Ulimit(Part):
    """`name` as in `ulimit`'s long names: nofile, nproc…"""

    name: str
    hard: int = 0
    soft: int = 0


class DeviceMapping(Part):
    """A host device in the container; `permissions` of r, w, m."""

    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Part):
    """A request to a device driver (`--gpus`)."""

    driver: str = ""
    count: int = 0
    device_ids: list[str] | None = msgspec.field(default=None, name="DeviceIDs")
    capabilities: list[list[str]] | None = None
    options: dict[str, str] | None = None


class ThrottleRate(Part):
    """A block device's limit in bytes or operations a second."""

    path: str = ""
    rate: int = 0


class WeightOf(Part):
    """A block device's share."""

    path: str = ""
    weight: int = 0


class BindOptions(Part, omit_defaults=True):
    """Options of a bind mount."""

    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class DriverConfig(Part, omit_defaults=True):
    """A volume driver and its options."""

    name: str = ""
    options: dict[str, str] | None = None


class VolumeOptions(Part, omit_defaults=True):
    """Options of a volume mount."""

    no_copy: bool = False
    labels: dict[str, str] | None = None
    driver_config: DriverConfig | None = None
    subpath: str = ""


class ImageOptions(Part, omit_defaults=True):
    """Options of a mounted image."""

    subpath: str = ""


class TmpfsOptions(Part, omit_defaults=True):
    """Options of a tmpfs mount: bytes, permissions, further mount options."""

    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] | None = None


class MountSpec(Part, omit_defaults=True):
    """One `--mount`; `type`: bind, volume, image, tmpfs."""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class HostConfig(Part, kw_only=True):
    """What of the host a container gets."""

    binds: list[str] | None = None
    container_id_file: str = msgspec.field(default="", name="ContainerIDFile")
    log_config: LogSettings = msgspec.field(default_factory=LogSettings)
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding] | None] | None = None
    restart_policy: RestartPolicy = msgspec.field(default_factory=RestartPolicy)
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    console_size: list[int] = msgspec.field(default_factory=lambda: [0, 0])
    annotations: dict[str, str] | None = None
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    cgroupns_mode: str = ""
    dns: list[str] | None = None
    dns_options: list[str] | None = None
    dns_search: list[str] | None = None
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] | None = None
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = msgspec.field(default="", name="UTSMode")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] | None = None
    runtime: str = ""
    isolation: str = ""
    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: list[WeightOf] | None = None
    blkio_device_read_bps: list[ThrottleRate] | None = None
    blkio_device_write_bps: list[ThrottleRate] | None = None
    blkio_device_read_iops: list[ThrottleRate] | None = msgspec.field(default=None, name="BlkioDeviceReadIOps")
    blkio_device_write_iops: list[ThrottleRate] | None = msgspec.field(default=None, name="BlkioDeviceWriteIOps")
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: list[str] | None = None
    device_requests: list[DeviceRequest] | None = None
    kernel_memory: int = 0
    kernel_memory_tcp: int = msgspec.field(default=0, name="KernelMemoryTCP")
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] | None = None
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: int = msgspec.field(default=0, name="IOMaximumIOps")
    io_maximum_bandwidth: int = msgspec.field(default=0, name="IOMaximumBandwidth")
    mounts: list[MountSpec] | None = None
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    init: bool | None = None


class IPAMConfig(Part, omit_defaults=True):
    """The addresses an endpoint asks for."""

    ipv4_address: str = msgspec.field(default="", name="IPv4Address")
    ipv6_address: str = msgspec.field(default="", name="IPv6Address")
    link_local_ips: list[str] | None = msgspec.field(default=None, name="LinkLocalIPs")


class EndpointSettings(Part, kw_only=True):
    """A container's attachment to a network: what was asked, and, while it runs, what it got."""

    ipam_config: IPAMConfig | None = msgspec.field(default=None, name="IPAMConfig")
    links: list[str] | None = None
    aliases: list[str] | None = None
    mac_address: str = ""
    driver_opts: dict[str, str] | None = None
    gw_priority: int = 0
    network_id: str = msgspec.field(default="", name="NetworkID")
    endpoint_id: str = msgspec.field(default="", name="EndpointID")
    gateway: str = ""
    ip_address: str = msgspec.field(default="", name="IPAddress")
    ip_prefix_len: int = msgspec.field(default=0, name="IPPrefixLen")
    ipv6_gateway: str = msgspec.field(default="", name="IPv6Gateway")
    global_ipv6_address: str = msgspec.field(default="", name="GlobalIPv6Address")
    global_ipv6_prefix_len: int = msgspec.field(default=0, name="GlobalIPv6PrefixLen")
    dns_names: list[str] | None = msgspec.field(default=None, name="DNSNames")


# What JSON calls the value of `exposed_ports` and `volumes`: an empty object.
Empty = dict[str, Any]
