"""The pipe between a runtime and the process it is making: short messages, each with at most one descriptor."""

import os
import socket
import sys

import msgspec

from dockyard.runtime.errors import RuntimeFailure

LARGEST = 1 << 16
INT = 4  # bytes of a descriptor


class Message(msgspec.Struct, omit_defaults=True):
    """`kind` is one of those below, or recorded, start, done or error.

    console, hooks, limits, clocks, cgroup, crowded, mapped, born, ids, seccomp, created
    """

    kind: str
    text: str = ""
    exit_code: int = 0
    pid: int = 0
    errno: int = 0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Message).decode


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, both close-on-exec: that is how a successful execve tells itself."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(end: socket.socket, message: Message, fd: int = -1) -> None:
    """Send one message. A peer that is gone is no error: whoever waits for it will see."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(INT, sys.byteorder))] if fd >= 0 else []
    try:
        end.sendmsg([_encode(message)], rights, socket.MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError):
        pass


def receive(end: socket.socket) -> tuple[Message | None, int]:
    """The next message and the descriptor that came with it (or -1); (None, -1) when the peer has closed."""
    data, rights, _, _ = end.recvmsg(LARGEST, socket.CMSG_SPACE(INT), socket.MSG_CMSG_CLOEXEC)
    fd = -1
    for level, kind, payload in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds = [int.from_bytes(payload[at : at + INT], sys.byteorder) for at in range(0, len(payload), INT)]
            for extra in fds[1:]:
                os.close(extra)
            fd = fds[0]
    return (_decode(data), fd) if data else (None, fd)


def expect(end: socket.socket, kind: str, doing: str) -> tuple[Message, int]:
    """The next message, which must be of `kind`. Raises RuntimeFailure for an error message or a lost peer."""
    message, fd = receive(end)
    if message is None:
        raise RuntimeFailure(f"the container's init ended unexpectedly while {doing}")
    if message.kind == "error":
        raise failure_of(message)
    if message.kind != kind:
        raise RuntimeFailure(f"expected {kind!r} from the container's init while {doing}, got {message.kind!r}")
    return message, fd


def failure_of(message: Message, *, inside: bool = False) -> RuntimeFailure:
    """What an error message tells."""
    return RuntimeFailure(message.text, message.exit_code, inside=inside, errno=message.errno)


def send_failure(end: socket.socket, failure: BaseException) -> None:
    """Tell the other end what went wrong here."""
    if isinstance(failure, RuntimeFailure):
        send(end, Message("error", failure.message, failure.exit_code, errno=failure.errno))
    else:
        where = f": {failure.filename}" if isinstance(failure, OSError) and failure.filename else ""
        text = failure.strerror if isinstance(failure, OSError) and failure.strerror else repr(failure)
        number = (failure.errno or 0) if isinstance(failure, OSError) else 0
        send(end, Message("error", f"{text}{where}", 1, errno=number))
