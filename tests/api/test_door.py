"""Requests as real clients write them, and what of them is refused: by net/http's rules, in Docker's form."""

import base64
import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.engine_process import EngineProcess

LAST = b"Host: d\r\nConnection: close\r\n"
# (what is sent, status, words of the answer: of its message, or all of a text)
ODD = {
    "a Content-Type twice": (
        b"POST /containers/create HTTP/1.1\r\nContent-Type: application/json\r\nContent-Type: text/x\r\n"
        b"Content-Length: 2\r\n" + LAST + b"\r\n{}",
        400,
        "config cannot be empty in order to create a container",
    ),
    "a User-Agent twice": (b"GET /_ping HTTP/1.1\r\nUser-Agent: a\r\nUser-Agent: b\r\n" + LAST + b"\r\n", 200, "OK"),
    "an equal length twice": (
        b"POST /volumes/create HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 4\r\nContent-Type: application/json\r\n"
        + LAST
        + b"\r\nnull{}",
        201,
        "",
    ),
    "two lengths": (
        b"POST /auth HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n" + LAST + b"\r\nnull",
        400,
        "http: message cannot contain multiple Content-Length headers",
    ),
    "300 headers and a megabyte": (
        b"GET /_ping HTTP/1.1\r\n" + b"".join(b"X-%d: %b\r\n" % (n, b"x" * 3400) for n in range(300)) + LAST + b"\r\n",
        200,
        "OK",
    ),
    "more than a megabyte": (
        b"GET /_ping HTTP/1.1\r\n" + b"".join(b"X-%d: %b\r\n" % (n, b"x" * 3600) for n in range(300)) + LAST + b"\r\n",
        431,
        "Request Header Fields Too Large",
    ),
    "UTF-8 in a path": (
        "GET /v1.41/containers/äö/json HTTP/1.1\r\n".encode() + LAST + b"\r\n",
        404,
        "No such container: äö",
    ),
    "no UTF-8 in a path": (
        b"GET /containers/\xff/json HTTP/1.1\r\n" + LAST + b"\r\n",
        404,
        "No such container: \ufffd",
    ),
    "LF alone": (b"GET /_ping HTTP/1.1\nHost: d\nConnection: close\n\n", 200, "OK"),
    "a folded header": (b"GET /_ping HTTP/1.1\r\nX: a\r\n b\r\n" + LAST + b"\r\n", 200, "OK"),
    "a whole URL": (b"GET http://docker/v1.41/_ping HTTP/1.1\r\n" + LAST + b"\r\n", 200, "OK"),
    "HTTP/1.0": (b"GET /_ping HTTP/1.0\r\n\r\n", 200, "OK"),
    "no Host": (b"GET /_ping HTTP/1.1\r\nConnection: close\r\n\r\n", 400, "missing required Host header"),
    "two hosts": (b"GET /_ping HTTP/1.1\r\nHost: e\r\n" + LAST + b"\r\n", 400, "too many Host headers"),
    "no such version": (b"GET /_ping HTTP/3.0\r\n" + LAST + b"\r\n", 505, "unsupported protocol version"),
    "no such encoding": (
        b"POST /auth HTTP/1.1\r\nTransfer-Encoding: gzip\r\n" + LAST + b"\r\n",
        501,
        "Unsupported transfer encoding",
    ),
    "a chunk without a length": (
        b"POST /auth HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
        + LAST
        + b"\r\nzz\r\n",
        400,
        "invalid JSON: invalid byte in chunk length",
    ),
    "an escape in a path": (
        b"GET /containers/%zz/json HTTP/1.1\r\n" + LAST + b"\r\n",
        400,
        'parse "/containers/%zz/json": invalid URL escape "%zz"',
    ),
    "an escape in a query": (
        b"GET /containers/json?filters=%zz HTTP/1.1\r\n" + LAST + b"\r\n",
        400,
        'invalid URL escape "%zz"',
    ),
    "a semicolon": (
        b"GET /containers/json?all=1;limit=1 HTTP/1.1\r\n" + LAST + b"\r\n",
        400,
        "invalid semicolon separator in query",
    ),
    "a semicolon nobody reads": (b"GET /_ping?a;b HTTP/1.1\r\n" + LAST + b"\r\n", 200, "OK"),
    "a slash at the end": (b"GET /v1.41/containers/json/ HTTP/1.1\r\n" + LAST + b"\r\n", 404, "page not found"),
    "a version of more digits than a number has": (
        b"GET /v" + b"1" * 5000 + b"/_ping HTTP/1.1\r\n" + LAST + b"\r\n",
        400,
        f"client version {'1' * 5000} is too new. Maximum supported API version is 1.51",
    ),
    "a version of three numbers": (b"GET /v1.41.2/_ping HTTP/1.1\r\n" + LAST + b"\r\n", 200, "OK"),
}


