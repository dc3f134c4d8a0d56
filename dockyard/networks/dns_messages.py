"""DNS messages as far as a forwarding resolver reads and writes them: RFC 1035, section 4; EDNS: RFC 6891."""

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

A, SOA, PTR, AAAA, OPT = 1, 6, 12, 28, 41
IN, ANY = 1, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
# Docker's answer for a container's name is good for ten minutes (moby daemon/libnetwork/resolver.go, respTTL).
OWN_TTL = 600
# What a datagram may carry to a client that does not say how much it takes.
PLAIN_SIZE = 512
# How large answers by datagram may be that we are asked for; said in answers to clients that say theirs.
OUR_SIZE = 4096

RESPONSE, TRUNCATED, RECURSION_DESIRED, RECURSION_AVAILABLE = 0x8000, 0x0200, 0x0100, 0x0080
OPCODE = 0x7800

_head = struct.Struct("!HHHHHH")
_tail = struct.Struct("!HH")
_record = struct.Struct("!HHIH")
_opt = b"\0" + _record.pack(OPT, OUR_SIZE, 0, 0)


class Refused(ValueError):
    """A message that is no question we could answer; `reply` is what its sender gets, None: nothing at all."""

    def __init__(self, reply: bytes | None) -> None:
        super().__init__("not a query")
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Question:
    """The one question of a query; `end` is where it ends in the message.

    `size` is the largest datagram that the asker takes, `extended` whether it speaks EDNS.
    """

    name: str
    type: int
    class_: int
    end: int
    size: int = PLAIN_SIZE
    extended: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """Where a resource record lies in its message; `section` is 0 for answers, 1 for authorities, 2 for the rest.

    `head` is where its name has ended, `ttl` the seconds for which it is good.
    """

    section: int
    type: int
    class_: int
    ttl: int
    start: int
    head: int
    end: int


def parse_question(message: bytes) -> Question:
    """The question of a query.

    Raises Refused: for answers and scraps without a reply, otherwise with FORMERR or NOTIMP. A NOTIFY or an UPDATE
    must not be taken for the query that it looks like (RFC 1996, RFC 2136).
    """
    if len(message) < _head.size:
        raise Refused(None)
    identity, flags, questions, _, _, _ = _head.unpack_from(message)
    if flags & RESPONSE:
        raise Refused(None)  # two resolvers must not answer each other's answers for ever
    if flags & OPCODE:
        raise Refused(_head.pack(identity, RESPONSE | flags & OPCODE | NOTIMP, 0, 0, 0, 0))
    malformed = _head.pack(identity, RESPONSE | FORMERR, 0, 0, 0, 0)
    if questions != 1:
        raise Refused(malformed)
    try:
        labels, position = _labels(message, _head.size)
        type_, class_ = _tail.unpack_from(message, position)
        end = position + _tail.size
        size, extended = PLAIN_SIZE, False
        for record in records(message, end):
            if record.type == OPT:
                size, extended = max(PLAIN_SIZE, record.class_), True
    except (ValueError, struct.error):
        raise Refused(malformed) from None
    return Question(".".join(labels), type_, class_, end, size, extended)


def _labels(message: bytes, position: int) -> tuple[list[str], int]:
    """The labels of an uncompressed name and where it ends. Raises ValueError."""
    labels: list[str] = []
    first = position
    while True:
        if position >= len(message) or position > first + 255:
            raise ValueError("a name without an end")
        size = message[position]
        position += 1
        if size == 0:
            return labels, position
        if size > 63 or position + size > len(message):
            raise ValueError("a label too long")
        labels.append(message[position : position + size].decode("latin-1"))
        position += size


def records(message: bytes, position: int) -> list[Record]:
    """The records behind the question, which ends at `position`. Raises ValueError when they can't be read."""
    found = []
    for section, count in enumerate(_head.unpack_from(message)[3:]):
        for _ in range(count):
            start = position
            while position < len(message) and 0 < message[position] < 0xC0:
                position += 1 + message[position]
            position += 2 if position < len(message) and message[position] else 1
            try:
                type_, class_, ttl, size = _record.unpack_from(message, position)
            except struct.error:
                raise ValueError("a record is cut off") from None
            end = position + _record.size + size
            if end > len(message):
                raise ValueError("a record is cut off")
            found.append(Record(section, type_, class_, ttl, start, position, end))
            position = end
    return found


def answer(query: bytes, question: Question, answers: Sequence[bytes], code: int = NOERROR) -> bytes:
    """A response to `query` with the resource records `answers`, each without its name."""
    identity, flags = struct.unpack_from("!HH", query)
    flags = RESPONSE | RECURSION_AVAILABLE | flags & RECURSION_DESIRED | code
    head = _head.pack(identity, flags, 1, len(answers), 0, int(question.extended))
    body = b"".join(b"\xc0\x0c" + one for one in answers)
    return head + query[_head.size : question.end] + body + (_opt if question.extended else b"")


