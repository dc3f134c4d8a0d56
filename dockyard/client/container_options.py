"""What a container can be asked to be, in a program's words, and the request made of it.

`create_body` turns options into the body of POST /containers/create (Docker Engine API, ContainerCreate). Names are
those of the API's fields in Python's spelling, or docker-py's where programs already use them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypedDict

from dockyard.client.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from dockyard.client.leases import Lease

    # text such as "512m" or "1.5g" (1024s), or bytes
    Size = int | str
    # one host port, an address with it, None for any free port, or several of them
    HostPort = int | str | tuple[str, int] | None
    Body = dict[str, Any]


class Healthcheck(TypedDict, total=False):
    """How to find out whether a container is well. Times in seconds."""

    test: str | Sequence[str]  # text is for the container's shell; ["NONE"] turns the image's off
    interval: float
    timeout: float
    start_period: float
    start_interval: float
    retries: int


class Mount(TypedDict, total=False):
    """One mount."""

    type: str  # bind, volume, tmpfs
    source: str
    target: str
    read_only: bool
    propagation: str  # of a bind mount: rprivate, rshared, rslave…
    no_copy: bool  # of a volume: do not copy what the image has there
    subpath: str  # of a volume
    driver: str  # of a volume that is made by this
    driver_options: Mapping[str, str]
    labels: Mapping[str, str]
    size: int | str  # of a tmpfs
    mode: int  # of a tmpfs


class EndpointOptions(TypedDict, total=False):
    """How to join a network."""

    aliases: Sequence[str]  # names by which others on the network find it
    ipv4_address: str
    ipv6_address: str
    link_local_ips: Sequence[str]
    links: Sequence[str]
    mac_address: str
    driver_options: Mapping[str, str]
    gateway_priority: int


class ContainerOptions(TypedDict, total=False):
    """Everything that `run`, `execute`, `containers.create` and `containers.run` take by name."""

    # what runs
    name: str
    platform: str  # linux/arm64
    entrypoint: str | Sequence[str]
    environment: Mapping[str, str | None] | Sequence[str]  # None: as it is here
    user: str | int
    working_dir: str
    labels: Mapping[str, str] | Sequence[str]
    annotations: Mapping[str, str]
    hostname: str
    domainname: str
    tty: bool
    stdin_open: bool
    init: bool  # a PID 1 that passes on signals and reaps
    runtime: str
    healthcheck: Healthcheck
    stop_signal: str | int
    stop_timeout: int  # seconds
    # when it ends
    restart: str  # always, unless-stopped, on-failure, on-failure:5
    restart_policy: Mapping[str, Any]  # {"Name": …, "MaximumRetryCount": …}
    auto_remove: bool
    # files
    volumes: Mapping[str, str | Mapping[str, str]] | Sequence[str]  # {source: target or {"bind": …, "mode": "ro"}}
    mounts: Sequence[Mount]
    tmpfs: Mapping[str, str] | Sequence[str]
    volumes_from: Sequence[str]
    volume_driver: str
    read_only: bool
    storage_opt: Mapping[str, str]
    # network
    network: str  # to join this one
    networks: Mapping[str, EndpointOptions | None]  # several
    network_mode: str  # bridge, host, none, container:NAME
    network_disabled: bool
    aliases: Sequence[str]  # further names on `network`
    ports: Mapping[str | int, HostPort | Sequence[HostPort]]  # {"80/tcp": 8080, 53: ("127.0.0.1", 5353), 22: None}
    expose: Sequence[str | int]
    publish_all_ports: bool
    mac_address: str
    dns: Sequence[str]
    dns_opt: Sequence[str]
    dns_search: Sequence[str]
    extra_hosts: Mapping[str, str] | Sequence[str]
    links: Mapping[str, str] | Sequence[str]
    # resources
    cpus: float
    nano_cpus: int
    cpu_shares: int
    cpu_period: int
    cpu_quota: int
    cpu_rt_period: int
    cpu_rt_runtime: int
    cpuset_cpus: str
    cpuset_mems: str
    mem_limit: Size
    mem_reservation: Size
    mem_swappiness: int
    memswap_limit: Size
    shm_size: Size
    pids_limit: int
    ulimits: Mapping[str, int | tuple[int, int]]  # {"nofile": 1024 or (soft, hard)}
    oom_kill_disable: bool
    oom_score_adj: int
    blkio_weight: int
    blkio_weight_device: Sequence[Mapping[str, Any]]
    device_read_bps: Mapping[str, Size]  # {"/dev/sda": "10m"}
    device_write_bps: Mapping[str, Size]
    device_read_iops: Mapping[str, int]
    device_write_iops: Mapping[str, int]
    # rights and isolation
    privileged: bool
    cap_add: Sequence[str]
    cap_drop: Sequence[str]
    security_opt: Sequence[str]
    group_add: Sequence[str | int]
    sysctls: Mapping[str, str | int]
    devices: Sequence[str]  # "/dev/x", "/dev/x:/dev/y:rwm"
    device_cgroup_rules: Sequence[str]
    device_requests: Sequence[Mapping[str, Any]]
    gpus: int | str  # a number, "all"
    cgroup_parent: str
    cgroupns: str  # host, private
    ipc_mode: str
    pid_mode: str
    uts_mode: str
    userns_mode: str
    # logs
    log_driver: str
    log_options: Mapping[str, str]
    log_config: Mapping[str, Any]  # {"Type": …, "Config": {…}}
    lease: Lease[Any]  # to go with it (Dockyard only)
    # what the API has and this list has not: merged into the request's body, {"HostConfig": {…}}
    raw: Mapping[str, Any]


def create_body(image: str, command: str | Sequence[str] | None, options: Mapping[str, Any]) -> Body:
    """The body of POST /containers/create; `name` and `platform` are not part of it.

    Raises TypeError for an option that there is not, ClientError for a value that cannot be one.
    """
    body: Body = {"Image": image}
    host: Body = {}
    if command is not None:
        body["Cmd"] = words(command)
    for name, value in options.items():
        if name in ("name", "platform", "raw", *_NETWORK_OPTIONS) or value is None:
            continue
        _check(name, value)
        if name in _PLAIN:
            body[_PLAIN[name]] = value
        elif name in _PLAIN_HOST:
            host[_PLAIN_HOST[name]] = value
        elif name in _CONVERTED:
            field, convert = _CONVERTED[name]
            body[field] = _converted(name, convert, value)
        elif name in _CONVERTED_HOST:
            field, convert = _CONVERTED_HOST[name]
            host[field] = _converted(name, convert, value)
        elif name not in _COMPOSED:
            raise TypeError(f"there is no container option {name!r}")
    _compose(options, body, host)
    _networks(options, body, host)
    if host:
        body["HostConfig"] = host
    _merge(body, options.get("raw") or {})
    return body


# what an annotation of ContainerOptions allows; those that are not here are checked where they are converted
_KINDS: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "int | str": (int, str),
    "str | int": (int, str),
    "Sequence[str]": (list, tuple, set, frozenset),
}


def _kind_of(name: str) -> str:
    """An option's type, as it is written in ContainerOptions."""
    return str(getattr(ContainerOptions.__annotations__.get(name), "__forward_arg__", ""))


