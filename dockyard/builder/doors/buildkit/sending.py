"""A directory on its way to a client: fsutil's protocol, of which we are the sender (tonistiigi/fsutil, send.go)."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator

from dockyard.builder.doors.buildkit.file_modes import go_mode
from dockyard.builder.trees import File, walk
from dockyard.buildkit import wire_pb2 as wire
from dockyard.content import tar_format
from dockyard.errors import InvalidParameter, Unavailable
from dockyard.grpc.calls import Call
from dockyard.grpc.connection import StreamReset
from dockyard.grpc.status import CallFailed

STAT, REQUEST, DATA, FIN, ERROR = range(5)
PIECE = 32 << 10
SMALL = 32 << 10  # bytes of a file that is read in one go with others


async def send_directory(call: Call, root: File, *, time_ns: int | None = None) -> None:
    """Send all that is below `root`, and wait until the client has it. `time_ns`: what every file is dated, if given.

    Raises Unavailable when the client does not take it.
    """
    try:
        files = await asyncio.to_thread(_listed, root, time_ns)
        listing = asyncio.ensure_future(_list(call, files))
        try:
            await _answer(call, [file for _, file in files])
        finally:
            listing.cancel()
    except (CallFailed, StreamReset) as error:
        raise Unavailable(f"the client has not taken the output: {error}") from error
    finally:
        call.close()


async def _list(call: Call, files: list[tuple[wire.Stat, File]]) -> None:
    for stat, _ in files:
        await call.send(wire.Packet(type=STAT, stat=stat).SerializeToString())
    await call.send(wire.Packet(type=STAT).SerializeToString())


async def _answer(call: Call, files: list[File]) -> None:
    while messages := await call.receive_many():
        wanted: list[int] = []
        for message in messages:
            packet = wire.Packet.FromString(message)
            if packet.type == REQUEST:
                if packet.id >= len(files):
                    raise InvalidParameter("the client asks for a file that there is not")
                wanted.append(packet.id)
            elif packet.type == FIN:
                await call.send(wire.Packet(type=FIN).SerializeToString())
                call.half_close()
            elif packet.type == ERROR:
                raise Unavailable(f"error from receiver: {packet.data.decode(errors='replace')}")
        small = [number for number in wanted if files[number].entry.size <= SMALL]
        for encoded in await asyncio.to_thread(_packets, small, files):
            await call.send(encoded)
        for number in wanted:
            if files[number].entry.size > SMALL:
                await _send_large(call, number, files[number])


def _packets(numbers: list[int], files: list[File]) -> list[bytes]:
    """Small files as packets."""
    packets = []
    for number in numbers:
        content = b"".join(files[number].read())
        if content:
            packets.append(wire.Packet(type=DATA, id=number, data=content))
        packets.append(wire.Packet(type=DATA, id=number))
    return [packet.SerializeToString() for packet in packets]


async def _send_large(call: Call, number: int, file: File) -> None:
    pieces = file.read()
    while piece := await asyncio.to_thread(next, pieces, b""):
        for place in range(0, len(piece), PIECE):
            data = piece[place : place + PIECE]
            await call.send(wire.Packet(type=DATA, id=number, data=data).SerializeToString())
    await call.send(wire.Packet(type=DATA, id=number).SerializeToString())


def _listed(root: File, time_ns: int | None) -> list[tuple[wire.Stat, File]]:
    """Everything below `root`, in the order in which a receiver wants it: by components.

    Further names of a file are told as such, and have no content of their own.
    """
    found, first = [], dict[Hashable, str]()
    for place, file in _walk(root):
        stat = stat_of(place, file, time_ns)
        if file.inode is not None and file.entry.kind == tar_format.REGULAR:
            other = first.setdefault(file.inode, place)
            if other != place:
                stat.linkname, stat.size = other, 0
        found.append((stat, file))
    return found


def _walk(root: File) -> Iterator[tuple[str, File]]:
    for place, file in walk(root):
        if place and file.entry.kind:  # (a socket has none)
            yield place, file


def stat_of(place: str, file: File, time_ns: int | None) -> wire.Stat:
    """What is told of a file; `time_ns`: what it is dated, if given."""
    entry = file.entry
    return wire.Stat(
        path=place,
        mode=go_mode(entry.kind, entry.mode),
        uid=entry.uid,
        gid=entry.gid,
        size=entry.size if entry.kind == tar_format.REGULAR else 0,
        mod_time=entry.mtime_ns if time_ns is None else time_ns,
        linkname=entry.link if entry.kind == tar_format.SYMLINK else "",
        devmajor=entry.major,
        devminor=entry.minor,
        xattrs=dict(entry.xattrs),
    )
