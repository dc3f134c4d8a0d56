"""Heads of requests, and bodies in chunks, in whatever pieces they arrive."""

import asyncio
import random

import pytest

from dockyard.errors import InvalidParameter
from dockyard.web.body import Body, Chunked
from dockyard.web.head import BadRequest, end_of_head, parse_head, parse_query, unescape

FIRST = b"POST /a%20b?c=d HTTP/1.1\r\nHost: x\r\n"


def test_of_a_repeated_field_the_first_counts() -> None:
    head = parse_head(FIRST + b"Content-Type: a\r\ncontent-type: b\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n")
    assert (head.method, head.path, head.query, head.length) == ("POST", "/a%20b", "c=d", 3)
    assert head.headers.get("CONTENT-TYPE") == "a"


def test_lines_may_end_in_lf_alone_and_be_folded() -> None:
    head = parse_head(b"GET / HTTP/1.1\nHost: x\nX: a\n\tb\r\n  c\n\n")
    assert head.headers.get("x") == "a b c"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (FIRST + b"Host: y\r\n\r\n", 400),
        (FIRST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (FIRST + b"Content-Length: +1\r\n\r\n", 400),
        (FIRST + b"Content-Length: \r\n\r\n", 400),
        (FIRST + b"Content-Length: 9223372036854775808\r\n\r\n", 400),
        (FIRST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        (FIRST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (FIRST + b"A\rB: c\r\n\r\n", 400),
        (FIRST + b"A: b\0\r\n\r\n", 400),
        (FIRST + b"A : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400),
        (b"GET /%g1 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (FIRST + b"Expect: tea\r\n\r\n", 417),
    ],
)
def test_what_two_readers_might_understand_differently_is_refused(head: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_head(head)
    assert refused.value.status == status


def test_the_end_of_a_head_is_found_wherever_it_is_cut() -> None:
    for end in (b"\r\n\r\n", b"\n\n", b"\r\n\n", b"\n\r\n"):
        head = b"GET / HTTP/1.1\r\nHost: x" + end
        data = head + b"rest\r\n\r\n"
        for cut in range(len(data)):
            found = end_of_head(data[:cut])
            if found < 0:
                found = end_of_head(data, max(0, cut - 3))
            assert found == len(head)


def test_queries_are_read_in_gos_way() -> None:
    assert parse_query("a=1&b=%41+c&a=&&d") == {"a": ["1", ""], "b": ["A c"], "d": [""]}
    for query, words in (("a=1;b=2", "invalid semicolon separator in query"), ("f=%zz", 'invalid URL escape "%zz"')):
        with pytest.raises(ValueError, match=words):
            parse_query(query)
    assert unescape("%c3%a4+%ff") == "ä+\ufffd"


async def test_chunks_are_read_in_whatever_pieces_they_come() -> None:
    random_ = random.Random(1)
    for _ in range(200):
        pieces = [random_.randbytes(random_.randrange(1, 40)) for _ in range(random_.randrange(5))]
        data = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nTrailer: x\r\n\r\n"
        body = Body(lambda: None)
        framing = Chunked(body)
        left, rest = data + b"GET /", b""
        while left:
            size = random_.randrange(1, 20)
            rest += left[:size] if body.complete else framing.feed(left[:size])
            left = left[size:]
        assert rest == b"GET /"
        assert await _read_all(body) == b"".join(pieces)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"zz\r\n", "invalid byte in chunk length"),
        (b"0x1\r\na\r\n", "invalid byte in chunk length"),
        (b"\r\n", "empty hex number for chunk length"),
        (b"11111111111111111\r\n", "http chunk length too large"),
        (b"1\na\r\n", "chunked line ends with bare LF"),
        (b"1\r\nab\r\n", "malformed chunked encoding"),
        (b"1;" + b"x" * 9000 + b"\r\n", "header line too long"),
        (b"".join(b"1;%b\r\na\r\n" % (b"x" * 1000) for _ in range(30)), "chunked encoding contains too much non-data"),
    ],
)
async def test_chunks_that_are_none_are_refused(data: bytes, words: str) -> None:
    body = Body(lambda: None)
    Chunked(body).feed(data)
    with pytest.raises(InvalidParameter, match=words):
        await asyncio.wait_for(_read_all(body), 1)
    assert body.failed


async def _read_all(body: Body) -> bytes:
    found = b""
    while piece := await body.readany():
        found += piece
    return found