def _check(name: str, value: object) -> None:
    """Raise TypeError, naming the option, for a value of a wrong type: the engine would speak of its own field."""
    wanted = _kind_of(name)
    allowed = _KINDS.get(wanted)
    if allowed is None or (isinstance(value, allowed) and not (isinstance(value, bool) and bool not in allowed)):
        return
    raise TypeError(f"option {name} must be {wanted}, not {type(value).__name__}: {value!r}")


def _converted(name: str, convert: Callable[[Any], Any], value: object) -> Any:
    try:
        return convert(value)
    except (AttributeError, TypeError, KeyError) as error:
        raise TypeError(f"option {name} must be {_kind_of(name)}, not {value!r}") from error


def words(command: str | Sequence[str]) -> list[str]:
    """A command as a list; text is split as a POSIX shell does it, but nothing in it is expanded."""
    if not isinstance(command, str):
        return [os.fspath(word) for word in command]
    if not any(character in command for character in "\"'\\\n\t"):
        return command.split()
    import shlex

    return shlex.split(command)


def size(value: int | str) -> int:
    """Bytes: a number, or text with a unit of 1024s ("512m", "1.5g", "64k", "100b"). Raises ClientError."""
    if isinstance(value, int):
        return value
    text = value.strip().lower().removesuffix("b").removesuffix("i")
    unit = {"k": 10, "m": 20, "g": 30, "t": 40, "p": 50}.get(text[-1:], 0)
    try:
        return int(float(text[:-1] if unit else text) * (1 << unit))
    except ValueError:
        raise ClientError(f"invalid size {value!r}: a number of bytes, or such as '512m'") from None


