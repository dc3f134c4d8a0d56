"""Making a tar stream from the current root directory: fresh, or byte for byte as it was once unpacked.

Runs in a process of its own whose root is the tree (worker.py). The tree may be changed by a hostile container
meanwhile: files are opened without following symlinks, and one that shrinks or grows is padded or cut to the size
announced.
"""

import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator

from dockyard.content import tar_format
from dockyard.content.extraction import CHUNK, LOST, OPAQUE, OVERLAY_OPAQUE, PAYLOAD, RAW, WHITEOUT
from dockyard.content.tar_format import Entry
from dockyard.errors import SystemFailure

Write = Callable[[bytes], None]


def pack_tree(write: Write, inside: str, name: str, *, whiteouts: bool) -> None:
    """Write the file or tree `inside` as an archive in which it is called `name` ("" for the content of a directory).

    With `whiteouts`, overlayfs's marks become `.wh.` files, as layers have them.
    """
    links: dict[tuple[int, int], str] = {}
    for path, entry_name in _walk(inside, name):
        _pack_one(write, path, entry_name, links, whiteouts)
    write(tar_format.END)


def _walk(path: str, name: str) -> Iterator[tuple[str, str]]:
    """(path, name in the archive) of everything, parents first, names in order."""
    if name:
        yield path, name
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            return
        children = sorted(os.listdir(path), key=os.fsencode)
    except (FileNotFoundError, NotADirectoryError):
        return
    for child in children:
        yield from _walk(f"{path.rstrip('/')}/{child}", f"{name.rstrip('/')}/{child}" if name else child)


def _pack_one(write: Write, path: str, name: str, links: dict[tuple[int, int], str], whiteouts: bool) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    mode = found.st_mode
    entry = Entry(
        name=name,
        mode=stat.S_IMODE(mode),
        uid=found.st_uid,
        gid=found.st_gid,
        mtime_ns=found.st_mtime_ns,
    )
    if whiteouts and stat.S_ISCHR(mode) and found.st_rdev == 0:
        folder, _, gone = name.rpartition("/")
        entry.name = f"{folder}/{WHITEOUT}{gone}" if folder else WHITEOUT + gone
        entry.mode = 0
        write(tar_format.header(entry))
        return
    if stat.S_ISSOCK(mode):
        return  # means nothing without its listener (archive/tar leaves them out too)
    if not stat.S_ISDIR(mode) and found.st_nlink > 1:
        first = links.setdefault((found.st_dev, found.st_ino), name)
        if first != name:
            entry.kind, entry.link = tar_format.HARD_LINK, first
            write(tar_format.header(entry))
            return
    entry.xattrs = _xattrs(path)
    if stat.S_ISREG(mode):
        entry.size = found.st_size
        write(tar_format.header(entry))
        if found.st_size:
            _content(write, path, found.st_size)
            write(bytes(tar_format.padding(found.st_size)))
        return
    if stat.S_ISDIR(mode):
        entry.kind, entry.name = tar_format.DIRECTORY, name.rstrip("/") + "/"
    elif stat.S_ISLNK(mode):
        entry.kind, entry.link = tar_format.SYMLINK, os.readlink(path)
    elif stat.S_ISFIFO(mode):
        entry.kind = tar_format.FIFO
    else:
        entry.kind = tar_format.CHARACTER if stat.S_ISCHR(mode) else tar_format.BLOCK_DEVICE
        entry.major, entry.minor = os.major(found.st_rdev), os.minor(found.st_rdev)
    write(tar_format.header(entry))
    if whiteouts and stat.S_ISDIR(mode) and _is_opaque(path):
        mark = Entry(name=f"{entry.name}{OPAQUE}", mode=0, mtime_ns=entry.mtime_ns)
        write(tar_format.header(mark))


def belongs(name: str) -> bool:
    """Whether an extended attribute belongs into an archive: capabilities and the users' own do."""
    return name == "security.capability" or name.startswith("user.")


def _xattrs(path: str) -> dict[str, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
        return {name: os.getxattr(path, name, follow_symlinks=False) for name in names if belongs(name)}
    except OSError:
        return {}


def _is_opaque(path: str) -> bool:
    try:
        return os.getxattr(path, OVERLAY_OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False


def _content(write: Write, path: str, size: int) -> None:
    """Exactly `size` bytes of a file, zeros for what it no longer has."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SystemFailure(f"cannot read {path}: {error.strerror}") from error
    try:
        while size > 0:
            data = os.read(fd, min(size, CHUNK))
            if not data:
                write(bytes(min(size, CHUNK)))
                size -= min(size, CHUNK)
                continue
            write(data)
            size -= len(data)
    finally:
        os.close(fd)


def pack_record(write: Write, record: int) -> None:
    """Write the stream that `record` (an open file) was made of, payloads from the files below the root.

    Raises SystemFailure when the record is damaged or a file has another size than it had.
    """
    lost: dict[int, bytes] = {}
    for kind, number, data, _ in _rows(record):
        if kind == LOST:
            lost[number] = data
    os.lseek(record, 0, os.SEEK_SET)
    reference = 0
    for kind, size, data, path in _rows(record):
        if kind == RAW:
            write(data)
        elif kind == PAYLOAD:
            if reference in lost:
                write(lost[reference])
            else:
                if os.lstat(path).st_size != size:
                    raise SystemFailure(f"layer has been changed: {path} has another size than it was unpacked with")
                _content(write, path, size)
            reference += 1


def record_size(record: int) -> int:
    """How many bytes `pack_record` will write for `record` (an open file)."""
    return sum(len(data) if kind == RAW else number for kind, number, data, _ in _rows(record) if kind != LOST)


def _rows(record: int) -> Iterator[tuple[bytes, int, bytes, str]]:
    """(kind, number, data, path) of every row."""
    inflate = zlib.decompressobj()
    buffer = bytearray()

    def need(size: int) -> bool:
        while len(buffer) < size:
            data = os.read(record, CHUNK)
            if not data:
                buffer.extend(inflate.flush())
                return len(buffer) >= size
            buffer.extend(inflate.decompress(data))
        return True

    def take(size: int) -> bytes:
        if not need(size):
            raise SystemFailure("the layer's record is damaged")
        data = bytes(buffer[:size])
        del buffer[:size]
        return data

    while need(1):
        kind = take(1)
        if kind == RAW:
            yield kind, 0, take(struct.unpack("<Q", take(8))[0]), ""
        elif kind == PAYLOAD:
            size, length = struct.unpack("<QH", take(10))
            yield kind, size, b"", os.fsdecode(take(length))
        elif kind == LOST:
            number, size = struct.unpack("<QQ", take(16))
            yield kind, number, take(size), ""
        else:
            raise SystemFailure("the layer's record is damaged")
