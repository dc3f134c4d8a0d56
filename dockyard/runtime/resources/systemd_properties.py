"""The spec's resources as properties of a systemd unit, so that systemd, which rewrites its units' cgroups at will,
writes the same limits as we do. What it has no property for is written to the cgroup alone.

systemd.resource-control(5); names and the versions they came with: org.freedesktop.systemd1(5).
"""

import os
from typing import Any

import msgspec

from dockyard.linux.cgroups import Cgroup
from dockyard.linux.dbus import DBusError
from dockyard.linux.systemd import INFINITY, Property, Scope
from dockyard.oci.runtime_spec import Cpu, DeviceRule, Memory, Resources, Spec
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.resources import v2 as resources_v2

USUAL_PERIOD = 100_000  # µs, of the kernel's CPU bandwidth control


def scope(spec: Spec, container_id: str, *, rootless: bool) -> Scope:
    """The unit that the spec's cgroupsPath "slice:prefix:name" asks for. Raises RuntimeFailure."""
    path = spec.linux.cgroups_path
    slice_name, prefix, name = "", "runc", container_id
    if path:
        parts = path.split(":")
        if len(parts) != 3:
            raise RuntimeFailure(
                f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "{path}" instead'
            )
        slice_name, prefix, name = parts
    try:
        return Scope(slice_name, name if name.endswith(".slice") else f"{prefix}-{name}.scope", user=rootless)
    except (ValueError, OSError, DBusError) as error:
        raise RuntimeFailure(f"cannot use systemd for cgroups: {error}") from error


def start(group: Scope, pid: int, spec: Spec) -> None:
    """Make the unit with `pid` (0: the caller) inside, with all that can be set only then. Raises RuntimeFailure."""
    properties = _from_annotations(spec.annotations)
    resources = spec.linux.resources
    try:
        oom_group = resources.unified.get("memory.oom.group") if resources is not None else None
        if oom_group is not None and group.manager().version >= 253:
            properties.append(("OOMPolicy", ("s", "kill" if oom_group.strip() == "1" else "continue")))
        group.start(pid, properties)
    except (OSError, DBusError) as error:
        raise RuntimeFailure(
            f'unable to apply cgroup configuration: unable to start unit "{group.unit}": {error}'
        ) from error


def set_on(group: Cgroup, resources: Resources) -> None:
    """Give the limits to systemd as well. Raises RuntimeFailure."""
    assert isinstance(group, Scope)
    try:
        manager = group.manager()
        properties = _properties(group, resources, manager.version)
        if not properties:
            return
        # While systemd sets new device rules the old are gone, and the container would see errors: v1 (runc #3803).
        # At the start it is the container's first process that asks, alone inside: frozen it could not go on.
        others = set(group.pids()) - {os.getpid()} if group.version == 1 and resources.devices else set()
        freeze = bool(others) and not group.frozen()
        if freeze:
            group.freeze(True)
        try:
            manager.set_properties(group.unit, properties)
            group.gather()
        finally:
            if freeze:
                group.freeze(False)
    except (OSError, DBusError) as error:
        raise RuntimeFailure(f"unable to set unit properties: {error}") from error


def left_out(group: Cgroup, resources: Resources) -> list[str]:
    """What systemd will not be told of `resources`, for warnings: an idle unit has no weight. Raises RuntimeFailure."""
    assert isinstance(group, Scope)
    found = []
    if resources.cpu is not None and resources.cpu.idle == 1 and resources.cpu.shares:
        found.append("unable to apply both CPUWeight and CpuIdle to systemd, ignoring CPUWeight")
    if resources.unified.get("cpu.idle", "").strip() == "1" and "cpu.weight" in resources.unified:
        found.append("unable to apply both cpu.weight and cpu.idle to systemd, ignoring cpu.weight")
    if not found or group.version != 2:
        return []
    try:
        return found if group.manager().version >= 252 else []
    except (OSError, DBusError) as error:
        raise RuntimeFailure(f"unable to get systemd version: {error}") from error


