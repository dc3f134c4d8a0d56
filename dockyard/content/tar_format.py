"""Reading and writing tar headers: ustar, GNU's long names and numbers, PAX records (pax(1), tar(5)).

Only the format, on bytes in memory and a stream to read from; what becomes of an entry is decided elsewhere.
"""

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from dockyard.content import sparse
from dockyard.content.sparse import Sparse
from dockyard.errors import InvalidParameter

BLOCK = 512
REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_CONTIGUOUS, _OLD_REGULAR = b"7", b"\0"
_PAX, _PAX_GLOBAL, _GNU_LONG_NAME, _GNU_LONG_LINK, _GNU_SPARSE = b"x", b"g", b"L", b"K", b"S"
XATTR = "SCHILY.xattr."
# Names and attributes of one entry; a larger extension is an attack on our memory.
LARGEST_EXTENSION = 1 << 20
LARGEST_OWNER = (1 << 32) - 1


@dataclass(slots=True)
class Entry:
    """One archive member; `name` as written, `mtime_ns` UNIX ns, `size` the payload's bytes, `kind` a type flag.

    A file with holes is `sparse`: its payload is what is between them.
    """

    name: str
    kind: bytes = REGULAR
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    link: str = ""
    major: int = 0
    minor: int = 0
    xattrs: dict[str, bytes] = field(default_factory=dict)
    sparse: Sparse | None = None


def padding(size: int) -> int:
    """How many bytes follow a payload of `size` up to the next block."""
    return -size % BLOCK


class Reader:
    """Takes headers off a stream. `read(n)` gives n bytes, fewer only at the end."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._global: dict[str, bytes] = {}

    def next(self) -> Entry | None:
        """The next entry (its payload comes next in the stream), or None at the end of the archive.

        Raises InvalidParameter for what is no tar.
        """
        extensions = dict(self._global)
        long_name = long_link = None
        while True:
            block = self._read(BLOCK)
            if len(block) < BLOCK:
                if block.strip(b"\0"):
                    raise InvalidParameter("unexpected EOF in archive")
                return None
            if not block.strip(b"\0"):
                return None
            _check(block)
            kind = block[156:157]
            size = number(block[124:136])
            if kind in (_PAX, _PAX_GLOBAL, _GNU_LONG_NAME, _GNU_LONG_LINK):
                if not 0 <= size <= LARGEST_EXTENSION:
                    raise InvalidParameter("archive header is too large")
                data = self._read(size)
                self._read(padding(size))
                if kind == _PAX:
                    extensions.update(records(data))
                elif kind == _PAX_GLOBAL:
                    self._global.update(records(data))
                    extensions.update(self._global)
                elif kind == _GNU_LONG_NAME:
                    long_name = data.rstrip(b"\0")
                else:
                    long_link = data.rstrip(b"\0")
                continue
            entry = _entry(block, size, extensions, long_name, long_link)
            self._find_holes(entry, block, extensions)
            return entry

    def _find_holes(self, entry: Entry, block: bytes, extensions: dict[str, bytes]) -> None:
        """Read the map of a file with holes, wherever it stands."""
        if block[156:157] == _GNU_SPARSE:
            entry.sparse = sparse.of_header(block, self._read, number)
            entry.kind = REGULAR
        elif "GNU.sparse.major" in extensions:
            found = sparse.of_payload(extensions, self._read)
            if found is None:
                raise InvalidParameter("archive/tar: unknown form of sparse file")
            entry.sparse, taken = found
            entry.size -= taken
        else:
            entry.sparse = sparse.of_records(extensions)
        if entry.sparse is not None and entry.sparse.stored != entry.size:
            raise InvalidParameter(sparse.INVALID)


def is_header(block: bytes) -> bool:
    """Whether `block` introduces an entry, by its checksum."""
    if len(block) < BLOCK or not block.strip(b"\0"):
        return False
    try:
        _check(block)
    except InvalidParameter:
        return False
    return True


def _check(block: bytes) -> None:
    # the lower half of Adler-32 is one more than the sum of so few bytes, and is had sooner (RFC 1950, 8.2)
    total = (zlib.adler32(block[:256]) & 0xFFFF) + (zlib.adler32(block[256:]) & 0xFFFF) - 2
    if total - sum(block[148:156]) + 8 * 32 != number(block[148:156]):
        raise InvalidParameter("archive/tar: invalid tar header")


def number(field_: bytes) -> int:
    """An octal number, or GNU's base-256 when the top bit is set. Raises InvalidParameter."""
    if field_[0] & 0x80:
        value = int.from_bytes(field_, "big") & ((1 << (8 * len(field_) - 1)) - 1)
        return value - (1 << (8 * len(field_) - 1)) if field_[0] & 0x40 else value
    text = field_.split(b"\0", 1)[0].strip()
    try:
        return int(text, 8) if text else 0
    except ValueError:
        raise InvalidParameter("archive/tar: invalid tar header") from None


