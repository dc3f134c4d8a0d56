"""Build caches kept elsewhere, with the stock buildx: in directories of the client's and in registries."""

import hashlib
import json
import shutil
from typing import Any

import pytest

from tests.builder.test_buildx import Buildx, plugins
from tests.builder.test_outputs import DOCKER, OCI, pushed
from tests.engine_process import EngineProcess
from tests.registry.server import Server

pytestmark = pytest.mark.skipif(plugins() is None, reason="no buildx could be fetched (packaging/newer-buildx)")
CONFIG = "application/vnd.buildkit.cacheconfig.v0"

STAGES = (
    "FROM busybox AS maker\nRUN date +%s%N > /when\nCOPY Dockerfile /d\nFROM busybox\nCOPY Dockerfile /d\n"
    "RUN date +%s%N > /own\nCOPY --from=maker /when /got\nCOPY --link --from=maker /d /linked/\n"
)


def build(
    engine: EngineProcess, buildx: Buildx, *arguments: str, name: str = "cached", text: str = STAGES
) -> tuple[str, list[str]]:
    """Build and forget: what was said, and the layers of the image."""
    (buildx.folder / "Dockerfile").write_text(STAGES)
    said = buildx("build", "--progress=plain", "-t", name, *arguments, ".")
    layers = engine.inspect(name)["RootFS"]["Layers"]
    engine.docker("rmi", "-f", name)
    engine.api("POST", "/build/prune?all=true")
    return said, layers


def runs(said: str) -> int:
    """How many RUN steps were not in a cache."""
    steps = {line.split()[0] for line in said.splitlines() if "RUN date" in line and line.startswith("#")}
    cached = {line.split()[0] for line in said.splitlines() if line.endswith("CACHED")}
    return len(steps - cached)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_directory_has_a_builds_steps(engine: EngineProcess, buildx: Buildx, mode: str) -> None:
    _, layers = build(engine, buildx, "--cache-to", f"type=local,dest=cache,mode={mode}")
    folder = buildx.folder / "cache"
    (top,) = json.loads((folder / "index.json").read_text())["manifests"]
    manifest = json.loads((folder / "blobs" / top["digest"].replace(":", "/")).read_bytes())
    assert manifest["config"]["mediaType"] == CONFIG
    config = json.loads((folder / "blobs" / manifest["config"]["digest"].replace(":", "/")).read_bytes())
    # base, COPY, RUN, COPY, COPY; with all stages RUN and COPY of the other one, and what is linked by itself, too
    assert len(config["layers"]) == (5 if mode == "min" else 8)
    said, again = build(engine, buildx, "--cache-from", "type=local,src=cache")
    assert (runs(said), again) == (0, layers)


def test_layers_are_fetched_only_when_something_needs_them(engine: EngineProcess, buildx: Buildx) -> None:
    _, first = build(engine, buildx, "--cache-to", "type=local,dest=cache,mode=max")
    folder = buildx.folder / "cache/blobs/sha256"
    (top,) = json.loads((buildx.folder / "cache/index.json").read_text())["manifests"]
    manifest = json.loads((folder / top["digest"][7:]).read_bytes())
    config = json.loads((folder / manifest["config"]["digest"][7:]).read_bytes())
    made = next(
        record for record in config["records"] if record.get("dockyard", {}).get("name", "").startswith("[maker 2/3]")
    )
    (folder / config["layers"][made["layers"][0]["layer"]]["blob"][7:]).unlink()
    said, again = build(engine, buildx, "--cache-from", "type=local,src=cache")
    assert (runs(said), again) == (0, first)
    # what is not there when it is needed is made
    _, layers = build(engine, buildx, "--cache-from", "type=local,src=cache", "--target", "maker")
    assert len(layers) == len(made["dockyard"]["diffIds"]) + 1
    assert made["dockyard"]["diffIds"][-1] not in layers
    shutil.rmtree(folder)
    _, layers = build(engine, buildx, "--cache-from", "type=local,src=cache")
    assert len(layers) == len(first)
    assert layers != first


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ("mode=max", f"{OCI}manifest.v1+json"),
        ("image-manifest=false,compression=zstd", f"{OCI}index.v1+json"),
        ("oci-mediatypes=false", f"{DOCKER}distribution.manifest.list.v2+json"),
    ],
)
def test_a_registry_has_a_builds_steps(
    engine: EngineProcess, buildx: Buildx, registry: Server, options: str, kind: str
) -> None:
    name = f"127.0.0.1:{registry.port}/cache:{len(options)}"
    _, layers = build(engine, buildx, "--cache-to", f"type=registry,ref={name},{options}")
    accept = {"Accept": f"{OCI}index.v1+json,{OCI}manifest.v1+json,{DOCKER}distribution.manifest.list.v2+json"}
    assert registry.ask("HEAD", f"/v2/cache/manifests/{len(options)}", headers=accept).headers["Content-Type"] == kind
    said, again = build(engine, buildx, "--cache-from", f"type=registry,ref={name}")
    assert (runs(said), again) == (0, layers)


