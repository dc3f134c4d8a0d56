"""Links, addresses and routes through rtnetlink, encoded here so that any number of acts travel in one system call.

A `RouteSocket` belongs for ever to the network namespace in which it was opened, whatever its thread does later:
one opened inside a container's namespace configures that namespace from outside. See rtnetlink(7).
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Self

from dockyard.linux import recorder

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWQDISC, RTM_NEWTFILTER = 36, 44
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK = 1, 4
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_DUMP = 0x300
IFF_UP = 1
IFLA_LINK = 5
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO, IFLA_IFALIAS, IFLA_NET_NS_FD = 1, 3, 4, 10, 18, 20, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 4, 33
LONGEST_ALIAS = 255  # bytes
VETH_INFO_PEER = 1
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_NODAD, IFA_F_PERMANENT = 2, 0x80
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_TABLE = 1, 4, 5, 7, 15
RT_TABLE_MAIN, RTPROT_BOOT, RTPROT_KERNEL = 254, 3, 2
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
RTN_UNICAST = 1
TC_H_CLSACT, TC_H_CLSACT_INGRESS = 0xFFFFFFF1, 0xFFFFFFF2
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_BPF_FD, TCA_BPF_NAME, TCA_BPF_FLAGS = 6, 7, 8
TCA_BPF_FLAG_ACT_DIRECT = 1
ETH_P_ALL = 3
NLA_F_NESTED = 0x8000
SOL_NETLINK, NETLINK_EXT_ACK = 270, 11

_header = struct.Struct("=IHHII")
_attribute = struct.Struct("=HH")
_link = struct.Struct("=BxHiII")
_address = struct.Struct("=BBBBI")
_route = struct.Struct("=BBBBBBBBI")
_traffic = struct.Struct("=BxxxiIII")
_word = struct.Struct("=I")

Address = IPv4Address | IPv6Address
# A message before it is numbered: type, flags, body.
Message = tuple[int, int, bytes]


class NetlinkError(OSError):
    """The kernel refused a request; errno and, where it gave one, its own words."""


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface. `master` is the index of the bridge it is enslaved to, or 0; `alias` a free text."""

    index: int
    name: str
    kind: str
    up: bool
    mtu: int
    mac: str
    master: int
    alias: str = ""


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute of a message; more of them in `value` make it a nested one (kind | NLA_F_NESTED)."""
    size = 4 + len(value)
    return _attribute.pack(size, kind) + value + bytes(-size & 3)


def text_attribute(kind: int, value: str) -> bytes:
    """An attribute that is a C string."""
    return attribute(kind, value.encode() + b"\0")


def number_attribute(kind: int, value: int) -> bytes:
    """An attribute that is a word of 32 bits."""
    return attribute(kind, _word.pack(value))


def _mac(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + 4 <= len(data):
        size, kind = _attribute.unpack_from(data, position)
        if size < 4:
            return
        yield kind & 0x3FFF, data[position + 4 : position + size]
        position += (size + 3) & ~3


def new_veth(name: str, peer: str, *, netns: int, mac: str, master: int, mtu: int = 0, host_mac: str = "") -> Message:
    """A veth pair: `name` here, enslaved to the link `master` and up; `peer` in the namespace of the fd `netns`.

    The peer cannot be brought up in the same act: the kernel configures it before the two are joined (ENOTCONN).
    """
    size = number_attribute(IFLA_MTU, mtu) if mtu else b""
    inner = (
        _link.pack(0, 0, 0, 0, 0)
        + text_attribute(IFLA_IFNAME, peer)
        + (attribute(IFLA_ADDRESS, _mac(mac)) if mac else b"")
        + size
        + number_attribute(IFLA_NET_NS_FD, netns)
    )
    data = attribute(VETH_INFO_PEER | NLA_F_NESTED, inner)
    info = text_attribute(IFLA_INFO_KIND, "veth") + attribute(IFLA_INFO_DATA | NLA_F_NESTED, data)
    body = (
        _link.pack(0, 0, 0, IFF_UP, IFF_UP)
        + text_attribute(IFLA_IFNAME, name)
        + (attribute(IFLA_ADDRESS, _mac(host_mac)) if host_mac else b"")
        + size
        + (number_attribute(IFLA_MASTER, master) if master else b"")
        + attribute(IFLA_LINKINFO | NLA_F_NESTED, info)
    )
    return RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body


def new_bridge(name: str, mac: str, mtu: int = 0) -> Message:
    """A bridge, down. Its address is set once for all, else it would change with the lowest of its ports."""
    body = (
        _link.pack(0, 0, 0, 0, 0)
        + text_attribute(IFLA_IFNAME, name)
        + attribute(IFLA_ADDRESS, _mac(mac))
        + (number_attribute(IFLA_MTU, mtu) if mtu else b"")
        + attribute(IFLA_LINKINFO | NLA_F_NESTED, text_attribute(IFLA_INFO_KIND, "bridge"))
    )
    return RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body


def new_link(
    name: str, kind: str, data: bytes = b"", *, parent: int = 0, netns: int = -1, mac: str = "", mtu: int = 0
) -> Message:
    """A link of that kind, down; `data` are the attributes of its kind, `parent` the index of the link it stands on.

    `netns`: the descriptor of the namespace in which it appears; `parent` is in that of the socket.
    """
    info = text_attribute(IFLA_INFO_KIND, kind) + (attribute(IFLA_INFO_DATA | NLA_F_NESTED, data) if data else b"")
    body = (
        _link.pack(0, 0, 0, 0, 0)
        + text_attribute(IFLA_IFNAME, name)
        + (attribute(IFLA_ADDRESS, _mac(mac)) if mac else b"")
        + (number_attribute(IFLA_MTU, mtu) if mtu else b"")
        + (number_attribute(IFLA_LINK, parent) if parent else b"")
        + (number_attribute(IFLA_NET_NS_FD, netns) if netns >= 0 else b"")
        + attribute(IFLA_LINKINFO | NLA_F_NESTED, info)
    )
    return RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body


def set_link(index: int, *, up: bool | None = None, name: str = "", master: int | None = None) -> Message:
    """Change what is given of the link `index`."""
    body = _link.pack(0, 0, index, IFF_UP if up else 0, 0 if up is None else IFF_UP)
    if name:
        body += text_attribute(IFLA_IFNAME, name)
    if master is not None:
        body += number_attribute(IFLA_MASTER, master)
    return RTM_SETLINK, 0, body


def set_alias(name: str, alias: str) -> Message:
    """Let the link called `name` carry the text `alias`, or what of it the kernel keeps; `ip link` shows it."""
    body = (
        _link.pack(0, 0, 0, 0, 0)
        + text_attribute(IFLA_IFNAME, name)
        + attribute(IFLA_IFALIAS, alias.encode()[:LONGEST_ALIAS])
    )
    return RTM_SETLINK, 0, body


def move_link(index: int, netns: int, name: str) -> Message:
    """Move the link `index` to the namespace `netns` (a descriptor) and call it `name`; %d in that is a number."""
    body = _link.pack(0, 0, index, 0, 0) + number_attribute(IFLA_NET_NS_FD, netns) + text_attribute(IFLA_IFNAME, name)
    return RTM_SETLINK, 0, body


def set_bridge_port(name: str, *, hairpin: bool = False, isolated: bool = False) -> Message:
    """Whether the bridge port `name` may get its own frames back, and whether it is kept from other isolated ports."""
    data = attribute(IFLA_BRPORT_MODE, bytes([hairpin])) + attribute(IFLA_BRPORT_ISOLATED, bytes([isolated]))
    info = text_attribute(IFLA_INFO_SLAVE_KIND, "bridge") + attribute(IFLA_INFO_SLAVE_DATA | NLA_F_NESTED, data)
    body = _link.pack(0, 0, 0, 0, 0) + text_attribute(IFLA_IFNAME, name) + attribute(IFLA_LINKINFO | NLA_F_NESTED, info)
    return RTM_NEWLINK, 0, body


def delete_link(index: int) -> Message:
    """Remove the link `index`; a veth takes its peer with it."""
    return RTM_DELLINK, 0, _link.pack(0, 0, index, 0, 0)


def delete_link_named(name: str) -> Message:
    """Remove the link called `name`."""
    return RTM_DELLINK, 0, _link.pack(0, 0, 0, 0, 0) + text_attribute(IFLA_IFNAME, name)


def new_address(index: int, address: Address, prefix_len: int) -> Message:
    """Give the link `index` an address; an IPv6 one is usable at once (no duplicate address detection)."""
    return RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, _address_body(index, address, prefix_len)


def delete_address(index: int, address: Address, prefix_len: int) -> Message:
    """Take an address from the link `index`."""
    return RTM_DELADDR, 0, _address_body(index, address, prefix_len)


def _address_body(index: int, address: Address, prefix_len: int) -> bytes:
    packed = address.packed
    if address.version == 6:
        return (
            _address.pack(socket.AF_INET6, prefix_len, IFA_F_NODAD, 0, index)
            + attribute(IFA_ADDRESS, packed)
            + number_attribute(IFA_FLAGS, IFA_F_NODAD)
        )
    broadcast = int.from_bytes(packed, "big") | ((1 << (32 - prefix_len)) - 1)
    body = _address.pack(socket.AF_INET, prefix_len, 0, 0, index)
    body += attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    if prefix_len < 31:
        body += attribute(IFA_BROADCAST, broadcast.to_bytes(4, "big"))
    return body


def default_route(index: int, gateway: Address) -> Message:
    """Send what has no better route through `gateway` on the link `index`; replaces an earlier default route."""
    return RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, _default_body(index, gateway)


def delete_default_route(index: int, gateway: Address) -> Message:
    """Undo `default_route`."""
    return RTM_DELROUTE, 0, _default_body(index, gateway)


def _default_body(index: int, gateway: Address) -> bytes:
    family = socket.AF_INET6 if gateway.version == 6 else socket.AF_INET
    return (
        _route.pack(family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0)
        + attribute(RTA_GATEWAY, gateway.packed)
        + number_attribute(RTA_OIF, index)
    )


def new_clsact(index: int) -> Message:
    """A queueing discipline that delays nothing, for filters at the link's entrance and exit. EEXIST if it has one."""
    body = _traffic.pack(0, index, TC_H_CLSACT & 0xFFFF0000, TC_H_CLSACT, 0) + text_attribute(TCA_KIND, "clsact")
    return RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body


