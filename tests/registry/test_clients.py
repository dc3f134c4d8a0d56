"""Stock clients: the embedded image under the docker client, and a folder that Debian's docker-registry has written."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess
from tests.processes import eventually
from tests.registry.server import Server, digest_of, free_port


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker client")
def test_the_embedded_registry_takes_and_gives_images(engine: EngineProcess, tmp_path: Path) -> None:
    """A course's lines, on a machine where no registry answers."""
    port = free_port()
    place = f"localhost:{port}/box"
    engine.docker("pull", "busybox")
    engine.docker(
        "run", "-d", "-p", f"{port}:5000", "-v", f"{tmp_path}:/var/lib/registry", "--name=reg", "registry:2.7"
    )
    try:
        eventually(lambda: "listening" in engine.docker("logs", "reg"))
        engine.docker("tag", "busybox", place)
        assert "Pushed" in engine.docker("push", place)
        assert "Layer already exists" in engine.docker("push", place)
        engine.docker("rmi", place)
        assert "Downloaded newer image" in engine.docker("pull", place)
        assert engine.docker("run", "--rm", place, "echo", "hello") == "hello\n"
        assert (tmp_path / "docker/registry/v2/repositories/box/_manifests/tags/latest/current/link").is_file()
        assert engine.docker("exec", "reg", "registry", "--version").startswith("registry (dockyard ")
    finally:
        engine.docker("rm", "-fv", "reg")
        engine.docker("rmi", "-f", place)


@pytest.mark.skipif(shutil.which("docker-registry") is None, reason="needs Debian's docker-registry")
def test_a_folder_of_the_distribution_projects_registry_is_taken_over_and_back(tmp_path: Path) -> None:
    ours = Server(tmp_path)
    digest = ours.start().push_image("box", "a")
    ours.stop()
    theirs = Server(tmp_path)
    settings = tmp_path / "config.yml"
    settings.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {ours.root}}}}}\n"
        f"http: {{addr: '127.0.0.1:{theirs.port}'}}\n"
    )
    process = subprocess.Popen(["docker-registry", "serve", str(settings)], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: _answers(theirs))
        assert theirs.ask("GET", "/v2/box/tags/list").json["tags"] == ["a"]
        accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        assert theirs.ask("GET", f"/v2/box/manifests/{digest}", headers=accept).status == 200
        blob = b"by the other"
        begun = theirs.ask("POST", "/v2/box/blobs/uploads/", b"").headers["Location"]
        place = begun.removeprefix(f"http://127.0.0.1:{theirs.port}")
        assert theirs.ask("PUT", f"{place}&digest={digest_of(blob)}", blob).status == 201
    finally:
        process.terminate()
        process.wait()
    ours.start()
    try:
        assert ours.ask("GET", f"/v2/box/blobs/{digest_of(blob)}").body == blob
    finally:
        ours.stop()


def _answers(server: Server) -> bool:
    try:
        return server.ask("GET", "/v2/").status == 200
    except OSError:
        return False
