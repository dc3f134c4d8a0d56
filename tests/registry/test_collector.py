"""Garbage goes while the registry goes on; what is named, wanted or young stays."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dockyard.registry.blobs import Blobs
from dockyard.registry.collector import Collector
from dockyard.registry.manifests import Manifests
from dockyard.registry.storage.filesystem import FileSystem
from tests.processes import eventually
from tests.registry.server import OCI_INDEX, OCI_MANIFEST, Server, digest_of

GRACE = 0.05  # less than a push takes now and then: nothing may rest on it


def collect(server: Server, *options: str, grace: str = "0") -> str:
    place = f"storage.filesystem.rootdirectory={server.root}"
    command = [sys.executable, "-m", "dockyard.registry", "garbage-collect", "--grace", grace, "--set", place, *options]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def blobs_of(server: Server) -> set[str]:
    folder = server.root / "docker/registry/v2/blobs/sha256"
    return {f"sha256:{path.parent.name}" for path in folder.glob("*/*/data")}


def test_only_what_no_manifest_names_goes(server: Server) -> None:
    server.start()
    kept = server.push_image("a", "kept", layer=b"kept")
    gone = server.push_image("a", "gone", layer=b"gone")
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{"mediaType": OCI_MANIFEST, "digest": kept}]}
    server.ask("PUT", "/v2/a/manifests/list", json.dumps(index).encode(), {"Content-Type": OCI_INDEX})
    stray = server.push_blob("b", b"stray")
    server.ask("DELETE", f"/v2/a/manifests/{gone}")
    assert f"eligible for deletion: {gone}" in collect(server, "--dry-run")
    assert "0 blobs and 0 untagged manifests collected" in collect(server, grace="1h")
    said = collect(server)
    assert {line for line in said.splitlines() if line.startswith("deleted")} == {
        f"deleted: {digest}" for digest in (gone, digest_of(b"gone"), stray)
    }
    try:
        assert server.ask("GET", f"/v2/a/blobs/{digest_of(b'kept')}").body == b"kept"
        assert server.ask("GET", "/v2/a/manifests/list").status == 200
        # nothing says any more that what is gone is there, so that it is sent anew
        assert server.ask("HEAD", f"/v2/a/blobs/{digest_of(b'gone')}").status == 404
        assert server.ask("HEAD", f"/v2/b/blobs/{stray}").status == 404
        assert server.push_image("a", "gone", layer=b"gone") == gone
    finally:
        server.stop()


def test_manifests_without_tags_go_if_asked_for_but_not_what_a_tag_leads_to(server: Server) -> None:
    server.start()
    inner = server.push_image("a", "x", layer=b"inner")
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{"mediaType": OCI_MANIFEST, "digest": inner}]}
    server.ask("PUT", "/v2/a/manifests/list", json.dumps(index).encode(), {"Content-Type": OCI_INDEX})
    subject = {"mediaType": OCI_MANIFEST, "digest": inner, "size": 1}
    signature = server.push_image("a", "y", layer=b"signature", subject=subject, artifactType="x/y")
    old = server.push_image("a", "z", layer=b"old")
    for tag in ("x", "y"):
        server.ask("DELETE", f"/v2/a/manifests/{tag}")
    server.push_image("a", "z", layer=b"new")
    try:
        assert collect(server).startswith("0 blobs and 0 untagged")
        assert f"deleted: a@{old}" in collect(server, "--delete-untagged")
        assert blobs_of(server) >= {inner, signature, digest_of(b"inner"), digest_of(b"signature"), digest_of(b"new")}
        assert not blobs_of(server) & {old, digest_of(b"old")}
        assert server.ask("GET", f"/v2/a/manifests/{old}").status == 404
        assert len(server.ask("GET", f"/v2/a/referrers/{inner}").json["manifests"]) == 1
    finally:
        server.stop()


def test_what_old_registries_have_left_keeps_what_it_mentions(server: Server) -> None:
    server.start()
    layer = server.push_blob("a", b"layer of schema 1")
    server.stop()
    manifest = json.dumps({"schemaVersion": 1, "fsLayers": [{"blobSum": layer}]}).encode()
    root = server.root / "docker/registry/v2"
    value = digest_of(manifest).removeprefix("sha256:")
    for path, data in (
        (root / f"blobs/sha256/{value[:2]}/{value}/data", manifest),
        (root / f"repositories/a/_manifests/revisions/sha256/{value}/link", f"sha256:{value}".encode()),
    ):
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    assert collect(server).startswith("0 blobs")


def test_a_blob_that_is_wanted_meanwhile_stays(tmp_path: Path) -> None:
    """The one instant that matters: after the collector has looked at it."""
    storage = FileSystem(str(tmp_path))
    looked = os.stat
    blob = tmp_path / "a/data"
    blob.parent.mkdir()
    blob.write_bytes(b"x")
    os.utime(blob, (1, 1))

    def wanted_after(path: str, *rest: object) -> os.stat_result:
        found = looked(path)
        if path == str(blob):
            os.utime(path)
        return found

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("dockyard.registry.storage.filesystem.os.stat", wanted_after)
        assert not asyncio.run(storage.discard("a/data", time.time() - 10))
    assert blob.read_bytes() == b"x"
    assert asyncio.run(storage.discard("a/data", time.time() + 10))
    assert not blob.parent.exists()


def test_pushes_and_collections_side_by_side_lose_nothing(server: Server) -> None:
    """Four clients push, delete and push again what the collector takes away all the time."""
    server.start()
    ended = threading.Event()
    collections = [0]
    losses: list[str] = []

    def collecting() -> None:
        while not ended.is_set():
            storage = FileSystem(str(server.root))
            manifests = Manifests(storage, Blobs(storage))
            report = asyncio.run(Collector(storage, manifests, grace=GRACE, untagged=True).run())
            collections[0] += len(report.collected)

    def pushing(number: int) -> None:
        for turn in range(25):
            layer = f"layer {turn % 3}".encode()
            for _ in range(500):
                try:
                    digest = server.push_image(f"r{number}", "tag", layer=layer)
                    break
                except AssertionError:
                    continue  # told that it is not there: as a client does, begin again
            for path in (f"manifests/{digest}", "manifests/tag", f"blobs/{digest_of(layer)}"):
                if server.ask("GET", f"/v2/r{number}/{path}").status != 200:
                    losses.append(f"{number} {turn} {path}")
            server.ask("DELETE", f"/v2/r{number}/manifests/{digest}")

    threads = [threading.Thread(target=pushing, args=(number,)) for number in range(4)]
    collector = threading.Thread(target=collecting)
    for thread in (*threads, collector):
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    collector.join()
    server.stop()
    assert losses == [], losses
    assert collections[0] > 10


def test_the_server_collects_by_itself_and_gives_up_old_uploads(tmp_path: Path) -> None:
    server = Server(
        tmp_path,
        "collection.interval=200ms",
        "collection.grace=0s",
        "storage.maintenance.uploadpurging.interval=200ms",
        "storage.maintenance.uploadpurging.age=100ms",
    ).start()
    try:
        stray = server.push_blob("a", b"stray")
        place = server.ask("POST", "/v2/a/blobs/uploads/", b"").headers["Location"]
        eventually(lambda: server.ask("HEAD", f"/v2/a/blobs/{stray}").status == 404)
        eventually(lambda: server.ask("GET", place).status == 404)
    finally:
        server.stop()


def test_no_more_is_taken_than_a_quota_allows(tmp_path: Path) -> None:
    quotas = ("quotas.0.name=team/", "quotas.0.size=100k", "quotas.1.name=one", "quotas.1.size=1k")
    server = Server(tmp_path, *quotas).start()
    try:
        first = os.urandom(60_000)
        server.push_blob("team/a", first)
        server.push_blob("other", os.urandom(200_000))
        digest = digest_of(b"y" * 60_000)
        for name, size in (("team/b", 60_000), ("one", 2000)):
            answer = server.ask("POST", f"/v2/{name}/blobs/uploads/?digest={digest}", b"y" * size)
            assert (answer.status, answer.code) == (403, "DENIED")
            assert "exceeded" in answer.json["errors"][0]["message"]
        # and not piece by piece either, however many nobody says
        place = server.ask("POST", "/v2/team/b/blobs/uploads/", b"").headers["Location"]
        pieces = [b"y" * 30_000] * 4
        try:
            assert server.ask("PATCH", place, iter(pieces), encode_chunked=True).status == 403
        except ConnectionError:
            pass  # it was told while it still sent
        assert server.ask("PUT", f"{place}?digest={digest_of(b'y' * 120_000)}", b"").status in (400, 403, 404)
        # what a namespace has, it may have in another of its repositories
        mounted = server.ask("POST", f"/v2/team/b/blobs/uploads/?mount={digest_of(first)}&from=team/a", b"")
        assert mounted.status in (201, 403)
        server.push_blob("team/b", os.urandom(20_000))
    finally:
        server.stop()
