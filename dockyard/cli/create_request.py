"""The flags that `create` and `run` share, and the API's request made of them."""

from __future__ import annotations

import os

from dockyard.cli import values
from dockyard.cli.session import Failure
from dockyard.cli.terminal import window_size
from dockyard.cli.usage import PROGRAM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dockyard.cli.usage import Flags

    Body = dict[str, Any]

OPTIONS = """\
      --add-host list                    Name a host and its address (host:ip)
      --annotation map                   Annotation for the OCI runtime
  -a, --attach list                      Attach to STDIN, STDOUT or STDERR
      --blkio-weight uint16              Block IO weight, 10 to 1000; 0 for none
      --blkio-weight-device list         Block IO weight of a device
      --cap-add list                     Capabilities to add
      --cap-drop list                    Capabilities to drop
      --cgroup-parent string             Cgroup to put the container's below
      --cgroupns string                  Cgroup namespace (host|private)
      --cidfile string                   File to write the container's ID to
      --cpu-count int                    Number of CPUs (Windows only)
      --cpu-percent int                  Share of the CPUs (Windows only)
      --cpu-period int                   CFS period in microseconds
      --cpu-quota int                    CFS quota in microseconds
      --cpu-rt-period int                Real-time period in microseconds
      --cpu-rt-runtime int               Real-time runtime in microseconds
  -c, --cpu-shares int                   CPU weight relative to others
      --cpus decimal                     Number of CPUs
      --cpuset-cpus string               CPUs it may run on (0-3, 0,1)
      --cpuset-mems string               Memory nodes it may use (0-3, 0,1)
      --device list                      Host device to add
      --device-cgroup-rule list          Rule for the cgroup's list of devices
      --device-read-bps list             Limit of bytes read a second
      --device-read-iops list            Limit of reads a second
      --device-write-bps list            Limit of bytes written a second
      --device-write-iops list           Limit of writes a second
      --disable-content-trust            Accepted for compatibility (default true)
      --dns list                         DNS servers
      --dns-option list                  DNS options
      --dns-search list                  DNS search domains
      --domainname string                NIS domain name
      --entrypoint string                Replaces the image's entrypoint
  -e, --env list                         Environment variables
      --env-file list                    Files of environment variables
      --expose list                      Ports to expose
      --gpus gpu-request                 GPUs to add ('all' for all of them)
      --group-add list                   Additional groups
      --health-cmd string                Command that tells the health
      --health-interval duration         Time between checks (0s: default)
      --health-retries int               Failures that make it unhealthy
      --health-start-interval duration   Time between checks while starting
      --health-start-period duration     Time in which failures do not count
      --health-timeout duration          Time that a check may take
      --help                             Print usage
  -h, --hostname string                  Host name
      --init                             Run an init that passes on signals and reaps
  -i, --interactive                      Keep STDIN open even if not attached
      --io-maxbandwidth bytes            IO bandwidth of the system drive (Windows only)
      --io-maxiops uint                  IO operations of the system drive (Windows only)
      --ip string                        IPv4 address (172.30.100.104)
      --ip6 string                       IPv6 address (2001:db8::33)
      --ipc string                       IPC namespace
      --isolation string                 Isolation technology
  -l, --label list                       Labels
      --label-file list                  Files of labels
      --link list                        Link to another container
      --link-local-ip list               Link-local addresses
      --log-driver string                Log driver
      --log-opt list                     Options of the log driver
      --mac-address string               MAC address (92:d0:c6:0a:29:33)
  -m, --memory bytes                     Memory limit
      --memory-reservation bytes         Soft memory limit
      --memory-swap bytes                Memory and swap together; -1: no limit of swap
      --memory-swappiness int            Swappiness, 0 to 100 (default -1)
      --mount mount                      Attach a file system
      --name string                      Name of the container
      --network network                  Connect to a network
      --network-alias list               Names in the network
      --no-healthcheck                   No health check, whatever the image says
      --oom-kill-disable                 Do not kill it when memory is short
      --oom-score-adj int                What the kernel adds to its OOM score (-1000 to 1000)
      --pid string                       PID namespace
      --pids-limit int                   Limit of processes; -1: none
      --platform string                  Platform, where the engine has several
      --privileged                       All rights of the host
  -p, --publish list                     Publish ports on the host
  -P, --publish-all                      Publish all exposed ports on free ones
      --pull string                      Pull the image first (always|missing|never) (default "missing")
  -q, --quiet                            Show nothing of the pull
      --read-only                        Mount the root file system read-only
      --restart string                   When to start it again after its end (default "no")
      --rm                               Remove it, and its anonymous volumes, after its end
      --runtime string                   OCI runtime
      --security-opt list                Security options
      --shm-size bytes                   Size of /dev/shm
      --stop-signal string               Signal that stops it
      --stop-timeout int                 Seconds before it is killed
      --storage-opt list                 Options of the storage driver
      --sysctl map                       Kernel settings of its namespaces
      --tmpfs list                       Mount a tmpfs
  -t, --tty                              Give it a terminal
      --ulimit ulimit                    Resource limits
      --use-api-socket                   Mount the engine's socket and the client's logins (experimental)
  -u, --user string                      User name or ID (<name|uid>[:<group|gid>])
      --userns string                    User namespace
      --uts string                       UTS namespace
  -v, --volume list                      Bind mount a volume or folder
      --volume-driver string             Volume driver
      --volumes-from list                Take over the mounts of containers
  -w, --workdir string                   Working directory"""
