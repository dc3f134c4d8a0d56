"""Blobs on their way in: in one piece, in several, broken and taken up again, mounted, given up."""

import os
import signal
import socket
import time
from pathlib import Path

from tests.registry.server import Server, digest_of

BLOB = os.urandom(300_000)


def test_a_blob_sent_in_one_piece_is_there(registry: Server) -> None:
    digest = registry.push_blob("one/a", BLOB)
    answer = registry.ask("GET", f"/v2/one/a/blobs/{digest}")
    assert (answer.status, answer.body) == (200, BLOB)
    assert answer.headers["Docker-Content-Digest"] == digest
    head = registry.ask("HEAD", f"/v2/one/a/blobs/{digest}")
    assert (head.status, head.headers["Content-Length"], head.body) == (200, str(len(BLOB)), b"")


def test_a_blob_sent_as_docker_sends_it(registry: Server) -> None:
    """POST, one PATCH in chunks of which nobody says how many, PUT."""
    begun = registry.ask("POST", "/v2/one/b/blobs/uploads/", b"")
    assert (begun.status, begun.headers["Range"]) == (202, "0-0")
    pieces = [BLOB[:100_000], BLOB[100_000:]]
    sent = registry.ask("PATCH", begun.headers["Location"], iter(pieces), encode_chunked=True)
    assert (sent.status, sent.headers["Range"]) == (202, f"0-{len(BLOB) - 1}")
    done = registry.ask("PUT", f"{sent.headers['Location']}?digest={digest_of(BLOB)}", b"")
    assert done.status == 201
    assert registry.ask("GET", done.headers["Location"]).body == BLOB


def test_pieces_have_to_come_in_order(registry: Server) -> None:
    place = registry.ask("POST", "/v2/one/c/blobs/uploads/", b"").headers["Location"]
    assert registry.ask("PATCH", place, BLOB[:1000], {"Content-Range": "0-999"}).status == 202
    wrong = registry.ask("PATCH", place, BLOB[2000:3000], {"Content-Range": "2000-2999"})
    assert (wrong.status, wrong.code, wrong.headers["Range"]) == (416, "RANGE_INVALID", "0-999")
    again = registry.ask("PATCH", place, BLOB[:1000], {"Content-Range": "0-999"})
    assert again.status == 416
    told = registry.ask("GET", place)
    assert (told.status, told.headers["Range"]) == (204, "0-999")
    short = registry.ask("PATCH", place, b"x", {"Content-Range": "1000-1999"})
    assert (short.status, short.code) == (400, "SIZE_INVALID")
    rest = {"Content-Range": f"1000-{len(BLOB) - 1}"}
    assert registry.ask("PUT", f"{place}?digest={digest_of(BLOB)}", BLOB[1000:], rest).status == 201


def test_what_is_not_what_its_digest_says_is_not_kept(registry: Server) -> None:
    digest = digest_of(b"something else")
    answer = registry.ask("POST", f"/v2/one/d/blobs/uploads/?digest={digest}", BLOB)
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert registry.ask("HEAD", f"/v2/one/d/blobs/{digest}").status == 404
    assert not list(registry.root.glob("docker/registry/v2/repositories/one/d/_uploads/*"))


def test_an_upload_that_breaks_goes_on_where_it_stopped(registry: Server) -> None:
    place = registry.ask("POST", "/v2/one/e/blobs/uploads/", b"").headers["Location"]
    with socket.create_connection(("127.0.0.1", registry.port)) as broken:
        broken.sendall(f"PATCH {place} HTTP/1.1\r\nHost: r\r\nContent-Length: {len(BLOB)}\r\n\r\n".encode())
        broken.sendall(BLOB[:200_000])
        time.sleep(0.1)
    for _ in range(3000):
        told = registry.ask("GET", place).headers["Range"]
        if told == "0-199999":
            break
        time.sleep(0.02)
    assert told == "0-199999"
    rest = {"Content-Range": f"200000-{len(BLOB) - 1}"}
    assert registry.ask("PATCH", place, BLOB[200_000:], rest).status == 202
    assert registry.ask("PUT", f"{place}?digest={digest_of(BLOB)}", b"").status == 201


def test_an_upload_outlives_the_server(tmp_path: Path) -> None:
    first = Server(tmp_path).start()
    place = first.ask("POST", "/v2/one/blobs/uploads/", b"").headers["Location"]
    assert first.ask("PATCH", place, BLOB[:1000], {"Content-Range": "0-999"}).status == 202
    first.stop(signal.SIGKILL)
    second = Server(tmp_path).start()
    try:
        assert second.ask("GET", place).headers["Range"] == "0-999"
        assert second.ask("PATCH", place, BLOB[1000:]).status == 202
        assert second.ask("PUT", f"{place}?digest={digest_of(BLOB)}", b"").status == 201
        assert second.ask("GET", f"/v2/one/blobs/{digest_of(BLOB)}").body == BLOB
    finally:
        assert second.stop() == 0


def test_a_blob_is_mounted_from_another_repository(registry: Server) -> None:
    digest = registry.push_blob("two/from", BLOB)
    answer = registry.ask("POST", f"/v2/two/to/blobs/uploads/?mount={digest}&from=two/from", b"")
    assert (answer.status, answer.headers["Docker-Content-Digest"]) == (201, digest)
    assert registry.ask("GET", f"/v2/two/to/blobs/{digest}").body == BLOB
    nothing = registry.ask("POST", f"/v2/two/to/blobs/uploads/?mount={digest_of(b'none')}&from=two/from", b"")
    assert (nothing.status, "Location" in nothing.headers) == (202, True)


def test_an_upload_is_given_up(registry: Server) -> None:
    place = registry.ask("POST", "/v2/two/x/blobs/uploads/", b"").headers["Location"]
    assert registry.ask("DELETE", place).status == 204
    assert registry.ask("GET", place).code == "BLOB_UPLOAD_UNKNOWN"
    assert registry.ask("PATCH", place, b"x").status == 404


def test_a_blob_is_given_in_part(registry: Server) -> None:
    digest = registry.push_blob("three", BLOB)
    path = f"/v2/three/blobs/{digest}"
    for asked, start, end in (("0-9", 0, 10), ("299990-", 299_990, 300_000), ("-5", 299_995, 300_000)):
        answer = registry.ask("GET", path, headers={"Range": f"bytes={asked}"})
        assert (answer.status, answer.body) == (206, BLOB[start:end])
        assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(BLOB)}"
    beyond = registry.ask("GET", path, headers={"Range": "bytes=300000-"})
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, "bytes */300000")
    assert registry.ask("GET", path, headers={"If-None-Match": f'"{digest}"'}).status == 304


def test_a_repository_has_only_what_was_sent_to_it(registry: Server) -> None:
    digest = registry.push_blob("four/a", BLOB)
    assert registry.ask("HEAD", f"/v2/four/b/blobs/{digest}").status == 404
    assert registry.ask("DELETE", f"/v2/four/a/blobs/{digest}").status == 202
    assert registry.ask("GET", f"/v2/four/a/blobs/{digest}").code == "BLOB_UNKNOWN"
