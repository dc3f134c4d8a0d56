"""A service's limits, devices and GPUs as the engine's HostConfig has them."""

from __future__ import annotations

from typing import Any

Tree = dict[str, Any]
Body = dict[str, Any]

_PLAIN = {
    "cgroup_parent": "CgroupParent",
    "mem_limit": "Memory",
    "memswap_limit": "MemorySwap",
    "mem_swappiness": "MemorySwappiness",
    "mem_reservation": "MemoryReservation",
    "oom_kill_disable": "OomKillDisable",
    "cpu_count": "CpuCount",
    "cpu_period": "CpuPeriod",
    "cpu_quota": "CpuQuota",
    "cpu_rt_period": "CpuRealtimePeriod",
    "cpu_rt_runtime": "CpuRealtimeRuntime",
    "cpu_shares": "CpuShares",
    "cpuset": "CpusetCpus",
    "device_cgroup_rules": "DeviceCgroupRules",
    "pids_limit": "PidsLimit",
}
_RATES = {
    "device_read_bps": "BlkioDeviceReadBps",
    "device_read_iops": "BlkioDeviceReadIOps",
    "device_write_bps": "BlkioDeviceWriteBps",
    "device_write_iops": "BlkioDeviceWriteIOps",
}


def resources(service: Tree) -> Body:
    """The fields of HostConfig; what is said in `deploy` comes before what is said outside of it."""
    body: Body = {field: service[key] for key, field in _PLAIN.items() if service.get(key)}
    if service.get("cpus"):
        body["NanoCpus"] = _nano(service["cpus"])
    if service.get("cpu_percent"):
        body["CpuPercent"] = int(service["cpu_percent"] * 100)
    body.update(_block_io(service.get("blkio_config") or {}))
    given = (service.get("deploy") or {}).get("resources") or {}
    limits, reservations = given.get("limits") or {}, given.get("reservations") or {}
    if limits.get("memory"):
        body["Memory"] = limits["memory"]
    if limits.get("cpus"):
        body["NanoCpus"] = _nano(limits["cpus"])
    if limits.get("pids"):
        body["PidsLimit"] = limits["pids"]
    if reservations.get("memory"):
        body["MemoryReservation"] = reservations["memory"]
    _devices(service, reservations, body)
    if service.get("ulimits"):
        body["Ulimits"] = [_ulimit(name, limit) for name, limit in sorted(service["ulimits"].items())]
    return body


def _nano(cpus: float) -> int:
    # the number has 32 bits, and what is asked for is meant to the thousandth
    return round(round(cpus, 6) * 1_000_000_000)


def _block_io(given: Tree) -> Body:
    body: Body = {}
    if given.get("weight"):
        body["BlkioWeight"] = given["weight"]
    if given.get("weight_device"):
        body["BlkioWeightDevice"] = [
            {"Path": one.get("path", ""), "Weight": one.get("weight", 0)} for one in given["weight_device"]
        ]
    for key, field in _RATES.items():
        if given.get(key):
            body[field] = [{"Path": one.get("path", ""), "Rate": one.get("rate", 0)} for one in given[key]]
    return body


def _devices(service: Tree, reservations: Tree, body: Body) -> None:
    requests = [
        {
            "Capabilities": [one.get("capabilities") or []],
            "Count": one.get("count", 0),
            "DeviceIDs": one.get("device_ids") or [],
            "Driver": one.get("driver", ""),
            "Options": one.get("options") or {},
        }
        for one in reservations.get("devices") or ()
    ]
    devices, named = [], []
    for one in service.get("devices") or ():
        source, target = one.get("source", ""), one.get("target", "")
        if source == target and _is_cdi(source):
            named.append(source)
        else:
            permissions = one.get("permissions", "") or "rwm"
            devices.append(
                {"PathOnHost": source, "PathInContainer": target or source, "CgroupPermissions": permissions}
            )
    if named:
        requests.append({"Driver": "cdi", "DeviceIDs": named})
    for one in service.get("gpus") or ():
        requests.append(
            {
                "Driver": one.get("driver", ""),
                "Count": one.get("count", 0),
                "DeviceIDs": one.get("device_ids") or [],
                "Capabilities": [[*(one.get("capabilities") or ()), "gpu"]],
                "Options": one.get("options") or {},
            }
        )
    if devices:
        body["Devices"] = devices
    if requests:
        body["DeviceRequests"] = requests


def _is_cdi(name: str) -> bool:
    """VENDOR/CLASS=DEVICE (Container Device Interface)."""
    kind, equals, device = name.partition("=")
    return bool(equals and device) and kind.count("/") == 1 and not kind.startswith("/")


def _ulimit(name: str, limit: Any) -> Body:
    if isinstance(limit, int):
        return {"Name": name, "Soft": limit, "Hard": limit}
    return {"Name": name, "Soft": limit.get("soft", 0), "Hard": limit.get("hard", 0)}
