"""The client's HTTP against peers that answer in every way HTTP allows."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.client.errors import Unreachable
from dockyard.client.http import ApiError, Connection
from dockyard.oci import quick_json


class Peer:
    """Answers one request with given bytes and keeps what it was asked."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self.asked = b""
        self._answer = answer
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._server.accept()
        with connection:
            while not self._complete():
                self.asked += connection.recv(4096)
            for byte in range(0, len(self._answer), 7):  # in pieces that no reader expects
                connection.sendall(self._answer[byte : byte + 7])

    def _complete(self) -> bool:
        head, found, body = self.asked.partition(b"\r\n\r\n")
        if b"chunked" in head:
            return body.endswith(b"0\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0] or 0)
        return bool(found) and len(body) >= length

    def close(self) -> None:
        self._thread.join(5)
        self._server.close()


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[object]:
    peers = []

    def answer(data: bytes) -> tuple[Connection, Peer]:
        path = tmp_path / f"{len(peers)}.sock"
        peers.append(Peer(path, data))
        return Connection(f"unix://{path}"), peers[-1]

    yield answer
    for peer in peers:
        peer.close()


def test_a_body_of_known_length(answers) -> None:  # type: ignore[no-untyped-def]  # the fixture above
    api, peer = answers(b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"a": 12}')
    assert api.request("GET", "/x?y=1").json() == {"a": 12}
    assert peer.asked.startswith(b"GET /x?y=1 HTTP/1.1\r\n")


def test_a_chunked_body(answers) -> None:  # type: ignore[no-untyped-def]
    api, _ = answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n")
    assert api.request("GET", "/").read() == b"abcdefg"


def test_a_body_that_ends_with_the_connection(answers) -> None:  # type: ignore[no-untyped-def]
    api, _ = answers(b'HTTP/1.1 200 OK\r\n\r\n{"a":1}\n{"b":2}\n')
    assert list(api.request("GET", "/").objects()) == [{"a": 1}, {"b": 2}]


def test_an_iterator_is_sent_in_chunks(answers) -> None:  # type: ignore[no-untyped-def]
    api, peer = answers(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert api.request("PUT", "/", iter([b"ab", b"", b"c" * 20])).read() == b""
    assert peer.asked.endswith(b"2\r\nab\r\n14\r\n" + b"c" * 20 + b"\r\n0\r\n\r\n")


def test_an_error_says_what_the_engine_said(answers) -> None:  # type: ignore[no-untyped-def]
    api, _ = answers(b'HTTP/1.1 409 Conflict\r\nContent-Length: 17\r\n\r\n{"message":"why"}')
    with pytest.raises(ApiError, match=r"^why$") as caught:
        api.request("POST", "/", {"a": None})
    assert caught.value.status == 409


def test_what_follows_an_upgrade_is_not_lost(answers) -> None:  # type: ignore[no-untyped-def]
    api, _ = answers(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\nearly bytes")
    peer, early = api.request("POST", "/", check=False).hijack()
    rest = early
    while data := peer.recv(100):
        rest += data
    assert rest == b"early bytes"


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="Is the dockyard daemon running"):
        Connection(f"unix://{tmp_path}/nothing").request("GET", "/_ping")


@pytest.mark.parametrize(
    "value",
    [None, True, -1, 1.5, 10**20, "", 'a"\\\n\x00é😀', [], {}, [1, [2, {"a": None}]], {"k": {"l": [False]}}],
)
def test_json_there_and_back(value: object) -> None:
    assert quick_json.loads(quick_json.dumps(value)) == value


@pytest.mark.parametrize("text", ["", "{", "[1,]", "{} x", "nul", '{"a"}'])
def test_what_is_not_json(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        quick_json.loads(text)
