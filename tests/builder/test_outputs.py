"""What builds become, with the stock buildx: archives, pushed images, their manifests, annotations and compression."""

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.builder.test_buildx import Buildx, plugins
from tests.engine_process import EngineProcess
from tests.registry.server import Server

pytestmark = pytest.mark.skipif(plugins() is None, reason="no buildx could be fetched (packaging/newer-buildx)")
OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
ANY = f"{OCI}index.v1+json,{OCI}manifest.v1+json,{DOCKER}distribution.manifest.v2+json"


class Blobs:
    """An image in some place, by its blobs."""

    def __init__(self, read: Callable[[str], bytes], top: dict[str, Any]) -> None:
        self._read = read
        self.top = top

    def __getitem__(self, descriptor: dict[str, Any]) -> Any:
        content = self._read(descriptor["digest"])
        assert "sha256:" + hashlib.sha256(content).hexdigest() == descriptor["digest"]
        assert descriptor.get("size", len(content)) == len(content)
        return json.loads(content) if "json" in descriptor["mediaType"] else content


def archived(path: Path) -> Blobs:
    """An image in an OCI layout's archive."""
    with tarfile.open(path) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}  # type: ignore[union-attr]
    (top,) = json.loads(files["index.json"])["manifests"]
    return Blobs(lambda digest: files[f"blobs/{digest.replace(':', '/')}"], top)


def pushed(registry: Server, name: str, tag: str) -> Blobs:
    """An image in the registry."""
    answer = registry.ask("GET", f"/v2/{name}/manifests/{tag}", headers={"Accept": ANY})

    def read(digest: str) -> bytes:
        found = registry.ask("GET", f"/v2/{name}/manifests/{digest}", headers={"Accept": ANY})
        return found.body if found.status == 200 else registry.ask("GET", f"/v2/{name}/blobs/{digest}").body

    digest = answer.headers["Docker-Content-Digest"]
    return Blobs(read, {"mediaType": answer.headers["Content-Type"], "digest": digest})


def write(buildx: Buildx, text: str = "FROM busybox\nRUN echo made > /made\n") -> None:
    (buildx.folder / "Dockerfile").write_text(text)


def test_an_oci_archive_is_compressed_named_and_dated(buildx: Buildx) -> None:
    write(buildx)
    metadata = buildx.folder / "metadata"
    buildx("build", "-o", "type=oci,dest=a.tar", "-t", "some/name:tag", "--metadata-file", str(metadata), ".")
    image = archived(buildx.folder / "a.tar")
    assert image.top["mediaType"] == f"{OCI}manifest.v1+json"
    assert image.top["platform"]["os"] == "linux"
    assert image.top["annotations"]["io.containerd.image.name"] == "docker.io/some/name:tag"
    assert image.top["annotations"]["org.opencontainers.image.ref.name"] == "tag"
    manifest = image[image.top]
    config = image[manifest["config"]]
    assert config["config"]["Cmd"]
    unpacked = [gzip.decompress(image[layer]) for layer in manifest["layers"]]
    assert ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in unpacked] == config["rootfs"]["diff_ids"]
    assert {layer["mediaType"] for layer in manifest["layers"]} == {f"{OCI}layer.v1.tar+gzip"}
    told = json.loads(metadata.read_text())
    assert told["containerimage.descriptor"]["digest"] == told["containerimage.digest"] == image.top["digest"]


def test_compression_and_media_types_are_those_asked_for(buildx: Buildx) -> None:
    write(buildx)
    buildx("build", "-o", "type=oci,dest=z.tar,compression=zstd,compression-level=9,force-compression=true", ".")
    image = archived(buildx.folder / "z.tar")
    manifest = image[image.top]
    assert {layer["mediaType"] for layer in manifest["layers"]} == {f"{OCI}layer.v1.tar+zstd"}
    layer = zstandard.ZstdDecompressor().decompressobj().decompress(image[manifest["layers"][-1]])
    assert image[manifest["config"]]["rootfs"]["diff_ids"][-1] == "sha256:" + hashlib.sha256(layer).hexdigest()
    buildx("build", "-o", "type=docker,dest=d.tar,compression=uncompressed", ".")
    image = archived(buildx.folder / "d.tar")
    assert image.top["mediaType"] == f"{DOCKER}distribution.manifest.v2+json"
    manifest = image[image.top]
    assert {layer["mediaType"] for layer in manifest["layers"]} == {f"{DOCKER}image.rootfs.diff.tar"}
    for wrong, said in {
        "compression=zstd,oci-mediatypes=false": "conflicts with",
        "compression=lzma": "unsupported compression type lzma",
        "compression-level=20": "compression-level 20 is none of gzip",
        "rewrite-timestamp=perhaps": "non-bool value specified for rewrite-timestamp",
    }.items():
        assert said in buildx("build", "-o", f"type=oci,dest=w.tar,{wrong}", ".", check=False)


