"""A layer before it is written: what COPY, ADD and WORKDIR put where, on top of an image's root.

What the image has at a place decides where things go (a directory is copied into, a link is followed inside the root),
so it is looked at; then the layer is written as one archive that overlays it. An entry of a layer hides what is below,
so a directory that is only passed through is repeated with all its attributes.
"""

from __future__ import annotations

import errno
import posixpath
import time
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO

from dockyard.builder.archives import spooled, uncompressed
from dockyard.builder.trees import ArchiveFile, DirectoryTree, File, components, members, walk
from dockyard.content import tar_format
from dockyard.content.extraction import OPAQUE, WHITEOUT
from dockyard.content.tar_format import Entry
from dockyard.dockerfile.file_mode import ModeChange
from dockyard.errors import InvalidParameter
from dockyard.linux.rooted import resolved

PIECE = 1 << 20
KINDS = (
    tar_format.REGULAR,
    tar_format.DIRECTORY,
    tar_format.SYMLINK,
    tar_format.CHARACTER,
    tar_format.BLOCK_DEVICE,
    tar_format.FIFO,
)
ROOT = Entry("", tar_format.DIRECTORY, 0o755)


@dataclass(frozen=True, slots=True)
class Source:
    """One file or directory to copy; `name` is what it is called, `unpack`: it may be an archive to unpack.

    `place`: where below the destination it goes, `above`: the directories on the way there, as they are to be;
    `identity`: what tells it from others, if its contents do not.
    """

    name: str
    file: File
    unpack: bool = False
    place: str = ""
    above: tuple[tuple[str, File], ...] = ()
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Owner:
    """To whom copied files belong."""

    uid: int
    gid: int


@dataclass(slots=True, eq=False)
class Node:
    """An inode of the layer; hard links are one node at several places.

    `opaque`: a directory that hides the one below it. `dated`: its time was given and what is put into it later does
    not change that.
    """

    entry: Entry
    file: File | None = None
    opaque: bool = False
    dated: bool = False

    @property
    def directory(self) -> bool:
        """Whether it holds others."""
        return self.entry.kind == tar_format.DIRECTORY


