"""Links that stand on others: macvlan, ipvlan and VLAN sub-interfaces, VXLAN tunnels with their forwarding entries."""

import socket
import struct
from ipaddress import ip_address

from dockyard.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    Address,
    Message,
    attribute,
    new_link,
    number_attribute,
)

MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}
VXLAN_PORT = 4789  # IANA's; also Docker's

IFLA_MACVLAN_MODE = 1
IFLA_IPVLAN_MODE, IFLA_IPVLAN_FLAGS = 1, 2
IFLA_VLAN_ID = 1
IFLA_VXLAN_ID, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LEARNING, IFLA_VXLAN_PROXY, IFLA_VXLAN_PORT = 1, 4, 7, 11, 15
IFLA_VXLAN_LOCAL6 = 17
RTM_NEWNEIGH, RTM_DELNEIGH = 28, 29
NDA_DST, NDA_LLADDR = 1, 2
NUD_PERMANENT, NTF_SELF, AF_BRIDGE = 0x80, 2, 7

_neighbour = struct.Struct("=BxxxiHBB")
_half = struct.Struct("=H")


def new_macvlan(name: str, parent: int, mode: str, *, netns: int, mac: str = "", mtu: int = 0) -> Message:
    """A link of its own MAC address on the link `parent`, in the namespace of the descriptor `netns`."""
    data = number_attribute(IFLA_MACVLAN_MODE, MACVLAN_MODES[mode])
    return new_link(name, "macvlan", data, parent=parent, netns=netns, mac=mac, mtu=mtu)


def new_ipvlan(name: str, parent: int, mode: str, flag: str, *, netns: int, mtu: int = 0) -> Message:
    """A link that shares the MAC address of the link `parent`, in the namespace of the descriptor `netns`."""
    data = attribute(IFLA_IPVLAN_MODE, _half.pack(IPVLAN_MODES[mode]))
    data += attribute(IFLA_IPVLAN_FLAGS, _half.pack(IPVLAN_FLAGS[flag]))
    return new_link(name, "ipvlan", data, parent=parent, netns=netns, mtu=mtu)


def new_vlan(name: str, parent: int, number: int) -> Message:
    """The sub-interface of the link `parent` for the 802.1Q VLAN `number`."""
    return new_link(name, "vlan", attribute(IFLA_VLAN_ID, _half.pack(number)), parent=parent)


def new_vxlan(name: str, number: int, local: Address, *, netns: int, port: int = VXLAN_PORT, mtu: int = 0) -> Message:
    """A tunnel that learns nothing and answers for its neighbours itself; it sends from `local`, in this namespace."""
    data = number_attribute(IFLA_VXLAN_ID, number)
    data += attribute(IFLA_VXLAN_LOCAL if local.version == 4 else IFLA_VXLAN_LOCAL6, local.packed)
    data += attribute(IFLA_VXLAN_LEARNING, b"\0") + attribute(IFLA_VXLAN_PROXY, b"\1")
    data += attribute(IFLA_VXLAN_PORT, port.to_bytes(2, "big"))
    return new_link(name, "vxlan", data, netns=netns, mtu=mtu)


def new_forwarding_entry(index: int, mac: str, host: str) -> Message:
    """Let the tunnel `index` send frames for `mac` to the tunnel's end at `host`."""
    return RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, _forwarding(index, mac, host)


def delete_forwarding_entry(index: int, mac: str, host: str) -> Message:
    """Undo `new_forwarding_entry`."""
    return RTM_DELNEIGH, 0, _forwarding(index, mac, host)


def _forwarding(index: int, mac: str, host: str) -> bytes:
    body = _neighbour.pack(AF_BRIDGE, index, NUD_PERMANENT, NTF_SELF, 0)
    return body + attribute(NDA_LLADDR, _packed(mac)) + attribute(NDA_DST, ip_address(host).packed)


def new_neighbour(index: int, address: str, mac: str) -> Message:
    """Let it be known on the link `index`, for good, that `address` is at `mac` (ARP's or NDP's table)."""
    return RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, _neighbour_body(index, address, mac)


def delete_neighbour(index: int, address: str, mac: str) -> Message:
    """Undo `new_neighbour`."""
    return RTM_DELNEIGH, 0, _neighbour_body(index, address, mac)


def _neighbour_body(index: int, address: str, mac: str) -> bytes:
    where = ip_address(address)
    family = socket.AF_INET if where.version == 4 else socket.AF_INET6
    body = _neighbour.pack(family, index, NUD_PERMANENT, 0, 0)
    return body + attribute(NDA_DST, where.packed) + attribute(NDA_LLADDR, _packed(mac))


def _packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
