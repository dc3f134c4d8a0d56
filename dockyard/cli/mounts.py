"""`--mount`: one comma-separated line as a mount of the API."""

from __future__ import annotations

import os

from dockyard.cli.values import csv_fields, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TRUE, _FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")
_RECURSION: dict[str, dict[str, bool]] = {
    "enabled": {},
    "disabled": {"NonRecursive": True},
    "writable": {"ReadOnlyNonRecursive": True},
    "readonly": {"ReadOnlyForceRecursive": True},
}
# key -> whose option it is, where it goes
_OPTIONS = {
    "bind-propagation": ("BindOptions", "Propagation"),
    "bind-nonrecursive": ("BindOptions", "NonRecursive"),
    "bind-create-src": ("BindOptions", "CreateMountpoint"),
    "volume-nocopy": ("VolumeOptions", "NoCopy"),
    "volume-subpath": ("VolumeOptions", "Subpath"),
    "image-subpath": ("ImageOptions", "Subpath"),
    "tmpfs-size": ("TmpfsOptions", "SizeBytes"),
    "tmpfs-mode": ("TmpfsOptions", "Mode"),
}


def mount(text: str) -> dict[str, Any]:
    """`type=bind,source=…,target=…,readonly`. Raises ValueError."""
    found: dict[str, Any] = {"Type": "volume"}
    for field in csv_fields(text):
        key, equals, value = field.partition("=")
        key = key.lower()
        if not equals:
            if key not in ("readonly", "ro", "volume-nocopy", "bind-nonrecursive"):
                raise ValueError(f"invalid field '{field}' must be a key=value pair")
            value = "true"
        if key == "type":
            found["Type"] = value.lower()
        elif key in ("source", "src"):
            found["Source"] = os.path.abspath(value) if value.startswith(".") else value
        elif key in ("target", "dst", "destination"):
            found["Target"] = value
        elif key in ("readonly", "ro"):
            found["ReadOnly"] = _switch(key, value)
        elif key == "consistency":
            found["Consistency"] = value.lower()
        elif key == "bind-recursive":
            if value not in _RECURSION:
                allowed = '(must be "enabled", "disabled", "writable", or "readonly")'
                raise ValueError(f"invalid value for {key}: {value} {allowed}")
            found.setdefault("BindOptions", {}).update(_RECURSION[value])
        elif key in ("volume-label", "volume-opt", "volume-driver"):
            _volume_option(found.setdefault("VolumeOptions", {}), key, value)
        elif key in _OPTIONS:
            group, name = _OPTIONS[key]
            found.setdefault(group, {})[name] = _option(key, value)
        else:
            raise ValueError(f"unexpected key '{key}' in '{field}'")
    _check(found)
    return found


def _switch(key: str, value: str) -> bool:
    if value not in _TRUE + _FALSE:
        raise ValueError(f"invalid value for {key}: {value}")
    return value in _TRUE


def _option(key: str, value: str) -> object:
    if key in ("bind-nonrecursive", "bind-create-src", "volume-nocopy"):
        return _switch(key, value)
    try:
        if key == "tmpfs-size":
            return size(value)
        if key == "tmpfs-mode":
            return int(value, 8)
    except ValueError:
        raise ValueError(f"invalid value for {key}: {value}") from None
    return value.lower() if key == "bind-propagation" else value


def _volume_option(options: dict[str, Any], key: str, value: str) -> None:
    name, _, content = value.partition("=")
    if key == "volume-label":
        options.setdefault("Labels", {})[name] = content
    elif key == "volume-driver":
        options.setdefault("DriverConfig", {})["Name"] = value
    else:
        options.setdefault("DriverConfig", {}).setdefault("Options", {})[name] = content


def _check(found: dict[str, Any]) -> None:
    if not found["Type"]:
        raise ValueError("type is required")
    if not found.get("Target"):
        raise ValueError("target is required")
    for kind in ("volume", "image", "bind", "tmpfs"):
        if f"{kind.title()}Options" in found and found["Type"] != kind:
            raise ValueError(f"cannot mix '{kind}-*' options with mount type '{found['Type']}'")
    options = found.get("BindOptions", {})
    needs = "to be specified in conjunction"
    for word, key in (("writable", "ReadOnlyNonRecursive"), ("readonly", "ReadOnlyForceRecursive")):
        if options.get(key) and not found.get("ReadOnly"):
            raise ValueError(f"option 'bind-recursive={word}' requires 'readonly' {needs}")
    if options.get("ReadOnlyForceRecursive") and options.get("Propagation") != "rprivate":
        raise ValueError(f"option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' {needs}")
