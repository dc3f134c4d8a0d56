"""Where COPY and ADD read from: a tree of files, be it a context as it was received or an image's root.

A context is never unpacked. It stays the archive it came as, in a nameless file, with an index of its entries; a path
in it is looked up in that index, so nothing in a hostile archive can reach the host's file system.
An image's root is a real directory; the kernel resolves paths in it as if chrooted there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import stat
import time
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from dockyard.content import packing, tar_format
from dockyard.content.sparse import filled
from dockyard.content.tar_format import Entry
from dockyard.errors import InvalidParameter
from dockyard.linux.rooted import MOST_LINKS, Root

CHUNK = 1 << 20
KINDS = {
    stat.S_IFREG: tar_format.REGULAR,
    stat.S_IFDIR: tar_format.DIRECTORY,
    stat.S_IFLNK: tar_format.SYMLINK,
    stat.S_IFCHR: tar_format.CHARACTER,
    stat.S_IFBLK: tar_format.BLOCK_DEVICE,
    stat.S_IFIFO: tar_format.FIFO,
}


class File(Protocol):
    """One node of a tree; `entry.name` means nothing. `inode`: the same for all names of one file."""

    entry: Entry

    @property
    def inode(self) -> Hashable:
        """What tells the names of one file from files alike; None where it can have no other."""

    @property
    def directory(self) -> bool:
        """Whether it holds others."""

    def children(self) -> Mapping[str, File]:
        """What is in a directory, by name."""

    def read(self) -> Iterator[bytes]:
        """A regular file's content."""


class Tree(Protocol):
    """Files by path; paths are relative to the root, without `..`."""

    def find(self, path: str) -> File | None:
        """What is at `path` with every symlink followed inside the tree; None when there is nothing."""


# -- archives


@dataclass(slots=True)
class ArchiveFile:
    """A node of an indexed archive: its content is `entry.size` bytes at `offset` of the archive."""

    entry: Entry
    archive: BinaryIO | None = None
    offset: int = 0
    content: bytes | None = None
    inner: dict[str, ArchiveFile] = field(default_factory=dict)
    digest: bytes | None = None
    sums: dict[bool, str] | None = None  # checksums of a directory and all below, with owners and without

    @property
    def inode(self) -> Hashable:
        return None if self.directory else id(self)

    @property
    def directory(self) -> bool:
        return self.entry.kind == tar_format.DIRECTORY

    def children(self) -> Mapping[str, ArchiveFile]:
        return self.inner

    def read(self) -> Iterator[bytes]:
        if self.content is not None:
            yield self.content
        elif self.archive is not None and self.entry.sparse is not None:
            yield from filled(self.entry.sparse, self._stored, CHUNK)
        elif self.archive is not None:
            position, end = self.offset, self.offset + self.entry.size
            while position < end:
                piece = os.pread(self.archive.fileno(), min(CHUNK, end - position), position)
                if not piece:
                    raise InvalidParameter("unexpected EOF in build context")
                position += len(piece)
                yield piece

    def _stored(self, position: int, size: int) -> bytes:
        assert self.archive is not None
        return os.pread(self.archive.fileno(), size, self.offset + position)


def _new_directory() -> ArchiveFile:
    """One that no entry lists."""
    return ArchiveFile(Entry("", tar_format.DIRECTORY, 0o755, mtime_ns=time.time_ns()))


def members(archive: BinaryIO) -> Iterator[ArchiveFile]:
    """What the entries of an uncompressed archive (seekable) say, hard links too, in their order; links to nothing yet.

    Raises InvalidParameter when it is no tar, or cut.
    """
    end = archive.seek(0, os.SEEK_END)
    archive.seek(0)
    reader = tar_format.Reader(archive.read)
    while (entry := reader.next()) is not None:
        offset = archive.tell()
        following = offset + entry.size + tar_format.padding(entry.size)
        if offset + entry.size > end:
            raise InvalidParameter("unexpected EOF")
        if entry.sparse is not None:
            entry.size = entry.sparse.size
        yield ArchiveFile(entry, archive, offset)
        archive.seek(following)


