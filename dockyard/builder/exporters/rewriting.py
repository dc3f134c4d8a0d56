"""`rewrite-timestamp`: layers as if nothing in them were younger than SOURCE_DATE_EPOCH.

Layers of base images stay what they are; all above the first other one are made anew (BuildKit, writer.go,
rewriteRemoteWithEpoch). Only headers are touched, so content goes by as it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from dockyard.builder.graph.job import Job
from dockyard.builder.graph.vertex import Rootfs
from dockyard.content import tar_format
from dockyard.content.tar_format import BLOCK
from dockyard.engine.images.layer_store import chains_of
from dockyard.errors import InvalidParameter
from dockyard.generators import closing

_PAX = b"x"
_TIMES = (b"mtime", b"atime", b"ctime")


async def with_rewritten_times(job: Job, rootfs: Rootfs, base: Sequence[str], epoch: int) -> Rootfs:
    """The same files, in layers in which nothing is younger than `epoch` (UNIX s); held until the build's end."""
    layers = job.solver.layers
    parent: str | None = None
    diff_ids: list[str] = []
    own = False
    for height, (diff_id, chain_id) in enumerate(zip(rootfs.diff_ids, chains_of(rootfs.diff_ids), strict=True)):
        own = own or height >= len(base) or base[height] != diff_id
        if not own:
            parent = chain_id
            diff_ids.append(diff_id)
            continue
        layer = await layers.register(parent, clamped(layers.pack(chain_id), epoch))
        job.holds.append(layer.chain_id)
        parent = layer.chain_id
        diff_ids.append(layer.diff_id)
    return Rootfs(tuple(diff_ids), rootfs.created)


async def clamped(pieces: AsyncIterator[bytes], epoch: int) -> AsyncIterator[bytes]:
    """A tar stream in which no time is after `epoch`. Raises InvalidParameter for what is no tar."""
    rewriter = _Rewriter(epoch)
    async with closing(pieces) as given:
        async for piece in given:
            if done := rewriter.feed(piece):
                yield done
    yield rewriter.rest()


class _Rewriter:
    """Takes a stream apart into headers, which are changed, and what goes by."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._buffer = bytearray()
        self._passing = 0  # bytes of content and padding that are still to come

    def feed(self, piece: bytes) -> bytes:
        self._buffer += piece
        done = bytearray()
        while self._buffer:
            if self._passing:
                taken = self._buffer[: self._passing]
                done += taken
                self._passing -= len(taken)
                del self._buffer[: len(taken)]
                continue
            header = self._header()
            if header is None:
                break
            done += header
        return bytes(done)

    def rest(self) -> bytes:
        return bytes(self._buffer)

    def _header(self) -> bytes | None:
        """The next header as it is to be; None when more has to come."""
        if len(self._buffer) < BLOCK:
            return None
        block = bytes(self._buffer[:BLOCK])
        if not block.strip(b"\0"):
            del self._buffer[:BLOCK]
            return block
        if not tar_format.is_header(block):
            raise InvalidParameter("archive/tar: invalid tar header")
        size = tar_format.number(block[124:136])
        room = size + tar_format.padding(size)
        if block[156:157] == _PAX:
            if size > tar_format.LARGEST_EXTENSION:
                raise InvalidParameter("archive header is too large")
            if len(self._buffer) < BLOCK + room:
                return None
            data = bytes(self._buffer[BLOCK : BLOCK + size])
            del self._buffer[: BLOCK + room]
            return self._extension(block, data)
        del self._buffer[:BLOCK]
        # links and directories have a size in some archives, and never content
        self._passing = room if block[156:157] not in (b"1", b"2", b"3", b"4", b"5", b"6") else 0
        return self._dated(block)

    def _dated(self, block: bytes) -> bytes:
        if tar_format.number(block[136:148]) <= self._epoch:
            return block
        return _with_checksum(block[:136] + b"%011o\0" % self._epoch + block[148:])

    def _extension(self, block: bytes, data: bytes) -> bytes:
        """PAX records without times that are too late: what the header itself says counts then."""
        kept = b""
        for key, value in tar_format.records(data).items():
            name = key.encode("utf-8", "surrogateescape")
            if name in _TIMES and float(value) > self._epoch:
                if name == b"mtime":
                    continue
                value = str(self._epoch).encode()
            kept += tar_format.record(key, value)
        if not kept:
            return b""
        block = _with_checksum(block[:124] + b"%011o\0" % len(kept) + block[136:])
        return self._dated(block) + kept + bytes(tar_format.padding(len(kept)))


def _with_checksum(block: bytes) -> bytes:
    total = sum(block[:148]) + 8 * 32 + sum(block[156:])
    return block[:148] + b"%06o\0 " % total + block[156:]
