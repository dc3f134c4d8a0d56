"""moby.filesync.v1: directories of ours on their way to the engine, and outputs on their way from it.

The protocol is tonistiigi/fsutil's: the sender lists files, the receiver asks for those that it does not have.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from urllib.parse import unquote_plus

from dockyard.buildkit import wire_pb2 as wire
from dockyard.buildx.directories import Directory
from dockyard.grpc import status
from dockyard.grpc.calls import Method
from dockyard.grpc.connection import Stream
from dockyard.grpc.status import CallFailed

DIFF_COPY = "/moby.filesync.v1.FileSync/DiffCopy"
STAT, REQUEST, DATA, FIN, ERROR = range(5)
PIECE = 32 << 10
TOGETHER = 256  # files of which the engine is told in one go


class FileSync:
    """Serves directories by their names."""

    def __init__(self, directories: Mapping[str, Directory]) -> None:
        self._directories = directories

    @property
    def methods(self) -> dict[str, Method]:
        """What the session serves."""
        return {DIFF_COPY: self._diff_copy}

    async def _diff_copy(self, stream: Stream) -> None:
        name = stream.headers.get("dir-name", "")
        directory = self._directories.get(name)
        if directory is None:
            raise CallFailed(status.NOT_FOUND, f'no access allowed to dir "{name}"')
        follow = _values(stream, "followpaths") + _values(stream, "include-patterns")
        files: list[str] = []
        listing = asyncio.ensure_future(_list(stream, directory, follow, _values(stream, "exclude-patterns"), files))
        try:
            await _answer(stream, files, listing)
        finally:
            listing.cancel()


def _values(stream: Stream, name: str) -> list[str]:
    values = stream.all(name)
    return [unquote_plus(value) for value in values] if stream.headers.get(f"{name}-encoded") else values


async def _list(
    stream: Stream, directory: Directory, follow: Sequence[str], excludes: Sequence[str], files: list[str]
) -> None:
    told: list[bytes] = []
    try:
        for found, place in directory.entries(follow, excludes):
            files.append(place)
            told.append(wire.Packet(type=STAT, stat=found).SerializeToString())
            if len(told) >= TOGETHER:
                await stream.send_many(told)
                told.clear()
    except OSError as error:
        await _fail(stream, error)
        raise
    await stream.send_many([*told, wire.Packet(type=STAT).SerializeToString()])


async def _answer(stream: Stream, files: list[str], listing: asyncio.Future[None]) -> None:
    """Send the files that are asked for, until the engine has all of them. Raises OSError."""
    while messages := await stream.receive_many():
        packets: list[bytes] = []
        for message in messages:
            packet = wire.Packet.FromString(message)
            if packet.type == FIN:
                await stream.send_many([*packets, wire.Packet(type=FIN).SerializeToString()])
                return
            if packet.type == ERROR:
                raise CallFailed(status.UNKNOWN, packet.data.decode(errors="replace"))
            if packet.type != REQUEST or packet.id >= len(files):
                raise CallFailed(status.INVALID_ARGUMENT, "a file was asked for that there is not")
            try:
                await _read(stream, packet.id, files[packet.id], packets)
            except OSError as error:
                await _fail(stream, error)
                raise
            if len(packets) >= TOGETHER:
                await stream.send_many(packets)
                packets.clear()
        await stream.send_many(packets)
        if listing.done():
            listing.result()


async def _read(stream: Stream, number: int, place: str, packets: list[bytes]) -> None:
    """Put a small file into `packets`; send a large one behind what is in there."""
    fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        large = os.fstat(fd).st_size > PIECE
        while piece := os.read(fd, PIECE):
            packets.append(wire.Packet(type=DATA, id=number, data=piece).SerializeToString())
            if large:
                await stream.send_many(packets)
                packets.clear()
    finally:
        os.close(fd)
    packets.append(wire.Packet(type=DATA, id=number).SerializeToString())


async def _fail(stream: Stream, error: OSError) -> None:
    said = f"{error.strerror}: {error.filename}" if error.filename else str(error)
    await stream.send(wire.Packet(type=ERROR, data=said.encode(errors="replace")).SerializeToString())
