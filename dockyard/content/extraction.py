"""Unpacking a tar stream into the current root directory, entry by entry.

Runs in a process of its own whose root is the target (worker.py), so no name, symlink or hard link of the archive can
mean anything outside. Every raw byte that is not a file's payload goes to a record, with a reference where each payload
was, so that packing.py can give back the very same stream from the unpacked files.
"""

import errno
import hashlib
import importlib
import mmap
import os
import queue
import stat
import struct
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from dockyard.content import tar_format
from dockyard.content.sparse import Sparse
from dockyard.content.tar_format import Entry
from dockyard.errors import InvalidParameter
from dockyard.linux import mounts

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
AUFS_METADATA = ".wh..wh."
OVERLAY_OPAQUE = "trusted.overlay.opaque"
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
CHUNK = 1 << 20
SKIPPED = b"\x2a\x4d\x18"  # what frames of zstd that hold no data begin with, after 0x50 to 0x5f (RFC 8878, 3.1.2)
SPLICED = 1 << 16  # bytes: what is smaller comes sooner with what is around it
# A part of a stream; a view where it lies in a file that is mapped.
Piece = bytes | memoryview

# What stands in a record: raw bytes; a payload by its size and path; a payload that a later entry of the same archive
# overwrote, by the number of its reference.
RAW, PAYLOAD, LOST = b"R", b"P", b"L"
ROWS = 1 << 16  # bytes of rows that are compressed at a time


@dataclass(frozen=True, slots=True)
class Options:
    """How to unpack. `whiteouts`: "overlay" (as overlayfs marks them), "plain" (delete), "none" (ordinary files).

    `owner` gives everything to (uid, gid). `keep_directories`: refuse to replace a directory by something else or
    something else by a directory.
    """

    whiteouts: str = "none"
    owner: tuple[int, int] | None = None
    keep_directories: bool = False


class Record:
    """Writes a record to a file, compressed."""

    def __init__(self, fd: int) -> None:
        self._file = os.fdopen(fd, "wb")
        self._deflate = zlib.compressobj(1)
        self._raw: list[bytes] = []
        self._raw_size = 0
        self._rows: list[bytes] = []  # that are still to be compressed
        self._rows_size = 0
        self.payloads = 0

    def raw(self, data: bytes) -> None:
        """Bytes of the stream that no file holds."""
        self._raw.append(data)
        self._raw_size += len(data)
        if self._raw_size > CHUNK:
            self._flush()

    def payload(self, size: int, path: str) -> int:
        """`size` bytes of the stream are the content of the file `path`; returns the reference's number."""
        self._flush()
        name = os.fsencode(path)
        self._put(PAYLOAD + struct.pack("<QH", size, len(name)) + name)
        self.payloads += 1
        return self.payloads - 1

    def lost(self, number: int, data: bytes) -> None:
        """The file that reference `number` means is about to go; its content goes here."""
        self._flush()
        self._put(LOST + struct.pack("<QQ", number, len(data)) + data)

    def close(self) -> None:
        """Finish the file."""
        self._flush()
        self._compress()
        self._file.write(self._deflate.flush())
        self._file.close()

    def _flush(self) -> None:
        if self._raw:
            data = b"".join(self._raw)
            self._raw.clear()
            self._raw_size = 0
            self._put(RAW + struct.pack("<Q", len(data)) + data)

    def _put(self, data: bytes) -> None:
        self._rows.append(data)
        self._rows_size += len(data)
        if self._rows_size > ROWS:
            self._compress()

    def _compress(self) -> None:
        self._file.write(self._deflate.compress(b"".join(self._rows)))
        self._rows.clear()
        self._rows_size = 0


