"""As much of an ELF file as is needed to find a section by its name, and what is at an address (elf(5))."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from mmap import mmap

MAGIC = b"\x7fELF"
MOST_HEADERS = 4096


class Elf:
    """A file of that kind. Raises struct.error and ValueError for one that is cut or makes no sense."""

    def __init__(self, data: mmap | bytes) -> None:
        self.data = data
        wide, order = data[4] == 2, data[5]
        if data[:4] != MAGIC or data[4] not in (1, 2) or order not in (1, 2):
            raise ValueError("no ELF file")
        self.order = "<" if order == 1 else ">"
        self.word = 8 if wide else 4
        kind = "QQQ" if wide else "III"
        _, segments, sections = self.unpack(kind, 24)
        numbers = self.unpack("6H", 52 if wide else 40)
        self._segments = [segments + numbers[1] * index for index in range(min(numbers[2], MOST_HEADERS))]
        self._sections = [sections + numbers[3] * index for index in range(min(numbers[4], MOST_HEADERS))]
        self._names = numbers[5]
        self._wide = wide

    def unpack(self, kind: str, offset: int) -> tuple[int, ...]:
        """Numbers at an offset, in the file's byte order."""
        return struct.unpack_from(self.order + kind, self.data, offset)

    def section(self, name: bytes) -> bytes:
        """The content of the section of that name; nothing when there is none."""
        if self._names >= len(self._sections):
            return b""
        names, _ = self._place(self._sections[self._names])
        for header in self._sections:
            start = names + self.unpack("I", header)[0]
            if self.data[start : start + len(name) + 1] == name + b"\0":
                offset, size = self._place(header)
                return self.data[offset : offset + size]
        return b""

    def _place(self, header: int) -> tuple[int, int]:
        """Where in the file a section lies, and how long it is."""
        offset, size = self.unpack("QQ", header + 24) if self._wide else self.unpack("II", header + 16)
        return offset, size

    def at(self, address: int, size: int) -> bytes:
        """What lies at an address once the file is loaded. Raises ValueError."""
        for start, offset, length in self._loaded():
            if start <= address and address + size <= start + length:
                place = offset + address - start
                return self.data[place : place + size]
        raise ValueError("no such address")

    def _loaded(self) -> Iterator[tuple[int, int, int]]:
        for header in self._segments:
            if self._wide:
                kind, _, offset, address, _, length = self.unpack("IIQQQQ", header)
            else:
                kind, offset, address, _, length = self.unpack("IIIII", header)
            if kind == 1:  # PT_LOAD
                yield address, offset, length
