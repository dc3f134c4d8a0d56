"""Directories of clients as they were sent last: a client sends a file again only when it has changed.

A directory's files lie one behind the other in a single file (the pack), with an index of names, dates and digests
beside it. They are never unpacked: nothing that a client calls a file can reach another place, and ten thousand small
files cost ten thousand writes and not as many files. An index names only what is on the disk when it is written.

For some minutes it is remembered, too, what a client has said word for word: as long as it says the same again, nothing
has to be looked at one by one.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from dockyard.builder.trees import ArchiveFile, ArchiveTree
from dockyard.content import tar_format
from dockyard.content.tar_format import Entry
from dockyard.errors import InvalidParameter
from dockyard.folders import own_folder
from dockyard.linux.durability import sync_path

LARGEST_FILE = 1 << 42
MOST_FILES = 5_000_000
WASTE = 64 << 20  # bytes of a pack that nobody may name before it is written anew
# what was said last of directories that no build reads: for how many s, of how many, how many files each
REMEMBERED_FOR, MOST_REMEMBERED, MOST_PACKETS = 300.0, 2, 100_000


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """A file in the pack, and by what it is known to be the same."""

    size: int
    time_ns: int
    mode: int
    offset: int
    digest: bytes


class Index(msgspec.Struct):
    """What is in a pack. `used`: UNIX s."""

    name: str
    pack: str
    files: dict[str, Kept]
    used: float


class Listing:
    """All that a client has said of a directory, as packets, and what came of it."""

    def __init__(self, packets: list[bytes], tree: ArchiveTree, kept: dict[str, Kept], pack: BinaryIO) -> None:
        self.packets = packets
        self.tree = tree
        self.kept = kept
        self.pack = pack


class StoredContext:
    """One directory's pack and index."""

    def __init__(self, folder: Path, name: str, *, passing: bool = False) -> None:
        """Open what is there, or begin anew. `passing`: nobody will ask for it again."""
        self.passing = passing
        self.folder = folder
        self.name = name
        self.busy = 0
        self._saving = threading.Lock()
        self._index = self._load() or Index(name, "pack-0", {}, time.time())
        self.pack = _opened(folder / self._index.pack)
        self.end = self.pack.seek(0, os.SEEK_END)
        self.known = self._index.files
        self.listing: Listing | None = None

    def _load(self) -> Index | None:
        try:
            index = msgspec.msgpack.decode((self.folder / "index").read_bytes(), type=Index)
            size = (self.folder / index.pack).stat().st_size
        except (OSError, msgspec.DecodeError):
            return None
        index.files = {path: kept for path, kept in index.files.items() if kept.offset + kept.size <= size}
        return index

    def reserve(self, size: int) -> int:
        """Room for a file at the end of the pack; its offset."""
        offset = self.end
        self.end += size
        return offset

    def save(self, files: dict[str, Kept]) -> None:
        """Note what has been received, once it is on the disk; to be called in a thread."""
        with self._saving:  # of two builds that end at one time one after the other
            self._save(files)

    def _save(self, files: dict[str, Kept]) -> None:
        self.known = self._index.files = files
        self._index.used = time.time()
        os.fdatasync(self.pack.fileno())
        fresh = self.folder / "index.new"
        fresh.write_bytes(msgspec.msgpack.encode(self._index))
        sync_path(str(fresh))
        fresh.replace(self.folder / "index")

    def tidy(self) -> None:
        """Begin a new pack when too little of it is named: the files are sent again when they are wanted."""
        if self.end - sum(kept.size for kept in self.known.values()) <= max(WASTE, self.end // 2):
            return
        self.listing = None
        old = self._index.pack
        self._index.pack = f"pack-{int(old.rpartition('-')[2]) + 1}"
        self.known = self._index.files = {}
        self.pack.close()
        (self.folder / "index").unlink(missing_ok=True)
        (self.folder / old).unlink(missing_ok=True)
        self.pack = _opened(self.folder / self._index.pack)
        self.end = 0


class ContextStore:
    """All directories that clients have sent."""

    def __init__(self, root: Path) -> None:
        self._root = own_folder(root)
        self._open: dict[str, StoredContext] = {}
        self._remembered: dict[str, asyncio.TimerHandle] = {}  # of those that no build reads, oldest first

    def open(self, name: str, *, passing: bool = False) -> StoredContext:
        """The directory known as `name`; give it back with `close`.

        `passing`: then it goes, for it is one session's own.
        """
        digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
        found = self._open.get(digest)
        if found is None:
            found = self._open[digest] = StoredContext(own_folder(self._root / digest), name, passing=passing)
        elif not found.busy:
            self._remembered.pop(digest).cancel()
        found.busy += 1
        return found

    def close(self, context: StoredContext) -> None:
        """One less reads from it."""
        context.busy -= 1
        if context.busy:
            return
        if context.passing:
            self._discard(context)
            return
        context.tidy()
        timer = asyncio.get_running_loop().call_later(REMEMBERED_FOR, self._forget, context)
        self._remembered[context.folder.name] = timer
        if context.listing is None:
            self._forget(context)
        while len(self._remembered) > MOST_REMEMBERED:
            self._forget(self._open[next(iter(self._remembered))])

    def _discard(self, context: StoredContext) -> None:
        """Have nothing of it any more; another of its name may come meanwhile."""
        self._open.pop(context.folder.name)
        context.pack.close()
        gone = context.folder.rename(self._root / f"gone-{secrets.token_hex(16)}")
        asyncio.get_running_loop().run_in_executor(None, shutil.rmtree, gone, True)

    def _forget(self, context: StoredContext) -> None:
        self._remembered.pop(context.folder.name).cancel()
        self._open.pop(context.folder.name)
        context.pack.close()

    def release(self, folder: str) -> bool:
        """Whether no build reads from a directory, which is then forgotten: its folder may be removed."""
        found = self._open.get(folder)
        if found is not None and not found.busy:
            self._forget(found)
        return folder not in self._open

    def rows(self) -> list[tuple[str, str, int, float, bool]]:
        """(folder, name, bytes, used at UNIX s, in use) of every directory; to be called in a thread."""
        found = []
        for folder in self._root.iterdir():
            try:
                index = msgspec.msgpack.decode((folder / "index").read_bytes(), type=Index)
                size = sum(os.stat(file).st_blocks * 512 for file in folder.iterdir())
            except (OSError, msgspec.DecodeError):
                continue
            found.append((folder.name, index.name, size, index.used, self._is_busy(folder.name)))
        return found

    def _is_busy(self, folder: str) -> bool:
        found = self._open.get(folder)
        return found is not None and found.busy > 0

    def remove(self, folder: str) -> None:
        """Remove a directory that was released; to be called in a thread."""
        for file in (self._root / folder).iterdir():
            file.unlink()
        (self._root / folder).rmdir()


class Incoming:
    """A file on its way into the pack."""

    def __init__(self, path: str, entry: Entry, file: ArchiveFile, offset: int) -> None:
        self.path = path
        self.entry = entry
        self.file = file
        self.offset = offset
        self.room = entry.size
        self.come = 0
        self.hash = hashlib.sha256()


class Receiver:
    """Takes up what a client says is in its directory, and says which of the files it has to send."""

    def __init__(self, context: StoredContext, told: Callable[[int], None]) -> None:
        self._context = context
        self._told = told
        self.tree = ArchiveTree()
        self._folders: dict[str, ArchiveFile] = {"": self.tree.root}
        self._files: dict[str, ArchiveFile] = {}
        self._kept: dict[str, Kept] = {}
        self._incoming: dict[int, Incoming] = {}
        self._count = 0
        self._bytes = 0
        self.listed = False
        before = context.listing
        self._before = before if before is not None and before.pack is context.pack else None
        self._repeated: Listing | None = None
        self._same = 0  # packets that were as before
        self._heard: list[bytes] = []

    @property
    def complete(self) -> bool:
        """Whether everything is here."""
        return self.listed and not self._incoming

    def said_before(self, packets: list[bytes]) -> bool:
        """Whether the client goes on saying what it said last time; nothing is to be done about these then."""
        before = self._before
        if before is None or before.packets[self._same : self._same + len(packets)] != packets:
            return False
        self._same += len(packets)
        if self._same == len(before.packets):
            self.tree, self._kept, self.listed = before.tree, before.kept, True
            self._before, self._repeated = None, before  # what comes now is no part of the list
        return True

    def so_far(self) -> list[bytes]:
        """The packets that were as before, now that one is not: they are to be taken up one by one after all."""
        found = self._before.packets[: self._same] if self._before is not None else []
        self._before = None
        return found

    def hear(self, packet: bytes) -> None:
        """Remember a packet of the list."""
        if len(self._heard) <= MOST_PACKETS:
            self._heard.append(packet)

    def listing(self) -> Listing | None:
        """What is to be remembered; None for what a build may have to look at again."""
        if self._repeated is not None:
            return self._repeated
        if len(self._heard) > MOST_PACKETS or len(self._kept) != len(self._files):
            return None
        return Listing(self._heard, self.tree, self._kept, self._context.pack)

    def entry(self, path: str, entry: Entry, hard_link: str) -> int | None:
        """One more thing that the directory holds; its number when its content is wanted.

        Raises InvalidParameter for a path that leads out, or is there already.
        """
        number = self._count
        self._count += 1
        if self._count > MOST_FILES:
            raise InvalidParameter("the context has too many files")
        folder, _, name = path.rpartition("/")
        parent = self._folders.get(folder)
        if not name or name in (".", "..") or "\0" in path or parent is None or name in parent.inner:
            raise InvalidParameter(f"the client sends a file with an impossible name: {path!r}")
        if hard_link:
            linked = self._files.get(hard_link)
            if linked is None:
                raise InvalidParameter(f"{path!r} is a hard link to nothing: {hard_link!r}")
            parent.inner[name] = linked
            return None
        file = ArchiveFile(entry)
        parent.inner[name] = file
        if entry.kind == tar_format.DIRECTORY:
            self._folders[path] = file
            return None
        if entry.kind != tar_format.REGULAR:
            return None
        self._files[path] = file
        if not 0 <= entry.size < LARGEST_FILE:
            raise InvalidParameter(f"{path!r} is too large")
        known = self._context.known.get(path)
        file.archive = self._context.pack
        if known is not None and (known.size, known.time_ns, known.mode) == (entry.size, entry.mtime_ns, entry.mode):
            file.offset, file.digest = known.offset, known.digest
            self._kept[path] = known
            return None
        self._incoming[number] = Incoming(path, entry, file, self._context.reserve(entry.size))
        return number

    def skip(self) -> int | None:
        """Something that no image can hold, a socket; it has its number all the same."""
        self._count += 1
        return None

    def end_of_list(self) -> None:
        """All has been listed."""
        self.listed = True

    def data(self, number: int, piece: bytes) -> None:
        """A piece of a file that was asked for; empty: its end. Raises InvalidParameter."""
        incoming = self._incoming.get(number)
        if incoming is None:
            raise InvalidParameter(f"the client sends a file that it was not asked for: {number}")
        if piece:
            self._write(incoming, piece)
            return
        del self._incoming[number]
        incoming.file.offset = incoming.offset
        digest = incoming.hash.digest()
        incoming.file.digest = digest
        entry = incoming.entry
        known = Kept(entry.size, entry.mtime_ns, entry.mode, incoming.offset, digest)
        if incoming.come == entry.size:
            self._kept[incoming.path] = known
        entry.size = incoming.come  # it has changed while it was sent

    def _write(self, incoming: Incoming, piece: bytes) -> None:
        fd = self._context.pack.fileno()
        if incoming.come + len(piece) > incoming.room:
            incoming.room = 2 * (incoming.come + len(piece))
            if incoming.room > LARGEST_FILE:
                raise InvalidParameter(f"{incoming.path!r} is too large")
            offset = self._context.reserve(incoming.room)
            for place in range(0, incoming.come, 1 << 20):
                size = min(1 << 20, incoming.come - place)
                _pwrite(fd, os.pread(fd, size, incoming.offset + place), offset + place)
            incoming.offset = offset
        _pwrite(fd, piece, incoming.offset + incoming.come)
        incoming.come += len(piece)
        incoming.hash.update(piece)
        self._bytes += len(piece)
        self._told(self._bytes)

    def kept(self) -> dict[str, Kept]:
        """What the index is to name from now on."""
        return self._kept


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0))


def _pwrite(fd: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def tree_of(paths: Sequence[tuple[str, bytes]]) -> ArchiveTree:
    """A tree of a few files in memory."""
    tree = ArchiveTree()
    for path, content in paths:
        tree.add(path, content)
    return tree
