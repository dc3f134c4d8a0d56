"""Claims about bytes: however they are cut into pieces, they mean the same."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.client.errors import Unreachable
from dockyard.client.framing import JsonLines, MultiplexedOutput, OutputLines
from dockyard.client.wire import ResponseParser, chunk, request_head

CUTS = st.lists(st.integers(1, 40), max_size=30)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in pieces of these lengths, and the rest."""
    found, position = [], 0
    for cut in cuts:
        if position < len(data):
            found.append(data[position : position + cut])
            position += cut
    return [*found, data[position:]] if position < len(data) else found


def frames(parts: list[tuple[int, bytes]]) -> bytes:
    return b"".join(bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data for stream, data in parts)


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50))), CUTS)
def test_frames(parts: list[tuple[int, bytes]], cuts: list[int]) -> None:
    decoder = MultiplexedOutput()
    found = [output for piece in pieces(frames(parts), cuts) for output in decoder.feed(piece)]
    for number, name in ((1, "stdout"), (2, "stderr")):
        expected = b"".join(data for stream, data in parts if stream == number)
        assert b"".join(output.data for output in found if output.stream == name) == expected


@given(st.lists(st.text("ab \u00e9", max_size=20)), st.booleans(), CUTS)
def test_lines(lines: list[str], ended: bool, cuts: list[int]) -> None:
    data = "\n".join(lines).encode() + (b"\n" if ended and lines else b"")
    decoder = OutputLines(MultiplexedOutput())
    found = [line for piece in pieces(frames([(1, data)]), cuts) for line in decoder.feed(piece)]
    found += decoder.finish()
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert [line.data for line in found] == expected


@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9))), CUTS)
def test_json_values(values: list[Any], cuts: list[int]) -> None:
    data = b"\r\n".join(json.dumps(value).encode() for value in values)
    decoder = JsonLines()
    found = [value for piece in pieces(data, cuts) for value in decoder.feed(piece)]
    assert found + decoder.finish() == values


@given(st.lists(st.binary(min_size=1, max_size=50)), st.booleans(), st.binary(max_size=20), CUTS)
def test_responses(body: list[bytes], chunked: bool, following: bytes, cuts: list[int]) -> None:
    whole = b"".join(body)
    if chunked:
        data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b:c \r\n\r\n"
        data += b"".join(chunk(piece) for piece in body) + b"0\r\nTrailer: x\r\n\r\n"
    else:
        data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-A: b:c \r\n\r\n%b" % (len(whole), whole)
    data = b"HTTP/1.1 100 Continue\r\n\r\n" + data
    parser = ResponseParser("GET")
    got, rest = [], []
    for piece in pieces(data + following, cuts):
        if parser.complete:
            rest.append(piece)
            continue
        parser.feed(piece)
        got.append(parser.take())
    assert (parser.status, parser.headers["x-a"]) == (200, "b:c")
    assert parser.complete
    assert parser.keeps_alive
    assert b"".join(got) == whole
    assert parser.rest + b"".join(rest) == following


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    parser = ResponseParser("POST")
    parser.feed(b"HTTP/1.1 101 UPGRADED\r\nContent-Length: 0\r\n\r\nearly")
    parser.feed(b" and late")
    assert not parser.complete
    parser.feed(b"")
    assert parser.complete
    assert not parser.keeps_alive
    assert parser.take() == b"early and late"


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"])
def test_an_answer_that_ends_too_early(data: bytes) -> None:
    parser = ResponseParser("GET")
    if data:
        parser.feed(data)
    with pytest.raises(Unreachable, match="before the end of its answer"):
        parser.feed(b"")


@pytest.mark.parametrize("data", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"x" * 300_000])
def test_what_is_not_http(data: bytes) -> None:
    with pytest.raises(Unreachable, match="does not speak HTTP"):
        ResponseParser("GET").feed(data)


def test_no_body_after_head_204_and_304() -> None:
    for method, status in (("HEAD", 200), ("GET", 304), ("POST", 204)):
        parser = ResponseParser(method)
        parser.feed(b"HTTP/1.1 %d X\r\nContent-Length: 7\r\n\r\n" % status)
        assert parser.complete


def test_heads() -> None:
    assert (
        request_head("GET", "/x", {"A": "b"})
        == b"GET /x HTTP/1.1\r\nHost: docker\r\nUser-Agent: dockyard\r\nA: b\r\n\r\n"
    )
    assert b"Content-Length: 0\r\n" in request_head("POST", "/x", {})
    assert b"Transfer-Encoding: chunked\r\n" in request_head("PUT", "/x", {}, chunked=True)
