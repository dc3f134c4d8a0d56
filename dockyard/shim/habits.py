"""What starters and first processes write to is nearly the same each time: learned from one, prepared for the others.

The zygote holds the `Habits` and hands them down to every spare; the first starter that makes a container of a spare
process tells what both have written (linux/hot_pages.py).
"""

import contextlib
import socket

import msgspec

from dockyard.linux import descriptors, hot_pages, memory_files
from dockyard.linux.hot_pages import Range
from dockyard.runtime.spare import Spare


class Learned(msgspec.Struct, frozen=True, array_like=True):
    """The pages of each."""

    starter: list[Range] = []
    first: list[Range] = []


_decode = msgspec.msgpack.Decoder(Learned).decode


class Habits:
    """As far as they are known."""

    def __init__(self) -> None:
        self._learned = Learned()
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
            self._learned = _decode(memory_files.read(file.fileno()))
        self._ears.close()
        self._mouth.close()
        self._ears = self._mouth = None

    # -- its forks

    def descriptors(self) -> list[int]:
        """What a starter must keep open."""
        return [self._mouth.fileno()] if self._mouth is not None else []

    def close(self) -> None:
        """For who is no starter."""
        if self._mouth is not None:
            self._mouth.close()

    def prepare(self) -> Spare | None:
        """Have a container's first process ready where that is possible, and for it and the caller their pages."""
        spare = None
        with contextlib.suppress(OSError):
            spare = Spare(lambda: hot_pages.copy(self._learned.first))
        hot_pages.copy(self._learned.starter)
        return spare

    def tell(self, spare: Spare) -> None:
        """Let the zygote know what the caller and its first process have written, if it does not yet."""
        if self._mouth is None:
            return
        with contextlib.suppress(OSError):
            learned = Learned(hot_pages.written(), hot_pages.written(spare.pid))
            with open(memory_files.hold("habits", msgspec.msgpack.encode(learned)), "rb") as file:
                socket.send_fds(self._mouth, [b"."], [file.fileno()], socket.MSG_DONTWAIT)
