"""What users write after flags, as the API wants it: sizes, durations, ports, variables, devices, limits.

Every function raises ValueError with the words that Docker's users know.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SIZE_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
DURATION_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def size(text: str) -> int:
    """Bytes: "512m", "1.5g", "64MiB"."""
    lowered = text.strip().lower()
    digits = lowered.rstrip(_LETTERS + " ")
    unit = lowered[len(digits) :].strip()
    unit = unit if unit in SIZE_UNITS else unit.removesuffix("ib").removesuffix("b")
    try:
        return int(float(digits) * SIZE_UNITS[unit])
    except (ValueError, KeyError):
        raise ValueError(f"invalid size: '{text}'") from None


def duration(text: str) -> int:
    """Nanoseconds: "1m30s"."""
    rest = text.removeprefix("-") if text.startswith("-") else text.removeprefix("+")
    if rest == "0":
        return 0
    if not rest:
        raise ValueError(f'time: invalid duration "{text}"')
    total = 0.0
    while rest:
        digits = 0
        while digits < len(rest) and rest[digits] in "0123456789.":
            digits += 1
        letters = digits
        while letters < len(rest) and rest[letters] not in "0123456789.":
            letters += 1
        unit = rest[digits:letters]
        if not digits or unit not in DURATION_UNITS:
            if digits and unit:
                raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
            why = "missing unit in" if digits else "invalid"
            raise ValueError(f'time: {why} duration "{text}"')
        total += float(rest[:digits]) * DURATION_UNITS[unit]
        rest = rest[letters:]
    return int(-total if text.startswith("-") else total)


def nano_cpus(text: str) -> int:
    """Billionths of a core: "1.5"."""
    from decimal import Decimal, InvalidOperation

    try:
        number = Decimal(text) * 10**9
    except InvalidOperation:
        raise ValueError(f"failed to parse {text} as a rational number") from None
    if number != int(number):
        raise ValueError("value is too precise")
    return int(number)


def pairs(values: list[str]) -> dict[str, str]:
    """KEY=VALUE each; without "=" the value is empty."""
    return {key: value for key, _, value in (item.partition("=") for item in values)}


def lines_of(path: str) -> list[str]:
    """The lines of an env or label file, without comments."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = file.read()
    except OSError as error:
        raise ValueError(f"open {path}: {(error.strerror or '').lower()}") from None
    except UnicodeDecodeError:
        raise ValueError(f"invalid env file ({path}): invalid utf8 bytes") from None
    found = []
    for line in content.split("\n"):
        text = line.lstrip().rstrip("\r")
        if not text or text.startswith("#"):
            continue
        name = text.partition("=")[0]
        if not name:
            raise ValueError(f"invalid env file ({path}): no variable name on line '{text}'")
        if " " in name or "\t" in name:
            raise ValueError(f"invalid env file ({path}): variable '{name}' contains whitespaces")
        found.append(text)
    return found


def variable(text: str) -> None:
    """Check one `--env`."""
    if not text.partition("=")[0]:
        raise ValueError(f"invalid environment variable: {text}")


def environment(values: list[str], files: list[str]) -> list[str]:
    """Variables from files, then from flags; a bare NAME takes our own value, and is left out when we have none."""
    found = []
    for text in [line for path in files for line in lines_of(path)] + values:
        variable(text)
        name, equals, _ = text.partition("=")
        if equals:
            found.append(text)
        elif name in os.environ:
            found.append(f"{name}={os.environ[name]}")
    return found


def label(text: str) -> None:
    """Check one `--label`."""
    name = text.partition("=")[0].lstrip(" \t")
    if not name:
        raise ValueError(f"invalid label '{text}': empty name")
    if " " in name or "\t" in name:
        raise ValueError(f"label '{name}' contains whitespaces")


def _port_range(text: str) -> tuple[int, int]:
    if not text:
        raise ValueError("empty string specified for ports")
    first, dash, last = text.partition("-")
    low, high = _port(first), _port(last if dash else first)
    if high < low:
        raise ValueError(f"invalid range specified for port: {text}")
    return low, high


def _port(text: str) -> int:
    if not text.isdigit():
        raise ValueError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    if int(text) > 65535:
        raise ValueError(f'strconv.ParseUint: parsing "{text}": value out of range')
    return int(text)


def publish(values: list[str]) -> tuple[list[str], dict[str, list[dict[str, str]]]]:
    """`[ADDRESS:][HOST[-HOST]:]PORT[-PORT][/PROTOCOL]` each: exposed ports, and bindings by port.

    `published=HOST,target=PORT,protocol=PROTOCOL` is understood too.
    """
    exposed: list[str] = []
    bindings: dict[str, list[dict[str, str]]] = {}
    for value in values:
        address, host, ports, protocol = _publish_parts(_short_form(value))
        try:
            low, high = _port_range(ports)
        except ValueError:
            raise ValueError(f"invalid containerPort: {ports}") from None
        first, last = 0, 0
        if host:
            try:
                first, last = _port_range(host)
            except ValueError:
                raise ValueError(f"invalid hostPort: {host}") from None
            if last - first != high - low and high != low:
                raise ValueError(f"invalid ranges specified for container and host Ports: {ports} and {host}")
        if protocol.lower() not in ("tcp", "udp", "sctp"):
            raise ValueError(f"invalid proto: {protocol}")
        for port in range(low, high + 1):
            key = f"{port}/{protocol.lower()}"
            wanted = ""
            if host:
                wanted = str(first + port - low) if high != low or first == last else f"{first}-{last}"
            exposed.append(key)
            bindings.setdefault(key, []).append({"HostIp": address, "HostPort": wanted})
    return exposed, bindings