def new_bpf_filter(index: int, program: int, name: str) -> Message:
    """Let the eBPF program (a descriptor) judge first what comes in by the link; replaces one put there like this."""
    options = (
        number_attribute(TCA_BPF_FD, program)
        + text_attribute(TCA_BPF_NAME, name)
        + number_attribute(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT)
    )
    handle, priority = 1, 1
    body = (
        _traffic.pack(0, index, handle, TC_H_CLSACT_INGRESS, priority << 16 | socket.htons(ETH_P_ALL))
        + text_attribute(TCA_KIND, "bpf")
        + attribute(TCA_OPTIONS | NLA_F_NESTED, options)
    )
    return RTM_NEWTFILTER, NLM_F_CREATE, body


class NetlinkSocket:
    """A conversation with the kernel about a part of the namespace in which it was opened. Not thread-safe."""

    # what is said about keys is not
    recorded = True

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        except OSError:
            self._socket.close()
            raise
        self._sequence = 0

    def close(self) -> None:
        """Let go of the socket, and so of the namespace."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def do(self, *messages: Message) -> None:
        """Have the kernel carry out `messages` in their order, all in one system call.

        Raises NetlinkError for the first that failed; those after it have been tried too.
        """
        if recorder.sink is not None and self.recorded:
            for kind, _, body in messages:
                recorder.sink("netlink", (kind, body.hex()))
        first = self._sequence + 1
        self._sequence += len(messages)
        self._socket.send(
            b"".join(
                _header.pack(16 + len(body), kind, flags | NLM_F_REQUEST | NLM_F_ACK, first + number, 0)
                + body
                + bytes(-len(body) & 3)
                for number, (kind, flags, body) in enumerate(messages)
            )
        )
        failed: NetlinkError | None = None
        left = len(messages)
        while left:
            data = self._socket.recv(65536)
            for kind, flags, sequence, body in _split(data):
                if kind == NLMSG_ERROR and first <= sequence <= self._sequence:
                    left -= 1
                    failed = failed or _failure(flags, body)
        if failed is not None:
            raise failed

    def _dump(self, kind: int, body: bytes, dump: bool = True) -> Iterator[tuple[int, bytes]]:
        self._sequence += 1
        flags = NLM_F_REQUEST | (NLM_F_DUMP if dump else NLM_F_ACK)
        self._socket.send(_header.pack(16 + len(body), kind, flags, self._sequence, 0) + body)
        while True:
            for answer, flags, sequence, content in _split(self._socket.recv(1 << 18)):
                if sequence != self._sequence:
                    continue
                if answer == NLMSG_DONE:
                    return
                if answer == NLMSG_ERROR:
                    failed = _failure(flags, content)
                    if failed is not None:
                        raise failed
                    return
                yield answer, content


class RouteSocket(NetlinkSocket):
    """The same about links, addresses and routes."""

    def __init__(self) -> None:
        super().__init__(socket.NETLINK_ROUTE)

    def link(self, name: str) -> Link | None:
        """The link called `name`, or None."""
        try:
            found = list(
                self._dump(RTM_GETLINK, _link.pack(0, 0, 0, 0, 0) + text_attribute(IFLA_IFNAME, name), dump=False)
            )
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return _parse_link(found[0][1])

    def links(self) -> list[Link]:
        """Every link of the namespace."""
        return [_parse_link(body) for _, body in self._dump(RTM_GETLINK, _link.pack(0, 0, 0, 0, 0))]

    def addresses(self, index: int = 0) -> list[tuple[int, Address, int]]:
        """Every (link index, address, prefix length), of one link when `index` is given."""
        found: list[tuple[int, Address, int]] = []
        for _, body in self._dump(RTM_GETADDR, _address.pack(0, 0, 0, 0, 0)):
            _, prefix_len, _, _, owner = _address.unpack_from(body)
            if index in (0, owner):
                values = dict(_attributes(body[_address.size :]))
                packed = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS)
                if packed:
                    found.append((owner, ip_address(packed), prefix_len))
        return found

    def permanent_addresses(self, index: int) -> list[tuple[Address, int]]:
        """The (address, prefix length) that somebody has given the link for good and for everywhere."""
        found: list[tuple[Address, int]] = []
        for _, body in self._dump(RTM_GETADDR, _address.pack(0, 0, 0, 0, 0)):
            _, prefix_len, flags, scope, owner = _address.unpack_from(body)
            values = dict(_attributes(body[_address.size :]))
            packed = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS)
            if owner == index and scope == RT_SCOPE_UNIVERSE and flags & IFA_F_PERMANENT and packed:
                found.append((ip_address(packed), prefix_len))
        return found

    def routes(self) -> list[tuple[Address, int, int]]:
        """The (destination, prefix length, link index) of every route of the main table but the default ones."""
        found: list[tuple[Address, int, int]] = []
        for _, body in self._dump(RTM_GETROUTE, _route.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)):
            _, prefix_len, _, _, table, _, _, kind, _ = _route.unpack_from(body)
            values = dict(_attributes(body[_route.size :]))
            if table == RT_TABLE_MAIN and kind == RTN_UNICAST and RTA_DST in values:
                oif = _word.unpack(values[RTA_OIF])[0] if RTA_OIF in values else 0
                found.append((ip_address(values[RTA_DST]), prefix_len, oif))
        return found


def _split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    position = 0
    while position + 16 <= len(data):
        size, kind, flags, sequence, _ = _header.unpack_from(data, position)
        yield kind, flags, sequence, data[position + 16 : position + size]
        position += (size + 3) & ~3


def _failure(flags: int, body: bytes) -> NetlinkError | None:
    """The error of an NLMSG_ERROR, or None when it is a plain acknowledgement."""
    code = -struct.unpack_from("=i", body)[0]
    if code == 0:
        return None
    words = os.strerror(code)
    if flags & 0x200:  # NLM_F_ACK_TLVS: the kernel's own explanation follows the request's header
        start = 4 + (16 if flags & 0x100 else (_word.unpack_from(body, 4)[0] + 3) & ~3)
        for kind, value in _attributes(body[start:]):
            if kind == 1:
                words = f"{words}: {value.rstrip(bytes(1)).decode(errors='replace')}"
    return NetlinkError(code, words)


def _parse_link(body: bytes) -> Link:
    _, _, index, flags, _ = _link.unpack_from(body)
    values = dict(_attributes(body[_link.size :]))
    kind = ""
    if IFLA_LINKINFO in values:
        kind = dict(_attributes(values[IFLA_LINKINFO])).get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode()
    return Link(
        index=index,
        name=values.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(),
        kind=kind,
        up=bool(flags & IFF_UP),
        mtu=_word.unpack(values[IFLA_MTU])[0] if IFLA_MTU in values else 0,
        mac=values.get(IFLA_ADDRESS, b"").hex(":"),
        master=_word.unpack(values[IFLA_MASTER])[0] if IFLA_MASTER in values else 0,
        alias=values.get(IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="replace"),
    )
