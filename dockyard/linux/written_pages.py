"""The pages that a fork is going to write to, copied ahead in one go.

After a fork two processes share their memory until one of them writes: then the kernel copies that page, at the cost of
an exception. A Python process writes nearly wherever it reads, for reference counts are kept in the objects: a few
milliseconds of work cost a thousand such exceptions, and those as much time as the work. Where forks of one process do
the same work they write to the same pages. So one of them notes which (`written`), and those that come after it have
them copied before they have anything to do (`copy`).

Kernel: admin-guide/mm/pagemap, madvise(2) MADV_POPULATE_WRITE (Linux 5.14; without it `copy` does nothing).
"""

import ctypes
import mmap
import os
from array import array

Range = tuple[int, int]  # address and length in bytes

MADV_POPULATE_WRITE = 23
_ENTRY = 8  # bytes of pagemap for each page
_PRESENT, _OF_FILE, _EXCLUSIVE = 1 << 63, 1 << 61, 1 << 56
# Two ranges that so few pages lie between are one: to copy a page is cheaper than to ask once more.
_GAP = 1 * mmap.PAGESIZE

_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)


def written(process: int | str = "self") -> list[Range]:
    """What the process has of its own, in what it shares with the one that it was forked from. Raises OSError."""
    found: list[Range] = []
    with open(f"/proc/{process}/maps") as maps, open(f"/proc/{process}/pagemap", "rb", buffering=0) as pagemap:
        for row in maps:
            area, rights = row.split(maxsplit=2)[:2]
            if rights != "rw-p":
                continue
            start, end = (int(address, 16) for address in area.split("-"))
            first, last = (address // mmap.PAGESIZE * _ENTRY for address in (start, end))
            entries = array("Q", os.pread(pagemap.fileno(), last - first, first))
            for number, entry in enumerate(entries):
                if entry & _PRESENT and entry & _EXCLUSIVE and not entry & _OF_FILE:
                    _add(found, start + number * mmap.PAGESIZE)
    return found


def _add(found: list[Range], page: int) -> None:
    if found:
        address, length = found[-1]
        if page - (address + length) <= _GAP:
            found[-1] = (address, page + mmap.PAGESIZE - address)
            return
    found.append((page, mmap.PAGESIZE))


def copy(ranges: list[Range]) -> None:
    """Have these pages for oneself. What is not there (any more) is passed over."""
    for address, length in ranges:
        _madvise(address, length, MADV_POPULATE_WRITE)
