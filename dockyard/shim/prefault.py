"""What first processes do is nearly the same each time: learned from one, prepared for the others.

The zygote holds the `Prefault` and hands it down to every fork; the first starter that makes a container tells what
the container's process has written until then (linux/written_pages.py).
"""

import contextlib
import socket

import msgspec

from dockyard.linux import descriptors, memory_files, written_pages
from dockyard.linux.written_pages import Range

_decode = msgspec.msgpack.Decoder(list[Range]).decode


class Prefault:
    """The pages that first processes write to, as far as they are known."""

    def __init__(self) -> None:
        self._written: list[Range] = []
        # to be told of them: None when we have been
        self._ears: socket.socket | None
        self._mouth: socket.socket | None
        self._ears, self._mouth = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ears.setblocking(False)

    # -- the zygote

    def learn(self) -> None:
        """Take in what a starter has told meanwhile."""
        if self._ears is None or self._mouth is None:
            return
        try:
            _, passed = descriptors.receive(self._ears, 1, 1)
        except BlockingIOError:
            return
        with open(passed[0], "rb") as file:
            self._written = _decode(memory_files.read(file.fileno()))
        self._ears.close()
        self._mouth.close()
        self._ears = self._mouth = None

    # -- its forks

    def descriptors(self) -> list[int]:
        """What a starter must keep open to tell."""
        return [self._mouth.fileno()] if self._mouth is not None else []

    def prepare(self) -> None:
        """Have for oneself what a first process is going to write to."""
        written_pages.copy(self._written)

    def tell(self, pid: int) -> None:
        """Let the zygote know what the first process `pid` has done, if it does not yet."""
        if self._mouth is None:
            return
        with contextlib.suppress(OSError):
            text = msgspec.msgpack.encode(written_pages.written(pid))
            with open(memory_files.hold("written-pages", text), "rb") as file:
                socket.send_fds(self._mouth, [b"."], [file.fileno()], socket.MSG_DONTWAIT)
        self._mouth.close()
        self._mouth = None