class LayerPlan:
    """The nodes of a layer by their place (absolute, without links), parents before what is in them."""

    def __init__(self, base: DirectoryTree | None, owner: Owner = Owner(0, 0), mode: int = 0o755) -> None:
        """An empty layer on an image's root (None: on nothing).

        Directories made on the way will be `owner`'s and have the permissions `mode`.
        """
        self._base = base
        self._owner = owner
        self._mode = mode
        self._time: int | None = None  # that what is put there has, whatever its own
        self._removed: set[str] = set()
        self._joined: dict[Hashable, Node] = {}
        self.now = time.time_ns()
        self._nodes: dict[str, Node] = {}
        self._resolved: dict[str, str] = {}
        self._archives: list[BinaryIO] = []  # that nodes are read from
        self.unpacked_owner: Owner | None = None  # of what archives hold; None: whoever they say

    def go_on(self, owner: Owner, mode: int, time_ns: int | None) -> None:
        """From here on directories are made so, and all is dated `time_ns` unless that is None."""
        self._owner, self._mode, self._time = owner, mode, time_ns

    def close(self) -> None:
        """Close what has been unpacked into it: the layer is made, or given up."""
        for archive in self._archives:
            archive.close()

    # -- what is there so far

    def _at(self, place: str) -> Entry | None:
        """What is at `place`, in the layer or below it."""
        node = self._nodes.get(place)
        if node is not None:
            return node.entry
        if place == "/":
            return ROOT
        below = self._below(place)
        return below.entry if below is not None else None

    def _below(self, place: str) -> File | None:
        """What the image has at `place`, where the layer does not hide it."""
        if self._base is None or place in self._removed:
            return None
        above = posixpath.dirname(place)
        while above != "/":
            if above in self._removed:
                return None
            node = self._nodes.get(above)
            if node is not None and (node.opaque or not node.directory):
                return None
            above = posixpath.dirname(above)
        return self._base.find(place, follow=False)

    def resolve(self, path: str) -> str:
        """Where `path` is, every link followed inside the root; what is missing stays as it is.

        Raises InvalidParameter for links in a circle.
        """
        known = self._resolved.get(path)
        if known is not None:
            return known
        try:
            done = resolved(path, self._link_at)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise InvalidParameter(f"failed to copy files: {path}: too many levels of symbolic links") from None
        self._resolved[path] = done
        return done

    def _link_at(self, place: str) -> str | None:
        entry = self._at(place)
        return entry.link if entry is not None and entry.kind == tar_format.SYMLINK else None

    def at(self, place: str) -> File | None:
        """The file at `place` (resolved), in the layer or below it; None for one that is of neither, and for none."""
        node = self._nodes.get(place)
        return node.file if node is not None else self._below(place)

    def exists(self, place: str) -> bool:
        """Whether there is anything at `place` (resolved), in the layer or below it."""
        return self._at(place) is not None

    def entry(self, place: str) -> Entry | None:
        """What is at `place` (resolved), in the layer or below it; not to be changed."""
        return self._at(place)

    def names(self, place: str) -> list[str]:
        """What is in the directory at `place` (resolved), in the layer and below it, in order."""
        found = {posixpath.basename(other) for other in self._nodes if posixpath.dirname(other) == place != other}
        node = self._nodes.get(place)
        below = self._base.find("/") if place == "/" and self._base is not None else self._below(place)
        if below is not None and below.directory and not (node is not None and node.opaque):
            found.update(name for name in below.children() if self.exists(posixpath.join(place, name)))
        return sorted(name for name in found if not name.startswith(WHITEOUT))

    @property
    def places(self) -> set[str]:
        """Everything that the layer has an entry for."""
        return set(self._nodes)

    @property
    def empty(self) -> bool:
        """Whether the layer says nothing."""
        return not self._nodes

    def is_directory(self, place: str) -> bool:
        """Whether there is a directory at `place` (resolved), in the layer or below it."""
        entry = self._at(place)
        return entry is not None and entry.kind == tar_format.DIRECTORY

    # -- putting things there

    def make_directories(self, place: str) -> None:
        """See that `place` (resolved) and all above it are directories of the layer. Raises InvalidParameter."""
        parts = components(place)
        for height in range(1, len(parts) + 1):
            path = "/" + "/".join(parts[:height])
            entry = self._nodes[path].entry if path in self._nodes else None
            if entry is None:
                below = self._below(path)
                if below is None:
                    made = Entry("", tar_format.DIRECTORY, self._mode, self._owner.uid, self._owner.gid, 0, self.now)
                    made.mtime_ns = self.now if self._time is None else self._time
                    self._put(path, Node(made, dated=self._time is not None))
                    continue
                entry = replace(below.entry)
                if entry.kind == tar_format.DIRECTORY:
                    self._nodes[path] = Node(entry)  # there before, so nothing about its parent changes
            if entry.kind != tar_format.DIRECTORY:
                raise InvalidParameter(f"failed to copy files: mkdir {path}: not a directory")

    def _put(self, place: str, node: Node) -> None:
        """Put a node at `place`, whose parent is in the layer; it takes the place of what is there, or joins it."""
        before = self._nodes.get(place)
        if node.entry.kind == tar_format.SYMLINK or before is not None:
            self._resolved.clear()
        if place in self._removed:  # what was there stays hidden, by the new one itself
            self._removed.discard(place)
            self._nodes.pop(_whiteout(place), None)
            node.opaque = node.directory
        if before is not None and before.directory and node.directory:
            before.entry, before.dated = node.entry, node.dated
            return
        if before is not None:
            del self._nodes[place]
            if before.directory:
                for other in [other for other in self._nodes if other.startswith(f"{place}/")]:
                    del self._nodes[other]
            # The file that was here hid what the image has; the directory must go on doing so.
            node.opaque = node.directory
        self._nodes[place] = node
        parent = self._nodes.get(posixpath.dirname(place))
        if parent is not None and not parent.dated:
            parent.entry.mtime_ns = self.now

    def add_folder(self, folder: File, place: str, owner: Owner | None, mode: ModeChange | None) -> None:
        """Have a directory at `place` that is as `folder` is, but empty."""
        target = self.resolve(place)
        if target != "/" and not self.is_directory(target):
            self.make_directories(posixpath.dirname(target))
            self._add_one(target, folder, owner, mode, {})

    def put(self, place: str, entry: Entry, file: File | None) -> None:
        """Have exactly this at `place` (resolved), whose directory is there. `file`: what a regular one holds."""
        self.make_directories(posixpath.dirname(place))
        self._put(place, Node(entry, file, dated=True))

    def put_as_it_is(self, place: str, file: File) -> None:
        """Have at `place` (resolved) what `file` is, but not what is in it; names of one file stay that."""
        self.make_directories(posixpath.dirname(place))
        self._add_one(place, file, None, None, self._joined)

    def put_tree(self, folder: File, target: str, owner: Owner | None, mode: ModeChange | None) -> None:
        """Copy a directory with all that is in it to `target` (resolved); its own attributes only if that is new."""
        self.make_directories(posixpath.dirname(target))
        if target != "/" and not self.is_directory(target):
            self._add_one(target, folder, owner, mode, {})
        self._add_directory(folder, target, owner, mode)

    def remove(self, place: str) -> None:
        """Take away what is at `place` (the directory resolved, the last name as it is)."""
        below = self._below(place) is not None or place in self._removed
        for other in [other for other in self._nodes if other == place or other.startswith(f"{place}/")]:
            del self._nodes[other]
        self._resolved.clear()
        if below:
            self._removed.add(place)
            self.hide(place)

    def hide(self, place: str) -> None:
        """Say that nothing is at `place`, whatever there is below the layer."""
        self.make_directories(posixpath.dirname(place))
        self._nodes[_whiteout(place)] = Node(Entry("", mode=0, mtime_ns=self.now), dated=True)

    def add(self, source: Source, destination: str, owner: Owner | None, mode: ModeChange | None) -> None:
        """Copy one source to `destination` (absolute; a trailing slash says it is a directory)."""
        target = self.resolve(destination)
        if source.file.directory:
            self._add_directory(source.file, target, owner, mode)
            return
        if source.unpack and isinstance(source.file, ArchiveFile) and self.unpack(source.file, target):
            return
        if destination.endswith("/") or self.is_directory(target):
            target = self.resolve(posixpath.join(target, posixpath.basename(source.name)))
            if self.is_directory(target):
                raise InvalidParameter(f"failed to copy files: cannot copy to directory: {target}")
        self.make_directories(posixpath.dirname(target))
        self._add_one(target, source.file, owner, mode, {})

    def _add_directory(self, folder: File, target: str, owner: Owner | None, mode: ModeChange | None) -> None:
        self.make_directories(target)
        copied: dict[Hashable, Node] = {}
        for place, file in walk(folder):
            if place:
                self._add_one(posixpath.join(target, place), file, owner, mode, copied)

    def _add_one(
        self, place: str, file: File, owner: Owner | None, mode: ModeChange | None, copied: dict[Hashable, Node]
    ) -> None:
        """Copy one file to `place`; `copied` holds what the files of this source became that have several names."""
        if file.entry.kind not in KINDS:
            return  # a socket
        if file.inode is not None and file.inode in copied:
            self._put(place, copied[file.inode])
            return
        entry = replace(file.entry)
        if owner is not None:
            entry.uid, entry.gid = owner.uid, owner.gid
        if mode is not None and entry.kind != tar_format.SYMLINK:
            entry.mode = mode(entry.mode, entry.kind == tar_format.DIRECTORY)
        if self._time is not None:
            entry.mtime_ns = self._time
        node = Node(entry, file, dated=True)
        self._put(place, node)
        if file.inode is not None:
            copied[file.inode] = node

    # -- archives

    def unpack(self, file: File, target: str) -> bool:
        """Unpack what `file` holds into the directory `target`; whether it was an archive.

        Raises InvalidParameter for one that is damaged.
        """
        if file.entry.kind != tar_format.REGULAR:
            return False
        spool = spooled(file)
        self._archives.append(spool)
        archive = uncompressed(spool)
        if archive is None:
            spool.close()
            return False
        self._archives.append(archive)
        self.make_directories(target)
        for member in members(archive):
            self._unpack_one(member, target)
        return True

    def _unpack_one(self, member: ArchiveFile, target: str) -> None:
        """What one entry of an archive makes of the root, as if it were unpacked there by a chrooted tar.

        Only what the archive lists is made; other directories are those that are there, wherever links lead to them.
        """
        parts = components(member.entry.name)
        if not parts:
            return  # the target itself stays as it is
        if self.unpacked_owner is not None:
            member.entry.uid, member.entry.gid = self.unpacked_owner.uid, self.unpacked_owner.gid
        folder = self.resolve(posixpath.join(target, *parts[:-1]))
        self.make_directories(folder)
        place = posixpath.join(folder, parts[-1])
        if member.entry.kind == tar_format.HARD_LINK:
            self._put(place, self._linked(member.entry, target, place))
        elif member.entry.kind in KINDS:
            if member.entry.kind == tar_format.SYMLINK:
                member.entry.mode = 0o777  # whatever the archive says: links have no other
            self._put(place, Node(member.entry, member, dated=True))

    def _linked(self, entry: Entry, target: str, place: str) -> Node:
        """The node that a hard link of an archive names, with what the link says of it (tar sets that last)."""
        parts = components(entry.link)
        folder = self.resolve(posixpath.join(target, *parts[:-1]))
        linked = posixpath.join(folder, parts[-1]) if parts else target
        node = self._nodes.get(linked)
        if node is None and (below := self._below(linked)) is not None:
            node = Node(replace(below.entry), below, dated=True)
            if not node.directory:
                self.make_directories(folder)
                self._nodes[linked] = node  # the image's file becomes the layer's, or the two would not be one
        if node is None or node.directory or linked == place:
            reason = "operation not permitted" if node is not None and node.directory else "no such file or directory"
            raise InvalidParameter(f"failed to copy files: link {linked} {place}: {reason}")
        if node.entry.kind != tar_format.SYMLINK:
            node.entry.mode, node.entry.mtime_ns = entry.mode, entry.mtime_ns
        node.entry.uid, node.entry.gid = entry.uid, entry.gid
        return node

    # -- other layers

    def merge(self, archive: BinaryIO, *, below: bool) -> None:
        """Put a layer on top of what is here; `archive` stays open while that is read.

        `below`: there is something to hide, so that what it takes away is noted, too.

        Raises InvalidParameter for a damaged one.
        """
        for member in members(archive):
            parts = components(member.entry.name)
            if parts:
                self._merge_one(member, f"/{'/'.join(parts)}", below=below)
        self._nodes = dict(sorted(self._nodes.items(), key=lambda item: components(item[0])))

    def keep_directories(self, entries: Mapping[str, Entry]) -> None:
        """Give directories of the layer, by their places, the owner and the permissions that they have below it."""
        for place, entry in entries.items():
            own = self._nodes[place].entry
            own.mode, own.uid, own.gid, own.xattrs = entry.mode, entry.uid, entry.gid, entry.xattrs

    def _merge_one(self, member: ArchiveFile, place: str, *, below: bool) -> None:
        folder, name = posixpath.split(place)
        if name == OPAQUE:
            self._forget_below(folder)
            self._nodes[folder].opaque = below
            return
        if name.startswith(WHITEOUT):
            hidden = posixpath.join(folder, name.removeprefix(WHITEOUT))
            self._nodes.pop(hidden, None)
            self._forget_below(hidden)
            if below:
                self._nodes[place] = Node(member.entry)  # what the base has there stays hidden
            return
        before = self._nodes.get(place)
        hid = self._nodes.pop(posixpath.join(folder, WHITEOUT + name), None) is not None
        if member.entry.kind == tar_format.HARD_LINK:
            node = self._nodes.get("/" + "/".join(components(member.entry.link)))
            if node is None or node.directory:
                raise InvalidParameter(f"{member.entry.name} is a hard link to nothing: {member.entry.link}")
        else:
            node = Node(member.entry, member, dated=True)
        if before is not None and not node.directory:
            self._forget_below(place)
        if node.directory:
            # on a directory it is that one with other permissions; on what hid the base's it goes on hiding that
            is_same = before is not None and before.directory
            node.opaque = below and (before.opaque if is_same and before is not None else hid or before is not None)
        self._nodes[place] = node

    def _forget_below(self, place: str) -> None:
        for other in [other for other in self._nodes if other.startswith(f"{place.rstrip('/')}/")]:
            del self._nodes[other]

    # -- the archive

    def pieces(self) -> Iterator[bytes]:
        """The layer as a tar stream, in pieces of about PIECE bytes."""
        buffer = bytearray()
        first: dict[int, str] = {}
        for place, node in self._nodes.items():
            entry, name = node.entry, place.lstrip("/")
            link = first.setdefault(id(node), name)
            if link != name:
                entry = replace(entry, name=name, kind=tar_format.HARD_LINK, link=link, size=0, xattrs={})
                buffer += tar_format.header(entry)
                continue
            entry.name = f"{name}/" if node.directory else name
            if entry.kind != tar_format.REGULAR:
                entry.size = 0
            buffer += tar_format.header(entry)
            if node.opaque:
                buffer += tar_format.header(Entry(f"{name}/{OPAQUE}", mode=0, mtime_ns=entry.mtime_ns))
            if entry.kind == tar_format.REGULAR and node.file is not None:
                for piece in node.file.read():
                    buffer += piece
                    if len(buffer) >= PIECE:
                        yield bytes(buffer)
                        buffer.clear()
                buffer += bytes(tar_format.padding(entry.size))
        yield bytes(buffer + tar_format.END)


def _whiteout(place: str) -> str:
    """Where a layer says that there is nothing at `place`."""
    folder, name = posixpath.split(place)
    return posixpath.join(folder, WHITEOUT + name)
