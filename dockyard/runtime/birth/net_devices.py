"""Network devices of the host that move into the container (runtime-spec config-linux.md, "Network Devices")."""

import os
from collections.abc import Mapping

from dockyard.linux import netlink, syscalls
from dockyard.oci.runtime_spec import NetDevice
from dockyard.runtime.errors import RuntimeFailure

LONGEST_NAME = 15  # IFNAMSIZ without the NUL


def check(wanted: Mapping[str, NetDevice]) -> None:
    """Raise RuntimeFailure for a name that no device can have."""
    for name, device in wanted.items():
        for one in (name, device.name or name):
            if not one or len(one) > LONGEST_NAME or one in (".", "..") or any(letter in one for letter in "/: "):
                raise RuntimeFailure(f'invalid network device name "{one}"')


def move_all(wanted: Mapping[str, NetDevice], pid: int) -> None:
    """Move them from the caller's network namespace to that of `pid`, with their permanent global addresses, and up.

    Only for single-threaded processes. Raises RuntimeFailure.
    """
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    target = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with netlink.RouteSocket() as outside:
            syscalls.setns(target, syscalls.CLONE_NEWNET)
            try:
                inside = netlink.RouteSocket()  # of that namespace for ever
            finally:
                syscalls.setns(home, syscalls.CLONE_NEWNET)
            with inside:
                for name, device in wanted.items():
                    _move(name, device.name or name, outside, inside, target)
    finally:
        os.close(home)
        os.close(target)


def _move(name: str, new_name: str, outside: netlink.RouteSocket, inside: netlink.RouteSocket, target: int) -> None:
    link = outside.link(name)
    if link is None:
        raise RuntimeFailure(f"link not found for interface {name} on runtime namespace")
    addresses = outside.permanent_addresses(link.index)
    before = {one.index for one in inside.links()}
    try:
        outside.do(netlink.move_link(link.index, target, new_name))
        moved = next(one.index for one in inside.links() if one.index not in before)
        messages = [netlink.new_address(moved, address, length) for address, length in addresses]
        inside.do(*messages, netlink.set_link(moved, up=True))
    except OSError as error:
        raise RuntimeFailure(f"fail to move network device {name} to network namespace: {error.strerror}") from error
