"""A registry server for tests, in a process of its own."""

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The first error's."""
        return str(self.json["errors"][0]["code"])


class Server:
    """Starts, asks and stops one."""

    def __init__(self, folder: Path, *settings: str, environment: Mapping[str, str] | None = None) -> None:
        self.root = folder / "registry"
        self.log_file = folder / "registry.log"
        self.port = free_port()
        self.settings = [
            f"http.addr=127.0.0.1:{self.port}",
            f"storage.filesystem.rootdirectory={self.root}",
            "storage.delete.enabled=true",
            *settings,
        ]
        self.environment = dict(environment or {})
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Server":
        words = [word for setting in self.settings for word in ("--set", setting)]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dockyard.registry", "serve", *words],
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
            )
        for _ in range(3000):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                assert self.process.poll() is None, self.log_file.read_text()
                time.sleep(0.02)
        raise AssertionError("the registry did not start")

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=20)

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, **options: Any
    ) -> Answer:
        """One request; `body` is bytes, or an iterable of them that goes in chunks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, dict(headers or {}), **options)
            response = connection.getresponse()
            return Answer(response.status, dict(response.headers), response.read())
        finally:
            connection.close()

    def push_blob(self, name: str, data: bytes) -> str:
        digest = digest_of(data)
        assert self.ask("POST", f"/v2/{name}/blobs/uploads/?digest={digest}", data).status == 201
        return digest

    def push_image(self, name: str, tag: str = "latest", layer: bytes = b"layer", **more: Any) -> str:
        """An image of one layer; the manifest's digest."""
        config = b'{"architecture": "amd64", "os": "linux"}'
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
            **more,
        }
        for data in (config, layer):
            self.push_blob(name, data)
        data = json.dumps(manifest).encode()
        answer = self.ask("PUT", f"/v2/{name}/manifests/{tag}", data, {"Content-Type": OCI_MANIFEST})
        assert answer.status == 201, answer
        assert answer.headers["Docker-Content-Digest"] == digest_of(data)
        return digest_of(data)


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}