def _properties(group: Scope, resources: Resources, version: int) -> list[Property]:
    found: list[Property] = []
    if resources.devices:
        found += _devices(resources.devices)
    if resources.memory is not None:
        found += _memory(group, resources.memory)
    if resources.cpu is not None:
        found += _cpu(group, resources.cpu, version)
    if group.version == 1 and resources.block_io is not None and resources.block_io.weight:
        found.append(("BlockIOWeight", ("t", resources.block_io.weight)))
    if resources.pids is not None:
        # systemd takes no 0
        limit = resources.pids.limit
        found.append(("TasksMax", ("t", INFINITY if limit < 0 else max(limit, 1))))
    for name, value in resources.unified.items():
        found += _unified(name, value.strip(), resources.unified, version)
    return found


def _memory(group: Scope, memory: Memory) -> list[Property]:
    found: list[Property] = []
    if group.version == 1:
        if memory.limit:
            found.append(("MemoryLimit", ("t", _unsigned(memory.limit))))
        return found
    # before systemd sets it: the kernel would kill the container at once
    resources_v2.check_memory(group, memory)
    if memory.limit:
        found.append(("MemoryMax", ("t", _unsigned(memory.limit))))
    if memory.reservation:
        found.append(("MemoryLow", ("t", _unsigned(memory.reservation))))
    swap = resources_v2.swap_only(memory)
    if swap is not None:
        found.append(("MemorySwapMax", ("t", _unsigned(swap))))
    return found


def _cpu(group: Scope, cpu: Cpu, version: int) -> list[Property]:
    found: list[Property] = []
    if group.version == 1:
        if cpu.shares:
            found.append(("CPUShares", ("t", cpu.shares)))
    elif cpu.idle and version >= 252:
        found.append(("CPUWeight", ("t", 0)))  # systemd's way to say idle
    elif cpu.shares:
        found.append(("CPUWeight", ("t", resources_v2.shares_to_weight(cpu.shares))))
    found += _quota(cpu.quota or 0, cpu.period or 0, version)
    if cpu.cpus and version >= 244:
        found.append(("AllowedCPUs", ("ay", cpu_bits(cpu.cpus))))
    if cpu.mems and version >= 244:
        found.append(("AllowedMemoryNodes", ("ay", cpu_bits(cpu.mems))))
    return found


def _quota(quota: int, period: int, version: int) -> list[Property]:
    found: list[Property] = []
    if period and version >= 242:
        found.append(("CPUQuotaPeriodUSec", ("t", period)))
    if quota or period:
        share = _share(quota, period or USUAL_PERIOD) if quota > 0 else INFINITY
        found.append(("CPUQuotaPerSecUSec", ("t", share)))
    return found


