"""What compressed streams are unpacked to, and how files and pipes are read: with bounds, and byte for byte."""

import bz2
import gzip
import io
import lzma
import os
import random
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from dockyard.content.extraction import CHUNK, Stream, decompressed
from dockyard.errors import InvalidParameter

DATA = random.Random(1).randbytes(3 << 20) + b"words " * 100_000
ZSTD = zstandard.ZstdCompressor().compress(DATA)
SKIPPED = struct.pack("<II", 0x184D2A50, 5) + b"hello"  # a frame that holds no data


def unpacked(compressed: bytes) -> bytes:
    pieces = decompressed(io.BytesIO(compressed).read)
    found = []
    while piece := pieces():
        assert len(piece) <= CHUNK
        found.append(bytes(piece))
    return b"".join(found)


@pytest.mark.parametrize(
    ("compressed", "times"),
    [
        (DATA, 1),
        (gzip.compress(DATA), 1),
        (gzip.compress(DATA) * 2, 2),
        (gzip.compress(DATA) + bytes(1000), 1),
        (gzip.compress(DATA) + b"no member", 1),
        (ZSTD, 1),
        (ZSTD * 2, 2),
        (SKIPPED + ZSTD + SKIPPED + ZSTD + SKIPPED, 2),
        (ZSTD + bytes(1000), 1),
        (bz2.compress(DATA), 1),
        (lzma.compress(DATA), 1),
    ],
)
def test_every_form_gives_what_went_in(compressed: bytes, times: int) -> None:
    assert unpacked(compressed) == DATA * times


@pytest.mark.parametrize(
    ("compressed", "reason"),
    [
        (gzip.compress(DATA)[:-5], "unexpected EOF"),
        (gzip.compress(DATA)[:-5] + b"\0\0\0\0\0", "damaged"),
        (ZSTD[:-5], "unexpected EOF"),
        (ZSTD + b"no frame", "damaged"),
        (bz2.compress(DATA)[:-5], "unexpected EOF"),
        (lzma.compress(DATA)[:-5], "unexpected EOF"),
    ],
)
def test_what_is_cut_or_damaged_is_refused(compressed: bytes, reason: str) -> None:
    with pytest.raises(InvalidParameter, match=reason):
        unpacked(compressed)


@pytest.mark.parametrize(
    "compress",
    [gzip.compress, zstandard.ZstdCompressor(19).compress, bz2.compress],
    ids=["gzip", "zstd", "bzip2"],
)
def test_a_bomb_is_unpacked_a_megabyte_at_a_time(compress: Callable[[bytes], bytes]) -> None:
    assert len(unpacked(compress(bytes(64 << 20)))) == 64 << 20


def read_in_odd_steps(stream: Stream, target: Path) -> None:
    """Read a stream as an archive is read: a little, then much into a file, and so on."""
    steps = random.Random(2)
    with target.open("wb", buffering=0) as file:
        left = len(DATA)
        while left:
            head = stream.read(min(left, steps.randrange(1, 2000)))
            file.write(head)
            left -= len(head)
            size = min(left, steps.choice((0, 1, 511, 70_000, CHUNK - 1, CHUNK + 1)))
            stream.copy(size, file.fileno())
            left -= size


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("form", ["plain", "gzip"])
@pytest.mark.parametrize("through", ["file", "pipe"])
def test_a_stream_is_read_the_same_from_a_file_and_a_pipe(
    through: str, form: str, hashed: bool, tmp_path: Path
) -> None:
    sent = DATA if form == "plain" else gzip.compress(DATA, 1)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"before" + sent)
    feeding = None
    if through == "file":
        fd = os.open(source, os.O_RDONLY)
        os.lseek(fd, len(b"before"), os.SEEK_SET)  # where the stream begins
    else:
        fd, write_end = os.pipe()

        def feed() -> None:
            with open(write_end, "wb") as file:
                file.write(sent)

        feeding = threading.Thread(target=feed)
        feeding.start()
    try:
        stream = Stream.open(fd, hashed=hashed)
        read_in_odd_steps(stream, target)
        digest = stream.finish()
        assert target.read_bytes() == DATA
        assert bool(digest) is hashed
        if through == "file":
            assert os.lseek(fd, 0, os.SEEK_CUR) == source.stat().st_size  # who watches it sees how far it has come
        with pytest.raises(InvalidParameter, match="unexpected EOF"):
            stream.copy(1, fd)
    finally:
        if feeding is not None:
            feeding.join(60)
        os.close(fd)
