"""The loopback interface, by the old ioctls: a container's start has no use for netlink's encoding (netdevice(7))."""

import fcntl
import socket
import struct

SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 1
_request = struct.Struct("16sH14x")


def up() -> None:
    """Raise `lo` in the caller's network namespace. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, SIOCGIFFLAGS, _request.pack(b"lo", 0))
        flags = _request.unpack(answer)[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, _request.pack(b"lo", flags | IFF_UP))
