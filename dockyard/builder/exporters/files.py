"""A build's result as files on the client's side, in a directory or a tar archive, with what is said about them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Hashable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import msgspec

from dockyard.builder.attestations.statements import Attestation, Subject
from dockyard.builder.attributes import flag
from dockyard.builder.exporters.writer import Results
from dockyard.builder.graph.request import Built
from dockyard.builder.trees import ArchiveFile, ArchiveTree, File, walk
from dockyard.content import tar_format
from dockyard.content.tar_format import Entry
from dockyard.errors import InvalidParameter
from dockyard.generators import closing, from_thread

PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class FileOptions:
    """Where files go: each platform's into a directory of its name, or together. `prefix`: of attestations' names."""

    split: bool
    prefix: str = ""


def file_options(results: Results, attributes: Mapping[str, str]) -> FileOptions:
    """What an exporter's attributes ask for. Raises InvalidParameter."""
    split = flag(attributes, "platform-split", results.several)
    return FileOptions(split, attributes.get("attestation-prefix", ""))


async def export_directory(results: Results, attributes: Mapping[str, str], number: int) -> dict[str, str]:
    """Write the files of every platform. What the client is told."""
    options = file_options(results, attributes)
    async with results.job.shown("exporting to client directory") as part:
        for platform, built in results.found.items():
            async with AsyncExitStack() as stack:
                root = await _root(results, platform, built, options, stack)
                if options.split:
                    root = Folder({_folder(platform, built): root})
                await results.job.client.directory_to(number, root, _epoch_ns(built))
        part("copying files", 0, 0, True)
    return {}


async def export_tar(results: Results, attributes: Mapping[str, str], number: int) -> dict[str, str]:
    """Write the files as one archive. What the client is told."""
    options = file_options(results, attributes)
    job = results.job
    async with job.shown("exporting to client tarball") as part, job.client.file_to(number, {}) as write:
        sent = 0
        async with AsyncExitStack() as stack, closing(await _archive(results, options, stack)) as pieces:
            async for piece in pieces:
                await write(piece)
                sent += len(piece)
        part("sending tarball", sent, sent, True)
    return {}


async def _archive(results: Results, options: FileOptions, stack: AsyncExitStack) -> AsyncIterator[bytes]:
    job, found = results.job, results.found
    (platform, built), *others = found.items()
    plain = not others and not options.split and built.epoch is None
    if plain and not results.wanted(platform, inline=False):
        rootfs = await job.rootfs(built.vertex)
        if rootfs.chain_id is not None:
            path = await stack.enter_async_context(job.solver.mounted(rootfs.chain_id))
            return job.solver.layers.archives.pack_tree(path)
    roots: dict[str, File] = {}
    for name, each in found.items():
        roots[_folder(name, each)] = await _root(results, name, each, options, stack)
    if options.split:
        return from_thread(_packed(Folder(roots), _epoch_ns(built)))
    merged: dict[str, File] = {}
    for root in roots.values():
        merged |= root.children()
    return from_thread(_packed(Folder(merged), _epoch_ns(built)))


def _folder(platform: str, built: Built) -> str:
    """The name of a platform's directory."""
    return (platform or built.platform).replace("/", "_")


def _epoch_ns(built: Built) -> int | None:
    return built.epoch * 10**9 if built.epoch is not None else None


class Folder:
    """A directory that is made of others' files."""

    def __init__(self, inner: Mapping[str, File], entry: Entry | None = None) -> None:
        self.entry = entry or Entry("", tar_format.DIRECTORY, 0o755)
        self._inner = inner

    @property
    def inode(self) -> Hashable:
        return None

    @property
    def directory(self) -> bool:
        return True

    def children(self) -> Mapping[str, File]:
        return self._inner

    def read(self) -> Iterator[bytes]:
        return iter(())


async def _root(results: Results, platform: str, built: Built, options: FileOptions, stack: AsyncExitStack) -> File:
    """One platform's files, with the statements about them beside them."""
    job = results.job
    tree = await stack.enter_async_context(job.solver.tree(await job.rootfs(built.vertex)))
    root: File = ArchiveTree().root
    if tree is not None:
        whole = tree.find("")
        assert whole is not None
        root = whole
    wanted = results.wanted(platform, inline=False)
    if not wanted:
        return root
    subjects = await asyncio.to_thread(_subjects, root)
    inner = dict(root.children())
    suffix = f".{_folder(platform, built)}" if results.several and not options.split else ""
    for attestation in wanted:
        name = _file_name(attestation, options.prefix, suffix)
        if name in inner:
            raise InvalidParameter(f"duplicate attestation path name {name}")
        content = msgspec.json.format(await attestation.statement(subjects), indent=2)
        entry = Entry("", mode=0o600, size=len(content), mtime_ns=_epoch_ns(built) or time.time_ns())
        inner[name] = ArchiveFile(entry, content=content)
    return Folder(inner, root.entry)


def _file_name(attestation: Attestation, prefix: str, suffix: str) -> str:
    stem, extension = os.path.splitext(os.path.basename(attestation.file_name))
    return f"{prefix}{stem}{suffix}{extension}"


def _subjects(root: File) -> Sequence[Subject]:
    """All regular files, which are what statements about files are about."""
    found = []
    for place, file in walk(root):
        if file.entry.kind == tar_format.REGULAR:
            hasher = hashlib.sha256()
            for piece in file.read():
                hasher.update(piece)
            found.append(Subject(place, {"sha256": hasher.hexdigest()}))
    return found


def _packed(root: File, time_ns: int | None) -> Iterator[bytes]:
    """Files as a tar stream; `time_ns`: what every one is dated, if given."""
    buffer = bytearray()
    first: dict[Hashable, str] = {}
    for place, file in walk(root):
        if not place or not file.entry.kind:
            continue
        entry = replace(file.entry, name=f"{place}/" if file.directory else place, sparse=None)
        entry.mtime_ns = entry.mtime_ns if time_ns is None else time_ns
        link = first.setdefault(file.inode, place) if file.inode is not None else place
        if link != place:
            entry = replace(entry, kind=tar_format.HARD_LINK, link=link, xattrs={})
        regular = entry.kind == tar_format.REGULAR
        entry.size = entry.size if regular else 0
        buffer += tar_format.header(entry)
        for piece in file.read() if regular else ():
            buffer += piece
            if len(buffer) >= PIECE:
                yield bytes(buffer)
                buffer.clear()
        buffer += bytes(tar_format.padding(entry.size))
    yield bytes(buffer + tar_format.END)
