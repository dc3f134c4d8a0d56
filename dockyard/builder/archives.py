"""Archives that a build is given: which files are some, and what they hold, uncompressed and in order.

A file is an archive when its first header can be read. What goes wrong after that is a damaged archive, an error, and
never a reason to take it for a plain file.
"""

from __future__ import annotations

import os
import posixpath
import tempfile
from collections.abc import Callable
from typing import IO, BinaryIO, cast

from dockyard.builder.trees import ArchiveFile, File
from dockyard.content import tar_format
from dockyard.content.extraction import Piece, decompressed
from dockyard.errors import InvalidParameter

# Read in pieces this small, no compressed data can grow to more than some 64 MB of memory at once.
PIECE = 1 << 16


def uncompressed(file: BinaryIO) -> BinaryIO | None:
    """`file` as an uncompressed tar archive that can be sought in; None when it is no archive.

    A compressed `file` is closed when another, nameless one beside it holds what was in it. Raises InvalidParameter
    for a compressed archive that is cut or damaged.
    """
    file.seek(0)
    head = file.read(tar_format.BLOCK)
    file.seek(0)
    if tar_format.is_header(head):
        return file
    pieces = decompressed(lambda size: file.read(min(size, PIECE)))
    begin = _beginning(pieces)
    if not tar_format.is_header(begin[: tar_format.BLOCK]):
        file.seek(0)
        return None
    plain: IO[bytes] = tempfile.TemporaryFile(dir=_folder_of(file))  # noqa: SIM115  (returned open)
    try:
        plain.write(begin)
        while piece := pieces():
            plain.write(piece)
        plain.seek(0)
    except BaseException:
        plain.close()
        raise
    file.close()
    return cast(BinaryIO, plain)


def _beginning(pieces: Callable[[], Piece]) -> bytes:
    """A block and more; less when there is no more, or when it is no compressed stream after all."""
    begin = b""
    try:
        while len(begin) < tar_format.BLOCK and (piece := pieces()):
            begin += piece
    except InvalidParameter:
        return b""
    return begin


def spooled(file: File) -> BinaryIO:
    """A file of a tree as a nameless file of its own, beside the context if it is of one."""
    archive = file.archive if isinstance(file, ArchiveFile) else None
    folder = _folder_of(archive) if archive is not None else None
    spool: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (returned open)
    try:
        for piece in file.read():
            spool.write(piece)
        spool.flush()
    except BaseException:
        spool.close()
        raise
    return cast(BinaryIO, spool)


def _folder_of(file: BinaryIO) -> str | None:
    """The folder of an open file that has no name any more."""
    return posixpath.dirname(os.readlink(f"/proc/self/fd/{file.fileno()}")) or None
