"""The local driver's options: what `type`, `device` and `o` mean to mount(2)."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from dockyard.errors import InvalidParameter, SystemFailure
from dockyard.linux import syscalls

KNOWN = ("type", "o", "device", "size")
REQUIRES = {"device": ("type",), "type": ("device",), "o": ("device", "type")}

# Option -> (set or clear, flag), as mount(8) reads them.
FLAGS: dict[str, tuple[bool, int]] = {
    "defaults": (True, 0),
    "ro": (True, syscalls.MS_RDONLY),
    "rw": (False, syscalls.MS_RDONLY),
    "nosuid": (True, syscalls.MS_NOSUID),
    "suid": (False, syscalls.MS_NOSUID),
    "nodev": (True, syscalls.MS_NODEV),
    "dev": (False, syscalls.MS_NODEV),
    "noexec": (True, syscalls.MS_NOEXEC),
    "exec": (False, syscalls.MS_NOEXEC),
    "sync": (True, syscalls.MS_SYNCHRONOUS),
    "async": (False, syscalls.MS_SYNCHRONOUS),
    "dirsync": (True, syscalls.MS_DIRSYNC),
    "mand": (True, syscalls.MS_MANDLOCK),
    "nomand": (False, syscalls.MS_MANDLOCK),
    "noatime": (True, syscalls.MS_NOATIME),
    "atime": (False, syscalls.MS_NOATIME),
    "nodiratime": (True, syscalls.MS_NODIRATIME),
    "diratime": (False, syscalls.MS_NODIRATIME),
    "relatime": (True, syscalls.MS_RELATIME),
    "norelatime": (False, syscalls.MS_RELATIME),
    "strictatime": (True, syscalls.MS_STRICTATIME),
    "nostrictatime": (False, syscalls.MS_STRICTATIME),
    "bind": (True, syscalls.MS_BIND),
    "rbind": (True, syscalls.MS_BIND | syscalls.MS_REC),
    "remount": (True, syscalls.MS_REMOUNT),
    "private": (True, syscalls.MS_PRIVATE),
    "rprivate": (True, syscalls.MS_PRIVATE | syscalls.MS_REC),
    "shared": (True, syscalls.MS_SHARED),
    "rshared": (True, syscalls.MS_SHARED | syscalls.MS_REC),
    "slave": (True, syscalls.MS_SLAVE),
    "rslave": (True, syscalls.MS_SLAVE | syscalls.MS_REC),
}
PROPAGATION = syscalls.MS_PRIVATE | syscalls.MS_SHARED | syscalls.MS_SLAVE


@dataclass(frozen=True, slots=True)
class MountPlan:
    """One mount(2), and after it another one for what a single call can't do; None when there is no such need."""

    device: str
    kind: str
    flags: int
    data: str
    remount: int | None = None
    propagation: int | None = None


def check(options: Mapping[str, str]) -> None:
    """Raise InvalidParameter when the local driver can't do what `options` ask."""
    for name in options:
        if name not in KNOWN:
            raise InvalidParameter(f'invalid option: "{name}"')
    if "size" in options:
        raise InvalidParameter("quota size requested but no quota support")
    for name, required in REQUIRES.items():
        if name in options:
            for other in required:
                if other not in options:
                    raise InvalidParameter(f'missing required option: "{other}"')
    if options.get("type") == "cifs" and urlsplit(options["device"]).port is not None:
        raise InvalidParameter("port not allowed in CIFS device URL, include 'port' in 'o='")


def plan(options: Mapping[str, str]) -> MountPlan | None:
    """How to mount a volume with these `options`; None when it is a plain directory.

    Looks up the server's address of an NFS or CIFS volume, so it may block. Raises SystemFailure.
    """
    device = options.get("device", "")
    if not device:
        return None
    kind = options.get("type", "")
    flags = 0
    rest = []
    for item in options.get("o", "").split(","):
        if item in FLAGS:
            on, flag = FLAGS[item]
            flags = flags | flag if on else flags & ~flag
        elif item:
            rest.append(item)
    if kind in ("nfs", "nfs4"):
        rest = [_with_address(item, kind) for item in rest]
    elif kind == "cifs":
        device, rest = _cifs(device, rest)
    propagation = flags & (PROPAGATION | syscalls.MS_REC) if flags & PROPAGATION else None
    flags &= ~PROPAGATION
    # A bind mount takes no other flag until it is remounted (mount(2)).
    remount = flags | syscalls.MS_REMOUNT if flags & syscalls.MS_BIND and flags & syscalls.MS_RDONLY else None
    return MountPlan(device, kind, flags, ",".join(rest), remount, propagation)


def _with_address(item: str, kind: str) -> str:
    """The kernel's own mount(2) knows no host names."""
    if not item.startswith("addr="):
        return item
    return f"addr={_resolve(item[5:], kind)}"


def _cifs(device: str, rest: list[str]) -> tuple[str, list[str]]:
    parts = urlsplit(device)
    if not parts.hostname:
        return unquote(device), rest
    named = [item for item in rest if item.startswith("addr=")]
    host = named[0][5:] if named else parts.hostname
    kept = [item for item in rest if not item.startswith("addr=")]
    return unquote(device), [*kept, f"addr={_resolve(host, 'cifs')}"]


def _resolve(host: str, kind: str) -> str:
    try:
        return str(socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)[0][4][0])
    except OSError as error:
        raise SystemFailure(f"error resolving passed in {kind} volume address {host!r}: {error}") from None