@pytest.mark.parametrize("name", ODD)
def test_requests_are_taken_and_refused_as_by_docker(engine: EngineProcess, name: str) -> None:
    data, status, words = ODD[name]
    answered, headers, body = _ask(engine, data)
    assert answered == status, body
    if status == 200:
        assert body.decode() == words
    elif words:
        assert headers["content-type"] == "application/json"
        assert json.loads(body) == {"message": words}
    else:
        engine.docker("volume", "rm", json.loads(body)["Name"])
    assert "Traceback" not in engine.log()


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("//v1.41//containers/json?a=b", "/v1.41/containers/json?a=b"),
        ("/v1.41/images/a%2F%2Fb/json", "/v1.41/images/a/b/json"),
        ("/v1.41/../_ping", "/_ping"),
        ("/v1.41/./volumes/", "/v1.41/volumes/"),
    ],
)
def test_a_path_that_is_not_clean_is_told_its_clean_form(engine: EngineProcess, path: str, location: str) -> None:
    status, headers, _ = _ask(engine, f"GET {path} HTTP/1.1\r\n".encode() + LAST + b"\r\n")
    assert (status, headers["location"]) == (301, location)


def test_requests_that_arrive_together_are_answered_in_their_order(engine: EngineProcess) -> None:
    create = b"POST /volumes/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
    with _connection(engine) as wire:
        wire.sendall(
            create + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"Nam\r\n9\r\ne":"door"\r\n1\r\n}\r\n0\r\n\r\n'
            b"GET /volumes/door HTTP/1.1\r\nHost: d\r\n\r\n"
            b"DELETE /volumes/door HTTP/1.1\r\nHost: d\r\n\r\n"
            b"GET /volumes/door HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"
        )
        answers = _rest(wire)
    statuses = re.findall(rb"HTTP/1.1 (\d+) ", answers)
    assert statuses == [b"201", b"200", b"204", b"404"]


def test_a_request_byte_by_byte_is_one_request(engine: EngineProcess) -> None:
    with _connection(engine) as wire:
        for byte in b"POST /auth HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}":
            wire.sendall(bytes((byte,)))
        assert b"malformed Content-Type header" in _rest(wire)


def test_who_waits_to_hear_that_a_body_is_wanted_hears_it(engine: EngineProcess) -> None:
    head = b"POST /volumes/create HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"
    with _connection(engine) as wire:
        wire.sendall(head + b"Content-Type: application/json\r\n" + LAST + b"\r\n")
        assert wire.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.sendall(b"{}")
        answer = _rest(wire)
    assert answer.startswith(b"HTTP/1.1 201")
    engine.docker("volume", "rm", json.loads(answer.partition(b"\r\n\r\n")[2])["Name"])
    with _connection(engine) as wire:  # and who has nothing to hear is not kept
        wire.sendall(head + b"Content-Type: text/plain\r\nHost: d\r\n\r\n")
        assert b"unsupported Content-Type" in _rest(wire)


