"""A registry whose content is in a bucket: of moto, which speaks S3."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import eventually
from tests.registry.server import Server, digest_of, free_port


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket; the service's URL."""
    import boto3

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    service = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    client = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )

    def make() -> bool:
        try:
            client.create_bucket(Bucket="images")
        except OSError:
            return False
        except Exception as error:
            return "EndpointConnectionError" not in type(error).__name__ and "Connection" not in str(error)
        return True

    try:
        eventually(make, 60)
        yield url
    finally:
        service.terminate()
        service.wait()


def test_a_bucket_holds_a_registry(bucket: str, tmp_path: Path) -> None:
    settings = [
        "storage.s3.bucket=images",
        f"storage.s3.regionendpoint={bucket}",
        "storage.s3.accesskey=a",
        "storage.s3.secretkey=b",
        "storage.s3.rootdirectory=/a/b",
        f"storage.s3.staging={tmp_path}/staging",
        "storage.redirect.disable=true",
        "health.storagedriver.enabled=true",
    ]
    server = Server(tmp_path, *settings).start()
    blob = os.urandom(12_000_000)  # of several parts
    try:
        digest = server.push_blob("a", blob)
        assert server.ask("GET", f"/v2/a/blobs/{digest}").body == blob
        part = server.ask("GET", f"/v2/a/blobs/{digest}", headers={"Range": "bytes=100-199"})
        assert (part.status, part.body) == (206, blob[100:200])
        assert server.ask("HEAD", f"/v2/a/blobs/{digest}").headers["Content-Length"] == str(len(blob))
        image = server.push_image("a", "v1", layer=blob)
        other = server.push_image("b/c", "v1", layer=b"other")
        assert server.ask("GET", "/v2/a/tags/list").json["tags"] == ["v1"]
        assert server.ask("GET", "/v2/_catalog").json["repositories"] == ["a", "b/c"]
        assert server.ask("GET", f"/v2/a/manifests/{image}").status == 200
        mounted = server.ask("POST", f"/v2/d/blobs/uploads/?mount={digest}&from=a", b"")
        assert mounted.status == 201
        assert server.ask("DELETE", f"/v2/b/c/manifests/{other}").status == 202
        assert server.ask("GET", "/v2/b/c/manifests/v1").status == 404
        assert not [path for path in (tmp_path / "staging").rglob("*") if path.is_file()]
    finally:
        server.stop()
    words = [word for one in settings for word in ("--set", one)]
    command = [sys.executable, "-m", "dockyard.registry", "garbage-collect", "--grace", "0", *words]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert f"deleted: {digest_of(b'other')}" in said
    assert f"deleted: {digest}" not in said
    led = Server(tmp_path, *settings, "storage.redirect.disable=false").start()
    try:
        answer = led.ask("GET", f"/v2/a/blobs/{digest}")
        assert answer.status == 307
        assert answer.headers["Location"].startswith(f"{bucket}/images/a/b/docker/registry/v2/blobs/")
        assert led.ask("HEAD", f"/v2/b/c/blobs/{digest_of(b'other')}").status == 404
    finally:
        led.stop()