class Hasher:
    """The SHA-256 of what it is fed, in a thread of its own."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._queue: queue.Queue[Piece | None] = queue.Queue(3)
        self._thread = threading.Thread(target=self._hash_all, daemon=True)
        self._thread.start()

    def _hash_all(self) -> None:
        while (piece := self._queue.get()) is not None:
            self._hash.update(piece)  # releases the interpreter lock: reading and writing go on

    def feed(self, piece: Piece) -> None:
        """More of it."""
        self._queue.put(piece)

    def digest(self) -> str:
        """That was all."""
        self._queue.put(None)
        self._thread.join()
        return "sha256:" + self._hash.hexdigest()


class Ahead:
    """The pieces of a stream, each made in a thread of its own while the one before is used.

    Decompressors release the interpreter lock, and so does the making of files: the two go on at the same time.
    """

    def __init__(self, pieces: Callable[[], Piece]) -> None:
        self._pieces = pieces
        self._queue: queue.Queue[Piece | Exception] = queue.Queue(2)
        threading.Thread(target=self._make, daemon=True).start()

    def _make(self) -> None:
        try:
            while piece := self._pieces():
                self._queue.put(piece)
            self._queue.put(b"")
        except Exception as error:
            self._queue.put(error)

    def next(self) -> Piece:
        """The next one, b"" at the end. Raises what making it has raised."""
        piece = self._queue.get()
        if isinstance(piece, Exception):
            raise piece
        return piece


class Stream:
    """An uncompressed byte stream in pieces; when `hashed`, as a whole in a thread beside."""

    def __init__(self, pieces: Callable[[], Piece], *, hashed: bool = True, pipe: int = -1) -> None:
        """`pipe` is where the pieces are read from as they are, by nobody else and not ahead, if that is so."""
        self._pieces = pieces
        self._pipe = pipe
        self._ended = False
        self._buffer: Piece = b""
        self._position = 0
        self._hasher = Hasher() if hashed else None
        self.tap: Callable[[bytes], None] | None = None

    @classmethod
    def open(cls, fd: int, *, hashed: bool) -> "Stream":
        """What comes out of `fd`, uncompressed: a pipe, or a file, which nobody changes meanwhile."""
        mapped = _mapped(fd)
        read = mapped or (lambda size: os.read(fd, size))
        pieces, plain = opened(read)
        if plain and mapped is not None:
            return cls(pieces, hashed=hashed)
        if plain and not hashed:
            return cls(pieces, hashed=False, pipe=fd)
        return cls(Ahead(pieces).next, hashed=hashed)

    def _more(self) -> bool:
        """Go on to the next piece, the one before being used up; False at the end."""
        piece = b"" if self._ended else self._pieces()
        if not piece:
            self._ended = True
            return False
        if self._hasher is not None:
            self._hasher.feed(piece)
        self._buffer = piece
        self._position = 0
        return True

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end; told to `tap`."""
        data = bytes(self._buffer[self._position : self._position + size])
        self._position += len(data)
        while len(data) < size and self._more():
            self._position = min(size - len(data), len(self._buffer))
            data += self._buffer[: self._position]
        if self.tap is not None:
            self.tap(data)
        return data

    def copy(self, size: int, fd: int) -> None:
        """Write the next `size` bytes to `fd`. Raises InvalidParameter when the stream ends before."""
        while size > 0:
            if self._position >= len(self._buffer) and not self._more():
                raise InvalidParameter("unexpected EOF in archive")
            view = memoryview(self._buffer)[self._position : self._position + size]
            done = 0
            while done < len(view):
                done += os.write(fd, view[done:])
            self._position += len(view)
            size -= len(view)
            if size >= SPLICED and self._pipe >= 0:
                size -= self._splice(size, fd)

    def _splice(self, size: int, fd: int) -> int:
        """Have the kernel move up to `size` bytes that come next, all of the buffer being used up; how many it was."""
        left = size
        try:
            while left > 0 and (moved := os.splice(self._pipe, fd, left)):
                left -= moved
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._pipe = -1  # not on this file system, or it is no pipe
        return size - left

    def skip(self, size: int) -> None:
        """Pass over `size` bytes, telling them to `tap`."""
        while size > 0:
            got = len(self.read(min(size, CHUNK)))
            if not got:
                raise InvalidParameter("unexpected EOF in archive")
            size -= got

    def finish(self) -> str:
        """Read to the end; the digest of the whole stream, or "" when it is not hashed."""
        while self.read(CHUNK):
            pass
        return "" if self._hasher is None else self._hasher.digest()


