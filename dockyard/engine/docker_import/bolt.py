"""Reading a bbolt database, in which Docker keeps volumes and networks (etcd-io/bbolt, page.go and bucket.go).

The file is a B+ tree of pages: two meta pages, of which the newer whole one counts, branch pages that lead down, and
leaf pages with keys and values; a value may be a bucket, a tree of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from dockyard.errors import InvalidParameter

MAGIC, VERSION = 0xED0CDAED, 2
BRANCH, LEAF = 0x01, 0x02
IS_BUCKET = 0x01
_PAGE = struct.Struct("<QHHI")  # id, flags, count, overflow
_META = struct.Struct(
    "<IIIIQQQQQQ"
)  # magic, version, page size, flags, root, sequence, free list, pages, transaction, sum
_BRANCH = struct.Struct("<IIQ")  # place, key's size, page
_LEAF = struct.Struct("<IIII")  # flags, place, key's size, value's size
_BUCKET = struct.Struct("<QQ")  # root page (0: the page follows), sequence
DEEPEST = 64


class Bolt:
    """One database, read whole. Raises InvalidParameter for a file that is none or is damaged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data = path.read_bytes()
        newest: tuple[int, int] | None = None
        size = self._page_size()
        for start in (0, size):
            found = self._meta(start)
            if found is not None and (newest is None or found > newest):
                newest = found
        if newest is None:
            raise self._damaged()
        self._size, self._root = size, newest[1]

    def bucket(self, *names: str) -> dict[str, bytes]:
        """The values of a bucket (in a bucket …) by their keys; {} when there is none of that name."""
        items = list(self._items(self._root, 0))
        for name in names:
            inner = next((value for flags, key, value in items if flags & IS_BUCKET and key == name.encode()), None)
            if inner is None:
                return {}
            items = list(self._bucket(inner))
        return {key.decode(errors="replace"): value for flags, key, value in items if not flags & IS_BUCKET}

    def buckets(self) -> list[str]:
        """The names of the buckets at the top."""
        return [key.decode(errors="replace") for flags, key, _ in self._items(self._root, 0) if flags & IS_BUCKET]

    def _damaged(self) -> InvalidParameter:
        return InvalidParameter(f"{self._path} is not a bbolt database, or is damaged")

    def _page_size(self) -> int:
        if len(self._data) < _PAGE.size + _META.size:
            raise self._damaged()
        size: int = _META.unpack_from(self._data, _PAGE.size)[2]
        return size if size in (4096, 8192, 16384, 32768, 65536) else 4096

    def _meta(self, start: int) -> tuple[int, int] | None:
        """(transaction, root page) that a meta page tells, None if it is torn."""
        place = start + _PAGE.size
        if len(self._data) < place + _META.size:
            return None
        magic, version, _, _, root, _, _, _, transaction, checksum = _META.unpack_from(self._data, place)
        whole = _fnv(self._data[place : place + _META.size - 8]) == checksum
        return (transaction, root) if (magic, version) == (MAGIC, VERSION) and whole else None

    def _items(self, page: int, depth: int) -> Iterator[tuple[int, bytes, bytes]]:
        """(flags, key, value) of everything below a page."""
        yield from self._in_page(self._data, page * self._size, depth)

    def _in_page(self, data: bytes, start: int, depth: int) -> Iterator[tuple[int, bytes, bytes]]:
        if depth > DEEPEST:
            raise self._damaged()
        try:
            _, flags, count, _ = _PAGE.unpack_from(data, start)
            for index in range(count):
                if flags & LEAF:
                    at = start + _PAGE.size + index * _LEAF.size
                    kind, place, key, value = _LEAF.unpack_from(data, at)
                    begin = at + place
                    yield kind, data[begin : begin + key], data[begin + key : begin + key + value]
                elif flags & BRANCH:
                    at = start + _PAGE.size + index * _BRANCH.size
                    yield from self._items(_BRANCH.unpack_from(data, at)[2], depth + 1)
                else:
                    raise self._damaged()
        except struct.error:
            raise self._damaged() from None

    def _bucket(self, value: bytes) -> Iterator[tuple[int, bytes, bytes]]:
        if len(value) < _BUCKET.size:
            raise self._damaged()
        root, _ = _BUCKET.unpack_from(value)
        if root:
            yield from self._items(root, 0)
        else:  # small enough to stand where it is named
            yield from self._in_page(value, _BUCKET.size, 0)


def _fnv(data: bytes) -> int:
    """FNV-1a of 64 bits."""
    total = 0xCBF29CE484222325
    for byte in data:
        total = ((total ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return total