HIDDEN = """\
      --dns-opt list
      --kernel-memory bytes
      --net network
      --net-alias list"""


def create_request(flags: Flags) -> Body:
    """The body of POST /containers/create. Raises UsageError, Failure."""
    image, *command = flags.arguments
    host = _host_config(flags)
    body: Body = {
        "Image": image,
        "Hostname": flags.text("hostname"),
        "Domainname": flags.text("domainname"),
        "User": flags.text("user"),
        "WorkingDir": flags.text("workdir"),
        "Tty": flags.on("tty"),
        "OpenStdin": flags.on("interactive"),
        "Env": _parsed(flags, "env", lambda given: values.environment(given, flags.all("env-file"))),
        "Labels": values.pairs([line for file in flags.all("label-file") for line in values.lines_of(file, "label")])
        | values.pairs(flags.all("label")),
        "HostConfig": host,
        "NetworkingConfig": {"EndpointsConfig": _endpoints(flags, host)},
    }
    if command:
        body["Cmd"] = command
    if flags.given("entrypoint"):
        body["Entrypoint"] = [flags.text("entrypoint")]
    if flags.given("stop-signal"):
        body["StopSignal"] = flags.text("stop-signal")
    if flags.given("stop-timeout"):
        body["StopTimeout"] = flags.number("stop-timeout")
    if flags.given("mac-address"):
        body["MacAddress"] = flags.text("mac-address")
    _mounts(flags, body, host)
    try:
        exposed, host["PortBindings"] = values.publish(flags.all("publish"))
        exposed = exposed + values.expose(flags.all("expose"))
    except ValueError as error:
        name = flags.command
        raise Failure(f"{PROGRAM}: {error}\n\nRun '{name} --help' for more information", 125) from None
    if exposed:
        body["ExposedPorts"] = {port: {} for port in exposed}
    health = _health(flags)
    if health:
        body["Healthcheck"] = health
    if flags.on("tty"):
        host["ConsoleSize"] = list(window_size())
    return body


def _parsed(flags: Flags, name: str, parse: Callable[[list[str]], Any]) -> Any:
    try:
        return parse(flags.all(name))
    except ValueError as error:
        raise flags.invalid(name, ",".join(flags.all(name)), str(error)) from None