def _mapped(fd: int) -> Callable[[int], Piece] | None:
    """`read(n)` of a file that is mapped, from its position on, which goes along; None for what is none."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or not found.st_size:
        return None
    view = memoryview(mmap.mmap(fd, found.st_size, mmap.MAP_SHARED, mmap.PROT_READ))

    def read(size: int) -> Piece:
        begin = os.lseek(fd, 0, os.SEEK_CUR)
        piece = view[begin : begin + size]
        os.lseek(fd, len(piece), os.SEEK_CUR)  # who shares the position sees how far this has come
        return piece

    return read


def decompressed(read: Callable[[int], Piece]) -> Callable[[], Piece]:
    """Pieces of the uncompressed stream behind `read(n)`: gzip, zstd, bzip2, xz or none, told by its first bytes."""
    return opened(read)[0]


def opened(read: Callable[[int], Piece]) -> tuple[Callable[[], Piece], bool]:
    """`decompressed`, and whether that is the stream itself."""
    head = read(CHUNK)
    while 0 < len(head) < 6 and (piece := read(CHUNK)):
        head = bytes(head) + piece
    pending = [head] if head else []

    def source() -> Piece:
        return pending.pop() if pending else read(CHUNK)

    if head[:2] == b"\x1f\x8b":
        from isal import igzip_lib

        # what follows a member and is none is passed over, as by gzip(1), which other engines unpack with
        make = partial(igzip_lib.IgzipDecompressor, flag=igzip_lib.DECOMP_GZIP)
        return _inflated(source, make, magic=b"\x1f\x8b"), False
    if head[:4] == b"\x28\xb5\x2f\xfd" or (head[:1] and head[0] >> 4 == 5 and head[1:4] == SKIPPED):
        zstd = _zstd()
        options = {zstd.DecompressionParameter.window_log_max: 27}
        return _inflated(source, lambda: zstd.ZstdDecompressor(options=options)), False
    if head[:3] == b"BZh":
        import bz2

        return _inflated(source, bz2.BZ2Decompressor), False
    if head[:6] == b"\xfd7zXZ\x00":
        import lzma

        return _inflated(source, lambda: lzma.LZMADecompressor(memlimit=256 << 20)), False
    return source, True


def _zstd() -> Any:  # the one module or the other
    """The standard library's, or what makes it up for Pythons before 3.14."""
    try:
        return importlib.import_module("compression.zstd")
    except ImportError:
        return importlib.import_module("backports.zstd")


