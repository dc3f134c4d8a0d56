"""Forgetting connections that the kernel tracks, through ctnetlink.

A tracked flow keeps the translation it began with: datagrams of a client that never pauses go on to a container that is
long gone, or past one that has come since, until the entry is deleted.
"""

import os
import socket
import struct
from ipaddress import IPv4Address, IPv6Address

from dockyard.linux import recorder

NETLINK_NETFILTER = 12
CT_DELETE = 1 << 8 | 2
NLM_F_REQUEST, NLM_F_ACK = 1, 4
CTA_TUPLE_ORIG, CTA_FILTER = 1, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_DST, CTA_IP_V6_DST = 2, 4
CTA_PROTO_NUM, CTA_PROTO_DST_PORT = 1, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
F_IP_DST, F_PROTO_NUM, F_PROTO_DST_PORT = 1 << 1, 1 << 3, 1 << 5
NLA_F_NESTED = 0x8000


def _attr(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return struct.pack("=HH", size, kind) + value + bytes(-size & 3)


def _nested(kind: int, *values: bytes) -> bytes:
    return _attr(kind | NLA_F_NESTED, b"".join(values))


def forget_requests_to(protocol: int, address: IPv4Address | IPv6Address, port: int) -> None:
    """Forget every flow that began towards `address` and `port`, of IPPROTO `protocol`."""
    proto = _nested(
        CTA_TUPLE_PROTO, _attr(CTA_PROTO_NUM, bytes([protocol])), _attr(CTA_PROTO_DST_PORT, struct.pack("!H", port))
    )
    place = _nested(CTA_TUPLE_IP, _attr(CTA_IP_V4_DST if address.version == 4 else CTA_IP_V6_DST, address.packed))
    body = _nested(CTA_TUPLE_ORIG, place, proto)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    _delete(family, _filter(F_IP_DST | F_PROTO_NUM | F_PROTO_DST_PORT) + body)


def _filter(flags: int) -> bytes:
    return _nested(
        CTA_FILTER,
        _attr(CTA_FILTER_ORIG_FLAGS, struct.pack("=I", flags)),
        _attr(CTA_FILTER_REPLY_FLAGS, struct.pack("=I", 0)),
    )


def _delete(family: int, attributes: bytes) -> None:
    """Raises OSError, EINVAL on a kernel older than 5.9."""
    body = struct.pack("=BBH", family, 0, 0) + attributes
    if recorder.sink is not None:
        recorder.sink("conntrack", (body.hex(),))
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER) as channel:
        channel.send(struct.pack("=IHHII", 16 + len(body), CT_DELETE, NLM_F_REQUEST | NLM_F_ACK, 1, 0) + body)
        answer = channel.recv(8192)
    code = -struct.unpack_from("=i", answer, 16)[0]
    if code:
        raise OSError(code, os.strerror(code))
