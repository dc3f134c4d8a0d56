"""Short forms of ports, volumes and devices, written out: "8080:80", "data:/var/lib/x:ro", "/dev/x:/dev/y"."""

from __future__ import annotations

import posixpath

from dockyard.compose.errors import ComposeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Tree = dict[str, Any]

_PROPAGATIONS = ("rprivate", "private", "rshared", "shared", "rslave", "slave")
_PROTOCOLS = ("tcp", "udp", "sctp")


# -- ports


def ports(text: str) -> list[Tree]:
    """The ports of [[ADDRESS:]PUBLISHED:]TARGET[/PROTOCOL], in which both may be ranges. Raises ComposeError."""
    address, published, target = _split_port(text)
    target, _, protocol = target.partition("/")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if address and not is_address(address):
        raise ComposeError(f"invalid IP address: {address}")
    if not target:
        raise ComposeError(f"no port specified: {text}<empty>")
    first, last = _range(target, "containerPort", text)
    lower = protocol.lower()
    if "/" in text and lower not in _PROTOCOLS:
        raise ComposeError(f"invalid proto: {protocol}")
    starts = _range(published, "hostPort", text) if published else None
    if starts is not None and last - first != starts[1] - starts[0] and first != last:
        raise ComposeError(f"invalid ranges specified for container and host Ports: {target} and {published}")
    found = []
    for offset in range(last - first + 1):
        host = ""
        if starts is not None:
            host = str(starts[0] + offset)
            if first == last and starts[0] != starts[1]:
                host = f"{starts[0]}-{starts[1]}"  # any of them
        found.append(
            {
                "mode": "ingress",
                **({"host_ip": address} if address else {}),
                "target": first + offset,
                **({"published": host} if host else {}),
                "protocol": lower or "tcp",
            }
        )
    # as text, which is how the library that Compose uses sorts "80/tcp" and "8080/tcp"
    return sorted(found, key=lambda port: f"{port['target']}/{port['protocol']}")


def _split_port(text: str) -> tuple[str, str, str]:
    parts = text.split(":")
    if len(parts) == 1:
        return "", "", parts[0]
    if len(parts) == 2:
        return "", parts[0], parts[1]
    return ":".join(parts[:-2]), parts[-2], parts[-1]


def is_address(text: str) -> bool:
    """Whether a text is an IP address."""
    import _socket  # `ipaddress` takes 3 ms

    try:
        _socket.inet_pton(_socket.AF_INET6 if ":" in text else _socket.AF_INET, text.partition("%")[0])
    except (OSError, ValueError):
        return False
    return True


def _range(text: str, what: str, whole: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    try:
        low = _port(first)
        high = _port(last) if dash else low
    except ValueError:
        raise ComposeError(f"invalid {what}: {text}") from None
    if high < low:
        raise ComposeError(f"invalid {what}: {text}")
    return low, high


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(text)
    number = int(text)
    if number > 65535:
        raise ValueError(text)
    return number


# -- volumes


def volume(text: str) -> Tree:
    """The mount of [SOURCE:]TARGET[:OPTIONS]. Raises ComposeError."""
    if not text:
        raise ComposeError("invalid empty volume spec")
    if len(text) < 3:
        return {"type": "volume", "target": text}
    found: Tree = {}
    parts = _volume_parts(text)
    if not all(parts):
        raise ComposeError(f"invalid spec: {text}: empty section between colons")
    if len(parts) > 3:
        raise ComposeError(f"invalid spec: {text}: too many colons")
    if len(parts) == 1:
        found["target"] = parts[0]
    else:
        found["source"], found["target"] = parts[0], parts[1]
    for option in parts[2].split(",") if len(parts) == 3 else ():
        _volume_option(found, option)
    if _is_path(found.get("source", "")):
        found["type"] = "bind"
        found.setdefault("bind", {})["create_host_path"] = True  # the short form has always made missing folders
    else:
        found["type"] = "volume"
        found.setdefault("volume", {})
    found["target"] = posixpath.normpath(found["target"]) if found["target"] else ""
    if found["target"].startswith("//"):
        found["target"] = found["target"][1:]
    return {key: found[key] for key in ("type", "source", "target", "read_only", "bind", "volume") if key in found}


def _volume_parts(text: str) -> list[str]:
    """Split at colons, but not within ${…} nor after a drive's letter."""
    parts = [""]
    nested = 0
    for index, letter in enumerate(text):
        if letter == "$" and text[index + 1 : index + 2] == "{":
            nested += 1
        elif letter == "}" and nested:
            nested -= 1
        elif letter == ":" and not nested and not (len(parts[-1]) == 1 and parts[-1].isalpha()):
            parts.append("")
            continue
        parts[-1] += letter
    return parts


def _volume_option(found: Tree, option: str) -> None:
    if option == "ro":
        found["read_only"] = True
    elif option == "rw":
        found.pop("read_only", None)
    elif option == "nocopy":
        found["volume"] = {"nocopy": True}
    elif option in _PROPAGATIONS:
        found.setdefault("bind", {})["propagation"] = option
    elif option in ("z", "Z"):
        found.setdefault("bind", {})["selinux"] = option


def _is_path(source: str) -> bool:
    if source[:1] in (".", "/", "~") and source:
        return True
    return source.startswith("\\\\") or (len(source) > 1 and source[0].isalpha() and source[1] == ":")


# -- devices


def device(text: str, *, lenient: bool = False) -> Tree:
    """The device of SOURCE[:TARGET[:PERMISSIONS]]. Raises ComposeError unless `lenient`."""
    parts = text.split(":")
    if len(parts) > 3:
        if not lenient:
            raise ComposeError(f"confusing device mapping, please use long syntax: {text}")
        parts = ["", "", "rwm"]
    source = parts[0]
    return {
        "source": source,
        "target": (parts[1] if len(parts) > 1 else "") or source,
        "permissions": parts[2] if len(parts) > 2 else "rwm",
    }
