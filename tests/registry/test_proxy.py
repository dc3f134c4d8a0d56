"""A registry that is a cache of another."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.registry.auth.htpasswd import digest_of_password
from tests.processes import eventually
from tests.registry.server import Server, digest_of
from tests.registry.test_access import basic


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Server]:
    """The other registry."""
    server = Server(tmp_path / "behind")
    server.root.mkdir(parents=True)
    server.start()
    yield server
    server.stop()


def cache_of(behind: Server, folder: Path, *settings: str) -> Server:
    return Server(folder, f"proxy.remoteurl=http://127.0.0.1:{behind.port}", *settings).start()


def test_what_was_fetched_once_is_given_without_the_other(behind: Server, tmp_path: Path) -> None:
    layer = os.urandom(2_000_000)
    digest = behind.push_image("a/b", "v1", layer=layer)
    cache = cache_of(behind, tmp_path)
    try:
        for _ in range(2):
            answer = cache.ask("GET", "/v2/a/b/manifests/v1")
            assert (answer.status, answer.headers["Docker-Content-Digest"]) == (200, digest)
            assert cache.ask("GET", f"/v2/a/b/blobs/{digest_of(layer)}").body == layer
        assert cache.ask("GET", "/v2/a/b/tags/list").json["tags"] == ["v1"]
        part = cache.ask("GET", f"/v2/a/b/blobs/{digest_of(layer)}", headers={"Range": "bytes=10-19"})
        assert (part.status, part.body) == (206, layer[10:20])
        said = behind.log_file.read_text()
        assert said.count(f"GET /v2/a/b/blobs/{digest_of(layer)}") == 1
        assert said.count("GET /v2/a/b/manifests/v1") == 1
        # a tag that means something else now
        other = behind.push_image("a/b", "v1", layer=b"other")
        assert cache.ask("GET", "/v2/a/b/manifests/v1").headers["Docker-Content-Digest"] == other
        assert cache.ask("GET", "/v2/a/b/manifests/v2").code == "MANIFEST_UNKNOWN"
        assert cache.ask("GET", f"/v2/a/b/blobs/{digest_of(b'none')}").code == "BLOB_UNKNOWN"
        assert cache.ask("POST", "/v2/a/b/blobs/uploads/", b"").status == 405
        behind.stop()
        assert cache.ask("GET", "/v2/a/b/manifests/v1").headers["Docker-Content-Digest"] == other
        assert cache.ask("GET", f"/v2/a/b/manifests/{digest}").status == 200
        assert cache.ask("GET", f"/v2/a/b/blobs/{digest_of(layer)}").body == layer
        assert cache.ask("GET", "/v2/a/b/tags/list").json["tags"] == ["v1"]
        assert cache.ask("GET", "/v2/a/c/manifests/v1").status == 503
        behind.start()
    finally:
        cache.stop()


def test_clients_that_want_the_same_share_one_download(behind: Server, tmp_path: Path) -> None:
    layer = os.urandom(20_000_000)
    behind.push_image("a", layer=layer)
    cache = cache_of(behind, tmp_path)
    got: list[bool] = []

    def pull() -> None:
        got.append(cache.ask("GET", f"/v2/a/blobs/{digest_of(layer)}").body == layer)

    threads = [threading.Thread(target=pull) for _ in range(6)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got == [True] * 6
        eventually(lambda: cache.ask("HEAD", f"/v2/a/blobs/{digest_of(layer)}").status == 200)
        assert behind.log_file.read_text().count(f"GET /v2/a/blobs/{digest_of(layer)}") == 1
    finally:
        cache.stop()


def test_what_is_not_what_its_digest_says_is_not_kept(behind: Server, tmp_path: Path) -> None:
    layer = b"right" * 1000
    behind.push_image("a", layer=layer)
    value = digest_of(layer).removeprefix("sha256:")
    (behind.root / f"docker/registry/v2/blobs/sha256/{value[:2]}/{value}/data").write_bytes(b"wrong" * 1000)
    cache = cache_of(behind, tmp_path)
    try:
        cache.ask("GET", f"/v2/a/blobs/sha256:{value}")
        time.sleep(0.1)
        assert not list(cache.root.glob("docker/registry/v2/blobs/sha256/*/*/data"))
        assert not list(cache.root.glob("docker/registry/v2/repositories/a/_uploads/*/data"))
    finally:
        cache.stop()


def test_the_login_of_the_settings_opens_the_other(tmp_path: Path) -> None:
    file = tmp_path / "htpasswd"
    file.write_text(f"me:{digest_of_password('secret')}\n")
    (tmp_path / "behind").mkdir()
    behind = Server(tmp_path / "behind", f"auth.htpasswd.path={file}").start()
    blob = b"x" * 1000
    assert (
        behind.ask("POST", f"/v2/a/blobs/uploads/?digest={digest_of(blob)}", blob, basic("me", "secret")).status == 201
    )
    cache = cache_of(behind, tmp_path, "proxy.username=me", "proxy.password=secret")
    try:
        assert cache.ask("GET", f"/v2/a/blobs/{digest_of(blob)}").body == blob
    finally:
        cache.stop()
        behind.stop()


def test_what_nobody_asks_for_is_forgotten(behind: Server, tmp_path: Path) -> None:
    behind.push_image("a", layer=b"layer")
    cache = cache_of(behind, tmp_path, "proxy.ttl=800ms")
    try:
        assert cache.ask("GET", "/v2/a/manifests/latest").status == 200
        assert cache.ask("GET", f"/v2/a/blobs/{digest_of(b'layer')}").status == 200
        eventually(lambda: not list(cache.root.glob("docker/registry/v2/blobs/sha256/*/*/data")))
        assert cache.ask("GET", "/v2/a/manifests/latest").status == 200
    finally:
        cache.stop()