def cut(message: bytes, question: Question, limit: int) -> bytes:
    """`message` with as many of its records as go into `limit` bytes; it says so when answers are missing."""
    if len(message) <= limit:
        return message
    try:
        present = records(message, question.end)
    except ValueError:
        present = []
    extension = b"".join(message[one.start : one.end] for one in present if one.type == OPT)
    counts, end = [0, 0, 0], question.end
    for one in present:
        if one.type == OPT or one.end + len(extension) > limit:
            break
        counts[one.section] += 1
        end = one.end
    identity, flags, questions, answers, _, _ = _head.unpack_from(message)
    flags |= TRUNCATED if counts[0] < answers or not present else 0
    counts[2] += bool(extension)
    return _head.pack(identity, flags, questions, *counts) + message[_head.size : end] + extension


def answers(reply: bytes, query: bytes, question: Question) -> bool:
    """Whether `reply` has the identity of `query` and is to its question, in whatever case.

    A server that could not even read the question may leave it out.
    """
    if len(reply) < _head.size or reply[:2] != query[:2]:
        return False
    _, flags, questions, _, _, _ = _head.unpack_from(reply)
    if not flags & RESPONSE or flags & OPCODE:
        return False
    if questions == 0:
        return bool(code(reply)) and len(reply) == _head.size
    return questions == 1 and reply[_head.size : question.end].lower() == query[_head.size : question.end].lower()


def as_asked(reply: bytes, query: bytes, question: Question) -> bytes:
    """`reply` under the identity of `query` and with its question as it was spelt there."""
    if reply[4:6] == b"\0\0":
        return answer(query, question, (), code(reply))
    return query[:2] + reply[2 : _head.size] + query[_head.size : question.end] + reply[question.end :]


def code(message: bytes) -> int:
    """The response code."""
    return message[3] & 15


def positive(message: bytes) -> bool:
    """Whether it has answers."""
    return code(message) == NOERROR and message[6:8] != b"\0\0"


def shortest_life(message: bytes, question: Question) -> int:
    """The shortest time to live of the records of an answer, in seconds. Raises ValueError for one that has none."""
    return min(_life(one) for one in records(message, question.end) if one.type != OPT)


def negative_life(message: bytes, question: Question) -> int:
    """For how many seconds it is good that there is no such name or record; 0 when its zone does not say (RFC 2308)."""
    for one in records(message, question.end):
        if one.section == 1 and one.type == SOA and one.end - one.head >= _record.size + 22:
            return min(_life(one), int.from_bytes(message[one.end - 4 : one.end], "big"))
    return 0


def _life(record: Record) -> int:
    # RFC 2181, section 8: with the highest bit it is to be taken for 0
    return record.ttl if record.ttl < 1 << 31 else 0


def aged(message: bytes, question: Question, seconds: int) -> bytes:
    """`message` with the times to live of its records shortened. Raises ValueError when they can't be read."""
    result = bytearray(message)
    for one in records(message, question.end):
        if one.type != OPT:
            struct.pack_into("!I", result, one.head + 4, max(0, one.ttl - seconds))
    return bytes(result)


def truncated(message: bytes) -> bool:
    """Whether answers are missing that did not go into the datagram."""
    return bool(int.from_bytes(message[2:4], "big") & TRUNCATED)


def address_record(address: str) -> bytes:
    """The A or AAAA record of an address."""
    # twenty times as fast as ipaddress: this is what containers ask for all the time
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    return _record.pack(A if len(packed) == 4 else AAAA, IN, OWN_TTL, len(packed)) + packed


def pointer_record(name: str) -> bytes:
    """The PTR record to a name."""
    encoded = b"".join(bytes([len(label)]) + label for label in name.encode().split(b".") if 0 < len(label) < 64)
    encoded += b"\0"
    return _record.pack(PTR, IN, OWN_TTL, len(encoded)) + encoded


def reverse_address(name: str) -> str | None:
    """The address that a PTR question is about, or None."""
    labels = name.lower().rstrip(".").split(".")
    if labels[-2:] == ["in-addr", "arpa"] and len(labels) == 6:
        return ".".join(reversed(labels[:4]))
    if labels[-2:] == ["ip6", "arpa"] and len(labels) == 34:
        digits = "".join(reversed(labels[:32]))
        try:
            return str(ip_address(bytes.fromhex(digits)))
        except ValueError:
            return None
    return None
