"""What users write after flags, as the API wants it: sizes, durations, ports, variables, mounts, devices, limits.

Every function raises ValueError with the words that Docker's users know.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SIZE_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
DURATION_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def size(text: str) -> int:
    """Bytes: "512m", "1.5g", "64MiB"."""
    lowered = text.strip().lower()
    digits = lowered.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = lowered[len(digits) :].strip()
    unit = unit if unit in SIZE_UNITS else unit.removesuffix("ib").removesuffix("b")
    try:
        return int(float(digits) * SIZE_UNITS[unit])
    except (ValueError, KeyError):
        raise ValueError(f"invalid size: '{text}'") from None


def duration(text: str) -> int:
    """Nanoseconds: "1m30s"."""
    if text == "0":
        return 0
    total, rest = 0.0, text
    while rest:
        digits = 0
        while digits < len(rest) and rest[digits] in "0123456789.":
            digits += 1
        letters = digits
        while letters < len(rest) and rest[letters] not in "0123456789.":
            letters += 1
        unit = rest[digits:letters]
        if not digits or unit not in DURATION_UNITS:
            why = "missing unit in" if digits and not unit else "invalid"
            raise ValueError(f'time: {why} duration "{text}"')
        total += float(rest[:digits]) * DURATION_UNITS[unit]
        rest = rest[letters:]
    if not text:
        raise ValueError('time: invalid duration ""')
    return int(total)


def nano_cpus(text: str) -> int:
    """Billionths of a core: "1.5"."""
    from decimal import Decimal, InvalidOperation

    try:
        return int(Decimal(text) * 10**9)
    except InvalidOperation:
        raise ValueError(f"failed to parse {text} as a rational number") from None


def pairs(values: list[str]) -> dict[str, str]:
    """KEY=VALUE each; without "=" the value is empty."""
    return {key: value for key, _, value in (item.partition("=") for item in values)}


def lines_of(path: str, kind: str) -> list[str]:
    """The lines of an env or label file, without comments."""
    found = []
    with open(path, encoding="utf-8-sig") as file:
        for line in file.read().split("\n"):
            text = line.lstrip().rstrip("\r")
            if not text or text.startswith("#"):
                continue
            name = text.partition("=")[0]
            if " " in name.rstrip() or "\t" in name or not name:
                raise ValueError(f"invalid {kind} file ({path}): variable '{name}' contains whitespaces")
            found.append(text)
    return found


def environment(values: list[str], files: list[str]) -> list[str]:
    """Variables from files, then from flags; a bare NAME takes our own value, if we have one."""
    found = []
    for text in [line for path in files for line in lines_of(path, "env")] + values:
        name, equals, _ = text.partition("=")
        if not name:
            raise ValueError(f"invalid environment variable: {text}")
        if equals:
            found.append(text)
        elif name in os.environ:
            found.append(f"{name}={os.environ[name]}")
    return found


def _port_range(text: str, whole: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    try:
        low, high = int(first), int(last if dash else first)
    except ValueError:
        raise ValueError(f"invalid containerPort: {whole}") from None
    if not 0 <= low <= high <= 65535:
        raise ValueError(f"invalid containerPort: {whole}")
    return low, high


def publish(values: list[str]) -> tuple[list[str], dict[str, list[dict[str, str]]]]:
    """`[ADDRESS:][HOST[-HOST]:]PORT[-PORT][/PROTOCOL]` each: exposed ports, and bindings by port."""
    exposed: list[str] = []
    bindings: dict[str, list[dict[str, str]]] = {}
    for value in values:
        rest, _, protocol = value.partition("/")
        address = ""
        if rest.startswith("["):
            address, _, rest = rest[1:].partition("]")
            rest = rest.removeprefix(":")
        parts = rest.split(":")
        if len(parts) > 2:
            address, parts = ":".join(parts[:-2]), parts[-2:]
        if address and not _is_address(address):
            raise ValueError(f"invalid IP address: {address}")
        low, high = _port_range(parts[-1], value)
        host = parts[0] if len(parts) == 2 else ""
        first, last = 0, 0
        if host:
            try:
                first, last = _port_range(host, value)
            except ValueError:
                raise ValueError(f"invalid hostPort: {host}") from None
            if last - first != high - low and high != low:
                raise ValueError(f"invalid ranges specified for container and host Ports: {parts[-1]} and {host}")
        if protocol.lower() not in ("", "tcp", "udp", "sctp"):
            raise ValueError(f"invalid proto: {protocol}")
        for port in range(low, high + 1):
            key = f"{port}/{protocol.lower() or 'tcp'}"
            wanted = ""
            if host:
                wanted = str(first + port - low) if high != low or first == last else f"{first}-{last}"
            exposed.append(key)
            bindings.setdefault(key, []).append({"HostIp": address, "HostPort": wanted})
    return exposed, bindings


def _is_address(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def expose(values: list[str]) -> list[str]:
    """PORT[-PORT][/PROTOCOL] each, one by one."""
    found = []
    for value in values:
        ports, _, protocol = value.partition("/")
        if ":" in ports:
            raise ValueError(f"invalid port format for --expose: {value}")
        low, high = _port_range(ports, value)
        found += [f"{port}/{protocol or 'tcp'}" for port in range(low, high + 1)]
    return found


def fields(text: str) -> list[tuple[str, str | None]]:
    """A line of comma-separated KEY=VALUE or KEY, with CSV's quotes."""
    import csv

    row = next(csv.reader([text]), [])
    return [(key.strip().lower(), value if equals else None) for key, equals, value in (f.partition("=") for f in row)]