def records(data: bytes) -> dict[str, bytes]:
    """PAX records: `length key=value\\n` each."""
    found: dict[str, bytes] = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        if space < 0:
            break
        length = data[position:space]
        if not length.isdigit() or int(length) <= space - position + 1 or position + int(length) > len(data):
            raise InvalidParameter("archive/tar: invalid PAX record")
        key, equals, value = data[space + 1 : position + int(length) - 1].partition(b"=")
        if not equals:
            raise InvalidParameter("archive/tar: invalid PAX record")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):  # the only records that come more than once
            key, value = b"GNU.sparse.map", b",".join((*filter(None, [found.get("GNU.sparse.map")]), value))
        found[key.decode("utf-8", "surrogateescape")] = value
        position += int(length)
    return found


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _entry(
    block: bytes, size: int, extensions: dict[str, bytes], long_name: bytes | None, long_link: bytes | None
) -> Entry:
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0" and block[345] and long_name is None:
        name = block[345:500].split(b"\0", 1)[0] + b"/" + name
    kind = block[156:157]
    if kind in (_OLD_REGULAR, _CONTIGUOUS):
        kind = DIRECTORY if kind == _OLD_REGULAR and name.endswith(b"/") else REGULAR
    path = extensions.get("GNU.sparse.name", extensions.get("path", name if long_name is None else long_name))
    entry = Entry(
        name=_text(path),
        kind=kind,
        mode=number(block[100:108]) & 0o7777,
        uid=_int(extensions.get("uid"), number(block[108:116])),
        gid=_int(extensions.get("gid"), number(block[116:124])),
        size=_int(extensions.get("size"), size),
        mtime_ns=_time(extensions.get("mtime"), number(block[136:148])),
        link=_text(extensions.get("linkpath", block[157:257].split(b"\0", 1)[0] if long_link is None else long_link)),
    )
    if not (0 <= entry.uid <= LARGEST_OWNER and 0 <= entry.gid <= LARGEST_OWNER):
        raise InvalidParameter(
            f"archive entry {entry.name!r} belongs to nobody that there can be: {entry.uid}:{entry.gid}"
        )
    if kind in (CHARACTER, BLOCK_DEVICE):
        entry.major, entry.minor = number(block[329:337]), number(block[337:345])
    if kind not in (REGULAR, HARD_LINK, _GNU_SPARSE):
        entry.size = entry.size if kind not in (SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO) else 0
    elif kind == HARD_LINK:
        entry.size = 0
    if entry.size < 0 or not entry.name or "\0" in entry.name:
        raise InvalidParameter("archive/tar: invalid tar header")
    for key, value in extensions.items():
        if key.startswith(XATTR):
            entry.xattrs[key.removeprefix(XATTR)] = value
    return entry


def _int(record: bytes | None, otherwise: int) -> int:
    if record is None:
        return otherwise
    if re.fullmatch(rb"-?\d{1,20}", record) is None:
        raise InvalidParameter("archive/tar: invalid PAX record")
    return int(record)


def _time(record: bytes | None, otherwise: int) -> int:
    """Seconds with a fraction as ns."""
    if record is None:
        return otherwise * 1_000_000_000
    match = re.fullmatch(rb"(-?)(\d{1,12})(?:\.(\d*))?", record)
    if match is None:
        raise InvalidParameter("archive/tar: invalid PAX record")
    fraction = int(((match[3] or b"") + b"0" * 9)[:9])
    value = int(match[2]) * 1_000_000_000 + fraction
    return -value if match[1] else value


def header(entry: Entry) -> bytes:
    """The blocks that introduce `entry`: ustar, preceded by a PAX header where ustar can't hold it."""
    records: dict[str, bytes] = {}
    name, link = entry.name.encode("utf-8", "surrogateescape"), entry.link.encode("utf-8", "surrogateescape")
    seconds, fraction = divmod(entry.mtime_ns, 1_000_000_000)
    prefix = b""
    if len(name) > 100:
        split = name.rfind(b"/", 0, 156)
        if split > 0 and len(name) - split - 1 <= 100 and name[split + 1 :]:
            prefix, short = name[:split], name[split + 1 :]
        else:
            records["path"], short = name, name[:100]
    else:
        short = name
    if len(link) > 100:
        records["linkpath"] = link
    if fraction or not 0 <= seconds < 1 << 33:
        records["mtime"] = f"{seconds}.{fraction:09d}".rstrip("0").rstrip(".").encode()
    if entry.size >= 1 << 33:
        records["size"] = str(entry.size).encode()
    for key, number in (("uid", entry.uid), ("gid", entry.gid)):
        if number >= 1 << 21:
            records[key] = str(number).encode()
    for key, value in entry.xattrs.items():
        records[XATTR + key] = value
    blocks = b""
    if records:
        data = b"".join(record(key, value) for key, value in sorted(records.items()))
        extended = Entry(name="PaxHeaders.0/" + entry.name[:80].rpartition("/")[2], size=len(data), mode=0o644)
        pax_name = extended.name.encode("utf-8", "surrogateescape")[:100]
        blocks = _block(pax_name, b"", extended, _PAX, b"", 0) + data + bytes(padding(len(data)))
    return blocks + _block(short, prefix, entry, entry.kind, link[:100], max(seconds, 0))


def record(key: str, value: bytes) -> bytes:
    """One PAX record."""
    body = b" " + key.encode("utf-8", "surrogateescape") + b"=" + value + b"\n"
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def _block(name: bytes, prefix: bytes, entry: Entry, kind: bytes, link: bytes, seconds: int) -> bytes:
    def octal(value: int, width: int) -> bytes:
        return b"%0*o\0" % (width - 1, value & ((1 << 3 * (width - 1)) - 1))

    block = bytearray(BLOCK)
    block[0 : len(name)] = name
    block[100:108] = octal(entry.mode, 8)
    block[108:116] = octal(entry.uid if entry.uid < 1 << 21 else 0, 8)
    block[116:124] = octal(entry.gid if entry.gid < 1 << 21 else 0, 8)
    block[124:136] = octal(entry.size if entry.size < 1 << 33 else 0, 12)
    block[136:148] = octal(seconds if seconds < 1 << 33 else 0, 12)
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257:265] = b"ustar\00000"
    if kind in (CHARACTER, BLOCK_DEVICE):
        block[329:337], block[337:345] = octal(entry.major, 8), octal(entry.minor, 8)
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = bytes(2 * BLOCK)