def test_an_image_in_a_registry_brings_its_steps_without_being_pulled(
    engine: EngineProcess, buildx: Buildx, registry: Server
) -> None:
    name = f"127.0.0.1:{registry.port}/inline:one"
    inline = ("--cache-to", "type=inline", "--provenance=false", "--push")
    _, layers = build(engine, buildx, *inline, name=name)
    image = pushed(registry, "inline", "one")
    # of the other stage, which is in no layer of the image, it says what has come of it
    said, again = build(engine, buildx, *inline, "--cache-from", name, name=name)
    assert (runs(said), again) == (0, layers)
    assert pushed(registry, "inline", "one").top["digest"] == image.top["digest"]


def test_a_cache_of_buildkits_own_is_read_and_does_no_harm(
    engine: EngineProcess, buildx: Buildx, registry: Server
) -> None:
    layer = b"no layer of ours"
    blob = registry.push_blob("theirs", layer)
    config = {
        "layers": [{"blob": blob, "parent": -1}],
        "records": [
            {"layers": [{"layer": 0, "createdAt": "2026-01-01T00:00:00Z"}], "digest": "sha256:" + "1" * 64},
            {"digest": "sha256:" + "2" * 64, "inputs": [[{"selector": "sha256:" + "3" * 64, "link": 0}]]},
        ],
    }
    raw = json.dumps(config).encode()
    about: dict[str, Any] = {"mediaType": CONFIG, "digest": registry.push_blob("theirs", raw), "size": len(raw)}
    layers = [{"mediaType": f"{OCI}layer.v1.tar+gzip", "digest": blob, "size": len(layer)}]
    index = {"schemaVersion": 2, "mediaType": f"{OCI}index.v1+json", "manifests": [*layers, about]}
    document = json.dumps(index).encode()
    headers = {"Content-Type": f"{OCI}index.v1+json"}
    assert registry.ask("PUT", "/v2/theirs/manifests/one", document, headers).status == 201
    said, _ = build(engine, buildx, "--cache-from", f"type=registry,ref=127.0.0.1:{registry.port}/theirs:one")
    assert "inferred cache manifest type: application/vnd.oci.image.index.v1+json" in said
    assert runs(said)
    assert hashlib.sha256(layer).hexdigest() in blob


def test_what_cannot_be_read_or_written_is_told(engine: EngineProcess, buildx: Buildx, registry: Server) -> None:
    (buildx.folder / "Dockerfile").write_text("FROM busybox\nCOPY Dockerfile /\n")
    said = buildx("build", "--progress=plain", "--cache-from", f"127.0.0.1:{registry.port}/none:x", ".")
    assert "ERROR" in said
    nowhere = "type=registry,ref=127.0.0.1:1/nowhere:x"
    assert "connection refused" in buildx("build", "--cache-to", nowhere, ".", check=False)
    buildx("build", "--cache-to", f"{nowhere},ignore-error=true", ".")
    twice = ("--cache-to", nowhere, "--cache-to", nowhere)
    assert "duplicate cache exports [registry]" in buildx("build", *twice, ".", check=False)
    wrong = f"type=registry,ref=127.0.0.1:{registry.port}/c:x,oci-mediatypes=false,image-manifest=true"
    assert "OCI mediatypes are required" in buildx("build", "--cache-to", wrong, ".", check=False)