class ArchiveTree:
    """The files of an uncompressed tar archive in a seekable file, which stays open as long as the tree is used."""

    def __init__(self, archive: BinaryIO | None = None, root: ArchiveFile | None = None) -> None:
        """Index `archive`; without one the tree begins empty, or is what is below `root`, a directory of another one.

        Raises InvalidParameter when it is no tar.
        """
        self._root = root or _new_directory()
        if archive is not None:
            self._index(archive)

    @property
    def root(self) -> ArchiveFile:
        """The top directory."""
        return self._root

    def _index(self, archive: BinaryIO) -> None:
        for member in members(archive):
            self._enter(member.entry, member)

    def _enter(self, entry: Entry, file: ArchiveFile) -> None:
        parts = components(entry.name)
        if not parts:
            if file.directory:
                self._root.entry = entry
            return
        if entry.kind == tar_format.HARD_LINK:
            target = self._at(components(entry.link))
            if target is None or target.directory:
                raise InvalidParameter(f"build context: {entry.name} is a hard link to nothing: {entry.link}")
            file = target
        folder = self._root
        for part in parts[:-1]:
            below = folder.inner.get(part)
            if below is None or not below.directory:
                below = folder.inner[part] = _new_directory()
            folder = below
        before = folder.inner.get(parts[-1])
        if before is not None and before.directory and file.directory:
            file.inner = before.inner
        folder.inner[parts[-1]] = file

    def _at(self, parts: list[str]) -> ArchiveFile | None:
        """The node at exactly these names; symlinks are not followed."""
        node = self._root
        for part in parts:
            below = node.inner.get(part)
            if below is None:
                return None
            node = below
        return node

    def add(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Put one more file into the tree, dated now."""
        entry = Entry(path, size=len(content), mode=mode, mtime_ns=time.time_ns())
        self._enter(entry, ArchiveFile(entry, content=content))

    def remove(self, path: str) -> None:
        """Take a file out, if it is there."""
        parts = components(path)
        folder = self._at(parts[:-1])
        if parts and folder is not None:
            folder.inner.pop(parts[-1], None)

    def find(self, path: str) -> ArchiveFile | None:
        trail = [self._root]
        waiting = components(path)[::-1]
        links = 0
        while waiting:
            part = waiting.pop()
            if part == "..":
                trail[1:] = trail[1:-1]
                continue
            below = trail[-1].inner.get(part)
            if below is None:
                return None
            if below.entry.kind != tar_format.SYMLINK:
                trail.append(below)
                continue
            links += 1
            if links > MOST_LINKS:
                return None
            if below.entry.link.startswith("/"):
                del trail[1:]
            waiting.extend(part for part in reversed(below.entry.link.split("/")) if part not in ("", "."))
        return trail[-1]


def components(name: str) -> list[str]:
    """The components of a path; `..` can't leave the root."""
    return [part for part in posixpath.normpath("/" + name).split("/") if part]


# -- directories


class DirectoryFile:
    """A node of a real directory tree; it is opened only while it is looked at, for there may be very many."""

    def __init__(self, tree: DirectoryTree, path: str) -> None:
        """`path` is absolute and without symlinks but perhaps the last. Raises OSError when there is nothing."""
        self._tree = tree
        self._path = path
        fd = tree.open(path, os.O_PATH | os.O_NOFOLLOW)
        try:
            status = os.fstat(fd)
            kind = KINDS.get(stat.S_IFMT(status.st_mode), b"")
            self.entry = Entry(
                "",
                kind,
                stat.S_IMODE(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_size if kind == tar_format.REGULAR else 0,
                status.st_mtime_ns,
                os.readlink("", dir_fd=fd) if kind == tar_format.SYMLINK else "",
                os.major(status.st_rdev),
                os.minor(status.st_rdev),
                _attributes(fd, kind),
            )
            several = kind != tar_format.DIRECTORY and status.st_nlink > 1
            self.inode: Hashable = (status.st_dev, status.st_ino) if several else None
        finally:
            os.close(fd)

    @property
    def directory(self) -> bool:
        return self.entry.kind == tar_format.DIRECTORY

    def children(self) -> Mapping[str, DirectoryFile]:
        fd = self._tree.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            with os.scandir(fd) as entries:
                names = sorted(entry.name for entry in entries if not _is_ghost(entry, fd))
        finally:
            os.close(fd)
        return _Children(self._tree, self._path, names)

    def read(self) -> Iterator[bytes]:
        with open(self._tree.open(self._path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:
            left = self.entry.size
            while left and (piece := file.read(min(CHUNK, left))):
                left -= len(piece)
                yield piece
            if left:
                raise InvalidParameter(f"{self._path} became shorter while it was read")


def _is_ghost(entry: os.DirEntry[str], folder: int) -> bool:
    """Whether there is no file although overlayfs lists one: what hides nothing is seen, but can't be looked at.

    A whiteout in a directory that only one layer has, so that nothing is merged (Linux, fs/overlayfs/readdir.c).
    """
    if entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False) or entry.is_symlink():
        return False
    try:
        os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return False


class _Children(Mapping[str, DirectoryFile]):
    """What is in a directory, looked at when asked for."""

    def __init__(self, tree: DirectoryTree, path: str, names: list[str]) -> None:
        self._tree = tree
        self._path = path
        self._names = names

    def __getitem__(self, name: str) -> DirectoryFile:
        return DirectoryFile(self._tree, posixpath.join(self._path, name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _attributes(fd: int, kind: bytes) -> dict[str, bytes]:
    """The extended attributes that belong into a layer."""
    if kind not in (tar_format.REGULAR, tar_format.DIRECTORY):
        return {}
    path = f"/proc/self/fd/{fd}"
    try:
        return {name: os.getxattr(path, name) for name in os.listxattr(path) if packing.belongs(name)}
    except OSError:
        return {}


class DirectoryTree:
    """The files below a real directory, such as the root of an image."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Root(root)
        self.close = self._root.close
        self.open = self._root.open

    def find(self, path: str, *, follow: bool = True) -> DirectoryFile | None:
        try:
            return DirectoryFile(self, self._root.resolve(path) if follow else path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise


# -- checksums


def checksum(file: File, *, owners: bool) -> str:
    """What a copy of `file` would be, as a digest: names, kinds, modes, links, contents, with `owners` those too.

    Times do not count: a file that was merely touched is the same.
    """
    if not isinstance(file, ArchiveFile) or not file.directory:
        return _checksum(file, owners)
    if file.sums is None:
        file.sums = {}
    if owners not in file.sums:
        file.sums[owners] = _checksum(file, owners)
    return file.sums[owners]


def _checksum(file: File, owners: bool) -> str:
    total = hashlib.sha256()
    first: dict[Hashable, str] = {}
    for place, inner in walk(file):
        entry = inner.entry
        inode = inner.inode
        one = first.setdefault(inode, place) if inode is not None else place
        # the facts as a list of texts would be written; there may be very many files
        facts = f"[{place!r}, {one!r}, '{entry.kind.decode()}', '{entry.mode:o}', {entry.link!r}, "
        facts += f"'{entry.major}', '{entry.minor}'"
        if owners:
            facts += f", '{entry.uid}', '{entry.gid}'"
        if entry.xattrs:
            own = sorted(entry.xattrs.items())
            facts += "".join(f", {f'{name}={value.hex()}'!r}" for name, value in own)
        total.update(f"{facts}]".encode(errors="surrogateescape") + b"\0")
        if entry.kind == tar_format.REGULAR and one == place:
            total.update(_content_digest(inner))
    return total.hexdigest()


def _content_digest(file: File) -> bytes:
    if isinstance(file, ArchiveFile) and file.digest is not None:
        return file.digest
    digest = hashlib.sha256()
    for piece in file.read():
        digest.update(piece)
    if isinstance(file, ArchiveFile):
        file.digest = digest.digest()
    return digest.digest()


def walk(file: File, place: str = "") -> Iterator[tuple[str, File]]:
    """(path relative to `file`, node) of it and all below, parents first, in the order of their names."""
    yield place, file
    if file.directory:
        children = file.children()
        for name in sorted(children):
            yield from walk(children[name], f"{place}/{name}" if place else name)