def _one(flags: Flags, name: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(flags.text(name))
    except ValueError as error:
        raise flags.invalid(name, flags.text(name), str(error)) from None


_TEXTS = {
    "cgroup-parent": "CgroupParent",
    "cgroupns": "CgroupnsMode",
    "cidfile": "ContainerIDFile",
    "cpuset-cpus": "CpusetCpus",
    "cpuset-mems": "CpusetMems",
    "ipc": "IpcMode",
    "isolation": "Isolation",
    "pid": "PidMode",
    "runtime": "Runtime",
    "userns": "UsernsMode",
    "uts": "UTSMode",
    "volume-driver": "VolumeDriver",
}
_NUMBERS = {
    "blkio-weight": "BlkioWeight",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares",
    "memory-swappiness": "MemorySwappiness",
    "oom-score-adj": "OomScoreAdj",
    "pids-limit": "PidsLimit",
}
_SIZES = {
    "kernel-memory": "KernelMemory",
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "shm-size": "ShmSize",
}
_LISTS = {
    "cap-add": "CapAdd",
    "cap-drop": "CapDrop",
    "device-cgroup-rule": "DeviceCgroupRules",
    "dns": "Dns",
    "dns-option": "DnsOptions",
    "dns-search": "DnsSearch",
    "group-add": "GroupAdd",
    "link": "Links",
    "volumes-from": "VolumesFrom",
}
_MAPS = {"annotation": "Annotations", "storage-opt": "StorageOpt", "sysctl": "Sysctls"}
_SWITCHES = {
    "init": "Init",
    "oom-kill-disable": "OomKillDisable",
    "privileged": "Privileged",
    "publish-all": "PublishAllPorts",
    "read-only": "ReadonlyRootfs",
    "rm": "AutoRemove",
}


def resources(flags: Flags) -> Body:
    """The limits that `update` can change as well, as far as they are given."""
    found: Body = {}
    for name, key in _NUMBERS.items():
        if flags.given(name):
            found[key] = flags.number(name)
    for name, key in _SIZES.items():
        if flags.given(name):
            found[key] = _one(flags, name, values.size)
    for name in ("cpuset-cpus", "cpuset-mems"):
        if flags.given(name):
            found[_TEXTS[name]] = flags.text(name)
    if flags.given("memory-swap"):
        unlimited = flags.text("memory-swap") == "-1"
        found["MemorySwap"] = -1 if unlimited else _one(flags, "memory-swap", values.size)
    if flags.given("cpus"):
        found["NanoCpus"] = _one(flags, "cpus", values.nano_cpus)
    if flags.given("restart"):
        found["RestartPolicy"] = _one(flags, "restart", values.restart_policy)
    return found


def _host_config(flags: Flags) -> Body:
    host = resources(flags)
    host |= {key: flags.text(name) for name, key in _TEXTS.items() if flags.given(name)}
    host |= {key: flags.all(name) for name, key in _LISTS.items() if flags.given(name)}
    host |= {key: values.pairs(flags.all(name)) for name, key in _MAPS.items() if flags.given(name)}
    host |= {key: flags.on(name) for name, key in _SWITCHES.items() if flags.given(name)}
    if flags.given("log-driver") or flags.given("log-opt"):
        host["LogConfig"] = {"Type": flags.text("log-driver"), "Config": values.pairs(flags.all("log-opt"))}
    if flags.given("add-host"):
        host["ExtraHosts"] = _parsed(flags, "add-host", lambda given: [values.host_entry(text) for text in given])
    if flags.given("device"):
        host["Devices"], requests = _devices(flags)
        if requests:
            host["DeviceRequests"] = requests
    if flags.given("gpus"):
        host.setdefault("DeviceRequests", []).append(_one(flags, "gpus", values.gpus))
    if flags.given("ulimit"):
        host["Ulimits"] = _parsed(flags, "ulimit", lambda given: [values.ulimit(text) for text in given])
    if flags.given("blkio-weight-device"):
        host["BlkioWeightDevice"] = _parsed(
            flags, "blkio-weight-device", lambda given: [values.device_weight(text) for text in given]
        )
    for name in ("read-bps", "read-iops", "write-bps", "write-iops"):
        if flags.given(f"device-{name}"):
            way, _, unit = name.partition("-")
            key = f"BlkioDevice{way.title()}{'Bps' if unit == 'bps' else 'IOps'}"
            host[key] = _rates(flags, f"device-{name}", in_bytes=unit == "bps")
    if flags.given("security-opt"):
        host["SecurityOpt"] = _parsed(flags, "security-opt", lambda given: [_security(text) for text in given])
    return host


def _rates(flags: Flags, name: str, *, in_bytes: bool) -> Any:
    return _parsed(flags, name, lambda given: [values.device_rate(text, in_bytes=in_bytes) for text in given])


def _devices(flags: Flags) -> tuple[list[dict[str, str]], list[Body]]:
    """Device nodes, and requests for devices with CDI names (vendor.com/class=name)."""
    given = flags.all("device")
    named = [text for text in given if "=" in text and not text.startswith("/")]
    nodes = _parsed(flags, "device", lambda texts: [values.device(text) for text in texts if text not in named])
    return nodes, [{"Driver": "cdi", "DeviceIDs": named}] if named else []


def _security(text: str) -> str:
    """A seccomp profile is sent along, not its file's name."""
    name, separator, value = text.partition("=")
    if not separator and ":" in text and not text.startswith("no-new-privileges"):
        name, separator, value = text.partition(":")
    if name == "seccomp" and value not in ("unconfined", "builtin"):
        import json

        try:
            with open(value, encoding="utf-8") as file:
                return "seccomp=" + json.dumps(json.load(file), separators=(",", ":"))
        except OSError as error:
            raise ValueError(
                f"opening seccomp profile ({value}) failed: open {value}: {(error.strerror or '').lower()}"
            ) from None
    return text


def _mounts(flags: Flags, body: Body, host: Body) -> None:
    binds = []
    for text in flags.all("volume"):
        source, colon, rest = text.partition(":")
        if not colon:
            body.setdefault("Volumes", {})[text] = {}
        elif source.startswith((".", "~")):
            binds.append(f"{os.path.abspath(os.path.expanduser(source))}:{rest}")
        else:
            binds.append(text)
    if binds:
        host["Binds"] = binds
    if flags.given("tmpfs"):
        host["Tmpfs"] = {path: options for path, _, options in (text.partition(":") for text in flags.all("tmpfs"))}
    if flags.given("mount"):
        host["Mounts"] = _parsed(flags, "mount", lambda given: [values.mount(text) for text in given])


def _health(flags: Flags) -> Body:
    if flags.on("no-healthcheck"):
        return {"Test": ["NONE"]}
    health: Body = {}
    if flags.given("health-cmd"):
        health["Test"] = ["CMD-SHELL", flags.text("health-cmd")]
    for name, key in {
        "interval": "Interval",
        "timeout": "Timeout",
        "start-period": "StartPeriod",
        "start-interval": "StartInterval",
    }.items():
        if flags.given(f"health-{name}"):
            health[key] = _one(flags, f"health-{name}", values.duration)
    if flags.given("health-retries"):
        health["Retries"] = flags.number("health-retries")
    return health


_ENDPOINT_FLAGS = ("network-alias", "net-alias", "ip", "ip6", "link-local-ip", "mac-address", "link")


def _endpoints(flags: Flags, host: Body) -> Body:
    """The networks by name; the first of them is the network mode."""
    given = flags.all("network") + flags.all("net")
    endpoints: Body = {}
    for index, text in enumerate(given):
        name, endpoint = _endpoint(flags, text)
        if index == 0:
            host["NetworkMode"] = name
        if name in endpoints:
            raise flags.invalid("network", text, f'network "{name}" is specified multiple times')
        endpoints[name] = endpoint
    if not any(flags.given(name) for name in _ENDPOINT_FLAGS):
        return {} if len(given) == 1 and not next(iter(endpoints.values())) else endpoints
    first = endpoints.setdefault(host.get("NetworkMode", "default"), {})
    aliases = flags.all("network-alias") + flags.all("net-alias")
    if aliases:
        first["Aliases"] = first.get("Aliases", []) + aliases
    if flags.given("link"):
        first["Links"] = flags.all("link")
    if flags.given("mac-address"):
        first["MacAddress"] = flags.text("mac-address")
    addresses = first.setdefault("IPAMConfig", {})
    for name, key in (("ip", "IPv4Address"), ("ip6", "IPv6Address")):
        if flags.given(name):
            addresses[key] = flags.text(name)
    if flags.given("link-local-ip"):
        addresses["LinkLocalIPs"] = flags.all("link-local-ip")
    return endpoints


def _endpoint(flags: Flags, text: str) -> tuple[str, Body]:
    if "=" not in text:
        return text, {}
    name, endpoint = "", dict[str, "Any"]()
    for key, value in values.fields(text):
        if key == "name":
            name = value or ""
        elif key == "alias":
            endpoint.setdefault("Aliases", []).append(value)
        elif key in ("ip", "ip6"):
            endpoint.setdefault("IPAMConfig", {})["IPv4Address" if key == "ip" else "IPv6Address"] = value
        elif key == "mac-address":
            endpoint["MacAddress"] = value
        elif key == "gw-priority":
            endpoint["GwPriority"] = int(value or "0")
        elif key == "driver-opt":
            option, _, content = (value or "").partition("=")
            endpoint.setdefault("DriverOpts", {})[option] = content
        else:
            raise flags.invalid("network", text, f"invalid field {key}")
    if not name:
        raise flags.invalid("network", text, "network name/id is not specified")
    return name, endpoint
