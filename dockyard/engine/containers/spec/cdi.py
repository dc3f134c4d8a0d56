"""Devices by name: `--device vendor.com/class=name` and `--gpus`, through the Container Device Interface.

A vendor describes its devices in files below /etc/cdi or /var/run/cdi; a container that asks for one by name gets what
the file says: device nodes, mounts, environment, hooks. SPEC.md of github.com/cncf-tags/container-device-interface.
"""

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from dockyard.engine.containers.config import DeviceRequest
from dockyard.errors import InvalidParameter, SystemFailure
from dockyard.oci.runtime_spec import Device, DeviceRule, Hook, Hooks, Mount, Resources, Spec

DEFAULT_DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
# Which vendors' devices `--gpus` means, the first that is there.
GPU_VENDORS = ("nvidia.com", "amd.com")
HOOKS = {
    "prestart": "prestart",
    "createRuntime": "create_runtime",
    "createContainer": "create_container",
    "startContainer": "start_container",
    "poststart": "poststart",
    "poststop": "poststop",
}
_QUALIFIED = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*[A-Za-z0-9]/[A-Za-z][A-Za-z0-9_-]*=[A-Za-z0-9][A-Za-z0-9_.:-]*")


class Part(msgspec.Struct, rename="camel"):
    """The base of a specification's parts."""


class Node(Part):
    """A device node; what is not said is taken from the node on the host."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class CdiMount(Part):
    """A mount."""

    host_path: str
    container_path: str
    options: list[str] = []
    type: str = ""


class CdiHook(Part):
    """A hook by the name of its kind."""

    hook_name: str
    path: str
    args: list[str] = []
    env: list[str] | None = None
    timeout: int | None = None


class Edits(Part):
    """What a device changes in a container's spec."""

    env: list[str] = []
    device_nodes: list[Node] = []
    mounts: list[CdiMount] = []
    hooks: list[CdiHook] = []
    additional_gids: list[int] = msgspec.field(default_factory=list, name="additionalGids")


class CdiDevice(Part):
    """One device."""

    name: str
    container_edits: Edits = msgspec.field(default_factory=Edits)
    annotations: dict[str, Any] = {}


class Specification(Part):
    """One file: `kind` is vendor/class; the edits at its top come with every device of it."""

    kind: str
    devices: list[CdiDevice] = []
    container_edits: Edits = msgspec.field(default_factory=Edits)
    cdi_version: str = ""
    annotations: dict[str, Any] = {}