class _Decompressor(Protocol):
    """What those of bz2, lzma, zstd and isal have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: Piece, max_length: int = -1) -> bytes: ...


def _inflated(
    source: Callable[[], Piece], make: Callable[[], _Decompressor], magic: bytes = b""
) -> Callable[[], bytes]:
    """Pieces of what a stream of one or more compressed members holds, each of which begins with `magic`."""
    inflate = make()

    def piece() -> bytes:
        nonlocal inflate
        while True:
            given: Piece = b""
            if inflate.eof:
                given = bytes(inflate.unused_data or source())
                if not given.strip(b"\0") or not given.startswith(magic[: len(given)]):
                    while source():  # to the end, or who sends it would be told that nobody listens
                        pass
                    return b""
                inflate = make()
            elif inflate.needs_input:
                given = source()
                if not given:
                    raise InvalidParameter("unexpected EOF in compressed archive")
            try:
                # never what a bomb makes of a piece
                data = inflate.decompress(given, CHUNK)
            except Exception as error:
                raise InvalidParameter(f"archive is damaged: {error}") from error
            if data:
                return data

    return piece


class Extractor:
    """Unpacks one archive into the current root directory."""

    def __init__(self, stream: Stream, options: Options, record: Record | None = None, base: str = "/") -> None:
        self._stream = stream
        self._options = options
        self._record = record
        self._base = base
        self._references: dict[str, list[int]] = {}
        self._directories: dict[str, Entry] = {}
        self._made: set[str] = set()
        self._folders: set[str] = set()  # directories on the way to which no link lies
        self.size = 0

    def run(self) -> str:
        """Unpack everything; the digest of the uncompressed stream, if that is hashed."""
        stream, record = self._stream, self._record
        if record is not None:
            stream.tap = record.raw
        reader = tar_format.Reader(stream.read)
        while (entry := reader.next()) is not None:
            if os.path.normpath(entry.name.lstrip("/")).partition("/")[0] == "..":
                raise InvalidParameter(f'invalid entry name "{entry.name}"')
            path = os.path.normpath(os.path.join(self._base, entry.name.lstrip("/")))
            if not (path == self._base or path.startswith(self._base.rstrip("/") + "/")):
                raise InvalidParameter(f"archive entry is outside of its root: {entry.name!r}")
            self._unpack(entry, path)
            stream.skip(tar_format.padding(entry.size))
        # Directories last: whatever was put inside has changed their times.
        for path in sorted(self._directories, reverse=True):
            entry = self._directories[path]
            if os.path.isdir(path) and not os.path.islink(path):
                os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))
        digest = stream.finish()
        if record is not None:
            record.close()
        return digest

    def _unpack(self, entry: Entry, path: str) -> None:
        folder, name = os.path.split(path)
        if self._options.whiteouts != "none" and name.startswith(WHITEOUT):
            self._stream.skip(entry.size)
            self._white_out(folder, name)
            return
        if path in ("/", self._base):  # which is a directory, and stays one
            self._stream.skip(entry.size)
            if self._options.whiteouts != "none" and entry.kind == tar_format.DIRECTORY:
                self._adorn(entry, path)
                self._directories[path] = entry
            return
        if entry.kind != tar_format.REGULAR:
            self._make_way(entry, path, folder)
        maker = _MAKERS.get(entry.kind)
        if maker is None:
            self._stream.skip(entry.size)
            if entry.kind in b"xgLK":
                return
            raise InvalidParameter(f"unhandled tar header type {entry.kind!r} of {entry.name!r}")
        maker(self, entry, path)
        self._made.add(path)

    def _make_way(self, entry: Entry, path: str, folder: str) -> None:
        """Make the parent directories and remove what is at `path`, unless both are directories."""
        try:
            present = os.lstat(path)
        except FileNotFoundError:
            if folder in self._folders:
                return
            missing = []
            real = os.path.realpath(folder)  # a link may lead to what is still to be made
            if real == folder:
                self._folders.add(folder)
            folder = real
            while not os.path.isdir(folder):
                missing.append(folder)
                folder = os.path.dirname(folder)
            for place in reversed(missing):  # os.makedirs calls itself for each, and Python allows a thousand
                os.mkdir(place, 0o755)
            return
        except NotADirectoryError:
            raise InvalidParameter(f"archive entry {entry.name!r} lies below something that is no directory") from None
        is_directory = stat.S_ISDIR(present.st_mode)
        if is_directory and entry.kind == tar_format.DIRECTORY:
            return
        if self._options.keep_directories and is_directory != (entry.kind == tar_format.DIRECTORY):
            what = "directory" if is_directory else "non-directory"
            other = "non-directory" if is_directory else "directory"
            raise InvalidParameter(f"cannot overwrite {what} {path!r} with {other} {path!r}")
        if entry.kind == tar_format.HARD_LINK and self._target_of(entry) == path:
            return
        self._remove(path)

    def _remove(self, path: str) -> None:
        """Remove a file or a whole tree, saving the payloads that the record refers to."""
        if self._options.whiteouts == "none":
            self._check_removable(path)
        self._folders.clear()  # a link may come where a directory was
        pending, folders = [path], []
        while pending:
            path = pending.pop()
            if stat.S_ISDIR(os.lstat(path).st_mode):
                folders.append(path)
                pending += [f"{path}/{name}" for name in os.listdir(path)]
            else:
                self._save(path)
                os.unlink(path)
            self._directories.pop(path, None)
        for folder in reversed(folders):
            os.rmdir(folder)

    @staticmethod
    def _check_removable(path: str) -> None:
        """Raise InvalidParameter when something is mounted there or below: a container would lose it.

        The kernel only refuses to remove mount points of the caller's own namespace; others it unmounts in silence.
        """
        pending = [path]
        while pending:
            place = pending.pop()
            if mounts.is_mount_root(place):
                raise InvalidParameter(f"RemoveAll {os.path.basename(place)}: device or resource busy")
            if stat.S_ISDIR(os.lstat(place).st_mode):
                pending += [f"{place}/{name}" for name in os.listdir(place)]

    def _save(self, path: str) -> None:
        numbers = self._references.pop(path, None)
        if numbers and self._record is not None:
            with open(path, "rb") as file:
                data = file.read()
            for number in numbers:
                self._record.lost(number, data)

    def _white_out(self, folder: str, name: str) -> None:
        os.makedirs(folder, 0o755, exist_ok=True)
        overlay = self._options.whiteouts == "overlay"
        if name == OPAQUE:
            if overlay:
                os.setxattr(folder, OVERLAY_OPAQUE, b"y")
                return
            for child in os.listdir(folder):
                if f"{folder.rstrip('/')}/{child}" not in self._made:
                    self._remove(f"{folder.rstrip('/')}/{child}")
            return
        if name.startswith(AUFS_METADATA):
            return
        target = f"{folder.rstrip('/')}/{name.removeprefix(WHITEOUT)}"
        if os.path.basename(target) in ("", ".", ".."):
            raise InvalidParameter(f"invalid whiteout {name!r}")
        if os.path.lexists(target):
            if overlay and target in self._made:
                return  # added by this very layer: the whiteout means what lies below
            self._remove(target)
        if overlay:
            os.mknod(target, stat.S_IFCHR, 0)

    def _adorn(self, entry: Entry, path: str) -> None:
        """Owner, attributes, mode and time of anything but a hard link."""
        uid, gid = self._options.owner or (entry.uid, entry.gid)
        os.lchown(path, uid, gid)
        if entry.kind != tar_format.SYMLINK:
            os.chmod(path, entry.mode)
        for key, value in entry.xattrs.items():
            if key.startswith("trusted.overlay."):
                continue  # would make an overlay of the archive's own invention
            try:
                os.setxattr(path, key, value, follow_symlinks=False)
            except OSError:
                if key.startswith("security.capability"):
                    raise
        if entry.kind != tar_format.DIRECTORY:
            os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)

    def _regular(self, entry: Entry, path: str) -> None:
        stream, record = self._stream, self._record
        try:
            fd = os.open(path, NEW_FILE, 0o600)
        except OSError:  # which most files don't see: something is there, or has to be there first
            self._make_way(entry, path, os.path.dirname(path))
            fd = os.open(path, NEW_FILE, 0o600)
        # owner first, since a change of owner clears the set-id bits and capabilities
        try:
            if entry.sparse is not None:
                self._sparse(entry.sparse, fd)
            elif entry.size:
                if record is not None:
                    self._references.setdefault(path, []).append(record.payload(entry.size, path))
                tap, stream.tap = stream.tap, None
                stream.copy(entry.size, fd)
                stream.tap = tap
                self.size += entry.size
            if entry.xattrs:
                os.close(fd)
                fd = -1
                self._adorn(entry, path)
                return
            uid, gid = self._options.owner or (entry.uid, entry.gid)
            os.fchown(fd, uid, gid)
            os.fchmod(fd, entry.mode)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            if fd >= 0:
                os.close(fd)

    def _sparse(self, sparse: Sparse, fd: int) -> None:
        """Write a file with holes. The record keeps its payload itself, for no file has it in one piece."""
        for offset, length in sparse.regions:
            while length:
                data = self._stream.read(min(length, CHUNK))
                if not data:
                    raise InvalidParameter("unexpected EOF in archive")
                written = 0
                while written < len(data):
                    written += os.pwrite(fd, data[written:], offset + written)
                offset, length = offset + len(data), length - len(data)
        os.ftruncate(fd, sparse.size)
        self.size += sparse.size

    def _directory(self, entry: Entry, path: str) -> None:
        if not os.path.isdir(path) or os.path.islink(path):
            os.mkdir(path, 0o700)
        self._adorn(entry, path)
        self._directories[path] = entry

    def _symlink(self, entry: Entry, path: str) -> None:
        os.symlink(entry.link, path)
        self._adorn(entry, path)

    def _target_of(self, entry: Entry) -> str:
        return os.path.normpath(os.path.join(self._base, entry.link.lstrip("/")))

    def _hard_link(self, entry: Entry, path: str) -> None:
        target = self._target_of(entry)
        if target == path and os.path.lexists(path):
            return
        try:
            os.link(target, path, follow_symlinks=False)
        except FileNotFoundError:
            raise InvalidParameter(f"archive has a hard link to {entry.link!r}, which it does not hold") from None

    def _node(self, entry: Entry, path: str) -> None:
        kind = {
            tar_format.CHARACTER: stat.S_IFCHR,
            tar_format.BLOCK_DEVICE: stat.S_IFBLK,
            tar_format.FIFO: stat.S_IFIFO,
        }[entry.kind]
        os.mknod(path, kind | 0o600, os.makedev(entry.major, entry.minor))
        self._adorn(entry, path)


_MAKERS: dict[bytes, Callable[[Extractor, Entry, str], None]] = {
    tar_format.REGULAR: Extractor._regular,
    tar_format.DIRECTORY: Extractor._directory,
    tar_format.SYMLINK: Extractor._symlink,
    tar_format.HARD_LINK: Extractor._hard_link,
    tar_format.CHARACTER: Extractor._node,
    tar_format.BLOCK_DEVICE: Extractor._node,
    tar_format.FIFO: Extractor._node,
}
