"""A filter at a link's entrance that drops packets for 127.0.0.0/8, as long as the link is there.

With route_localnet=1 the kernel takes such packets from a link and hands them to what listens on the host's loopback
(CVE-2020-8558). A rule of the packet filter against it is gone with the next `nft flush ruleset`; this filter belongs
to the link: a clsact queueing discipline and an eBPF program of nine instructions. `tc filter show dev LINK ingress`
shows it. For a bridge's ports, not for the bridge: where br_netfilter is on, an answer to what the host sent from
127.0.0.1 is translated back on its way from the one to the other. Kernel: tc-bpf(8); Linux 4.5 with cls_bpf.
"""

import ctypes
import errno
import os
import socket
import struct

from dockyard.linux.netlink import NetlinkError, RouteSocket, new_bpf_filter, new_clsact
from dockyard.linux.syscalls import bpf

BPF_PROG_LOAD, PROG_TYPE_SCHED_CLS = 5, 3
ETH_P_IP = 0x0800
SKB_PROTOCOL = 16  # offset in struct __sk_buff
SKF_NET_OFF = -0x100000  # "from the network header on", linux/filter.h
IP_DESTINATION = 16  # offset in the IPv4 header
TC_ACT_UNSPEC, TC_ACT_SHOT = -1, 2


class LoopbackGuard:
    """Puts the filter on links. Raises OSError where the kernel has no such filters."""

    def __init__(self) -> None:
        self._program = _load()

    def close(self) -> None:
        """Let go of the program; it stays with the links."""
        os.close(self._program)

    def guard(self, host: RouteSocket, index: int) -> None:
        """Let the link `index` take no packets for 127.0.0.0/8; no error when it does not already."""
        try:
            host.do(new_clsact(index))
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise
        host.do(new_bpf_filter(index, self._program, "no-loopback"))


def _instruction(code: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhi", code, source << 4 | destination, offset, immediate)


def _load() -> int:
    code = b"".join(
        (
            _instruction(0xBF, 6, 1),  # r6 = r1: the packet, where loads look for it
            _instruction(0x61, 0, 1, SKB_PROTOCOL),  # r0 = skb->protocol
            _instruction(0x55, 0, 0, 4, socket.htons(ETH_P_IP)),  # not IPv4: to the end
            _instruction(0x30, 0, 0, 0, SKF_NET_OFF + IP_DESTINATION),  # r0 = the destination's first byte
            _instruction(0x55, 0, 0, 2, 127),  # not loopback: to the end
            _instruction(0xB4, 0, 0, 0, TC_ACT_SHOT),
            _instruction(0x95),
            _instruction(0xB4, 0, 0, 0, TC_ACT_UNSPEC),
            _instruction(0x95),
        )
    )
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"Apache")
    load = struct.pack(
        "=IIQQIIQI", PROG_TYPE_SCHED_CLS, len(code) // 8, ctypes.addressof(instructions),
        ctypes.addressof(licence), 0, 0, 0, 0,
    )  # fmt: skip
    return bpf(BPF_PROG_LOAD, load.ljust(128, b"\0"))
