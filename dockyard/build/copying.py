"""COPY and ADD: from the files they name straight to a layer's tar stream, without a container and without a copy.

What the base image has at the destination decides where things go (a directory is copied into, a symlink is followed
inside the image's root), so it is looked at; then the layer is written as one archive that overlays it.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import os
import posixpath
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO, Any, BinaryIO, cast

import zstandard
from isal import igzip

from dockyard.build import dockerignore
from dockyard.build.trees import ArchiveFile, ArchiveTree, DirectoryTree, File, Tree, checksum, walk
from dockyard.content import tar_format
from dockyard.content.tar_format import Entry
from dockyard.errors import InvalidParameter

PIECE = 1 << 20
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Source:
    """One file or directory to copy; `name` is what it is called, `unpack`: it may be an archive to unpack."""

    name: str
    file: File
    unpack: bool = False


@dataclass(frozen=True, slots=True)
class Owner:
    """To whom copied files belong."""

    uid: int
    gid: int


def find_sources(tree: Tree, patterns: list[str], *, context: bool, unpack: bool) -> list[Source]:
    """What the `patterns` of a COPY name in `tree`. Raises InvalidParameter in Docker's words."""
    found: list[Source] = []
    for pattern in patterns:
        found += _find(tree, pattern, context, unpack)
    if not found:
        raise InvalidParameter("no source files were specified")
    return found


def _find(tree: Tree, pattern: str, context: bool, unpack: bool) -> list[Source]:
    cleaned = posixpath.normpath(pattern.lstrip("/") or ".")
    if cleaned == ".." or cleaned.startswith("../"):
        if context:
            raise InvalidParameter(f"forbidden path outside the build context: {pattern} ()")
        cleaned = posixpath.normpath("/" + cleaned).lstrip("/") or "."
    if _WILDCARD.search(cleaned):
        return [Source(place, file, unpack) for place, file in _glob(tree, cleaned)]
    file = tree.find("" if cleaned == "." else cleaned)
    if file is None:
        reason = f"stat {cleaned}: file does not exist"
        if context:
            reason = f"file not found in build context or excluded by .dockerignore: {reason}"
        raise InvalidParameter(reason)
    return [Source(cleaned, file, unpack)]


def _glob(tree: Tree, pattern: str) -> Iterator[tuple[str, File]]:
    """Every path that matches, component by component, in order."""
    reached = [""]
    for part in pattern.split("/"):
        following = []
        for place in reached:
            folder = tree.find(place)
            if folder is None or not folder.directory:
                continue
            if not _WILDCARD.search(part):
                following.append(posixpath.join(place, part))
                continue
            following += [posixpath.join(place, name) for name in sorted(folder.children())
                          if dockerignore.match(part, name)]  # fmt: skip
        reached = following
    for place in reached:
        file = tree.find(place)
        if file is not None:
            yield place, file


def source_checksum(sources: list[Source], *, owners: bool) -> str:
    """What decides whether a copy is the same as an earlier one: `file:…`, `dir:…` or `multi:…`."""
    digests = [
        f"{'dir' if source.file.directory else 'file'}:{checksum(source.file, owners=owners)}" for source in sources
    ]
    if len(sources) == 1:
        return digests[0]
    names = [posixpath.basename(source.name) for source in sources]
    return "multi:" + hashlib.sha256(repr(list(zip(names, digests, strict=True))).encode()).hexdigest()