def nanoseconds(seconds: float) -> int:
    """Seconds as the API's durations."""
    return int(seconds * 1_000_000_000)


def pairs(value: Mapping[str, Any] | Iterable[str]) -> dict[str, str]:
    """A mapping, or a list of NAME[=VALUE], as a dict of text."""
    if hasattr(value, "items"):
        return {name: str(item) for name, item in value.items()}
    return {name: text for name, _, text in (item.partition("=") for item in value)}


def environment(value: Mapping[str, str | None] | Sequence[str]) -> list[str]:
    """Variables as NAME=VALUE; a mapping's None takes the value from our own environment, if it has one."""
    if not hasattr(value, "items"):
        return list(value)
    found = []
    for name, text in value.items():
        text = os.environ.get(name) if text is None else text
        if text is not None:
            found.append(f"{name}={text}")
    return found


def joined(value: Mapping[str, Any] | Sequence[str], separator: str) -> list[str]:
    """A mapping as a list of KEY<separator>VALUE; a list as it is."""
    if hasattr(value, "items"):
        return [f"{key}{separator}{item}" if item else str(key) for key, item in value.items()]
    return list(value)


def healthcheck(value: Healthcheck) -> Body:
    """The API's HealthConfig."""
    test = value.get("test")
    body: Body = {}
    if test is not None:
        plain = ["CMD-SHELL", test] if isinstance(test, str) else list(test)
        body["Test"] = plain if plain and plain[0] in ("NONE", "CMD", "CMD-SHELL") else ["CMD", *plain]
    times = {
        "interval": "Interval",
        "timeout": "Timeout",
        "start_period": "StartPeriod",
        "start_interval": "StartInterval",
    }
    for name, field in times.items():
        if name in value:
            body[field] = nanoseconds(value[name])  # type: ignore[literal-required]
    if "retries" in value:
        body["Retries"] = value["retries"]
    return body


def volume_binds(value: Mapping[str, str | Mapping[str, str]] | Sequence[str]) -> list[str]:
    """SOURCE:TARGET[:MODE] for each; a source that is a relative path here is made absolute."""
    binds = [_bind(source, target) for source, target in value.items()] if hasattr(value, "items") else list(value)
    return [
        os.path.abspath(source) + colon + rest if bind.startswith(".") else bind
        for bind, (source, colon, rest) in ((bind, bind.partition(":")) for bind in binds)
    ]


def _bind(source: str, target: str | Mapping[str, str]) -> str:
    if isinstance(target, str):
        return f"{os.fspath(source)}:{target}"
    return ":".join([os.fspath(source), target["bind"], *([target["mode"]] if target.get("mode") else [])])


def mount(value: Mount) -> Body:
    """The API's Mount."""
    if "Target" in value:
        return dict(value)  # the API's own words
    kind = value.get("type", "volume")
    body: Body = {"Type": kind, "Target": value.get("target", "")}
    if value.get("source"):
        source = value["source"]
        body["Source"] = os.path.abspath(source) if kind == "bind" and source.startswith(".") else source
    if value.get("read_only"):
        body["ReadOnly"] = True
    if "propagation" in value:
        body["BindOptions"] = {"Propagation": value["propagation"]}
    if kind == "volume":
        options: Body = {}
        if value.get("no_copy"):
            options["NoCopy"] = True
        if "labels" in value:
            options["Labels"] = dict(value["labels"])
        if "subpath" in value:
            options["Subpath"] = value["subpath"]
        if "driver" in value or "driver_options" in value:
            options["DriverConfig"] = {
                "Name": value.get("driver", "local"),
                "Options": dict(value.get("driver_options", {})),
            }
        if options:
            body["VolumeOptions"] = options
    if kind == "tmpfs" and ("size" in value or "mode" in value):
        body["TmpfsOptions"] = {
            **({"SizeBytes": size(value["size"])} if "size" in value else {}),
            **({"Mode": value["mode"]} if "mode" in value else {}),
        }
    return body


def restart_policy(text: str) -> Body:
    """ "on-failure:5" as the API's RestartPolicy."""
    name, _, count = text.partition(":")
    return {"Name": name, **({"MaximumRetryCount": int(count)} if count else {})}


