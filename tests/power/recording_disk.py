"""A disk that remembers in which order it was written to, and when it was told to have it all for good.

A FUSE file system with two files: `disk`, to be the backing file of a loop device, and `marks`, into which a test
writes a line for what it has been told meanwhile. Every write to `disk`, every flush (fsync(2), which is what the loop
device makes of the block layer's flushes) and every mark becomes a record of one log, in the order in which they were
answered. From it `Recording` makes the disk as a power cut at any moment may leave it.

Spoken is the kernel's protocol itself (include/uapi/linux/fuse.h, version 7.31): eight operations are all it takes.

Run as `python -m tests.power.recording_disk DIRECTORY LOG SIZE`; it says `ready` when mounted and ends when unmounted.
"""

import ctypes
import errno
import os
import random
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, RELEASE, FSYNC, FLUSH, INIT = (
    1,
    2,
    3,
    4,
    14,
    15,
    16,
    18,
    20,
    25,
    26,
)
BATCH_FORGET = 42
DIRECT_IO = 1  # FOPEN_DIRECT_IO: no page cache between the loop device and us
BIG_WRITES, MAX_PAGES = 1 << 5, 1 << 22
LARGEST = 1 << 20

HEADER = struct.Struct("<IIQQIIII")  # fuse_in_header
ANSWER = struct.Struct("<IiQ")  # fuse_out_header
ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")  # fuse_attr
RECORD = struct.Struct("<cQI")  # kind, offset, length of what follows

ROOT, DISK, MARKS = 1, 2, 3


class _Server:
    def __init__(self, device: int, log: int, size: int) -> None:
        self._device = device
        self._log = log
        self._size = size
        # what the disk holds now, for reads
        self._content = os.memfd_create("disk")
        os.ftruncate(self._content, size)

    def serve(self) -> None:
        """Answer the kernel until the file system is unmounted."""
        while True:
            try:
                request = os.read(self._device, LARGEST + 4096)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                raise
            _, operation, unique, node, *_ = HEADER.unpack_from(request)
            if operation in (FORGET, BATCH_FORGET):
                continue
            try:
                body = self._do(operation, node, request[HEADER.size :])
                head = ANSWER.pack(ANSWER.size + len(body), 0, unique)
            except OSError as error:
                body, head = b"", ANSWER.pack(ANSWER.size, -(error.errno or errno.EIO), unique)
            os.writev(self._device, [head, body])

    def _do(self, operation: int, node: int, given: bytes) -> bytes:
        if operation == INIT:
            flags = BIG_WRITES | MAX_PAGES
            return struct.pack("<IIIIHHIIHHIIIIII", 7, 31, LARGEST, flags, 0, 0, LARGEST, 1, LARGEST >> 12, *[0] * 7)
        if operation == LOOKUP:
            found = {b"disk": DISK, b"marks": MARKS}.get(given.rstrip(b"\0"))
            if node != ROOT or found is None:
                raise OSError(errno.ENOENT, "no such file")
            return struct.pack("<QQQQII", found, 0, 3600, 3600, 0, 0) + self._attributes(found)
        if operation in (GETATTR, SETATTR):
            return struct.pack("<QII", 3600, 0, 0) + self._attributes(node)
        if operation == OPEN:
            return struct.pack("<QII", 0, DIRECT_IO, 0)
        if operation == READ:
            _, offset, size = struct.unpack_from("<QQI", given)
            return os.pread(self._content, size, offset) if node == DISK else b""
        if operation == WRITE:
            _, offset, size = struct.unpack_from("<QQI", given)
            data = given[40 : 40 + size]
            if node == DISK:
                os.pwrite(self._content, data, offset)
            self._record(b"W" if node == DISK else b"M", offset, data)
            return struct.pack("<II", size, 0)
        if operation == FSYNC:
            if node == DISK:
                self._record(b"F", 0, b"")
            return b""
        if operation in (RELEASE, FLUSH):
            return b""
        raise OSError(errno.ENOSYS, "not implemented")

    def _attributes(self, node: int) -> bytes:
        mode = stat.S_IFDIR | 0o755 if node == ROOT else stat.S_IFREG | 0o600
        size = self._size if node == DISK else 0
        return ATTRIBUTES.pack(node, size, size >> 9, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def _record(self, kind: bytes, offset: int, data: bytes) -> None:
        os.writev(self._log, [RECORD.pack(kind, offset, len(data)), data])


def main() -> None:
    """See the module."""
    place, log, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,max_read={LARGEST}"
    if libc.mount(b"recording-disk", place.encode(), b"fuse", 0, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), "mount", place)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    print("ready", flush=True)
    _Server(device, written, size).serve()