@dataclass(slots=True)
class Catalogue:
    """What the directories describe: (specification, device) by qualified name, and what is wrong with files."""

    devices: dict[str, tuple[Specification, CdiDevice]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read_catalogue(directories: Sequence[str]) -> Catalogue:
    """Read every specification; a later directory's device replaces an earlier one's of its name.

    Two of one name in one directory are both left out, as it can't be known which is meant.
    """
    catalogue = Catalogue()
    for directory in directories:
        here: dict[str, tuple[Specification, CdiDevice]] = {}
        conflicts: set[str] = set()
        for path in _files(directory):
            try:
                specification = _read(path)
            except (OSError, msgspec.MsgspecError, ValueError) as error:
                catalogue.problems.append(f"{path}: {error}")
                continue
            for device in specification.devices:
                name = f"{specification.kind}={device.name}"
                if name in here:
                    conflicts.add(name)
                    catalogue.problems.append(f'conflicting device "{name}" in {path}')
                here[name] = (specification, device)
        for name in conflicts:
            del here[name]
            catalogue.devices.pop(name, None)
        catalogue.devices.update(here)
    return catalogue


def _files(directory: str) -> list[str]:
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    return [f"{directory}/{name}" for name in names if name.endswith((".json", ".yaml", ".yml"))]


def _read(path: str) -> Specification:
    with open(path, "rb") as file:
        data = file.read()
    if path.endswith(".json"):
        return msgspec.json.decode(data, type=Specification)
    return msgspec.yaml.decode(data, type=Specification)


def inject(spec: Spec, requests: Sequence[DeviceRequest], directories: Sequence[str]) -> None:
    """Put the requested devices into `spec`. Raises InvalidParameter, SystemFailure in Docker's words."""
    catalogue: Catalogue | None = None
    for request in requests:
        catalogue = catalogue or read_catalogue(directories)
        names = _names(request, catalogue)
        missing = [name for name in names if name not in catalogue.devices]
        if missing:
            raise InvalidParameter(f"CDI device injection failed: unresolvable CDI devices {', '.join(missing)}")
        done: list[Specification] = []
        for name in names:
            specification, device = catalogue.devices[name]
            if not any(specification is other for other in done):
                _apply(spec, specification.container_edits)
                done.append(specification)
            _apply(spec, device.container_edits)


def _names(request: DeviceRequest, catalogue: Catalogue) -> list[str]:
    """The qualified names that a request means."""
    if request.driver == "cdi":
        if request.count:
            raise InvalidParameter("unexpected count in CDI device request")
        if request.options:
            raise InvalidParameter("unexpected options in CDI device request")
        for name in request.device_ids or []:
            if _QUALIFIED.fullmatch(name) is None:
                raise InvalidParameter(f"CDI device injection failed: unresolvable CDI devices {name}")
        return request.device_ids or []
    names = _gpus(request, catalogue)
    if names is None:
        shown = " ".join(f"[{' '.join(group)}]" for group in request.capabilities or [])
        raise InvalidParameter(f'could not select device driver "{request.driver}" with capabilities: [{shown}]')
    return names


def _gpus(request: DeviceRequest, catalogue: Catalogue) -> list[str] | None:
    """`--gpus`: the devices of the first vendor that has any here; None when no driver fits."""
    if request.driver not in ("", *(vendor.removesuffix(".com") for vendor in GPU_VENDORS)):
        return None
    if not request.driver and not any("gpu" in group for group in request.capabilities or []):
        return None
    for vendor in GPU_VENDORS:
        if request.driver and vendor != f"{request.driver}.com":
            continue
        prefix = f"{vendor}/gpu="
        there = [name for name in catalogue.devices if name.startswith(prefix)]
        if not there:
            continue
        if request.device_ids:
            return [prefix + name for name in request.device_ids]
        if f"{prefix}all" in there and request.count == -1:
            return [f"{prefix}all"]
        single = sorted((name for name in there if name.removeprefix(prefix).isdecimal()), key=lambda name: len(name))
        single = single or [name for name in sorted(there) if name != f"{prefix}all"]
        count = len(single) if request.count == -1 else request.count or 1
        if count > len(single):
            raise InvalidParameter(f"{count} GPUs are asked for, but there are only {len(single)}")
        return single[:count]
    return None


def _apply(spec: Spec, edits: Edits) -> None:
    process = spec.process
    if process is not None:
        names = {entry.partition("=")[0] for entry in edits.env}
        process.env = [entry for entry in process.env if entry.partition("=")[0] not in names] + list(edits.env)
        for gid in edits.additional_gids:
            if gid and gid not in process.user.additional_gids:
                process.user.additional_gids.append(gid)
    for node in edits.device_nodes:
        _add_node(spec, node)
    for mount in edits.mounts:
        options = mount.options or ["ro", "nosuid", "nodev", "rbind", "rprivate"]
        if not mount.type and not {"bind", "rbind"} & set(options):
            options = ["rbind", *options]
        spec.mounts = [other for other in spec.mounts if other.destination != mount.container_path]
        spec.mounts.append(
            Mount(mount.container_path, type=mount.type or "bind", source=mount.host_path, options=options)
        )
    for hook in edits.hooks:
        if hook.hook_name not in HOOKS:
            raise SystemFailure(f'CDI device injection failed: unknown hook name "{hook.hook_name}"')
        spec.hooks = spec.hooks or Hooks()
        kind: list[Hook] = getattr(spec.hooks, HOOKS[hook.hook_name])
        kind.append(Hook(hook.path, list(hook.args), hook.env, hook.timeout))


def _add_node(spec: Spec, node: Node) -> None:
    kind, major, minor = node.type, node.major, node.minor
    mode, uid, gid = node.file_mode, node.uid, node.gid
    if not kind or (kind != "p" and not major):
        path = node.host_path or node.path
        try:
            status = os.stat(path)
        except OSError as error:
            raise SystemFailure(
                f'CDI device injection failed: failed to stat CDI host device "{path}": {error.strerror}'
            ) from None
        if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            raise SystemFailure(f'CDI device injection failed: "{path}" is not a device node')
        kind = kind or ("c" if stat.S_ISCHR(status.st_mode) else "b")
        major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
        mode = stat.S_IMODE(status.st_mode) if mode is None else mode
    user = spec.process.user if spec.process is not None else None
    device = Device(
        type=kind,
        path=node.path,
        major=major,
        minor=minor,
        file_mode=mode,
        # a node without an owner is the container's user's, so that the user can open it
        uid=uid if uid is not None or user is None else user.uid or None,
        gid=gid if gid is not None or user is None else user.gid or None,
    )
    spec.linux.devices = [other for other in spec.linux.devices if other.path != node.path] + [device]
    if kind in ("c", "b"):
        spec.linux.resources = spec.linux.resources or Resources()
        spec.linux.resources.devices = [
            *spec.linux.resources.devices,
            DeviceRule(True, kind, major, minor, node.permissions or "rwm"),
        ]