def device(text: str) -> Body:
    """HOST[:CONTAINER[:PERMISSIONS]] as the API's DeviceMapping."""
    host, _, rest = text.partition(":")
    inside, _, permissions = rest.partition(":")
    return {"PathOnHost": host, "PathInContainer": inside or host, "CgroupPermissions": permissions or "rwm"}


def port_key(port: str | int) -> str:
    """80 or "80/udp" as the API names ports."""
    text = str(port)
    return text if "/" in text else f"{text}/tcp"


def port_bindings(ports: Mapping[Any, Any]) -> dict[str, list[dict[str, str]]]:
    """The API's PortMap."""
    return {
        port_key(port): [_binding(place) for place in (given if isinstance(given, list) else [given])]
        for port, given in ports.items()
    }


def _binding(place: Any) -> dict[str, str]:
    if place is None:
        return {"HostIp": "", "HostPort": ""}
    if isinstance(place, tuple):
        address, *port = place
        return {"HostIp": str(address), "HostPort": str(port[0]) if port and port[0] is not None else ""}
    address, _, text = str(place).rpartition(":")
    return {"HostIp": address.strip("[]"), "HostPort": text}


def ulimits(value: Mapping[str, int | tuple[int, int]]) -> list[Body]:
    """The API's list of Ulimit."""
    limits = {name: item if isinstance(item, tuple) else (item, item) for name, item in value.items()}
    return [{"Name": name, "Soft": soft, "Hard": hard} for name, (soft, hard) in limits.items()]


def throttles(value: Mapping[str, int | str]) -> list[Body]:
    """The API's list of ThrottleDevice."""
    return [{"Path": path, "Rate": size(rate)} for path, rate in value.items()]


def _or_listed(convert: Callable[[Any], list[Body]]) -> Callable[[Any], list[Body]]:
    """`convert` for a mapping; a list is in the API's own words."""
    return lambda given: convert(given) if hasattr(given, "items") else [dict(item) for item in given]


def gpus(value: int | str) -> list[Body]:
    """`--gpus` as the API's list of DeviceRequest."""
    count = -1 if value == "all" else int(value)
    return [{"Driver": "", "Count": count, "Capabilities": [["gpu"]]}]


def endpoint(settings: Mapping[str, Any] | None) -> Body:
    """EndpointOptions as the API's EndpointSettings; names of the API's stay. Raises TypeError for any other name."""
    body: Body = {}
    addresses: Body = {}
    for name, value in (settings or {}).items():
        if name in _ENDPOINT:
            body[_ENDPOINT[name]] = value
        elif name in _ADDRESSES:
            addresses[_ADDRESSES[name]] = value
        elif name[:1].isupper():
            body[name] = value
        else:
            raise TypeError(f"there is no option {name!r} of a network's endpoint")
    if addresses:
        body["IPAMConfig"] = addresses
    return body


def _compose(options: Mapping[str, Any], body: Body, host: Body) -> None:
    """The options that end up in more than one field, or share one."""
    if "ports" in options or "expose" in options:
        exposed = [port_key(port) for port in [*(options.get("ports") or {}), *(options.get("expose") or ())]]
        body["ExposedPorts"] = {port: {} for port in exposed}
    if options.get("ports"):
        host["PortBindings"] = port_bindings(options["ports"])
    if options.get("lease") is not None:
        body["Labels"] = {**body.get("Labels", {}), **options["lease"].labels}
    if options.get("stdin_open"):
        body["OpenStdin"] = True
    log: Body = dict(options.get("log_config") or {})
    if options.get("log_driver"):
        log["Type"] = options["log_driver"]
    if options.get("log_options"):
        log["Config"] = dict(options["log_options"])
    if log:
        host["LogConfig"] = log


def _networks(options: Mapping[str, Any], body: Body, host: Body) -> None:
    network, networks = options.get("network"), dict(options.get("networks") or {})
    if options.get("aliases") and network:
        networks.setdefault(network, {"aliases": list(options["aliases"])})
    mode = options.get("network_mode") or network or next(iter(networks), "")
    if mode:
        host["NetworkMode"] = mode
    if network and ":" not in network and network not in ("host", "none", "bridge", "default"):
        networks.setdefault(network, None)
    if networks:
        body["NetworkingConfig"] = {"EndpointsConfig": {name: endpoint(given) for name, given in networks.items()}}


