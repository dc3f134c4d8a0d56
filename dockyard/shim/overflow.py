"""Output that waits on disk for a client that does not keep up."""

import os

# What a client may lag behind before it is let go.
MOST = 256 << 20


class Overflow:
    """A queue of bytes in a file without a name, which goes with its last descriptor."""

    def __init__(self, folder: str) -> None:
        """`folder`: where there is room on disk; memory is what this is to save."""
        self._fd = os.open(folder or "/var/tmp", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._begin = self._end = 0

    def __len__(self) -> int:
        return self._end - self._begin

    def put(self, data: bytes) -> None:
        """Add at the end. Raises OSError when the disk is full."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, self._end)
            self._end += written
            view = view[written:]

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
