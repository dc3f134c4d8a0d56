"""What lies beside a thing on the disk and says what it is: a container's settings in its folder, a layer's place in
its image beside the record of its archive.

The database is what the engine goes by. A document lets a thing be known again when the database is lost
(`dockyardd --recover`, repair/rebuild.py). It is also a mark: it is written when the thing's row stands and removed
before the row is, so that a thing that has one is no leftover of a crash, whatever the database knows. Losing one costs
nothing; so none is synced, and none that cannot be written fails what it is written for.
"""

import errno
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

log = logging.getLogger("dockyard.documents")

T = TypeVar("T")


class Documents(Generic[T]):
    """Documents of one type, each in a file of its own."""

    def __init__(self, place: Callable[[str], Path], kind: type[T]) -> None:
        """`place` says where the one of a key lies, in a folder that is there."""
        self._place = place
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(kind).decode
        self._written: dict[str, int] = {}

    def put(self, key: str, document: T) -> None:
        """Write it, unless it is there as it is."""
        text = self._encode(document)
        mark = hash(text)
        if self._written.get(key) == mark:
            return
        path = os.fspath(self._place(key))
        try:
            write_private(path, text)
        except OSError as error:
            self._written.pop(key, None)
            log.debug("cannot write %s: %s", path, error.strerror)
        else:
            self._written[key] = mark

    def put_all(self, documents: Iterable[tuple[str, T]]) -> None:
        """Write those that are not there as they are: after a power cut, or from before there were documents."""
        for key, document in documents:
            text = self._encode(document)
            try:
                if self._place(key).read_bytes().rstrip() == text:
                    self._written[key] = hash(text)
                    continue
            except OSError:
                pass
            self.put(key, document)

    def delete(self, key: str) -> None:
        """Remove it; no error when there is none."""
        self._written.pop(key, None)
        try:
            os.unlink(self._place(key))
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                log.debug("cannot remove %s: %s", self._place(key), error.strerror)

    def read(self, path: Path) -> T | None:
        """The document in the file `path`; None when there is none, or a power cut has left none that can be read."""
        try:
            return self._decode(path.read_bytes())
        except (OSError, msgspec.DecodeError):
            return None

    def read_all(self, paths: Iterable[Path]) -> Iterator[tuple[Path, T]]:
        """(path, document) of those that can be read."""
        for path in paths:
            document = self.read(path)
            if document is not None:
                yield path, document


def write_private(path: str, text: bytes) -> None:
    """Make `path` hold the JSON `text`, for root's eyes only, blanks behind it where there was more.

    In place and by one call, which a kill does not cut in two: to rename a new file over it, or to empty it first, has
    ext4 write it out at once (ext4(5), auto_da_alloc), a millisecond for what nobody waits for. Raises OSError.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        padded = text.ljust(os.fstat(descriptor).st_size)
        if os.write(descriptor, padded) < len(padded):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    finally:
        os.close(descriptor)
