"""The head of a request: from bytes to what it says, read as Go's net/http does (readRequest, transfer.go).

Of a header that comes more than once the first counts; lines may end in a bare LF, and be folded; a path may hold any
bytes but control characters. What would let two readers disagree on where a request ends is refused: lengths that
differ, two Transfer-Encodings, two Hosts.
"""

import re
from typing import NamedTuple

LARGEST_HEAD = (1 << 20) + 4096  # bytes (net/http's DefaultMaxHeaderBytes and the slop it adds)

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
# What may stand nowhere in a head: control characters but tab and the ends of lines, and a CR elsewhere.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)")
_HOST = re.compile(r"[!$%&'()*+,\-./:;=@\[\]_~0-9A-Za-z]*\Z")
_VERSION = re.compile(r"HTTP/(\d)\.(\d)\Z")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}", re.DOTALL)
_LENGTH = re.compile(r"[0-9]{1,19}\Z")


class BadRequest(Exception):
    """A request that is refused before anyone handles it, and its connection closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Headers:
    """Header fields by name, in whatever case."""

    __slots__ = ("_fields",)

    def __init__(self, fields: dict[str, list[str]]) -> None:
        self._fields = fields  # by the name in lower case

    def get(self, name: str, default: str = "") -> str:
        """The first field `name`, or `default`."""
        values = self._fields.get(name.lower())
        return default if values is None else values[0]

    def all(self, name: str) -> list[str]:
        """Every field `name`."""
        return list(self._fields.get(name.lower(), ()))

    def has_word(self, name: str, word: str) -> bool:
        """Whether `word` (in lower case) is in the comma-separated list of the field `name`."""
        return any(word == part.strip().lower() for value in self._fields.get(name, ()) for part in value.split(","))


class Head(NamedTuple):
    """What the head says."""

    method: str
    path: str  # as it came: percent-encoded, what is not UTF-8 as surrogates
    query: str  # as it came
    version: tuple[int, int]
    headers: Headers
    length: int | None  # of the body; None: it comes in chunks
    keep_alive: bool
    expects_continue: bool


def end_of_head(data: bytes | bytearray, start: int = 0) -> int:
    """Where the head that begins `data` ends, its empty line included; -1 when it is not whole yet."""
    found = data.find(b"\n\r\n", start)
    bare = data.find(b"\n\n", start, found if found >= 0 else len(data))
    if bare >= 0:
        return bare + 2
    return found + 3 if found >= 0 else -1


def parse_head(data: bytes) -> Head:
    """The head in `data`, which is whole. Raises BadRequest."""
    text = data.decode("utf-8", "surrogateescape")
    if _CONTROL.search(text):
        raise BadRequest(400, "malformed HTTP request: control character in the head")
    first, *lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    method, _, rest = first.partition(" ")
    target, _, protocol = rest.partition(" ")
    if not protocol:
        raise BadRequest(400, f"malformed HTTP request {_quoted(first)}")
    if not _TOKEN.match(method):
        raise BadRequest(400, f"invalid method {_quoted(method)}")
    version = (1, 1)
    if protocol != "HTTP/1.1":
        version = _version(protocol)
    fields = _fields(lines)
    path, query = _target(target)
    hosts = fields.get("host")
    if hosts is None:
        if version == (1, 1):
            raise BadRequest(400, "missing required Host header")
    elif len(hosts) > 1:
        raise BadRequest(400, "too many Host headers")
    elif not _HOST.match(hosts[0]):
        raise BadRequest(400, "malformed Host header")
    headers = Headers(fields)
    expects = headers.get("expect")
    if expects and expects.lower() != "100-continue":
        raise BadRequest(417, f"unknown expectation {_quoted(expects)}")
    keep_alive = not headers.has_word("connection", "close")
    if version < (1, 1):
        keep_alive = headers.has_word("connection", "keep-alive")
    length = _body_length(fields, version)
    return Head(method, path, query, version, headers, length, keep_alive, expects != "" and version >= (1, 1))


def unescape(text: str, *, plus: bool = False) -> str:
    """`text` without its percent-encoding (and with blanks for `+`, if `plus`). Raises ValueError in Go's words.

    What is no UTF-8 then becomes replacement characters, as where Go writes such a string as JSON.
    """
    if plus:
        text = text.replace("+", " ")
    if "%" not in text:
        return text if text.isascii() else _without_surrogates(text)
    wrong = _BAD_ESCAPE.search(text)
    if wrong:
        raise ValueError(f"invalid URL escape {_quoted(wrong.group())}")
    first, *others = text.encode("utf-8", "surrogateescape").split(b"%")
    return (first + b"".join(bytes.fromhex(part[:2].decode()) + part[2:] for part in others)).decode("utf-8", "replace")


def parse_query(query: str) -> dict[str, list[str]]:
    """{key: [values]} of a query. Raises ValueError with the words of Go's url.ParseQuery."""
    found: dict[str, list[str]] = {}
    for part in query.split("&"):
        if not part:
            continue
        if ";" in part:
            raise ValueError("invalid semicolon separator in query")
        key, _, value = part.partition("=")
        found.setdefault(unescape(key, plus=True), []).append(unescape(value, plus=True))
    return found