def _share(quota: int, period: int) -> int:
    """A quota as systemd counts it: µs in a second, in hundredths of a processor, rounded up."""
    return -(-(quota * 1_000_000 // period) // 10_000) * 10_000


def rounded(resources: Resources) -> Resources:
    """`resources` with the quota that systemd makes of theirs: what is written to the cgroup is what it would write."""
    cpu = resources.cpu
    if cpu is None or not cpu.quota or cpu.quota < 0:
        return resources
    period = cpu.period or USUAL_PERIOD
    quota = _share(cpu.quota, period) * period // 1_000_000
    return msgspec.structs.replace(resources, cpu=msgspec.structs.replace(cpu, quota=quota))


def cpu_bits(text: str) -> bytes:
    """A list like "0-2,5" as systemd takes it: a bit each, lowest byte first. Raises RuntimeFailure."""
    bits = 0
    try:
        for part in filter(None, (part.strip() for part in text.split(","))):
            first, dash, last = part.partition("-")
            low, high = int(first), int(last if dash else first)
            if low > high or low < 0:
                raise ValueError(f"invalid range: {part}")
            bits |= ((1 << (high - low + 1)) - 1) << low
        if not bits:
            raise ValueError("empty value")
    except ValueError as error:
        raise RuntimeFailure(f'cpuset "{text}" conversion error: {error}') from error
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


_UNIFIED_SIZES = {
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.max": "MemoryMax",
    "memory.swap.max": "MemorySwapMax",
}


def _unified(name: str, value: str, everything: dict[str, str], version: int) -> list[Property]:
    """What systemd has for a file of version 2; nothing for others, which are written to the cgroup all the same."""
    if name.find(".") <= 0:
        raise RuntimeFailure(f'unified resource "{name}" must be in the form CONTROLLER.PARAMETER')
    idle = everything.get("cpu.idle", "").strip() == "1" and version >= 252
    try:
        if name == "cpu.idle":
            return [("CPUWeight", ("t", 0))] if idle else []
        if name == "cpu.weight":
            return [] if idle else [("CPUWeight", ("t", int(value)))]
        if name == "cpu.max":
            quota, _, period = value.partition(" ")
            return _quota(0 if quota == "max" else int(quota), int(period or USUAL_PERIOD), version)
        if name in ("cpuset.cpus", "cpuset.mems"):
            property_name = "AllowedCPUs" if name == "cpuset.cpus" else "AllowedMemoryNodes"
            return [(property_name, ("ay", cpu_bits(value)))] if version >= 244 else []
        if name in _UNIFIED_SIZES:
            return [(_UNIFIED_SIZES[name], ("t", INFINITY if value == "max" else int(value)))]
        if name == "pids.max":
            return [("TasksMax", ("t", INFINITY if value == "max" else max(int(value), 1)))]
    except ValueError as error:
        raise RuntimeFailure(f'unified resource "{name}" value conversion error: {error}') from error
    return []


def _devices(rules: list[DeviceRule]) -> list[Property]:
    """A list of allowed devices, systemd's only kind. Rules that it cannot express are left to our own filter."""
    allowed: list[tuple[str, str]] = []
    everything = False
    for rule in rules:
        if rule.type not in ("b", "c"):
            everything, allowed = rule.allow, []
            continue
        kind = "block" if rule.type == "b" else "char"
        wild_major = rule.major is None or rule.major < 0
        wild_minor = rule.minor is None or rule.minor < 0
        if wild_major and not wild_minor:
            continue
        if wild_major:
            path = f"{kind}-*"
        elif wild_minor:
            path = f"{kind}-{rule.major}"
        else:
            path = f"/dev/{kind}/{rule.major}:{rule.minor}"
        if rule.allow:
            allowed.append((path, rule.access.replace("a", "") or "rwm"))
        else:
            allowed = [entry for entry in allowed if entry[0] != path]
    clear: list[Property] = [("DeviceAllow", ("a(ss)", []))]
    if everything:
        return [*clear, ("DevicePolicy", ("s", "auto"))]
    return [*clear, ("DevicePolicy", ("s", "strict")), ("DeviceAllow", ("a(ss)", allowed))]


_ANNOTATION = "org.systemd.property."


def _from_annotations(annotations: dict[str, str]) -> list[Property]:
    """Properties that the spec's annotations set, as runc's documentation (systemd.md) has it: values in GVariant text.

    Durations in seconds may be given for properties that systemd has in microseconds: TimeoutStopSec.
    """
    found = []
    for key, text in annotations.items():
        if not key.startswith(_ANNOTATION):
            continue
        name = key.removeprefix(_ANNOTATION)
        try:
            signature, value = _variant(text.strip())
        except ValueError as error:
            raise RuntimeFailure(f"annotation {key}={text}: value parse error: {error}") from error
        if name.endswith("Sec") and not name.endswith("USec"):
            if signature in "xtiud":
                value, signature = int(value * 1_000_000), "t"
            name = name.removesuffix("Sec") + "USec"
        found.append((name, (signature, value)))
    return found


_GVARIANT_TYPES = {
    "byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u", "handle": "h", "int64": "x", "uint64": "t",
    "double": "d", "boolean": "b", "string": "s", "objectpath": "o", "signature": "g",
}  # fmt: skip


def _variant(text: str) -> tuple[str, Any]:
    """A value in the text form of GVariant: numbers, true, strings, lists of these, with a type in front or not."""
    word, _, rest = text.partition(" ")
    if word in _GVARIANT_TYPES and rest:
        _, value = _variant(rest.strip())
        return _GVARIANT_TYPES[word], value
    if word.startswith("@") and rest:
        _, value = _variant(rest.strip())
        return word[1:], value
    if text in ("true", "false"):
        return "b", text == "true"
    if text.startswith("["):
        items = [_variant(part.strip()) for part in text[1:-1].split(",") if part.strip()]
        if not text.endswith("]") or not items:
            raise ValueError(f"no list of known type: {text}")
        return "a" + items[0][0], [value for _, value in items]
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        content = text[1:-1]
        return "s", str(msgspec.json.decode('"' + content + '"')) if "\\" in content else content
    try:
        return "i", int(text, 0)
    except ValueError:
        return "d", float(text)


def _unsigned(value: int) -> int:
    return INFINITY if value < 0 else value