def _short_form(value: str) -> str:
    if "=" not in value:
        return value
    given = {"protocol": "tcp", "published": "", "target": ""}
    for field in value.split(","):
        key, equals, content = field.partition("=")
        if not equals or not key:
            raise ValueError(f"invalid publish opts format (should be name=value but got '{field}')")
        given[key] = content
    return f"{given['published']}:{given['target']}/{given['protocol']}"


def _publish_parts(value: str) -> tuple[str, str, str, str]:
    """Address, ports of the host, ports of the container, protocol."""
    rest, slash, protocol = value.partition("/")
    parts = rest.split(":")
    address, host, ports = ":".join(parts[:-2]), parts[-2] if len(parts) > 1 else "", parts[-1]
    if address.startswith("["):
        if not address.endswith("]"):
            raise ValueError(f"invalid IP address {address}: address {address}:: missing ']' in address")
        address = address[1:-1]
    if address and not is_address(address):
        raise ValueError(f"invalid IP address: {address}")
    if not ports:
        raise ValueError(f"no port specified: {value}<empty>")
    return address, host, ports, (protocol if slash else "tcp") or "tcp"


def expose(values: list[str]) -> list[str]:
    """PORT[-PORT][/PROTOCOL] each, one by one."""
    found = []
    for value in values:
        ports, _, protocol = value.partition("/")
        if ":" in value:
            raise ValueError(f"invalid port format for --expose: {value}")
        try:
            low, high = _port_range(ports)
        except ValueError as error:
            raise ValueError(f"invalid range format for --expose: {value}, error: {error}") from None
        found += [f"{port}/{protocol or 'tcp'}" for port in range(low, high + 1)]
    return found


def is_address(text: str) -> bool:
    """Whether `text` is an IPv4 or IPv6 address."""
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def address(text: str) -> None:
    """Check one `--dns`."""
    if not is_address(text.strip()):
        raise ValueError(f"IP address is not correctly formatted: {text}")


def is_mac(text: str) -> bool:
    """Whether `text` is a hardware address of six or eight bytes."""
    for separator in ":-":
        parts = text.split(separator)
        if len(parts) in (6, 8, 20):
            return all(len(part) == 2 and not set(part.lower()) - set("0123456789abcdef") for part in parts)
    return False


def domain(text: str) -> None:
    """Check one `--dns-search`."""
    text = text.strip(" ")
    if text == ".":
        return
    labels = text.removesuffix(".").split(".")
    for part in labels:
        plain = part.replace("-", "")
        if not plain.isascii() or not plain.isalnum() or part.startswith("-") or part.endswith("-"):
            raise ValueError(f"{text} is not a valid domain")
    if not any(letter.isalpha() for letter in text) or len(text) >= 255:
        raise ValueError(f"{text} is not a valid domain")


def link(text: str) -> None:
    """Check one `--link`."""
    if not text:
        raise ValueError("empty string specified for links")
    if text.count(":") > 1:
        raise ValueError(f"bad format for links: {text}")


_SYSCTLS = ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")


def sysctl(text: str) -> None:
    """Check one `--sysctl`: only settings of a namespace may be given."""
    key, equals, _ = text.partition("=")
    known = key.startswith(("net.", "fs.mqueue.")) or key in {f"kernel.{name}" for name in _SYSCTLS}
    if not equals or not known:
        raise ValueError(f"sysctl '{text}' is not allowed")


def csv_fields(text: str) -> list[str]:
    """The comma-separated fields of a line, with CSV's quotes."""
    if '"' not in text:
        if not text:
            raise ValueError("EOF")
        return text.split(",")
    import csv

    return next(csv.reader([text]), [])


def fields(text: str) -> list[tuple[str, str | None]]:
    """A line of comma-separated KEY=VALUE or KEY, with CSV's quotes."""
    found = ((key, value if equals else None) for key, equals, value in (f.partition("=") for f in csv_fields(text)))
    return [(key.lower(), value) for key, value in found]


def device(text: str) -> dict[str, str]:
    """HOST[:CONTAINER[:rwm]]."""
    parts = text.split(":")
    if not parts[0] or len(parts) > 3:
        raise ValueError(f"bad format for path: {text}")
    target, rights = parts[0], "rwm"
    if len(parts) == 3:
        target, rights = parts[1] or parts[0], parts[2]
        if not _is_device_mode(rights):
            raise ValueError(f"bad mode specified: {rights}")
    elif len(parts) == 2:
        if _is_device_mode(parts[1]):
            rights = parts[1]
        else:
            target = parts[1]
    if not target.startswith("/"):
        raise ValueError(f"{target} is not an absolute path")
    return {"PathOnHost": parts[0], "PathInContainer": target, "CgroupPermissions": rights}