def test_an_oci_layout_may_be_a_directory(buildx: Buildx) -> None:
    write(buildx)
    buildx("build", "-o", "type=oci,dest=layout,tar=false", "-t", "some/name:tag", ".")
    folder = buildx.folder / "layout"
    (top,) = json.loads((folder / "index.json").read_text())["manifests"]
    image = Blobs(lambda digest: (folder / "blobs" / digest.replace(":", "/")).read_bytes(), top)
    assert len(image[image[top]["config"]]["rootfs"]["diff_ids"]) == len(image[top]["layers"])


def test_annotations_are_on_what_they_are_meant_for(buildx: Buildx, registry: Server) -> None:
    write(buildx)
    name = f"127.0.0.1:{registry.port}/annotated"
    marks = ("manifest:in=1", "manifest-descriptor:at=2", "plain=3")
    flags = [word for mark in marks for word in ("--annotation", mark)]
    said = buildx("build", "--push", "-t", f"{name}:one", "--provenance=false", *flags, ".")
    image = pushed(registry, "annotated", "one")
    assert image.top["mediaType"] == f"{OCI}manifest.v1+json"
    assert image[image.top]["annotations"] == {"in": "1", "plain": "3"}
    refused = ("--annotation", "index:no=index", "--provenance=false")
    said = buildx("build", "-o", "type=oci,dest=x.tar", *refused, ".", check=False)
    assert "index annotations not supported for single platform export" in said


def test_a_push_takes_what_the_registry_has(engine: EngineProcess, buildx: Buildx, registry: Server) -> None:
    write(buildx, "FROM busybox\nRUN date +%s%N > /when\n")
    name = f"127.0.0.1:{registry.port}/pushed"
    said = buildx("build", "--progress=plain", "--push", "--provenance=false", "-t", f"{name}:one", ".")
    assert "pushing layer" in said
    image = pushed(registry, "pushed", "one")
    assert image.top["mediaType"] == f"{DOCKER}distribution.manifest.v2+json"
    again = buildx("build", "--progress=plain", "--push", "--provenance=false", "-t", f"{name}:two", ".")
    assert "pushing layer" not in again
    assert pushed(registry, "pushed", "two").top["digest"] == image.top["digest"]
    engine.docker("rmi", f"{name}:one", f"{name}:two")
    engine.docker("pull", f"{name}@{image.top['digest']}")


def test_an_image_may_be_known_by_its_digest_at_once(engine: EngineProcess, buildx: Buildx) -> None:
    write(buildx)
    metadata = buildx.folder / "metadata"
    wanted = "type=image,name=example.org/canonical:one,name-canonical=true"
    buildx("build", "-o", wanted, "--metadata-file", str(metadata), ".")
    digest = json.loads(metadata.read_text())["containerimage.digest"]
    assert f"example.org/canonical@{digest}" in engine.inspect("example.org/canonical:one")["RepoDigests"]
    assert engine.docker("run", "--rm", f"example.org/canonical@{digest}", "cat", "/made") == "made\n"


def test_squashed_layers_have_the_same_files_and_nothing_of_what_is_gone(engine: EngineProcess, buildx: Buildx) -> None:
    write(
        buildx,
        "FROM busybox\nRUN mkdir -p /a/b && echo 1 > /a/b/x && echo 2 > /a/y && ln /a/y /a/z && echo s > /gone\n"
        "RUN rm /gone /a/b/x /bin/yes && echo 3 > /a/n\nRUN rm -rf /home && mkdir /home && echo h > /home/h\n"
        "RUN rm -rf /a/b && echo file > /a/b && chmod 700 /a\nCOPY Dockerfile /a/c/\n",
    )
    buildx("build", "-t", "whole", ".")
    buildx("build", "-o", "type=image,name=squashed,squash=true", ".")
    base = engine.inspect("busybox")["RootFS"]["Layers"]
    assert engine.inspect("squashed")["RootFS"]["Layers"][: len(base)] == base
    assert len(engine.inspect("squashed")["RootFS"]["Layers"]) == len(base) + 1
    left_out = ("-path '/proc*'", "-path '/sys*'", "-path '/dev*'", "-path '/etc*'", "-name .dockerenv", "-path /tmp")
    look = (
        f"find / -xdev ! -path / {' '.join(f'! {one}' for one in left_out)} | sort | xargs stat -c '%n %f %u %g %Y %s'"
    )
    look += "; cat /a/b /a/y /a/z; ls /bin/yes /gone 2>&1"
    whole, one = (engine.docker("run", "--rm", name, "sh", "-c", f"{look}; true") for name in ("whole", "squashed"))
    assert whole == one
    buildx("build", "-o", "type=oci,dest=s.tar,squash=true", ".")
    image = archived(buildx.folder / "s.tar")
    layer = image[image[image.top]["layers"][-1]]
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer))) as archive:
        names = archive.getnames()
    assert "gone" not in names
    assert "bin/.wh.yes" in names


