"""Output that waits on disk for a client that does not keep up."""

import contextlib
import os

# What a client may lag behind before the process waits for it.
MOST = 256 << 20


class Overflow:
    """A queue of bytes in a file without a name, which goes with its last descriptor."""

    def __init__(self, folder: str) -> None:
        """`folder`: where there is room on disk; memory is what this is to save."""
        self._fd = os.open(folder or "/var/tmp", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._begin = self._end = 0

    def __len__(self) -> int:
        return self._end - self._begin

    def put(self, data: bytes) -> int:
        """Add at the end what the disk has room for; how much that was."""
        written = 0
        with contextlib.suppress(OSError):
            while written < len(data):
                written += os.pwrite(self._fd, memoryview(data)[written:], self._end + written)
        self._end += written
        return written

    def take(self, size: int) -> bytes:
        """The oldest bytes, up to `size`."""
        data = os.pread(self._fd, min(size, len(self)), self._begin)
        self._begin += len(data)
        if self._begin == self._end:
            os.ftruncate(self._fd, 0)
            self._begin = self._end = 0
        return data

    def close(self) -> None:
        """Give the room back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
