"""A container's devices: the nodes it gets in /dev and the rules by which its cgroup lets it open them."""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from dockyard.engine.containers.config import DeviceMapping, HostConfig
from dockyard.errors import InvalidParameter
from dockyard.oci.runtime_spec import Device, DeviceRule
from dockyard.runtime.spec import defaults

# What every container has anew, or what is no device of the host's.
SKIPPED = frozenset("pts shm fd mqueue .lxc .lxd-mounts .udev console".split())


@dataclass(frozen=True, slots=True)
class Devices:
    """The nodes to make and the rules, in order; the last rule that fits a device decides."""

    nodes: list[Device]
    rules: list[DeviceRule]


def devices_of(host: HostConfig) -> Devices:
    """What `--device`, `--device-cgroup-rule` and `--privileged` give. Raises InvalidParameter."""
    if host.privileged:
        nodes = list(_below("/dev", "/dev"))
        for mapping in host.devices or []:
            if mapping.path_on_host != mapping.path_in_container:
                nodes += _mapped(mapping)
        return Devices(nodes, [DeviceRule(allow=True, access="rwm")])
    nodes = []
    rules = list(defaults.DEVICE_RULES)
    for mapping in host.devices or []:
        access = mapping.cgroup_permissions or "rwm"
        if re.fullmatch(r"[rwm]{1,3}", access) is None:
            raise InvalidParameter(f"invalid device mode: {access}: must be a combination of r, w and m")
        found = _mapped(mapping)
        nodes += found
        rules += [DeviceRule(True, node.type, node.major, node.minor, access) for node in found]
    rules += [parse_rule(text) for text in host.device_cgroup_rules or []]
    return Devices(nodes, rules)


def parse_rule(text: str) -> DeviceRule:
    """`c 1:3 rwm`, with * for any number. Raises InvalidParameter."""
    match = re.fullmatch(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})", text)
    if match is None:
        raise InvalidParameter(f"invalid device cgroup rule format: '{text}'")
    major, minor = (None if number == "*" else int(number) for number in match.group(2, 3))
    return DeviceRule(True, match[1], major, minor, match[4])


def _mapped(mapping: DeviceMapping) -> list[Device]:
    """The node at a path, or all below a directory; a symlink means what it leads to."""
    outside = os.path.realpath(mapping.path_on_host)
    inside = mapping.path_in_container or mapping.path_on_host
    if os.path.isdir(outside) and (found := list(_below(outside, inside))):
        return found
    return [node_of(mapping.path_on_host, inside)]


def node_of(path: str, inside: str) -> Device:
    """The device node `path` of the host as a container's `inside`. Raises InvalidParameter."""
    failure = f'error gathering device information while adding custom device "{path}"'
    try:
        status = os.stat(path)
    except OSError as error:
        raise InvalidParameter(f"{failure}: {(error.strerror or '').lower()}") from None
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise InvalidParameter(f"{failure}: not a device node")
    return Device(
        type="c" if stat.S_ISCHR(status.st_mode) else "b",
        path=inside,
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        file_mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
    )


def _below(folder: str, inside: str) -> Iterator[Device]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name in SKIPPED or entry.is_symlink():
                continue
            if entry.is_dir():
                yield from _below(entry.path, f"{inside}/{entry.name}")
            elif not entry.is_file():
                try:
                    yield node_of(entry.path, f"{inside}/{entry.name}")
                except InvalidParameter:
                    continue  # a socket or a FIFO
