"""Files with holes in tar archives: GNU's own form and the three of PAX (GNU tar's manual, "Sparse Formats").

An archive holds only what is between the holes, one piece after the other, and a map of where each belongs.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from dockyard.errors import InvalidParameter

BLOCK = 512
# Regions of one file; more are an attack on our memory.
MOST_REGIONS = 1 << 16
LONGEST_NUMBER = 20
INVALID = "archive/tar: invalid sparse file"


@dataclass(frozen=True, slots=True)
class Sparse:
    """A file of `size` bytes, zero but for its `regions`: (offset, length), in their order."""

    size: int
    regions: tuple[tuple[int, int], ...]

    @property
    def stored(self) -> int:
        """How many bytes the archive holds of it."""
        return sum(length for _, length in self.regions)


def of_records(records: Mapping[str, bytes]) -> Sparse | None:
    """What PAX records say in the forms 0.0 and 0.1 (whose repeated records are `GNU.sparse.map` by now)."""
    if "GNU.sparse.map" not in records:
        return None
    return _checked(_decimal(records.get("GNU.sparse.size", b"")), records["GNU.sparse.map"].split(b","))


def of_payload(records: Mapping[str, bytes], read: Callable[[int], bytes]) -> tuple[Sparse, int] | None:
    """The form 1.0, whose map stands before the payload in blocks of its own: what it says, and how long it is."""
    if records.get("GNU.sparse.major") != b"1" or records.get("GNU.sparse.minor") != b"0":
        return None
    numbers: list[bytes] = []
    wanted, taken, rest = 1, 0, b""
    while len(numbers) < wanted:
        block = read(BLOCK)
        if len(block) < BLOCK:
            raise InvalidParameter("unexpected EOF in archive")
        taken += BLOCK
        *whole, rest = (rest + block).split(b"\n")
        if len(rest.rstrip(b"\0")) > LONGEST_NUMBER:
            raise InvalidParameter(INVALID)
        numbers += whole
        if numbers:
            count = _decimal(numbers[0])
            if count > MOST_REGIONS:
                raise InvalidParameter(INVALID)
            wanted = 1 + 2 * count
    return _checked(_decimal(records.get("GNU.sparse.realsize", b"")), numbers[1:wanted]), taken


def of_header(block: bytes, read: Callable[[int], bytes], number: Callable[[bytes], int]) -> Sparse:
    """GNU's own form: the map is in the header, and in blocks that follow it. `number` reads a field."""
    size = number(block[483:495])
    fields, more = block[386:482], block[482]
    numbers = _fields(fields, number)
    while more:
        block = read(BLOCK)
        if len(block) < BLOCK:
            raise InvalidParameter("unexpected EOF in archive")
        numbers += _fields(block[:504], number)
        more = block[504]
        if len(numbers) > 2 * MOST_REGIONS:
            raise InvalidParameter(INVALID)
    return _regions(size, numbers)


def _fields(data: bytes, number: Callable[[bytes], int]) -> list[int]:
    return [
        number(data[place : place + 12]) for place in range(0, len(data), 12) if data[place : place + 12].strip(b"\0")
    ]


def _checked(size: int, numbers: list[bytes]) -> Sparse:
    if len(numbers) > 2 * MOST_REGIONS:
        raise InvalidParameter(INVALID)
    return _regions(size, [_decimal(number) for number in numbers if number])


def _regions(size: int, numbers: list[int]) -> Sparse:
    """Regions one behind the other and inside the file, or InvalidParameter."""
    if len(numbers) % 2:
        raise InvalidParameter(INVALID)
    regions, end = [], 0
    for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
        if offset < end or length < 0:
            raise InvalidParameter(INVALID)
        end = offset + length
        regions.append((offset, length))
    if not end <= size < 1 << 63:
        raise InvalidParameter(INVALID)
    return Sparse(size, tuple(regions))


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > LONGEST_NUMBER:
        raise InvalidParameter(INVALID)
    return int(text)


def filled(sparse: Sparse, stored: Callable[[int, int], bytes], piece: int) -> Iterator[bytes]:
    """The file's bytes with zeros in its holes, in pieces; `stored(position, size)` reads what the archive holds."""
    position = done = 0
    for offset, length in (*sparse.regions, (sparse.size, 0)):
        while position < offset:
            hole = min(offset - position, piece)
            yield bytes(hole)
            position += hole
        while position < offset + length:
            data = stored(done, min(offset + length - position, piece))
            if not data:
                raise InvalidParameter("unexpected EOF in archive")
            yield data
            position += len(data)
            done += len(data)