def ours(engine: EngineProcess, *arguments: str) -> str:
    """Run our own client; what it says, when it succeeds."""
    done = engine.dockyard(*arguments)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode() + done.stderr.decode()


CACHED_TWICE = "FROM busybox\nRUN date +%s%N > /made-{0} && echo made-{0}\n"


def test_our_own_client_writes_and_reads_directories_and_the_stock_one_takes_them(
    engine: EngineProcess, buildx: Buildx
) -> None:
    folder, cache = buildx.folder, buildx.folder / "ours"
    (folder / "Dockerfile").write_text(CACHED_TWICE.format("ours"))
    ours(engine, "build", "--cache-to", f"type=local,dest={cache},mode=max", str(folder))
    engine.api("POST", "/build/prune?all=true")
    said = ours(engine, "build", "--cache-from", f"type=local,src={cache}", "-t", "from-ours", str(folder))
    assert "CACHED" in said
    layers = engine.inspect("from-ours")["RootFS"]["Layers"]
    for index in (cache / "index.json", cache / "oci-layout", cache / "index.json.lock"):
        assert index.exists()
    assert list((cache / "blobs/sha256").iterdir())
    assert not (cache / "ingest").exists()
    for name, client in (("stock", buildx), ("again", lambda *words: ours(engine, *words))):
        engine.docker("rmi", "from-ours", check=False)
        engine.api("POST", "/build/prune?all=true")
        client("build", "--cache-from", f"type=local,src={cache}", "-t", f"from-{name}", str(folder))
        assert engine.inspect(f"from-{name}")["RootFS"]["Layers"] == layers
        engine.docker("rmi", f"from-{name}")
    # another build's, under a tag of its own beside the first
    (folder / "Dockerfile").write_text(CACHED_TWICE.format("tagged"))
    ours(engine, "build", "--cache-to", f"type=local,dest={cache},tag=other", str(folder))
    tags = [
        entry["annotations"]["org.opencontainers.image.ref.name"]
        for entry in json.loads((cache / "index.json").read_text())["manifests"]
    ]
    assert tags == ["latest", "other"]
    said = ours(engine, "build", "--cache-from", f"type=local,src={folder / 'nowhere'}", str(folder))
    assert f"WARNING: local cache import at {folder / 'nowhere'} not found" in said
    refused = engine.dockyard("build", "--cache-from", f"type=local,src={cache},tag=none", str(folder))
    assert b"local cache importer requires either explicit digest" in refused.stderr


@pytest.mark.parametrize("command", ["bake", "compose"])
def test_bake_and_compose_have_caches_in_directories(engine: EngineProcess, buildx: Buildx, command: str) -> None:
    folder, cache = buildx.folder, buildx.folder / f"cache-of-{command}"
    (folder / "Dockerfile").write_text(CACHED_TWICE.format(command))
    (folder / "compose.yaml").write_text(
        f"name: cached-{command}\nservices:\n  one:\n    image: cached-{command}\n    build:\n      context: {folder}\n"
        f"      cache_to: ['type=local,dest={cache}']\n      cache_from: ['type=local,src={cache}']\n"
    )
    file = ("-f", str(folder / "compose.yaml"))
    words = ("bake", *file, "--allow=fs=*", "--load") if command == "bake" else ("compose", *file, "build")
    ours(engine, *words)
    first = engine.inspect(f"cached-{command}")["RootFS"]["Layers"]
    engine.docker("rmi", f"cached-{command}")
    engine.api("POST", "/build/prune?all=true")
    ours(engine, *words)
    assert engine.inspect(f"cached-{command}")["RootFS"]["Layers"] == first
    engine.docker("rmi", f"cached-{command}")
