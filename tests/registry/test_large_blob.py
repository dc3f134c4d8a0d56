"""A blob of ten gigabytes passes through the server, which takes no more memory for it."""

import hashlib
import http.client
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry.server import Server

SIZE = 10 << 30
PIECE = os.urandom(1 << 20)
GROWTH = 32 << 20  # bytes: a few buffers, whatever the blob's size is


def resident(server: Server) -> int:
    """The most memory that the server has had, bytes."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) << 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_stays_flat_while_ten_gigabytes_pass(tmp_path: Path) -> None:
    server = Server(tmp_path).start()
    digest = hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        for _ in range(SIZE // len(PIECE)):
            digest.update(PIECE)
            yield PIECE

    try:
        assert server.ask("GET", "/v2/").status == 200
        before = resident(server)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=900)
        connection.request("POST", "/v2/large/blobs/uploads/", headers={"Content-Length": "0"})
        answer = connection.getresponse()
        answer.read()
        place = answer.headers["Location"].removeprefix(f"http://127.0.0.1:{server.port}")
        connection.request("PATCH", place, pieces(), {"Content-Type": "application/octet-stream"}, encode_chunked=True)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 202
        place = answer.headers["Location"].removeprefix(f"http://127.0.0.1:{server.port}")
        sent = f"sha256:{digest.hexdigest()}"
        connection.request("PUT", f"{place}{'&' if '?' in place else '?'}digest={sent}", b"")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 201
        assert resident(server) - before < GROWTH

        connection.request("GET", f"/v2/large/blobs/{sent}")
        answer = connection.getresponse()
        got, received, buffer = hashlib.sha256(), 0, bytearray(1 << 20)
        while count := answer.readinto(buffer):
            received += count
            got.update(memoryview(buffer)[:count])
        assert received == SIZE
        assert f"sha256:{got.hexdigest()}" == sent
        assert resident(server) - before < GROWTH
        print(before >> 20, resident(server) >> 20)
    finally:
        server.stop()
