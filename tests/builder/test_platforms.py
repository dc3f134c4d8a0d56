"""Builds for several platforms, with the stock buildx."""

import json
from pathlib import Path

import pytest

from dockyard.builder.exec.emulation import emulated, missing_emulator, native
from dockyard.builder.frontend.platforms import crossing
from dockyard.oci.descriptor import Platform
from dockyard.oci.manifest import host
from tests.builder.test_buildx import Buildx, plugins
from tests.builder.test_outputs import OCI, archived, pushed, write
from tests.engine_process import EngineProcess
from tests.registry.server import Server

needs_buildx = pytest.mark.skipif(plugins() is None, reason="no buildx could be fetched (packaging/newer-buildx)")
HERE = host()
OTHER = "riscv64" if HERE.architecture != "riscv64" else "s390x"
BOTH = f"linux/{OTHER},{HERE}"

CROSS = (
    "FROM --platform=$BUILDPLATFORM busybox AS maker\nARG BUILDPLATFORM\nARG TARGETPLATFORM\nARG TARGETARCH\n"
    "RUN echo $BUILDPLATFORM $TARGETPLATFORM $TARGETARCH > /what\nFROM scratch\nCOPY --from=maker /what /what\n"
    'CMD ["/what"]\n'
)


@needs_buildx
def test_an_index_has_an_image_for_each_platform_in_the_order_asked_for(buildx: Buildx) -> None:
    write(buildx, CROSS)
    buildx("build", "--platform", BOTH, "--provenance=false", "-o", "type=oci,dest=both.tar", "-t", "both", ".")
    image = archived(buildx.folder / "both.tar")
    entries = image[image.top]["manifests"]
    assert [entry["platform"]["architecture"] for entry in entries] == [OTHER, HERE.architecture]
    assert [image[image[entry]["config"]]["architecture"] for entry in entries] == [OTHER, HERE.architecture]
    buildx("build", "--platform", BOTH, "-o", "out", ".")
    assert (buildx.folder / f"out/linux_{OTHER}/what").read_text() == f"{HERE} linux/{OTHER} {OTHER}\n"
    buildx("build", "--platform", BOTH, "-o", "type=local,dest=together,platform-split=false", ".")
    assert (buildx.folder / "together/what").exists()


@needs_buildx
def test_steps_tell_where_they_run_and_what_for(buildx: Buildx) -> None:
    write(buildx, CROSS.replace("FROM scratch", "RUN echo again\nFROM maker AS next\nRUN true\nFROM scratch AS last"))
    said = buildx("build", "--progress=plain", "--no-cache", "--platform", BOTH, "-o", "out", ".")
    for step in (
        f"[{HERE}->{OTHER} maker 2/3] RUN echo",
        f"[{HERE} maker 2/3] RUN echo",
        f"[{HERE}->{OTHER} maker 3/3] RUN echo again",
        f"[linux/{OTHER} last 1/1] COPY",
        f"[{HERE} last 1/1] COPY",
    ):
        assert step in said
    said = buildx("build", "--progress=plain", "--no-cache", "--platform", BOTH, "--target", "next", "-o", "out", ".")
    assert f"[{HERE} next 1/1] RUN true" in said


def test_the_platform_of_a_step_and_what_it_builds_for() -> None:
    here = Platform("amd64", "linux")
    assert crossing(here, {}) == "linux/amd64 "
    assert crossing(here, {"TARGETPLATFORM": "linux/amd64"}) == "linux/amd64 "
    assert crossing(here, {"TARGETPLATFORM": "linux/arm"}) == "linux/amd64->arm/v7 "
    assert crossing(here, {"TARGETARCH": "arm64"}) == "linux/amd64->arm64 "
    assert crossing(here, {"TARGETOS": "darwin"}) == "linux/amd64->darwin/amd64 "
    assert crossing(here, {"TARGETPLATFORM": "a/b/c/d", "TARGETOS": ""}) == "linux/amd64 "


@needs_buildx
def test_one_platform_is_not_several(buildx: Buildx) -> None:
    write(buildx, "FROM scratch\nCOPY Dockerfile /\n")
    one = ("--build-arg", "BUILDKIT_MULTI_PLATFORM=1", "--platform", str(HERE))
    said = buildx("build", "--progress=plain", "--no-cache", *one, "-o", "out", ".")
    assert f"[{HERE} 1/1] COPY" in said
    assert (buildx.folder / "out" / str(HERE).replace("/", "_") / "Dockerfile").exists()
    two = ("--build-arg", "BUILDKIT_MULTI_PLATFORM=0", "--platform", BOTH)
    said = buildx("build", *two, "-o", "other", ".", check=False)
    assert "conflicting config: returning multiple target platforms is not allowed" in said


