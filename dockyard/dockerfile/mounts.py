"""`RUN --mount=…`: what it says, and what it means once variables are replaced (Dockerfile reference, RUN)."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from dockyard.dockerfile.substitution import go_quoted
from dockyard.dockerfile.suggestions import suggestion
from dockyard.errors import InvalidParameter

KINDS = ("bind", "cache", "tmpfs", "secret", "ssh")
SHARING = ("shared", "private", "locked")
OWNED = ("secret", "ssh", "cache")  # kinds that have an owner and a mode
_NAMES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}
_KNOWN = (
    "type", "from", "source", "target", "readonly", "id", "sharing", "required", "size", "mode", "uid", "gid", "src",
    "dst", "destination", "ro", "rw", "readwrite", "env",
)  # fmt: skip
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


@dataclass(frozen=True, slots=True)
class MountFlag:
    """What follows `--mount=`, as it is written: names and values, a name alone with None. `stage` is what `from` says.

    Nothing but `from` is looked at before the step is reached: variables may be in all the others.
    """

    fields: tuple[tuple[str, str | None], ...]
    stage: str = ""


@dataclass(slots=True)
class RunMount:
    """One mount; a `mode` of None and numbers of 0 are those that nobody gave."""

    kind: str = "bind"
    stage: str = ""
    source: str = ""
    target: str = ""
    id: str = ""
    sharing: str = ""
    env: str = ""
    writable: bool = False
    required: bool = False
    size: int = 0
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    given: set[str] = field(default_factory=set)  # the long names of what was said


def parse_mount(text: str) -> MountFlag:
    """What follows `--mount=`. Raises InvalidParameter."""
    try:
        fields = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise InvalidParameter(f"failed to parse csv mounts: {error}") from None
    found: list[tuple[str, str | None]] = []
    stage = ""
    for one in fields:
        name, equals, value = one.partition("=")
        if name.lower() == "from" and equals:
            if "$" in value[:-1]:
                raise InvalidParameter("'from' doesn't support variable expansion, define alias stage instead")
            stage = value
        found.append((name, value if equals else None))
    return MountFlag(tuple(found), stage)


def settled(flag: MountFlag, expand: Callable[[str], str]) -> RunMount:
    """The mount that a flag asks for, its variables replaced by `expand`. Raises InvalidParameter."""
    mount = RunMount()
    for written, value in flag.fields:
        name = _NAMES.get(written.lower(), written.lower())
        if value is None:
            if name not in ("readonly", "readwrite", "required"):
                raise InvalidParameter(f"invalid field '{written}' must be a key=value pair")
            worth = "true"
        else:
            worth = expand(value)
        if name not in _KNOWN:
            near = suggestion(name, _KNOWN)
            raise InvalidParameter(f"unexpected key '{name}' in '{written}={value}'{near}")
        if (name == "required" and mount.kind not in ("secret", "ssh")) or (name == "size" and mount.kind != "tmpfs"):
            raise InvalidParameter(f"unexpected key '{name}' for mount type '{mount.kind}'")
        mount.given.add(name)
        _set(mount, name, worth)
    _check(mount)
    if not mount.given & {"readonly", "readwrite"}:
        mount.writable = mount.kind in ("cache", "tmpfs")
    return mount


def _set(mount: RunMount, name: str, value: str) -> None:
    """Take one option. Raises InvalidParameter."""
    match name:
        case "type":
            mount.kind = _one_of(value, KINDS, "mount type")
        case "sharing":
            mount.sharing = _one_of(value, SHARING, "sharing value")
        case "from":
            mount.stage = value
        case "source" | "target" | "id" | "env":
            setattr(mount, name, value)
        case "readonly":
            mount.writable = not _flag(name, value)
        case "readwrite":
            mount.writable = _flag(name, value)
        case "required":
            mount.required = _flag(name, value)
        case "size":
            mount.size = _size(value)
        case "mode":
            mount.mode = _number(name, value, 8)
        case "uid" | "gid":
            setattr(mount, name, _number(name, value, 10))


def _check(mount: RunMount) -> None:
    """Raise InvalidParameter for what a kind has not."""
    for name in ("mode", "uid", "gid"):
        if name in mount.given and mount.kind not in OWNED:
            raise InvalidParameter(f'{name} not allowed for "{mount.kind}" type mounts')
    if mount.kind == "secret":
        if mount.stage:
            raise InvalidParameter("secret mount should not have a from")
        if mount.sharing:
            raise InvalidParameter("secret mount should not define sharing")
        if not (mount.source or mount.target or mount.id):
            raise InvalidParameter("invalid secret mount. one of source, target required")
        if mount.source and mount.id:
            raise InvalidParameter("both source and id can't be set")
    if mount.kind == "ssh" and mount.source:
        raise InvalidParameter("ssh does not support source")
    if mount.sharing and mount.kind != "cache":
        raise InvalidParameter(f"invalid cache sharing set for {mount.kind} mount")


def _one_of(value: str, known: tuple[str, ...], what: str) -> str:
    if value.lower() not in known:
        raise InvalidParameter(f"unsupported {what} {go_quoted(value)}{suggestion(value, known)}")
    return value.lower()


def _number(name: str, text: str, base: int) -> int:
    if not re.fullmatch("[0-7]+" if base == 8 else "[0-9]+", text) or int(text, base) >= 1 << 32:
        raise InvalidParameter(f"invalid value {text} for {name}")
    return int(text, base)


def _size(text: str) -> int:
    """Bytes, as docker/go-units reads them."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([bkmgtp]?)(?:i?b)?", text.lower(), re.ASCII)
    if found is None:
        raise InvalidParameter(f"invalid value for size: {text}")
    return int(float(found[1]) * _UNITS[found[2]])


def _flag(name: str, text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise InvalidParameter(f"invalid value for {name}: {text}")
