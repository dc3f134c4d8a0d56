"""The API's request, made of the flags that `create` and `run` share."""

from __future__ import annotations

import os

from dockyard.cli import values
from dockyard.cli.errors import Failure, UsageError
from dockyard.cli.terminal import window_size
from dockyard.cli.usage import PROGRAM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dockyard.cli.usage import Flags

    Body = dict[str, Any]


def create_request(flags: Flags) -> Body:
    """The body of POST /containers/create. Raises UsageError, Failure."""
    try:
        return _request(flags)
    except ValueError as error:
        raise refused(flags, str(error)) from None
    except Failure as failure:
        raise (refused(flags, str(failure)) if failure.code == 1 else failure) from None


def refused(flags: Flags, why: str) -> Failure:
    """The end of a `create` or `run` that has not begun."""
    return Failure(f"{PROGRAM}: {why}\n\nRun '{PROGRAM} {flags.verb} --help' for more information", 125)


def _request(flags: Flags) -> Body:
    image, *command = flags.arguments
    _check_values(flags)
    for name in ("cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops"):
        if flags.given(name):
            what = f'"--{name}" is only supported on a Docker daemon running on windows'
            raise UsageError(f"{what}, but the Docker daemon is running on linux")
    host = _host_config(flags)
    body: Body = {
        "Image": image,
        "Hostname": flags.text("hostname"),
        "Domainname": flags.text("domainname"),
        "User": flags.text("user"),
        "WorkingDir": flags.text("workdir"),
        "Tty": flags.on("tty"),
        "OpenStdin": flags.on("interactive"),
        "Env": values.environment(flags.all("env"), flags.all("env-file")),
        "Labels": values.pairs([line for file in flags.all("label-file") for line in values.lines_of(file)])
        | values.pairs(flags.all("label")),
        "HostConfig": host,
    }
    if command:
        body["Cmd"] = command
    if flags.given("entrypoint"):
        body["Entrypoint"] = [flags.text("entrypoint")]
    if flags.given("stop-signal"):
        body["StopSignal"] = flags.text("stop-signal")
    if flags.given("stop-timeout"):
        body["StopTimeout"] = flags.number("stop-timeout")
    _volumes(flags, body, host)
    exposed, host["PortBindings"] = values.publish(flags.all("publish"))
    exposed = exposed + values.expose(flags.all("expose"))
    if exposed:
        body["ExposedPorts"] = {port: {} for port in exposed}
    health = _health(flags)
    if health:
        body["Healthcheck"] = health
    if host.get("AutoRemove") and host.get("RestartPolicy", {}).get("Name", "no") not in ("", "no"):
        raise ValueError("conflicting options: cannot specify both --restart and --rm")
    from dockyard.cli.create_networks import endpoints

    body["NetworkingConfig"] = {"EndpointsConfig": endpoints(flags, host)}
    if flags.on("tty"):
        host["ConsoleSize"] = list(window_size())
    return body


def _mount(text: str) -> Body:
    from dockyard.cli.mounts import mount  # only for who mounts something

    return mount(text)


# flags each of whose values is checked as it stands
_CHECKS: dict[str, Callable[[str], object]] = {
    "add-host": values.host_entry,
    "blkio-weight-device": values.device_weight,
    "device-cgroup-rule": values.device_rule,
    "device-read-bps": values.byte_rate,
    "device-read-iops": values.io_rate,
    "device-write-bps": values.byte_rate,
    "device-write-iops": values.io_rate,
    "dns": values.address,
    "dns-search": values.domain,
    "env": values.variable,
    "gpus": values.gpus,
    "label": values.label,
    "link": values.link,
    "mount": _mount,
    "sysctl": values.sysctl,
    "ulimit": values.ulimit,
}


def _check_values(flags: Flags) -> None:
    for name, check in _CHECKS.items():
        for text in flags.all(name):
            try:
                check(text)
            except ValueError as error:
                raise flags.invalid(name, text, str(error)) from None


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
_PARSED: dict[str, tuple[str, Callable[[str], Any]]] = {
    "add-host": ("ExtraHosts", values.host_entry),
    "blkio-weight-device": ("BlkioWeightDevice", values.device_weight),
    "device-read-bps": ("BlkioDeviceReadBps", values.byte_rate),
    "device-read-iops": ("BlkioDeviceReadIOps", values.io_rate),
    "device-write-bps": ("BlkioDeviceWriteBps", values.byte_rate),
    "device-write-iops": ("BlkioDeviceWriteIOps", values.io_rate),
    "gpus": ("DeviceRequests", values.gpus),
    "mount": ("Mounts", _mount),
    "ulimit": ("Ulimits", values.ulimit),
}


def resources(flags: Flags) -> Body:
    """The limits that `update` can change as well, as far as they are given. Raises UsageError, ValueError."""
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
        found["RestartPolicy"] = values.restart_policy(flags.text("restart"))
    return found


