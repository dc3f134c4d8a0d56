"""Host ports for containers: chosen, checked against each other and held, so that no host program takes them too.

Each port is held by a socket of ours. Traffic reaches the container by the packet filter and never this socket;
what does arrive here (IPv6 to a container that has none, or everything when the packet filter is off) is for the proxy.
"""

import errno
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from dockyard.errors import InvalidParameter, SystemFailure

_KINDS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, 132),
}
# Non-standard in `socket` before 3.12: let an IPv6 address be bound that no link has (yet).
EPHEMERAL_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"


@dataclass(slots=True)
class HeldPort:
    """A host port that is ours as long as `socket` is open."""

    protocol: str
    host_ip: str
    host_port: int
    socket: socket.socket | None


class HostPorts:
    """Hands out host ports; remembers those given, to tell a clash between containers from one with other programs."""

    def __init__(self) -> None:
        self._given: dict[tuple[str, int], set[str]] = {}
        self._next = 0

    def take(self, protocol: str, host_ips: list[str], wanted: str, target: str) -> list[HeldPort]:
        """Take one port number on all of `host_ips`: "8080" that one, "8000-8010" the first free, "" or "0" any.

        `target` ("172.17.0.2:80") is where it is to lead, for errors to say.
        Raises SystemFailure in Docker's words when it is taken, InvalidParameter when `wanted` is no port.
        """
        first, last = _parse(wanted)
        if first == 0:
            return self._take_first(protocol, host_ips, self._ephemeral(), target)
        if first == last:
            return self._take_exactly(protocol, host_ips, first, target)
        return self._take_first(protocol, host_ips, iter(range(first, last + 1)), target)

    def release(self, held: HeldPort) -> None:
        """Give a port back."""
        if held.socket is not None:
            held.socket.close()
            held.socket = None
        owners = self._given.get((held.protocol, held.host_port))
        if owners is not None:
            owners.discard(held.host_ip)
            if not owners:
                del self._given[held.protocol, held.host_port]

    def _ephemeral(self) -> Iterator[int]:
        with open(EPHEMERAL_RANGE, encoding="ascii") as file:
            low, high = (int(word) for word in file.read().split())
        if not low <= self._next <= high:
            self._next = low
        for number in [*range(self._next, high + 1), *range(low, self._next)]:
            self._next = number + 1
            yield number

    def _take_first(self, protocol: str, host_ips: list[str], numbers: Iterator[int], target: str) -> list[HeldPort]:
        failure: SystemFailure | None = None
        for number in numbers:
            try:
                return self._take_exactly(protocol, host_ips, number, target)
            except SystemFailure as error:
                failure = error
        raise failure or SystemFailure("all ports are allocated")

    def _take_exactly(self, protocol: str, host_ips: list[str], number: int, target: str) -> list[HeldPort]:
        held: list[HeldPort] = []
        try:
            for host_ip in host_ips:
                held.append(self._hold(protocol, host_ip, number, target))
        except SystemFailure:
            for port in held:
                self.release(port)
            raise
        return held

    def _hold(self, protocol: str, host_ip: str, number: int, target: str) -> HeldPort:
        address = ip_address(host_ip)
        owners = self._given.setdefault((protocol, number), set())
        for owner in owners:
            other = ip_address(owner)
            overlap = other.is_unspecified or address.is_unspecified or other == address
            if other.version == address.version and overlap:
                told = owner if other.is_unspecified else host_ip
                raise SystemFailure(f"Bind for {display(told, number)} failed: port is already allocated")
        try:
            held = HeldPort(protocol, host_ip, number, _bind(protocol, host_ip, number, address.version))
        except OSError as error:
            if not owners:
                del self._given[protocol, number]
            words = "address already in use" if error.errno == errno.EADDRINUSE else (error.strerror or "").lower()
            place = f"{display(host_ip, number)}:{target}/{protocol}"
            raise SystemFailure(f"failed to bind host port for {place}: {words}") from error
        owners.add(host_ip)
        return held


def _bind(protocol: str, host_ip: str, number: int, version: int) -> socket.socket | None:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    kind, number_of = _KINDS[protocol]
    try:
        bound = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, number_of)
    except OSError as error:
        if protocol == "sctp" and error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
            return None  # a kernel without SCTP has nobody who could take the port
        raise
    try:
        if protocol == "tcp":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if version == 6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host_ip, number))
        if protocol != "udp":
            # SO_REUSEADDR lets a second socket bind until the first listens
            bound.listen(128)
    except OSError:
        bound.close()
        raise
    return bound


def split_port(text: str) -> tuple[int, str]:
    """ "80/tcp" as (80, "tcp"). Raises InvalidParameter."""
    number, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if not number.isdigit() or not 0 < int(number) < 65536:
        raise InvalidParameter(f"invalid port specification: {text}")
    if protocol not in _KINDS:
        raise InvalidParameter(f"invalid protocol: {protocol}")
    return int(number), protocol


def _parse(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    last = last or first
    if not first:
        return 0, 0
    if not (first.isdigit() and last.isdigit() and int(first) <= int(last) < 65536):
        raise InvalidParameter(f"invalid port range: {text}")
    return int(first), int(last)


def display(host_ip: str, number: int) -> str:
    """An address and a port as Docker writes them in errors: 0.0.0.0:80, [::]:80."""
    return f"[{host_ip}]:{number}" if ":" in host_ip else f"{host_ip}:{number}"