@dataclass(slots=True)
class LayerPlan:
    """The entries of a layer in the order they are written; a later one of the same name replaces an earlier."""

    base: DirectoryTree | None
    owner: Owner
    entries: dict[str, tuple[Entry, File | None]]

    @classmethod
    def on(cls, base: DirectoryTree | None, owner: Owner = Owner(0, 0)) -> LayerPlan:
        """An empty layer on an image's root (None: on nothing); new directories will be `owner`'s."""
        return cls(base, owner, {})

    def resolve(self, path: str) -> str:
        """Where `path` is, symlinks of the base image followed."""
        return self.base.resolve(path) if self.base is not None else posixpath.normpath("/" + path.lstrip("/"))

    def is_directory(self, path: str) -> bool:
        """Whether there is a directory at `path` (resolved), in the layer or below it."""
        planned = self.entries.get(path)
        if planned is not None:
            return planned[0].kind == tar_format.DIRECTORY
        if path == "/":
            return True
        below = self.base.find(path, follow=False) if self.base is not None else None
        return below is not None and below.directory

    def make_directories(self, path: str) -> None:
        """See that `path` (resolved) and all above it are directories of the layer."""
        parts = [part for part in path.split("/") if part]
        for height in range(1, len(parts) + 1):
            place = "/" + "/".join(parts[:height])
            if place in self.entries:
                if self.entries[place][0].kind != tar_format.DIRECTORY:
                    raise InvalidParameter(f"failed to copy files: mkdir {place}: not a directory")
                continue
            below = self.base.find(place, follow=False) if self.base is not None else None
            if below is not None and below.directory:
                # The layer's own entry hides the one below, so it has to say the same.
                self.put(place, replace(below.entry), None)
            elif below is not None:
                raise InvalidParameter(f"failed to copy files: mkdir {place}: not a directory")
            else:
                entry = Entry("", tar_format.DIRECTORY, 0o755, self.owner.uid, self.owner.gid)
                self.put(place, entry, None)

    def put(self, place: str, entry: Entry, file: File | None) -> None:
        """Put one entry at `place` (absolute, resolved)."""
        name = place.lstrip("/")
        entry.name = f"{name}/" if entry.kind == tar_format.DIRECTORY else name
        if entry.kind != tar_format.REGULAR:
            entry.size = 0
        before = self.entries.pop(place, None)
        if before is not None and before[0].kind == tar_format.DIRECTORY and entry.kind != tar_format.DIRECTORY:
            for other in [other for other in self.entries if other.startswith(f"{place}/")]:
                del self.entries[other]
        if before is not None and before[0].kind == tar_format.DIRECTORY == entry.kind:
            self.entries[place] = (entry, file)
            self._after_children(place)
            return
        self.entries[place] = (entry, file)

    def _after_children(self, place: str) -> None:
        """A directory that was taken out and put in again must still come before what is in it."""
        for other in [other for other in self.entries if other.startswith(f"{place}/")]:
            self.entries[other] = self.entries.pop(other)

    def add(self, source: Source, destination: str, owner: Owner | None, mode: int | None) -> None:
        """Copy one source to `destination` (absolute; a trailing slash says it is a directory)."""
        target = self.resolve(destination)
        if source.file.directory:
            self._add_directory(source.file, target, owner, mode)
            return
        if source.unpack and isinstance(source.file, ArchiveFile) and (archive := _archive_in(source.file)) is not None:
            self._add_directory(ArchiveTree(archive).root, target, None, None)
            return
        if destination.endswith("/") or self.is_directory(target):
            target = self.resolve(posixpath.join(target, posixpath.basename(source.name)))
            if self.is_directory(target):
                raise InvalidParameter(f"failed to copy files: cannot copy to directory: {target}")
        self.make_directories(posixpath.dirname(target))
        self._add_one(target, source.file, owner, mode)

    def _add_directory(self, folder: File, target: str, owner: Owner | None, mode: int | None) -> None:
        self.make_directories(target)
        for place, file in walk(folder):
            if place:
                self._add_one(posixpath.join(target, place), file, owner, mode)

    def _add_one(self, place: str, file: File, owner: Owner | None, mode: int | None) -> None:
        entry = replace(file.entry)
        if entry.kind not in (
            tar_format.REGULAR,
            tar_format.DIRECTORY,
            tar_format.SYMLINK,
            tar_format.CHARACTER,
            tar_format.BLOCK_DEVICE,
            tar_format.FIFO,
        ):
            return  # a socket
        if owner is not None:
            entry.uid, entry.gid = owner.uid, owner.gid
        if mode is not None and entry.kind != tar_format.SYMLINK:
            entry.mode = mode
        self.put(place, entry, file)

    def pieces(self) -> Iterator[bytes]:
        """The layer as a tar stream, in pieces of about PIECE bytes."""
        buffer = bytearray()
        for entry, file in self.entries.values():
            buffer += tar_format.header(entry)
            if entry.kind == tar_format.REGULAR and file is not None:
                for piece in file.read():
                    buffer += piece
                    if len(buffer) >= PIECE:
                        yield bytes(buffer)
                        buffer.clear()
                buffer += bytes(tar_format.padding(entry.size))
        yield bytes(buffer + tar_format.END)


def _archive_in(file: ArchiveFile) -> BinaryIO | None:
    """The uncompressed tar archive that a file of the context is; None when it is none."""
    if file.entry.kind != tar_format.REGULAR or file.entry.size < 20:
        return None
    spool: IO[bytes] = tempfile.TemporaryFile(dir=_folder_of(file))  # noqa: SIM115  (returned open)
    try:
        for piece in file.read():
            spool.write(piece)
        return decompressed(cast(BinaryIO, spool))
    except BaseException:
        spool.close()
        raise


def _folder_of(file: ArchiveFile) -> str | None:
    """Where to keep what is unpacked: beside the context, whose file has no name but its folder has."""
    if file.archive is None:
        return None
    return posixpath.dirname(os.readlink(f"/proc/self/fd/{file.archive.fileno()}")) or None


def decompressed(file: BinaryIO) -> BinaryIO | None:
    """`file`, which is closed, as an uncompressed tar archive that can be sought in; None when it is no archive."""
    file.seek(0)
    head = file.read(tar_format.BLOCK)
    file.seek(0)
    reader: Any = None
    if head.startswith(b"\x1f\x8b"):
        reader = igzip.IGzipFile(fileobj=file)
    elif head.startswith(b"BZh"):
        reader = bz2.BZ2File(file)
    elif head.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        reader = lzma.LZMAFile(file)  # noqa: SIM115  (closed with `file`)
    elif head.startswith(b"\x28\xb5\x2f\xfd"):
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    if reader is None:
        return file if _is_tar(file) else None
    folder = posixpath.dirname(os.readlink(f"/proc/self/fd/{file.fileno()}"))
    plain: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (returned open)
    try:
        while piece := reader.read(PIECE):
            plain.write(piece)
    except (OSError, EOFError, ValueError, lzma.LZMAError, zstandard.ZstdError):
        plain.close()
        return None
    file.close()
    return cast(BinaryIO, plain) if _is_tar(cast(BinaryIO, plain)) else None


def _is_tar(file: BinaryIO) -> bool:
    file.seek(0)
    try:
        return tar_format.Reader(file.read).next() is not None
    except InvalidParameter:
        return False
    finally:
        file.seek(0)
