"""Projects that are published to a registry, and files that come from one or from git."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.conftest import ComposeFolder
from tests.processes import eventually
from tests.registry.server import Server

PROJECT = """
services:
  app:
    image: busybox
    env_file: app.env
    environment: {B: "${B:-c}"}
    extends: {file: common.yaml, service: base}
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("registry")).start()
    yield server
    server.stop()


@pytest.fixture
def project(files: ComposeFolder, tmp_path: Path) -> ComposeFolder:
    """A project of several files, with a cache of its own."""
    files.environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    files.write(PROJECT)
    files.write("services:\n  base: {command: sleep 1000, init: true}\n", "common.yaml")
    files.write("A=b\n", "app.env")
    return files


def answer(files: ComposeFolder, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command with an answer on its standard input."""
    return subprocess.run(
        [sys.executable, "-m", "dockyard.cli.main", "compose", *arguments],
        cwd=files.folder,
        env=files.environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("options", [(), ("--oci-version", "1.0")], ids=["1.1", "1.0"])
def test_a_project_is_published_and_read_from_the_registry(
    project: ComposeFolder, registry: Server, options: tuple[str, ...]
) -> None:
    here = json.loads(project("config", "--format", "json"))
    name = f"127.0.0.1:{registry.port}/team/app:v{len(options)}"
    done = project.run("publish", "--with-env", "--yes", *options, name)
    assert done.returncode == 0, done.stderr
    assert f"{name} published" in " ".join(done.stderr.split())
    manifest = json.loads(registry.ask("GET", f"/v2/team/app/manifests/v{len(options)}").body)
    assert manifest.get("artifactType", "") == ("" if options else "application/vnd.docker.compose.project")
    there = json.loads(project("-f", f"oci://{name}", "config", "--format", "json"))
    assert there == here
    assert there["services"]["app"]["environment"] == {"A": "b", "B": "c"}
    # it can be included, too
    project.write(f"include: ['oci://{name}']\nservices: {{other: {{image: busybox}}}}", "more.yaml")
    assert project("-f", "more.yaml", "config", "--services").split() == ["app", "other"]


def test_what_may_not_be_meant_for_others_is_asked_for(project: ComposeFolder) -> None:
    said = project.error("publish", "--dry-run", "test/test")
    assert 'service "app" has env_file declared.\nservice "app" has environment variable(s) declared.' in said
    assert "--with-env flag" in said
    project.write("TOKEN=ghp_1234567890abcdefghijklmnopqrstuvwxyz\n", "app.env")
    done = answer(project, "n\n", "publish", "--with-env", "--dry-run", "test/test")
    assert done.returncode == 0
    assert 'Github authentication\n"TOKEN": ghp_1234567890abcdefghijklmnopqrstuvwxyz' in done.stdout
    assert "published" not in done.stderr
    project.write("services: {app: {image: busybox, volumes: ['./data:/data']}}")
    done = answer(project, "y\n", "publish", "--dry-run", "test/test")
    assert f"{project.folder}/data:/data\nAre you ok to publish these bind mount declarations?" in done.stdout
    assert "test/test published" in " ".join(done.stderr.split())
    project.write("services: {app: {build: .}}")
    assert 'only contains a build section for service(s):\n- "app"' in project.error("publish", "-y", "test/test")
    project.write("services: {base: {image: busybox}}", "good.yaml")
    project.write("include: [good.yaml]")
    assert project.error("publish", "-y", "test/test") == "cannot publish compose file with local includes"


def test_a_hostile_artifact_writes_nothing_elsewhere(project: ComposeFolder, registry: Server) -> None:
    data = b"services: {}"
    layer = {
        "mediaType": "application/vnd.docker.compose.file+yaml",
        "digest": registry.push_blob("team/evil", data),
        "size": len(data),
        "annotations": {"com.docker.compose.extends": "true", "com.docker.compose.file": "../../evil.yaml"},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.docker.compose.project",
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": registry.push_blob("team/evil", b"{}"),
            "size": 2,
        },
        "layers": [layer],
    }
    kind = {"Content-Type": str(manifest["mediaType"])}
    assert registry.ask("PUT", "/v2/team/evil/manifests/1", json.dumps(manifest).encode(), kind).status == 201
    address = f"127.0.0.1:{registry.port}/team"
    assert project.error("-f", f"oci://{address}/evil:1", "config") == "invalid OCI artifact"
    assert not list(Path(project.environment["XDG_CACHE_HOME"]).rglob("*.yaml"))
    registry.push_image("team/image")
    assert "is not a compose project OCI artifact" in project.error("-f", f"oci://{address}/image", "config")
    assert "failed to pull OCI resource" in project.error("-f", f"oci://{address}/nothing", "config")


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[str]:
    """The address of a git repository with a project in a folder of it."""
    folder = tmp_path / "served" / "r.git"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "compose.yaml").write_text("services: {a: {image: busybox, build: ./ctx}}")
    (folder / "sub" / "out").symlink_to("/etc")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example"]
    for words in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "one"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    port = Server(tmp_path).port  # one that is free
    daemon = subprocess.Popen(
        ["git", "daemon", "--reuseaddr", f"--base-path={folder.parent}", "--export-all", f"--port={port}"],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"git://127.0.0.1:{port}/r.git"
    try:
        eventually(lambda: not subprocess.run(["git", "ls-remote", address], capture_output=True).returncode)
        yield address
    finally:
        os.killpg(daemon.pid, signal.SIGTERM)
        daemon.wait()


def test_files_come_from_a_git_repository(project: ComposeFolder, repository: str) -> None:
    found = json.loads(project("-f", f"{repository}#HEAD:sub", "config", "--format", "json"))
    assert found["name"] == project.folder.name
    context = Path(found["services"]["a"]["build"]["context"])
    assert context.parent.name == "sub"
    assert context.is_relative_to(project.environment["XDG_CACHE_HOME"])
    project.write(f"services: {{b: {{extends: {{file: '{repository}#HEAD:sub', service: a}}}}}}", "more.yaml")
    assert project("-f", "more.yaml", "config", "--images").split() == ["busybox"]
    assert "does not contain ref" in project.error("-f", f"{repository}#nope:sub", "config")
    assert "escapes base directory" in project.error("-f", f"{repository}#HEAD:sub/out", "config")
    disabled = project.error("-f", repository, "config", COMPOSE_EXPERIMENTAL_GIT_REMOTE="false")
    assert disabled == 'git remote resource is disabled by "COMPOSE_EXPERIMENTAL_GIT_REMOTE"'


def test_who_runs_a_project_from_elsewhere_sees_its_variables_first(project: ComposeFolder, registry: Server) -> None:
    name = f"127.0.0.1:{registry.port}/team/asked:1"
    project("publish", "--with-env", "--yes", name)
    done = answer(project, "n\n", "-f", f"oci://{name}", "up", "-d")
    assert done.returncode == 1
    assert f'Your compose stack "oci://{name}" is stored in "' in done.stdout
    assert "B          c       compose file   no         c" in done.stdout
    assert done.stderr.endswith("operation cancelled by user\n")


def test_bridge_is_refused_clearly(project: ComposeFolder) -> None:
    assert project.error("bridge", "convert").startswith("compose bridge is not supported")