class RecordingDisk:
    """The disk of a session: a directory where a file system of `size` bytes is mounted, all its writes recorded."""

    def __init__(self, folder: Path, size: int) -> None:
        self.log = folder / "log"
        self._fuse = folder / "fuse"
        self._size = size

    @contextmanager
    def mounted(self, place: Path) -> Iterator[None]:
        """Make the file system and have it at `place` for the time of the block.

        A mount namespace that anyone has made meanwhile may have it for longer, but nothing more is recorded.
        """
        self._fuse.mkdir()
        place.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "tests.power.recording_disk", self._fuse, self.log, str(self._size)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            try:
                disk = self._fuse / "disk"
                # all that is written later is then the session's
                subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,nodiscard", disk], check=True)
                subprocess.run(["mount", "-o", "loop", disk, place], check=True)
                try:
                    yield
                finally:
                    subprocess.run(["umount", place], check=True)
            finally:
                subprocess.run(["umount", "--lazy", self._fuse], check=True)
                server.kill()

    def mark(self, text: str) -> None:
        """Note in the log that something has been told to somebody by now."""
        with (self._fuse / "marks").open("wb", buffering=0) as marks:
            marks.write(text.encode())


@dataclass(frozen=True, slots=True)
class Cut:
    """A moment at which the power may go: a flush, `number` in the log, which has reached the disk, and nothing since.

    `told` counts the marks before the next flush: whatever has been told to anyone has to be on the disk by now.
    """

    number: int
    told: int


class Recording:
    """What a RecordingDisk has noted."""

    def __init__(self, log: Path) -> None:
        self._records: list[tuple[bytes, int, bytes]] = []
        data = memoryview(log.read_bytes())
        position = 0
        while position < len(data):
            kind, offset, size = RECORD.unpack_from(data, position)
            position += RECORD.size
            self._records.append((kind, offset, bytes(data[position : position + size])))
            position += size
        self.marks = [content.decode() for kind, _, content in self._records if kind == b"M"]

    def cuts(self) -> list[Cut]:
        """Every flush."""
        found: list[Cut] = []
        told, last = 0, -1
        for number, (kind, _, _) in enumerate(self._records):
            if kind == b"M":
                told += 1
                if found and found[-1].number == last:
                    found[-1] = Cut(last, told)
            elif kind == b"F":
                last = number
                found.append(Cut(number, told))
        return found

    def image(self, cut: Cut, path: Path, size: int, *, later: random.Random | None = None) -> None:
        """Make `path`, which must not be there yet, the disk as a power cut after that flush leaves it.

        With `later`, some of what was written between it and the next flush has reached the disk, too, as a drive
        may have it: in no order.
        """
        with path.open("xb") as image:
            image.truncate(size)
            for kind, offset, content in self._records[: cut.number]:
                if kind == b"W":
                    os.pwrite(image.fileno(), content, offset)
            for kind, offset, content in self._records[cut.number + 1 :] if later is not None else ():
                if kind == b"F":
                    break
                if kind == b"W" and later is not None and later.random() < 0.5:
                    os.pwrite(image.fileno(), content, offset)


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[None]:
    """Have the file system in the file `image`, which has never been mounted, at `place` for the time of the block.

    A mount namespace that anyone has made meanwhile keeps the mount. If the same file were mounted again, mount(8)
    would find its loop device and the kernel the file system that it has in memory, whatever is in the file by now.
    """
    devices = subprocess.run(["losetup", "--associated", image], check=True, capture_output=True, text=True).stdout
    assert not devices, f"{image} is in use: {devices}"
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


if __name__ == "__main__":
    main()