def _host_config(flags: Flags) -> Body:
    host = resources(flags)
    host |= {key: flags.text(name) for name, key in _TEXTS.items() if flags.given(name)}
    host |= {key: flags.all(name) for name, key in _LISTS.items() if flags.given(name)}
    host |= {key: values.pairs(flags.all(name)) for name, key in _MAPS.items() if flags.given(name)}
    host |= {key: flags.on(name) for name, key in _SWITCHES.items() if flags.given(name)}
    for name, (key, parse) in _PARSED.items():
        if flags.given(name):
            host[key] = [parse(text) for text in flags.all(name)]
    if flags.given("dns-opt"):
        host["DnsOptions"] = host.get("DnsOptions", []) + flags.all("dns-opt")
    if not -1 <= host.get("MemorySwappiness", -1) <= 100:
        raise ValueError(f"invalid value: {host['MemorySwappiness']}. Valid memory swappiness range is 0-100")
    _check_modes(host)
    if flags.given("log-driver") or flags.given("log-opt"):
        if flags.text("log-driver") == "none" and flags.given("log-opt"):
            raise ValueError("invalid logging opts for driver none")
        host["LogConfig"] = {"Type": flags.text("log-driver"), "Config": values.pairs(flags.all("log-opt"))}
    if any("=" not in text for text in flags.all("storage-opt")):
        raise ValueError("invalid storage option")
    if flags.given("device"):
        _devices(flags, host)
    if flags.given("security-opt"):
        _security(flags, host)
    return host


def _check_modes(host: Body) -> None:
    """Raise ValueError for namespaces that nobody can give."""
    pid, uts, users, groups = (host.get(key, "") for key in ("PidMode", "UTSMode", "UsernsMode", "CgroupnsMode"))
    if pid not in ("", "host") and not (pid.startswith("container:") and pid != "container:"):
        raise ValueError("--pid: invalid PID mode")
    if uts not in ("", "host"):
        raise ValueError("--uts: invalid UTS mode")
    if users not in ("", "host") and users.partition(":")[0] != "auto":
        raise ValueError("--userns: invalid USER mode")
    if groups not in ("", "host", "private"):
        raise ValueError("--cgroupns: invalid CGROUP mode")


def _devices(flags: Flags, host: Body) -> None:
    """Device nodes, and requests for devices with CDI names (vendor.com/class=name)."""
    given = flags.all("device")
    named = [text for text in given if "=" in text and not text.startswith("/")]
    host["Devices"] = [values.device(text) for text in given if text not in named]
    if named:
        host.setdefault("DeviceRequests", []).append({"Driver": "cdi", "DeviceIDs": named})


def _security(flags: Flags, host: Body) -> None:
    """A seccomp profile is sent along, not its file's name; `systempaths` is ours to resolve."""
    host["SecurityOpt"] = []
    for text in flags.all("security-opt"):
        if text == "systempaths=unconfined":
            host["MaskedPaths"], host["ReadonlyPaths"] = [], []
            continue
        key, separator, value = text.partition("=")
        if not separator and key != "no-new-privileges":
            key, separator, value = text.partition(":")
        if (not separator or not value) and key != "no-new-privileges":
            raise ValueError(f'Invalid --security-opt: "{text}"')
        if key == "seccomp" and value not in ("unconfined", "builtin"):
            text = "seccomp=" + _profile(value)
        host["SecurityOpt"].append(text)


def _profile(path: str) -> str:
    import json

    try:
        with open(path, encoding="utf-8") as file:
            return json.dumps(json.load(file), separators=(",", ":"))
    except OSError as error:
        why = f"open {path}: {(error.strerror or '').lower()}"
        raise ValueError(f"opening seccomp profile ({path}) failed: {why}") from None
    except ValueError as error:
        raise ValueError(f"compacting json for seccomp profile ({path}) failed: {error}") from None


def _volumes(flags: Flags, body: Body, host: Body) -> None:
    binds = []
    for text in flags.all("volume"):
        if not text:
            raise ValueError("invalid empty volume spec")
        source, colon, rest = text.partition(":")
        if not colon or len(text) < 3:
            body.setdefault("Volumes", {})[text] = {}
            continue
        if not all(text.split(":")):
            raise ValueError(f"invalid spec: {text}: empty section between colons")
        binds.append(f"{os.path.abspath(source)}:{rest}" if source.startswith(".") else text)
    if binds:
        host["Binds"] = binds
    if flags.given("tmpfs"):
        host["Tmpfs"] = {path: options for path, _, options in (text.partition(":") for text in flags.all("tmpfs"))}


_HEALTH = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
}


def _health(flags: Flags) -> Body:
    health: Body = {}
    if flags.given("health-cmd"):
        health["Test"] = ["CMD-SHELL", flags.text("health-cmd")]
    for name, key in _HEALTH.items():
        if flags.given(f"health-{name}"):
            health[key] = _one(flags, f"health-{name}", values.duration)
            if health[key] < 0:
                raise ValueError(f"--health-{name} cannot be negative")
    if flags.given("health-on-failure"):
        health["OnFailure"] = flags.text("health-on-failure")
    if flags.given("health-retries"):
        health["Retries"] = flags.number("health-retries")
        if health["Retries"] < 0:
            raise ValueError("--health-retries cannot be negative")
    if flags.on("no-healthcheck"):
        if health:
            raise ValueError("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    return health
