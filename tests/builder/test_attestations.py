"""What is said about builds: provenance and bills of materials, in images (with the stock buildx) and beside files."""

import json
import shutil
import sqlite3
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from dockyard.builder.attestations.sbom.rpm import rpm_packages
from dockyard.builder.attestations.sbom.scan import packages_in
from dockyard.builder.attestations.statements import purl_of
from dockyard.builder.trees import ArchiveTree
from dockyard.oci.descriptor import Platform
from dockyard.oci.reference import Reference
from tests.builder.test_buildx import Buildx, plugins
from tests.builder.test_outputs import OCI, Blobs, archived, pushed, write
from tests.registry.server import Server

needs_buildx = pytest.mark.skipif(plugins() is None, reason="no buildx could be fetched (packaging/newer-buildx)")


@contextmanager
def file_server(folder: Path) -> Iterator[int]:
    """A web server of a folder's files: its port."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def statements(image: Blobs) -> dict[str, Any]:
    """What is said about the first image of an index, by the kind of predicate."""
    about, attestation = image[image.top]["manifests"]
    assert attestation["platform"] == {"architecture": "unknown", "os": "unknown"}
    assert attestation["annotations"] == {
        "vnd.docker.reference.digest": about["digest"],
        "vnd.docker.reference.type": "attestation-manifest",
    }
    manifest = image[attestation]
    assert image[manifest["config"]]["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
    found = {layer["annotations"]["in-toto.io/predicate-type"]: image[layer] for layer in manifest["layers"]}
    assert all(name == statement["predicateType"] for name, statement in found.items())
    return found


@needs_buildx
def test_a_pushed_image_tells_how_it_was_made_and_nothing_secret(buildx: Buildx, registry: Server) -> None:
    write(buildx, "FROM busybox\nARG WORD\nRUN echo $WORD > /made\n")
    name = f"127.0.0.1:{registry.port}/told"
    metadata = buildx.folder / "metadata"
    told = ("--metadata-file", str(metadata))
    buildx("build", "--push", "-t", f"{name}:one", "--build-arg", "WORD=hidden", *told, ".")
    # the client asks after the build, and is told the same
    assert json.loads(metadata.read_text())["buildx.build.provenance"]["materials"][0]["uri"].startswith("pkg:docker/")
    image = pushed(registry, "told", "one")
    assert image.top["mediaType"] == f"{OCI}index.v1+json"
    (statement,) = statements(image).values()
    assert statement["predicateType"] == "https://slsa.dev/provenance/v0.2"
    (subject,) = statement["subject"]
    assert subject["name"] == f"pkg:docker/{name}@one?platform=linux%2Famd64"
    assert f"sha256:{subject['digest']['sha256']}" == image[image.top]["manifests"][0]["digest"]
    predicate = statement["predicate"]
    assert predicate["materials"][0]["uri"].startswith("pkg:docker/busybox@latest?platform=")
    assert predicate["invocation"]["configSource"] == {"entryPoint": "Dockerfile"}
    assert "hidden" not in json.dumps(statement)
    assert "buildConfig" not in predicate


@needs_buildx
def test_mode_max_has_every_step_and_v1_its_own_shape(buildx: Buildx) -> None:
    write(buildx, "FROM busybox AS a\nRUN --mount=type=secret,id=s,required=false echo x > /x\nFROM busybox\n"
                  "COPY --from=a /x /x\nRUN true\n")  # fmt: skip
    buildx("build", "--provenance=mode=max,builder-id=https://me", "-o", "type=oci,dest=max.tar", ".")
    (statement,) = statements(archived(buildx.folder / "max.tar")).values()
    predicate = statement["predicate"]
    assert predicate["builder"] == {"id": "https://me"}
    assert predicate["invocation"]["parameters"]["secrets"] == [{"id": "s", "optional": True}]
    steps = {step["id"]: step for step in predicate["buildConfig"]["llbDefinition"]}
    kinds = [next(iter(step["op"]["Op"]), "") for step in steps.values()]
    assert sorted(kinds) == ["", "exec", "exec", "file", "source"]
    assert all(name.partition(":")[0] in steps for step in steps.values() for name in step.get("inputs", ()))
    source = predicate["metadata"]["https://mobyproject.org/buildkit@v1#metadata"]["source"]
    assert source["infos"][0]["filename"] == "Dockerfile"
    buildx("build", "--provenance=mode=max,version=v1", "-o", "type=oci,dest=v1.tar,oci-artifact=true", ".")
    image = archived(buildx.folder / "v1.tar")
    manifest = image[image[image.top]["manifests"][1]]
    assert manifest["artifactType"] == "application/vnd.docker.attestation.manifest.v1+json"
    assert manifest["subject"]["digest"] == image[image.top]["manifests"][0]["digest"]
    predicate = image[manifest["layers"][0]]["predicate"]
    assert predicate["buildDefinition"]["internalParameters"]["buildConfig"]["llbDefinition"]
    assert predicate["runDetails"]["metadata"]["buildkit_completeness"]["request"]
    for wrong, said in {
        "provenance,mode=some": 'invalid mode "some"',
        "provenance,version=v9": "invalid provenance SLSA version: v9",
        "sbom,generator=other/scanner": "is not run here",
    }.items():
        assert said in buildx("build", "--attest", f"type={wrong}", ".", check=False)


@needs_buildx
def test_files_have_their_statements_beside_them(buildx: Buildx) -> None:
    (buildx.folder / "status").write_text(
        "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2-1\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    write(buildx, "FROM scratch\nCOPY status /var/lib/dpkg/status\nCOPY <<E /etc/os-release\nID=debian\nE\n")
    wanted = ("--attest", "type=sbom", "--attest", "type=provenance,mode=min")
    buildx("build", *wanted, "-o", "type=local,dest=out,attestation-prefix=pre.", ".")
    sbom = json.loads((buildx.folder / "out/pre.sbom.spdx.json").read_text())
    assert [subject["name"] for subject in sbom["subject"]] == ["etc/os-release", "var/lib/dpkg/status"]
    packages = sbom["predicate"]["packages"]
    assert [package["name"] for package in packages[1:]] == ["bash"]
    assert packages[1]["externalRefs"][0]["referenceLocator"] == "pkg:deb/debian/bash@5.2-1?arch=amd64&distro=debian"
    assert "materials" not in json.loads((buildx.folder / "out/pre.provenance.json").read_text())["predicate"]
    # what every build is told of by default is for images alone
    buildx("build", "-o", "plain", ".")
    assert {path.name for path in (buildx.folder / "plain").iterdir()} == {"etc", "var"}


@needs_buildx
def test_what_comes_from_git_is_told_by_its_commit_and_without_its_password(buildx: Buildx, tmp_path: Path) -> None:
    source = tmp_path / "repository"
    (source / "dir").mkdir(parents=True)
    (source / "dir/Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    for kind in ("sha1", "sha256"):
        git = ("git", "-C", str(source), "-c", "user.name=t", "-c", "user.email=t")
        for arguments in (
            ("init", "--quiet", f"--object-format={kind}"),
            ("add", "."),
            ("commit", "--quiet", "-m", "one"),
            ("branch", "v1"),
            ("update-server-info",),
        ):
            subprocess.run([*git, *arguments], check=True, capture_output=True, timeout=60)
        commit = subprocess.check_output([*git, "rev-parse", "v1"], text=True, timeout=60).strip()
        with file_server(source) as port:
            address = f"http://user:word@127.0.0.1:{port}/.git#v1:dir"
            said = buildx("build", "--progress=plain", "--provenance=true", "-o", "type=oci,dest=git.tar", address)
        assert "user:word" not in said
        (statement,) = statements(archived(buildx.folder / "git.tar")).values()
        predicate = statement["predicate"]
        url = f"http://xxxxx:xxxxx@127.0.0.1:{port}/.git#v1"
        assert predicate["materials"] == [{"uri": url, "digest": {kind: commit}}]
        assert predicate["invocation"]["configSource"]["uri"] == f"{url}:dir"
        assert predicate["metadata"]["completeness"]["materials"]
        assert predicate["metadata"]["https://mobyproject.org/buildkit@v1#hermetic"]
        assert "word" not in json.dumps(statement)
        shutil.rmtree(source / ".git")


def test_packages_of_alpine_python_and_node_are_found() -> None:
    tree = ArchiveTree()
    tree.add("etc/os-release", b'ID=alpine\nVERSION_ID="3.20"\n')
    tree.add(
        "lib/apk/db/installed", b"C:Q1x\nP:musl\nV:1.2-r0\nA:x86_64\nL:MIT\n\nP:zlib\nV:1.3-r1\nA:x86_64\nL:Zlib\n"
    )
    tree.add("opt/x/Some_Thing-1.0.dist-info/METADATA", b"Name: Some.Thing\nVersion: 1.0\n\nbody\nName: no\n")
    tree.add("app/node_modules/@scope/thing/package.json", b'{"name":"@scope/thing","version":"2.0","license":"ISC"}')
    tree.add("app/package.json", b'{"name":"app","version":"0"}')
    tree.add("app/node_modules/broken/package.json", b"{")
    assert [package.purl for package in packages_in(tree)] == [
        "pkg:apk/alpine/musl@1.2-r0?arch=x86_64&distro=alpine-3.20",
        "pkg:apk/alpine/zlib@1.3-r1?arch=x86_64&distro=alpine-3.20",
        "pkg:npm/%40scope/thing@2.0",
        "pkg:pypi/some-thing@1.0",
    ]


def rpm_header(**tags: str | int) -> bytes:
    """A header as RPM keeps it: an index of tags and a store of values."""
    numbers = {"name": 1000, "version": 1001, "release": 1002, "epoch": 1003, "license": 1014, "arch": 1022}
    index, store = b"", b""
    for name, value in tags.items():
        store += bytes(-len(store) % 4)
        kind = 4 if isinstance(value, int) else 6
        index += struct.pack(">iIiI", numbers[name], kind, len(store), 1)
        store += struct.pack(">I", value) if isinstance(value, int) else value.encode() + b"\0"
    return struct.pack(">II", len(tags), len(store)) + index + store


def test_packages_of_rpm_are_found_in_both_of_its_databases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = [
        rpm_header(name="bash", version="5.2", release="1.fc41", arch="x86_64", license="GPLv3+", epoch=2),
        rpm_header(name="gpg-pubkey", version="1", release="1"),
        b"\xff" * 40,
    ]
    database = sqlite3.connect(tmp_path / "db")
    database.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB)")
    database.executemany("INSERT INTO Packages (blob) VALUES (?)", [(header,) for header in headers])
    database.commit()
    database.close()
    wanted = "pkg:rpm/fedora/bash@5.2-1.fc41?arch=x86_64&distro=fedora-41&epoch=2"
    tree = ArchiveTree()
    tree.add("etc/os-release", b"ID=fedora\nVERSION_ID=41\n")
    tree.add("usr/lib/sysimage/rpm/rpmdb.sqlite", (tmp_path / "db").read_bytes())
    assert [package.purl for package in rpm_packages(tree)] == [wanted]
    endless = "CREATE VIEW Packages AS WITH RECURSIVE n(hnum) AS (SELECT 1 UNION ALL SELECT hnum + 1 FROM n) "
    database = sqlite3.connect(tmp_path / "endless")
    database.execute(endless + "SELECT hnum, CAST(hnum AS BLOB) AS blob FROM n WHERE hnum < 0")
    database.commit()
    database.close()
    monkeypatch.setattr("dockyard.builder.attestations.sbom.rpm.PATIENCE", 0.1)
    tree = ArchiveTree()
    tree.add("usr/lib/sysimage/rpm/rpmdb.sqlite", (tmp_path / "endless").read_bytes())
    assert list(rpm_packages(tree)) == []
    slots = struct.pack("<4sIIII", b"RpmP", 0, 0, 1, 0) + bytes(12) + struct.pack("<4sIII", b"Slot", 1, 256, 9)
    blob = struct.pack("<4sIII", b"BlbS", 1, 0, len(headers[0])) + headers[0]
    tree = ArchiveTree()
    tree.add("etc/os-release", b"ID=fedora\nVERSION_ID=41\n")
    tree.add("var/lib/rpm/Packages.db", slots.ljust(4096, b"\0") + blob)
    assert [package.purl for package in rpm_packages(tree)] == [wanted]
    tree.add("var/lib/rpm/Packages.db", b"RpmP" + b"\xff" * 5000)
    assert list(rpm_packages(tree)) == []


def test_package_urls_of_images() -> None:
    assert purl_of(Reference.parse("debian")) == "pkg:docker/debian@latest"
    assert purl_of(Reference.parse("a.b:5/c/d:1"), Platform("arm", "linux", "v7")) == (
        "pkg:docker/a.b:5/c/d@1?platform=linux%2Farm%2Fv7"
    )


@needs_buildx
def test_an_image_that_is_kept_here_keeps_what_is_said_about_it_and_takes_it_along(
    buildx: Buildx, registry: Server
) -> None:
    write(buildx, "FROM busybox\nRUN echo kept > /kept\n")
    name, other = (f"127.0.0.1:{registry.port}/{word}:1" for word in ("kept", "kept-elsewhere"))
    metadata = buildx.folder / "metadata"
    buildx("build", "--provenance=mode=max", "--sbom=true", "-t", name, "--metadata-file", str(metadata), ".")
    engine = buildx.engine
    digest = json.loads(metadata.read_text())["containerimage.digest"]

    def available() -> list[tuple[str, bool]]:
        listed = engine.api("GET", "/images/json?manifests=1")[1]
        (image,) = [row for row in listed if name in (row["RepoTags"] or ())]
        return [(one["Kind"], one["Available"]) for one in image["Manifests"]]

    assert available() == [("image", True), ("attestation", True)]
    engine.docker("push", "-q", name)
    first = pushed(registry, "kept", "1")
    assert first.top["digest"] == digest
    kinds = {"https://slsa.dev/provenance/v0.2", "https://spdx.dev/Document"}
    assert set(statements(first)) == kinds
    assert "attestation-manifest" in buildx("imagetools", "inspect", name)
    assert "buildConfig" in buildx("imagetools", "inspect", "--format", "{{json .Provenance}}", name)
    # another engine has them with the image, and hands them on
    engine.docker("rmi", name)
    engine.docker("pull", "-q", name)
    assert available() == [("image", True), ("attestation", True)]
    engine.docker("tag", name, other)
    engine.docker("push", "-q", other)
    assert pushed(registry, "kept-elsewhere", "1").top["digest"] == digest
    assert set(statements(pushed(registry, "kept-elsewhere", "1"))) == kinds
    engine.docker("rmi", name, other)


@needs_buildx
def test_an_archive_of_an_index_brings_what_is_said_about_its_images(buildx: Buildx) -> None:
    write(buildx, "FROM busybox\nRUN echo loaded > /loaded\n")
    buildx("build", "--provenance=true", "-o", "type=oci,dest=a.tar,name=docker.io/library/told-in-archive:1", ".")
    engine = buildx.engine
    engine.docker("load", "-q", "-i", str(buildx.folder / "a.tar"))
    listed = engine.api("GET", "/images/json?manifests=1")[1]
    (image,) = [row for row in listed if "told-in-archive:1" in (row["RepoTags"] or ())]
    assert [(one["Kind"], one["Available"]) for one in image["Manifests"]] == [("image", True), ("attestation", True)]
    assert image["Manifests"][1]["Size"]["Content"] > image["Manifests"][1]["Descriptor"]["size"]
    engine.docker("rmi", "told-in-archive:1")


@needs_buildx
def test_an_archive_that_is_saved_has_what_is_said_about_its_image(buildx: Buildx, registry: Server) -> None:
    write(buildx, "FROM busybox\nRUN echo saved > /saved\n")
    name = f"127.0.0.1:{registry.port}/saved:1"
    metadata = buildx.folder / "metadata"
    buildx("build", "--provenance=mode=max", "-t", name, "--metadata-file", str(metadata), ".")
    engine = buildx.engine
    digest = json.loads(metadata.read_text())["containerimage.digest"]
    engine.docker("save", "-o", str(buildx.folder / "saved.tar"), name)
    image = archived(buildx.folder / "saved.tar")
    assert image.top["digest"] == digest
    assert set(statements(image)) == {"https://slsa.dev/provenance/v0.2"}
    image_id = engine.inspect(name)["Id"]
    engine.docker("rmi", name)
    engine.docker("load", "-q", "-i", str(buildx.folder / "saved.tar"))
    assert engine.inspect(name)["Id"] == image_id
    assert engine.docker("run", "--rm", name, "cat", "/saved") == "saved\n"
    engine.docker("push", "-q", name)
    assert pushed(registry, "saved", "1").top["digest"] == digest
    assert set(statements(pushed(registry, "saved", "1")))
    # without the layers as the manifest names them, what is said would be about something else
    engine.api("POST", "/build/prune?all=true")
    engine.docker("save", "-o", str(buildx.folder / "again.tar"), name)
    assert archived(buildx.folder / "again.tar").top["digest"] != digest
    engine.docker("rmi", name)
    engine.docker("load", "-q", "-i", str(buildx.folder / "again.tar"))
    assert engine.inspect(name)["Id"] == image_id
    engine.docker("rmi", name)
