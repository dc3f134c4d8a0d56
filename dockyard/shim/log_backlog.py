"""How much of a container's log its forwarder has not sent yet: more than the files hold would be lost.

The forwarder (log_forwarder.py) notes in a file beside the log how far it has sent: an inode and an offset.
"""

import msgspec


class Backlog:
    """What is written to a log and not yet sent. `note` is the forwarder's file, `most` what may wait, in bytes."""

    def __init__(self, note: str, most: int) -> None:
        self._note = note
        self._most = most
        self._begins: dict[int, int] = {}  # of the log's files, in all that has been written
        self._written = self._sent = 0

    def opened(self, inode: int, size: int) -> None:
        """The log goes on in a file that holds `size` bytes."""
        self._begins.pop(inode, None)
        self._begins[inode] = self._written
        self._written += size
        if len(self._begins) > 100:
            del self._begins[next(iter(self._begins))]

    def written(self, size: int) -> None:
        """Some more has been."""
        self._written += size

    def full(self) -> bool:
        """Whether it holds more than it may, by the latest note. That is only read when it could be."""
        if self._written - self._sent <= self._most:
            return False
        try:
            with open(self._note, "rb") as file:
                inode, position = msgspec.json.decode(file.read(), type=tuple[int, int])
        except (OSError, msgspec.MsgspecError):  # nothing has been sent yet
            return True
        if inode in self._begins:
            self._sent = self._begins[inode] + position
        return self._written - self._sent > self._most
