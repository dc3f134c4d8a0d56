"""Archives on this side: written to a file or standard output, read from one."""

from __future__ import annotations

import os
import sys

from dockyard.cli.errors import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

CHUNK = 1 << 20


def save_to(target: str, pieces: Iterator[bytes], wrong: str) -> None:
    """Write pieces to a file that appears when it is complete, or to standard output.

    An error about the file's name begins with `wrong`.
    """
    if not target:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    folder = os.path.dirname(os.path.abspath(target))
    if not os.path.isdir(folder):
        missing = os.path.dirname(target) or "."
        raise Failure(f"{wrong}invalid output path: stat {missing}: no such file or directory")
    if os.path.exists(target) and not os.path.isfile(target):
        with open(target, "wb") as file:
            file.writelines(pieces)
        return
    temporary = os.path.join(folder, f".dockyard-{os.getpid()}")  # short: the target's name may be as long as can be
    try:
        with open(temporary, "wb") as file:
            file.writelines(pieces)
        os.replace(temporary, target)
    except BaseException:
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass  # it could not be made
        raise


def opened(source: str) -> BinaryIO:
    """A file to read. Raises Failure."""
    try:
        return open(source, "rb")
    except OSError as error:
        raise Failure(f"open {source}: {(error.strerror or '').lower()}") from None