def _merge(body: Body, more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(body.get(key), dict):
            _merge(body[key], value)
        else:
            body[key] = value


_NETWORK_OPTIONS = ("network", "networks", "network_mode", "aliases")
_COMPOSED = ("lease", "ports", "expose", "stdin_open", "log_config", "log_driver", "log_options")
_ENDPOINT = {
    "aliases": "Aliases",
    "links": "Links",
    "mac_address": "MacAddress",
    "driver_options": "DriverOpts",
    "gateway_priority": "GwPriority",
}
_ADDRESSES = {"ipv4_address": "IPv4Address", "ipv6_address": "IPv6Address", "link_local_ips": "LinkLocalIPs"}
# option -> field, its value as it is
_PLAIN = {
    "hostname": "Hostname",
    "domainname": "Domainname",
    "tty": "Tty",
    "working_dir": "WorkingDir",
    "stop_timeout": "StopTimeout",
    "network_disabled": "NetworkDisabled",
    "mac_address": "MacAddress",
}
_PLAIN_HOST = {
    "annotations": "Annotations",
    "auto_remove": "AutoRemove",
    "blkio_weight": "BlkioWeight",
    "blkio_weight_device": "BlkioWeightDevice",
    "cap_add": "CapAdd",
    "cap_drop": "CapDrop",
    "cgroup_parent": "CgroupParent",
    "cgroupns": "CgroupnsMode",
    "cpu_period": "CpuPeriod",
    "cpu_quota": "CpuQuota",
    "cpu_rt_period": "CpuRealtimePeriod",
    "cpu_rt_runtime": "CpuRealtimeRuntime",
    "cpu_shares": "CpuShares",
    "cpuset_cpus": "CpusetCpus",
    "cpuset_mems": "CpusetMems",
    "device_cgroup_rules": "DeviceCgroupRules",
    "device_requests": "DeviceRequests",
    "dns": "Dns",
    "dns_opt": "DnsOptions",
    "dns_search": "DnsSearch",
    "init": "Init",
    "ipc_mode": "IpcMode",
    "mem_swappiness": "MemorySwappiness",
    "nano_cpus": "NanoCpus",
    "oom_kill_disable": "OomKillDisable",
    "oom_score_adj": "OomScoreAdj",
    "pid_mode": "PidMode",
    "pids_limit": "PidsLimit",
    "privileged": "Privileged",
    "publish_all_ports": "PublishAllPorts",
    "read_only": "ReadonlyRootfs",
    "restart_policy": "RestartPolicy",
    "runtime": "Runtime",
    "security_opt": "SecurityOpt",
    "storage_opt": "StorageOpt",
    "userns_mode": "UsernsMode",
    "uts_mode": "UTSMode",
    "volume_driver": "VolumeDriver",
    "volumes_from": "VolumesFrom",
}
# option -> field and what makes its value
_CONVERTED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "entrypoint": ("Entrypoint", words),
    "environment": ("Env", environment),
    "healthcheck": ("Healthcheck", healthcheck),
    "labels": ("Labels", pairs),
    "stop_signal": ("StopSignal", str),
    "user": ("User", str),
}
_CONVERTED_HOST: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "cpus": ("NanoCpus", nanoseconds),
    "device_read_bps": ("BlkioDeviceReadBps", _or_listed(throttles)),
    "device_read_iops": ("BlkioDeviceReadIOps", _or_listed(throttles)),
    "device_write_bps": ("BlkioDeviceWriteBps", _or_listed(throttles)),
    "device_write_iops": ("BlkioDeviceWriteIOps", _or_listed(throttles)),
    "devices": ("Devices", lambda given: [device(text) if isinstance(text, str) else text for text in given]),
    "extra_hosts": ("ExtraHosts", lambda given: joined(given, ":")),
    "gpus": ("DeviceRequests", gpus),
    "group_add": ("GroupAdd", lambda given: [str(group) for group in given]),
    "links": ("Links", lambda given: joined(given, ":")),
    "mem_limit": ("Memory", size),
    "mem_reservation": ("MemoryReservation", size),
    "memswap_limit": ("MemorySwap", size),
    "mounts": ("Mounts", lambda given: [mount(item) for item in given]),
    "restart": ("RestartPolicy", restart_policy),
    "shm_size": ("ShmSize", size),
    "sysctls": ("Sysctls", pairs),
    "tmpfs": ("Tmpfs", lambda given: pairs(given) if hasattr(given, "items") else dict.fromkeys(given, "")),
    "ulimits": ("Ulimits", _or_listed(ulimits)),
    "volumes": ("Binds", volume_binds),
}