def test_who_will_say_no_more_is_answered(engine: EngineProcess) -> None:
    with _connection(engine) as wire:
        wire.sendall(b"GET /version HTTP/1.1\r\nHost: d\r\n\r\n")
        wire.shutdown(socket.SHUT_WR)
        assert b"ApiVersion" in _rest(wire)
    with _connection(engine) as wire:
        wire.sendall(b"POST /auth HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
        wire.shutdown(socket.SHUT_WR)
        assert b"invalid JSON: unexpected EOF" in _rest(wire)


def test_who_is_refused_before_all_is_sent_reads_why(engine: EngineProcess) -> None:
    with _connection(engine) as wire:
        wire.sendall(b"PUT /containers/nosuch/archive?path=/ HTTP/1.1\r\nHost: d\r\nContent-Length: 4000000\r\n\r\n")
        wire.sendall(bytes(4_000_000) + b"GET /_ping HTTP/1.1\r\n" + LAST + b"\r\n")
        answer = _rest(wire)
    assert b"No such container: nosuch" in answer
    assert answer.endswith(b"OK")  # the connection goes on


def test_a_websocket_is_a_stream_in_frames(engine: EngineProcess) -> None:
    engine.docker("run", "-di", "--name", "socketed", "busybox", "cat")
    key = base64.b64encode(os.urandom(16))
    with _connection(engine) as wire:
        wire.sendall(
            b"GET /containers/socketed/attach/ws?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\n"
            b"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
            + key
            + b"\r\n\r\n"
            # what comes along with the head: a message in two frames with a ping between them
            + _client_frame(1, b"he", last=False)
            + _client_frame(9, b"there?")
            + _client_frame(0, b"llo\n")
        )
        assert wire.recv(13) == b"HTTP/1.1 101 "
        while b"\r\n\r\n" not in (head := wire.recv(4096, socket.MSG_PEEK)):
            pass
        wire.recv(head.index(b"\r\n\r\n") + 4)
        frames = [_server_frame(wire)]
        while b"".join(data for kind, data in frames if kind == 2) != b"hello\n" or len(frames) < 2:
            frames.append(_server_frame(wire))  # cat may write what it has read in pieces
        assert [data for kind, data in frames if kind != 2] == [b"there?"]
        big = b"x" * 70_000
        wire.sendall(_client_frame(2, big))
        echoed = b""
        while len(echoed) < len(big):
            echoed += _server_frame(wire)[1]
        assert echoed == big
        wire.sendall(b"\x82\x01x")  # not masked
        assert _server_frame(wire) == (8, (1002).to_bytes(2, "big"))
    engine.docker("rm", "-f", "socketed")


def _client_frame(opcode: int, payload: bytes, *, last: bool = True) -> bytes:
    mask = os.urandom(4)
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xff" + size.to_bytes(8, "big")
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes(((0x80 if last else 0) | opcode,)) + length + mask + masked


def _server_frame(wire: socket.socket) -> tuple[int, bytes]:
    head = wire.recv(2, socket.MSG_WAITALL)
    size = head[1]
    if size > 125:
        size = int.from_bytes(wire.recv(2 if size == 126 else 8, socket.MSG_WAITALL), "big")
    return head[0] & 15, wire.recv(size, socket.MSG_WAITALL) if size else b""


def _ask(engine: EngineProcess, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of what is answered; the connection is closed then."""
    with _connection(engine) as wire:
        wire.sendall(data)
        answer = _rest(wire)
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert first.startswith("HTTP/1."), answer
    headers: dict[str, Any] = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    return int(first.split()[1]), headers, body


@contextmanager
def _connection(engine: EngineProcess) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as wire:
        wire.settimeout(20)
        wire.connect(str(engine.socket))
        yield wire


def _rest(wire: socket.socket) -> bytes:
    return b"".join(iter(lambda: wire.recv(65536), b""))
