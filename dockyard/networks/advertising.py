"""A new endpoint makes its addresses known: gratuitous ARP and unsolicited neighbour advertisements.

Without them a neighbour goes on sending to the MAC address of the container that had the address before. The kernel
sends one of each when the link goes up (arp_notify, ndisc_notify); where a network's options ask for another number, or
where there is real wire (macvlan), we do. RFC 5227 section 3, RFC 4861 section 7.2.6.
"""

import asyncio
import logging
import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

from dockyard.errors import InvalidParameter
from dockyard.networks.model import EndpointState, Network
from dockyard.networks.options import ADVERTISE_COUNT, ADVERTISE_INTERVAL
from dockyard.networks.sandboxes import Namespace, entered, write_sysctl

log = logging.getLogger("dockyard.networks")

DEFAULT_COUNT, DEFAULT_INTERVAL = 3, 1000
COUNTS, INTERVALS = range(4), range(100, 2001)  # messages, ms
ETH_P_ARP, ETH_P_IPV6 = 0x0806, 0x86DD
ALL_NODES, ALL_NODES_MAC = IPv6Address("ff02::1"), bytes.fromhex("333300000001")
BROADCAST = b"\xff" * 6


def check_advertising(network: Network) -> None:
    """Raise InvalidParameter for numbers that are none, or out of range."""
    _number(network, ADVERTISE_COUNT, COUNTS, DEFAULT_COUNT, "an integer")
    _number(network, ADVERTISE_INTERVAL, INTERVALS, DEFAULT_INTERVAL, "integer milliseconds")


def _number(network: Network, name: str, allowed: range, default: int, kind: str) -> int:
    text = network.options.get(name)
    if text is None:
        return default
    try:
        number = int(text)
    except ValueError:
        raise InvalidParameter(f'value for option {name} "{text}" must be {kind}') from None
    if number not in allowed:
        raise InvalidParameter(f"{name} must be in the range {allowed[0]} to {allowed[-1]}")
    return number


class Advertiser:
    """Sends from inside a sandbox, at once and then some times more, until it is closed."""

    def __init__(self, socket_: socket.socket, frames: list[bytes], count: int, interval: int) -> None:
        """`interval`: ms. The socket is in the sandbox's namespace and bound to the link."""
        self._socket = socket_
        self._frames = frames
        self._left = count
        self._interval = interval / 1000
        self._timer: asyncio.TimerHandle | None = None
        self._send()

    def close(self) -> None:
        """Send no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._socket.close()

    def _send(self) -> None:
        self._timer = None
        self._left -= 1
        try:
            for frame in self._frames:
                self._socket.send(frame)
        except OSError as error:  # the link is down or gone
            log.debug("addresses are not advertised: %s", error)
            self._left = 0
        if self._left > 0:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._send)
        else:
            self._socket.close()


def wanted(network: Network, state: EndpointState) -> bool:
    """Whether the kernel's own word is not enough."""
    asked = ADVERTISE_COUNT in network.options or ADVERTISE_INTERVAL in network.options
    if not state.mac or not (state.ip or state.ipv6) or not (asked or network.driver == "macvlan"):
        return False
    return _number(network, ADVERTISE_COUNT, COUNTS, DEFAULT_COUNT, "") > 0


def prepare(namespace: Namespace, state: EndpointState) -> socket.socket:
    """The socket for an Advertiser. Only for worker threads."""
    with entered(namespace.fd):
        # a protocol of 0: it is not given what others send
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
        try:
            sender.bind((state.interface, 0))
        except OSError:
            sender.close()
            raise
    return sender


def advertise(sender: socket.socket, network: Network, state: EndpointState) -> Advertiser:
    """Begin to send; call it in the event loop's thread."""
    mac = bytes.fromhex(state.mac.replace(":", ""))
    frames = [_frame(mac, ip_address(text)) for text in (state.ip, state.ipv6) if text]
    count = _number(network, ADVERTISE_COUNT, COUNTS, DEFAULT_COUNT, "")
    return Advertiser(sender, frames, count, _number(network, ADVERTISE_INTERVAL, INTERVALS, DEFAULT_INTERVAL, ""))


def silence(namespace: Namespace, network: Network, state: EndpointState) -> None:
    """Have the kernel say nothing where the network's option is 0 messages. Before the link goes up."""
    if network.options.get(ADVERTISE_COUNT) == "0":
        with entered(namespace.fd):
            write_sysctl(f"net/ipv4/conf/{state.interface}/arp_notify", "0")
            write_sysctl(f"net/ipv6/conf/{state.interface}/ndisc_notify", "0")


def _frame(mac: bytes, address: IPv4Address | IPv6Address) -> bytes:
    if isinstance(address, IPv4Address):
        # a request for the own address, as Linux sends it
        body = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, address.packed, BROADCAST, address.packed)
        return BROADCAST + mac + struct.pack("!H", ETH_P_ARP) + body
    override = 0x20000000
    message = struct.pack("!BBHI", 136, 0, 0, override) + address.packed + b"\x02\x01" + mac
    pseudo = address.packed + ALL_NODES.packed + struct.pack("!IxxxB", len(message), socket.IPPROTO_ICMPV6)
    message = message[:2] + struct.pack("!H", _checksum(pseudo + message)) + message[4:]
    head = struct.pack("!IHBB", 6 << 28, len(message), socket.IPPROTO_ICMPV6, 255) + address.packed + ALL_NODES.packed
    return ALL_NODES_MAC + mac + struct.pack("!H", ETH_P_IPV6) + head + message


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