def _version(protocol: str) -> tuple[int, int]:
    found = _VERSION.match(protocol)
    if not found:
        raise BadRequest(400, f"malformed HTTP version {_quoted(protocol)}")
    version = (int(found[1]), int(found[2]))
    if version > (1, 1) or version < (1, 0):
        raise BadRequest(505, "unsupported protocol version")
    return version


def _fields(lines: list[str]) -> dict[str, list[str]]:
    """All values of each field, by its name in lower case."""
    fields: dict[str, list[str]] = {}
    values: list[str] | None = None
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and _TOKEN.match(name):
            name = name.lower()
            values = fields.get(name)
            if values is None:
                values = fields[name] = []
            values.append(value.strip(" \t"))
        elif values is not None and line[0] in " \t":  # the one before goes on
            values[-1] = " ".join((values[-1], line.strip(" \t")))
        else:
            problem = "invalid header name" if name.strip() and colon else "malformed header line"
            raise BadRequest(400, f"{problem} {_quoted(line)}")
    return fields


def _target(target: str) -> tuple[str, str]:
    """(path, query) of a request's target, which is origin-form, absolute-form or `*`."""
    if not target.startswith("/"):
        if target == "*":
            return "*", ""
        scheme, found, rest = target.partition("://")
        if not found or not scheme.isalpha():
            raise BadRequest(400, f"parse {_quoted(target)}: invalid URI for request")
        _, slash, rest = rest.partition("/")
        target = slash + rest or "/"
    path, _, query = target.partition("?")
    if "%" in path and (wrong := _BAD_ESCAPE.search(path)):
        raise BadRequest(400, f"parse {_quoted(path)}: invalid URL escape {_quoted(wrong.group())}")
    return path, query


def _body_length(fields: dict[str, list[str]], version: tuple[int, int]) -> int | None:
    length = 0
    lengths = fields.get("content-length")
    if lengths is not None:
        if any(other != lengths[0] for other in lengths):
            raise BadRequest(400, "http: message cannot contain multiple Content-Length headers")
        if not _LENGTH.match(lengths[0]) or int(lengths[0]) >= 1 << 63:
            raise BadRequest(400, f"bad Content-Length {_quoted(lengths[0])}")
        length = int(lengths[0])
    encodings = fields.get("transfer-encoding")
    if encodings is not None and version >= (1, 1):  # (net/http ignores it before)
        if len(encodings) > 1 or encodings[0].lower() != "chunked":
            raise BadRequest(501, "Unsupported transfer encoding")
        return None  # it wins over a length (RFC 9112, 6.3)
    return length


def _quoted(text: str) -> str:
    """`text` in quotes, bounded, and without anything that is no text."""
    return '"' + _without_surrogates(text[:100]).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _without_surrogates(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
