"""Descriptors that come with bytes over a UNIX socket (unix(7), SCM_RIGHTS)."""

import socket


def receive(peer: socket.socket, size: int, most: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """Up to `size` bytes and `most` descriptors, close-on-exec (socket.recv_fds of Python 3.11 ignores such flags)."""
    data, ancillary, _, _ = peer.recvmsg(size, socket.CMSG_SPACE(4 * most), socket.MSG_CMSG_CLOEXEC | flags)
    descriptors: list[int] = []
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors += memoryview(content[: len(content) // 4 * 4]).cast("i").tolist()
    return data, descriptors
