"""Which keys of a service have changed since one of its containers was made, by what the engine says of that one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Tree = dict[str, Any]

# field of the request -> key of the service
_CONFIG = {
    "Hostname": "hostname",
    "Domainname": "domainname",
    "User": "user",
    "Tty": "tty",
    "OpenStdin": "stdin_open",
    "Image": "image",
    "WorkingDir": "working_dir",
    "StopSignal": "stop_signal",
    "StopTimeout": "stop_grace_period",
    "Healthcheck": "healthcheck",
}
_HOST = {
    "Annotations": "annotations",
    "BlkioWeight": "blkio_config",
    "CapAdd": "cap_add",
    "CapDrop": "cap_drop",
    "CgroupParent": "cgroup_parent",
    "CgroupnsMode": "cgroup",
    "CpuPeriod": "cpu_period",
    "CpuQuota": "cpu_quota",
    "CpuShares": "cpu_shares",
    "CpusetCpus": "cpuset",
    "Devices": "devices",
    "DeviceRequests": "gpus",
    "Dns": "dns",
    "DnsOptions": "dns_opt",
    "DnsSearch": "dns_search",
    "ExtraHosts": "extra_hosts",
    "GroupAdd": "group_add",
    "Init": "init",
    "IpcMode": "ipc",
    "LogConfig": "logging",
    "Memory": "mem_limit",
    "MemoryReservation": "mem_reservation",
    "MemorySwap": "memswap_limit",
    "NanoCpus": "cpus",
    "NetworkMode": "network_mode",
    "OomScoreAdj": "oom_score_adj",
    "PidMode": "pid",
    "PidsLimit": "pids_limit",
    "PortBindings": "ports",
    "Privileged": "privileged",
    "ReadonlyRootfs": "read_only",
    "RestartPolicy": "restart",
    "Runtime": "runtime",
    "SecurityOpt": "security_opt",
    "ShmSize": "shm_size",
    "StorageOpt": "storage_opt",
    "Sysctls": "sysctls",
    "Tmpfs": "tmpfs",
    "Ulimits": "ulimits",
    "UTSMode": "uts",
    "UsernsMode": "userns_mode",
}


def changed_keys(body: Tree, there: Tree, image: Tree | None) -> list[str]:
    """The keys of a service that differ between the request that would be made and the container `there` is.

    `image` is what the container's image says of itself: what a container has from there was not asked for.
    """
    return sorted(set(_changed(body, there, (image or {}).get("Config") or {})))


def _changed(body: Tree, there: Tree, image: Tree) -> Iterator[str]:
    config, host = there["Config"], there["HostConfig"]
    for field, key in _CONFIG.items():
        wanted, found = body.get(field), config.get(field)
        if wanted is None and (field == "Hostname" or found in (None, "", False, image.get(field))):
            continue
        if not _same(wanted, found):
            yield key
    for field, key in (("Cmd", "command"), ("Entrypoint", "entrypoint")):
        wanted, found = body.get(field), config.get(field)
        if not _same(wanted, found) and not (wanted is None and _same(found, image.get(field))):
            yield key
    wanted_host = body.get("HostConfig") or {}
    for field, key in _HOST.items():
        if field in wanted_host:
            if not _same(wanted_host[field], host.get(field)):
                yield key
        elif field in _EMPTY_BY_DEFAULT and host.get(field):
            yield key
    yield from (f"environment.{name}" for name in _changed_variables(body, config, image))
    yield from (f"labels.{name}" for name in _changed_labels(body, config, image))
    if _mounts(wanted_host) != _mounts(host):
        yield "volumes"
    networks = set((body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {})
    joined = set((there.get("NetworkSettings") or {}).get("Networks") or {})
    if networks and networks != joined:
        yield "networks"


_EMPTY_BY_DEFAULT = frozenset(
    """
    Annotations CapAdd CapDrop Devices DeviceRequests Dns DnsOptions DnsSearch ExtraHosts GroupAdd Memory NanoCpus
    PortBindings SecurityOpt StorageOpt Sysctls Tmpfs Ulimits
    """.split()
)


def _same(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, dict) and isinstance(found, dict):
        # what was not asked for has the engine's default
        return all(_same(item, found.get(key)) for key, item in wanted.items()) and (
            not (found.keys() - wanted.keys()) or "Name" in wanted or "Test" in wanted or "Type" in wanted
        )
    if isinstance(wanted, list) and isinstance(found, list):
        return len(wanted) == len(found) and all(_same(one, other) for one, other in zip(wanted, found, strict=True))
    return bool(wanted == found) or (not wanted and not found)


def _pairs(texts: Any) -> dict[str, str]:
    return {name: value for name, _, value in (text.partition("=") for text in texts or ())}


def _changed_variables(body: Tree, config: Tree, image: Tree) -> list[str]:
    wanted = {**_pairs(image.get("Env")), **_pairs(body.get("Env"))}
    found = _pairs(config.get("Env"))
    return [name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name) and name != "PATH"]


def _changed_labels(body: Tree, config: Tree, image: Tree) -> list[str]:
    def own(given: Any) -> dict[str, str]:
        return {name: value for name, value in (given or {}).items() if not name.startswith("com.docker.compose.")}

    wanted, found = {**own(image.get("Labels")), **own(body.get("Labels"))}, own(config.get("Labels"))
    return [name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)]


def _mounts(host: Tree) -> set[tuple[str, str]]:
    found = set()
    for bind in host.get("Binds") or ():
        source, _, rest = bind.partition(":")
        found.add((source, rest.removesuffix(":rw")))
    for mount in host.get("Mounts") or ():
        found.add((mount.get("Source", ""), mount["Target"] + (":ro" if mount.get("ReadOnly") else "")))
    return found


def summary(reason: str, keys: list[str]) -> str:
    """Why a container is made anew, with the keys that have changed if they are known."""
    return f"{reason}: {', '.join(keys)}" if keys else reason