def _is_device_mode(text: str) -> bool:
    return bool(text) and not set(text) - set("rwm") and len(set(text)) == len(text)


def device_rule(text: str) -> None:
    """Check one `--device-cgroup-rule`: `c 1:3 rwm`."""
    kind, _, rest = text.partition(" ")
    numbers, _, rights = rest.partition(" ")
    major, colon, minor = numbers.partition(":")
    good = kind in ("a", "b", "c") and colon and all(part.isdigit() or part == "*" for part in (major, minor))
    if not good or not rights or set(rights) - set("rwm") or len(rights) > 3:
        raise ValueError(f"invalid device cgroup format '{text}'")


_ULIMITS = (
    "core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack"
).split()  # fmt: skip


def ulimit(text: str) -> dict[str, Any]:
    """NAME=SOFT[:HARD]."""
    name, equals, limits = text.partition("=")
    if not equals:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in _ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    parts = limits.split(":")
    if len(parts) > 2:
        raise ValueError(
            f"too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
        )  # fmt: skip
    for part in reversed(parts):
        try:
            int(part)
        except ValueError:
            raise ValueError(f'strconv.ParseInt: parsing "{part}": invalid syntax') from None
    low, high = int(parts[0]), int(parts[-1])
    if high != -1 and low == -1:
        raise ValueError(
            f"ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: {high}"
        )
    if high != -1 and low > high:
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {low} > {high}")
    return {"Name": name, "Soft": low, "Hard": high}


def _of_device(text: str) -> tuple[str, str]:
    path, colon, value = text.partition(":")
    if not colon or not path:
        raise ValueError(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    return path, value


def device_weight(text: str) -> dict[str, Any]:
    """/dev/x:WEIGHT."""
    path, weight = _of_device(text)
    if not weight.isdigit() or (int(weight) and not 10 <= int(weight) <= 1000):
        raise ValueError(f"invalid weight for device: {text}")
    return {"Path": path, "Weight": int(weight)}


def byte_rate(text: str) -> dict[str, Any]:
    """/dev/x:BYTES."""
    path, rate = _of_device(text)
    try:
        amount = size(rate)
    except ValueError:
        amount = -1
    if amount < 0:
        raise ValueError(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. "
            "Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        )
    return {"Path": path, "Rate": amount}


def io_rate(text: str) -> dict[str, Any]:
    """/dev/x:OPERATIONS."""
    path, rate = _of_device(text)
    if not rate.isdigit():
        raise ValueError(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>. "
            "Number must be a positive integer"
        )
    return {"Path": path, "Rate": int(rate)}


def restart_policy(text: str) -> dict[str, Any]:
    """NAME[:RETRIES]."""
    name, colon, retries = text.partition(":")
    if colon and not name:
        raise ValueError("invalid restart policy format: no policy provided before colon")
    if not retries:
        return {"Name": name}
    try:
        return {"Name": name, "MaximumRetryCount": int(retries)}
    except ValueError:
        raise ValueError("invalid restart policy format: maximum retry count must be an integer") from None


def gpus(text: str) -> dict[str, Any]:
    """`all`, a count, or `device=…,capabilities=…`."""
    request: dict[str, Any] = {"Capabilities": [["gpu"]], "Options": {}}
    for field in csv_fields(text):
        key, equals, value = field.partition("=")
        name = key if equals else "count"
        if name == "count":
            request["Count"] = _count(value if equals else key)
        elif name == "device":
            request["DeviceIDs"] = value.split(",")
        elif name == "driver":
            request["Driver"] = value
        elif name == "capabilities":
            request["Capabilities"] = [[*value.split(","), "gpu"]]
        elif name == "options":
            request["Options"] = pairs(csv_fields(value))
        else:
            raise ValueError(f"unexpected key '{key}' in '{field}'")
    if "Count" not in request and "DeviceIDs" not in request:
        request["Count"] = 1
    return request


def _count(text: str) -> int:
    if text == "all":
        return -1
    try:
        return int(text)
    except ValueError:
        message = f'invalid count ({text}): value must be either "all" or an integer: invalid syntax'
        raise ValueError(message) from None


def host_entry(text: str) -> str:
    """NAME:ADDRESS or NAME=ADDRESS, as the former."""
    name, separator, place = text.partition("=")
    if not separator:
        name, separator, place = text.partition(":")
    if not name or not separator or ":" in name:
        raise ValueError(f'bad format for add-host: "{text}"')
    if place == "host-gateway":
        return f"{name}:{place}"
    if place.startswith("[") and place.endswith("]"):
        place = place[1:-1]
    if not is_address(place):
        raise ValueError(f'invalid IP address in add-host: "{place}"')
    return f"{name}:{place}"