def _switch(key: str, value: str | None) -> bool:
    if value is None or value.lower() in ("true", "1", "t"):
        return True
    if value.lower() in ("false", "0", "f"):
        return False
    raise ValueError(f"invalid value for {key}: {value}")


_MOUNT_OPTIONS = {
    "bind-propagation": ("bind", "BindOptions", "Propagation"),
    "bind-nonrecursive": ("bind", "BindOptions", "NonRecursive"),
    "bind-create-src": ("bind", "BindOptions", "CreateMountpoint"),
    "volume-nocopy": ("volume", "VolumeOptions", "NoCopy"),
    "volume-subpath": ("volume", "VolumeOptions", "Subpath"),
    "image-subpath": ("image", "ImageOptions", "Subpath"),
    "tmpfs-size": ("tmpfs", "TmpfsOptions", "SizeBytes"),
    "tmpfs-mode": ("tmpfs", "TmpfsOptions", "Mode"),
}


def mount(text: str) -> dict[str, Any]:
    """One `--mount`: `type=bind,source=…,target=…,readonly`."""
    found: dict[str, Any] = {"Type": "volume"}
    kinds = set()
    for key, value in fields(text):
        if key == "type":
            found["Type"] = (value or "").lower()
        elif key in ("source", "src"):
            found["Source"] = value or ""
        elif key in ("target", "dst", "destination"):
            found["Target"] = value or ""
        elif key in ("readonly", "ro"):
            found["ReadOnly"] = _switch(key, value)
        elif key == "consistency":
            found["Consistency"] = (value or "").lower()
        elif key == "bind-recursive":
            kinds.add("bind")
            found.setdefault("BindOptions", {}).update(_recursion(value or ""))
        elif key in ("volume-label", "volume-opt", "volume-driver"):
            kinds.add("volume")
            _volume_option(found.setdefault("VolumeOptions", {}), key, value or "")
        elif key in _MOUNT_OPTIONS:
            kind, group, name = _MOUNT_OPTIONS[key]
            kinds.add(kind)
            found.setdefault(group, {})[name] = _mount_option(key, value)
        else:
            raise ValueError(f"unexpected key '{key}' in '{text}'" if value is not None else f"invalid field '{key}'")
    if not found["Type"]:
        raise ValueError("type is required")
    if not found.get("Target"):
        raise ValueError("target is required")
    for kind in kinds - {found["Type"]}:
        raise ValueError(f"cannot mix '{kind}-*' options with mount type '{found['Type']}'")
    if found["Type"] == "bind" and found.get("Source", "").startswith("."):
        found["Source"] = os.path.abspath(found["Source"])
    return found


def _mount_option(key: str, value: str | None) -> object:
    if key in ("bind-nonrecursive", "bind-create-src", "volume-nocopy"):
        return _switch(key, value)
    if key == "tmpfs-size":
        return size(value or "")
    if key == "tmpfs-mode":
        try:
            return int(value or "", 8)
        except ValueError:
            raise ValueError(f"invalid value for {key}: {value}") from None
    return value or ""