@needs_buildx
def test_the_engine_keeps_an_index_whole_and_pushes_it(engine: EngineProcess, buildx: Buildx, registry: Server) -> None:
    write(buildx, CROSS)
    name = f"127.0.0.1:{registry.port}/both"
    buildx("build", "--platform", BOTH, "-t", f"{name}:kept", ".")
    assert engine.inspect(f"{name}:kept")["Architecture"] == HERE.architecture
    engine.docker("push", f"{name}:kept")
    image = pushed(registry, "both", "kept")
    entries = image[image.top]["manifests"]  # (with the provenance that buildx asks for by itself)
    assert [entry["platform"]["architecture"] for entry in entries] == [OTHER, HERE.architecture, *["unknown"] * 2]
    buildx("build", "--platform", BOTH, "--push", "-t", f"{name}:pushed", ".")
    image = pushed(registry, "both", "pushed")
    assert image.top["mediaType"] == f"{OCI}index.v1+json"
    entries = image[image.top]["manifests"]
    assert [entry["platform"]["architecture"] for entry in entries] == [OTHER, HERE.architecture, *["unknown"] * 2]
    for entry, about in zip(entries[2:], entries[:2], strict=True):
        assert entry["annotations"]["vnd.docker.reference.digest"] == about["digest"]
        (layer,) = image[entry]["layers"]
        assert f"sha256:{image[layer]['subject'][0]['digest']['sha256']}" == about["digest"]


@needs_buildx
def test_annotations_may_be_for_one_platform(buildx: Buildx) -> None:
    write(buildx, CROSS)
    marks = (f"manifest[linux/{OTHER}]:only=one", "index:all=both", "index-descriptor:top=yes")
    flags = [word for mark in marks for word in ("--annotation", mark)]
    buildx("build", "--platform", BOTH, "--provenance=false", *flags, "-o", "type=oci,dest=a.tar", ".")
    image = archived(buildx.folder / "a.tar")
    index = image[image.top]
    assert index["annotations"] == {"all": "both"}
    assert image.top["annotations"]["top"] == "yes"
    assert [image[entry].get("annotations") for entry in index["manifests"]] == [{"only": "one"}, None]


@needs_buildx
def test_other_systems_images_can_be_made_of_files_and_pushed(buildx: Buildx, registry: Server) -> None:
    write(buildx, "FROM scratch\nARG TARGETPLATFORM\nLABEL for=$TARGETPLATFORM\n")
    name = f"127.0.0.1:{registry.port}/systems:one"
    buildx("build", "--provenance=false", "--platform", f"windows/amd64,linux/arm,{HERE}", "--push", "-t", name, ".")
    image = pushed(registry, "systems", "one")
    entries = image[image.top]["manifests"]
    assert [entry["platform"]["os"] for entry in entries] == ["windows", "linux", "linux"]
    assert entries[1]["platform"]["variant"] == "v7"
    configs = [image[image[entry]["config"]] for entry in entries]
    assert [config["config"]["Labels"]["for"] for config in configs[:2]] == ["windows/amd64", "linux/arm/v7"]


@needs_buildx
def test_what_does_not_run_here_is_said_to_want_an_emulator(buildx: Buildx) -> None:
    if not missing_emulator(Platform(OTHER, "linux")):
        pytest.skip(f"this host has an emulator for {OTHER}")
    (buildx.folder / "sh").write_bytes(b"\x00 no program of this machine's\n")
    (buildx.folder / "sh").chmod(0o755)
    write(buildx, "FROM scratch\nCOPY sh /bin/sh\nRUN something\n")
    said = buildx("build", "--platform", f"linux/{OTHER}", ".", check=False)
    assert f"exit code: 255: this host ({HERE}) has no emulator for linux/{OTHER} registered with binfmt_misc" in said


def test_emulators_are_found_where_the_kernel_lists_them(tmp_path: Path) -> None:
    head = "7f454c46020101000000000000000000"
    for name, machine in {"qemu-riscv64": "0200f300", "qemu-aarch64": "0200b700", "other": "zz"}.items():
        text = f"enabled\ninterpreter /usr/bin/{name}\nflags: OCF\noffset 0\nmagic {head}{machine}\n"
        (tmp_path / name).write_text(text)
    (tmp_path / "qemu-off").write_text(f"disabled\noffset 0\nmagic {head}02001500\n")
    (tmp_path / "status").write_text("enabled\n")
    assert {one.architecture for one in emulated(tmp_path)} == {"riscv64", "arm64"} - {HERE.architecture}


@pytest.mark.skipif(HERE.architecture != "amd64", reason="levels are x86-64's")
def test_levels_of_the_processor_are_told_by_what_it_can(tmp_path: Path) -> None:
    v2 = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
    v3 = "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"
    for flags, levels in {"fpu sse2": [""], f"fpu {v2} avx": ["", "v2"], f"fpu {v2} {v3}": ["", "v2", "v3"]}.items():
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: \n")
        found = native(tmp_path / "cpuinfo")
        assert [one.variant for one in found if one.architecture == "amd64"] == levels
    assert [one.variant for one in native(tmp_path / "none") if one.architecture == "amd64"] == [""]


def test_platforms_of_the_worker_are_listed(engine: EngineProcess, buildx: Buildx) -> None:
    if plugins() is None:
        pytest.skip("no buildx could be fetched (packaging/newer-buildx)")
    assert str(HERE) in buildx("ls")
    assert json.loads(buildx("ls", "--format", "json").splitlines()[0])