def test_layers_are_packed_once_for_all_outputs_and_prune_gives_that_back(
    engine: EngineProcess, buildx: Buildx
) -> None:
    def kept() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in engine.data_root.glob("image/**/packed/*")}

    write(buildx, "FROM busybox\nRUN echo packed-once > /packed\n")
    for name, more in (("a", ""), ("b", ""), ("z", ",compression=zstd,force-compression=true")):
        before = kept()
        buildx("build", "-o", f"type=oci,dest={name}.tar{more}", ".")
        if name == "b":
            assert kept() == before
    assert (buildx.folder / "a.tar").stat().st_size == (buildx.folder / "b.tar").stat().st_size
    made = {path.name for path in engine.data_root.glob("image/**/packed/*")}
    told = [entry for entry in engine.api("GET", "/system/df")[1]["BuildCache"] if entry["Type"] == "internal"]
    assert {entry["ID"] for entry in told} == {name[:25] for name in made}
    assert any("packed with zstd 3" in entry["Description"] for entry in told)
    assert not any(entry["InUse"] for entry in told)
    buildx("prune", "-f", "--filter", "type=internal")
    assert kept() == {}


def test_the_same_files_at_the_same_time_are_the_same_bytes(engine: EngineProcess, buildx: Buildx) -> None:
    write(
        buildx,
        "FROM busybox\nRUN mkdir -p /a && echo x > /a/b && ln /a/b /a/c && touch -d @1000000000 /a/old\n"
        "COPY Dockerfile /d/\nRUN rm /a/b\nLABEL a=b\n",
    )
    made = []
    for name in ("one", "two"):
        (buildx.folder / "Dockerfile").touch()
        fixed = ("--build-arg", "SOURCE_DATE_EPOCH=1500000000", "--no-cache", "--provenance=false")
        buildx("build", *fixed, "-o", f"type=oci,dest={name}.tar,rewrite-timestamp=true", "-t", "fixed", ".")
        made.append((buildx.folder / f"{name}.tar").read_bytes())
    assert made[0] == made[1]
    image = archived(buildx.folder / "one.tar")
    manifest = image[image.top]
    base = len(engine.inspect("busybox")["RootFS"]["Layers"])
    for layer in manifest["layers"][base:]:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(image[layer]))) as archive:
            assert {member.mtime for member in archive} <= {1500000000, 1000000000}
    config = image[manifest["config"]]
    assert config["created"] == "2017-07-14T02:40:00Z"
    assert config["history"][0]["created"] == engine.inspect("busybox")["Created"]
    assert {layer["annotations"]["buildkit/rewritten-timestamp"] for layer in manifest["layers"][base:]} == {
        "1500000000"
    }
    buildx("build", *fixed, "-o", "type=oci,dest=own.tar,source-date-epoch=1600000000", ".")
    own = archived(buildx.folder / "own.tar")
    assert own[own[own.top]["config"]]["created"] == "2020-09-13T12:26:40Z"
    more = ("--build-arg", "SOURCE_DATE_EPOCH=1500000000", "-o", "type=image,name=rewritten,rewrite-timestamp=true")
    buildx("build", *more, ".")
    assert engine.docker("run", "--rm", "rewritten", "stat", "-c", "%Y", "/a/c", "/a/old").split() == [
        "1500000000",
        "1000000000",
    ]


def test_layouts_of_the_client_are_bases_and_sources(engine: EngineProcess, buildx: Buildx) -> None:
    write(buildx, "FROM busybox\nRUN echo $RANDOM$(date +%s%N) > /made\nENV WORD=kept\n")
    buildx("build", "-o", "type=oci,dest=layout,tar=false", "-t", "given:tag", ".")
    write(buildx, "FROM given\nRUN echo $WORD > /word\nCOPY --from=given /made /again\n")
    buildx("build", "--build-context", f"given=oci-layout://{buildx.folder}/layout:tag", "-t", "based", ".")
    said = engine.docker("run", "--rm", "based", "sh", "-c", "cat /word; cmp /made /again && echo same")
    assert said == "kept\nsame\n"


@pytest.mark.parametrize("output", ["type=local,dest=out", "type=tar,dest=out.tar"])
def test_names_of_one_file_stay_that_in_what_is_written(buildx: Buildx, output: str) -> None:
    write(buildx, "FROM busybox AS made\nRUN mkdir /d && echo x > /d/one && ln /d/one /d/two\n"
                  "FROM scratch\nCOPY --from=made /d /d\n")  # fmt: skip
    buildx("build", "-o", output, ".")
    out = buildx.folder / "out"
    if not out.exists():
        out.mkdir()
        subprocess.run(["tar", "-x", "-C", out, "-f", buildx.folder / "out.tar"], check=True)
    assert (out / "d" / "one").read_text() == (out / "d" / "two").read_text() == "x\n"
    assert (out / "d" / "one").samefile(out / "d" / "two")