def _recursion(value: str) -> dict[str, bool]:
    known: dict[str, dict[str, bool]] = {
        "enabled": {},
        "disabled": {"NonRecursive": True},
        "writable": {"ReadOnlyNonRecursive": True},
        "readonly": {"ReadOnlyForceRecursive": True},
    }
    if value not in known:
        raise ValueError(
            f'invalid value for bind-recursive: {value} (must be "enabled", "disabled", "writable", or "readonly")'
        )
    return known[value]


def _volume_option(options: dict[str, Any], key: str, value: str) -> None:
    name, _, content = value.partition("=")
    if key == "volume-label":
        options.setdefault("Labels", {})[name] = content
    elif key == "volume-driver":
        options.setdefault("DriverConfig", {})["Name"] = value
    else:
        options.setdefault("DriverConfig", {}).setdefault("Options", {})[name] = content


def device(text: str) -> dict[str, str]:
    """HOST[:CONTAINER[:rwm]]."""
    parts = text.split(":")
    if not parts[0] or len(parts) > 3:
        raise ValueError(f"invalid device specification: {text}")
    target, rights = parts[0], "rwm"
    if len(parts) == 3:
        target, rights = parts[1] or parts[0], parts[2]
    elif len(parts) == 2:
        if parts[1] and not set(parts[1]) - set("rwm"):
            rights = parts[1]
        else:
            target = parts[1]
    return {"PathOnHost": parts[0], "PathInContainer": target, "CgroupPermissions": rights}


def ulimit(text: str) -> dict[str, Any]:
    """NAME=SOFT[:HARD]."""
    name, equals, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    try:
        low, high = int(soft), int(hard or soft)
    except ValueError:
        raise ValueError(f"invalid ulimit argument: {text}") from None
    if not equals or (high != -1 and (low > high or low == -1)):
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {low} > {high}")
    return {"Name": name, "Soft": low, "Hard": high}


def device_weight(text: str) -> dict[str, Any]:
    """/dev/x:WEIGHT."""
    path, _, weight = text.rpartition(":")
    if not path.startswith("/dev/") or not weight.isdigit():
        raise ValueError(f"bad format for path: {text}")
    return {"Path": path, "Weight": int(weight)}


def device_rate(text: str, *, in_bytes: bool) -> dict[str, Any]:
    """/dev/x:RATE."""
    path, _, rate = text.rpartition(":")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    try:
        return {"Path": path, "Rate": size(rate) if in_bytes else int(rate)}
    except ValueError:
        raise ValueError(f"invalid rate for device: {text}") from None


def restart_policy(text: str) -> dict[str, Any]:
    """NAME[:RETRIES]."""
    name, _, retries = text.partition(":")
    if not name:
        raise ValueError("invalid restart policy format: no policy provided before colon")
    if not retries:
        return {"Name": name}
    try:
        return {"Name": name, "MaximumRetryCount": int(retries)}
    except ValueError:
        raise ValueError("invalid restart policy format: maximum retry count must be an integer") from None


def gpus(text: str) -> dict[str, Any]:
    """`all`, a count, or `device=…,capabilities=…`."""
    request: dict[str, Any] = {"Driver": "", "Count": 0, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}
    for key, value in fields(text):
        if value is None or key == "count":
            request["Count"] = -1 if (value or key) == "all" else int(value or key)
        elif key == "device":
            request["DeviceIDs"] = value.split(",")
        elif key == "driver":
            request["Driver"] = value
        elif key == "capabilities":
            request["Capabilities"] = [sorted({"gpu", *value.split(",")})]
        elif key == "options":
            request["Options"] = pairs(value.split(","))
        else:
            raise ValueError(f"unexpected key '{key}' in '{text}'")
    return request


def host_entry(text: str) -> str:
    """NAME:ADDRESS or NAME=ADDRESS, as the former."""
    name, separator, address = text.partition("=")
    if not separator:
        name, separator, address = text.partition(":")
    if not name or not separator:
        raise ValueError(f'bad format for add-host: "{text}"')
    if address == "host-gateway":
        return f"{name}:{address}"
    address = address.removeprefix("[").removesuffix("]")
    if not _is_address(address):
        raise ValueError(f'invalid IP address in add-host: "{address}"')
    return f"{name}:{address}"
