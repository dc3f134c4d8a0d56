"""BuildKit's door with the stock buildx and compose, which `make test` fetches (packaging/newer-buildx)."""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess

HERE = Path(__file__).resolve().parents[2]


def plugins() -> Path | None:
    """Where the plugins are."""
    places = [HERE / "build/buildx/cli-plugins", *map(Path, os.environ.get("DOCKER_PLUGINS", "").split(":"))]
    return next((place for place in places if (place / "docker-buildx").exists()), None)


pytestmark = pytest.mark.skipif(plugins() is None, reason="no buildx could be fetched (packaging/newer-buildx)")


class Buildx:
    """The stock plugins, talking to one engine."""

    def __init__(self, engine: EngineProcess, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        config = folder / "config"
        found = plugins()
        assert found is not None
        config.mkdir()
        (config / "cli-plugins").symlink_to(found)
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "DOCKER_CONFIG": str(config),
            "DOCKER_HOST": engine.host,
        }
        self._plugins = found

    def __call__(self, *arguments: str, check: bool = True, program: str = "docker-buildx") -> str:
        """Run it; what it says on both streams."""
        done = subprocess.run(
            [self._plugins / program, *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            cwd=self.folder, env=self._env, text=True, check=False, timeout=100,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("engine"), number=42) as process:
        yield process


@pytest.fixture
def buildx(engine: EngineProcess, tmp_path: Path) -> Buildx:
    return Buildx(engine, tmp_path)


def test_build_with_progress_metadata_and_iidfile(engine: EngineProcess, buildx: Buildx) -> None:
    (buildx.folder / "Dockerfile").write_text("FROM busybox\nARG WORD\nCOPY Dockerfile /d\nRUN echo said-$WORD\n")
    files = ("--iidfile", "iid", "--metadata-file", "meta")
    said = buildx("build", "--progress=plain", "--build-arg", "WORD=x", *files, "-t", "stock", "-t", "stock:2", ".")
    assert "said-x" in said
    assert "naming to docker.io/library/stock:2 done" in said
    image = engine.inspect("stock")["Id"]
    assert (buildx.folder / "iid").read_text() == image
    assert image in (buildx.folder / "meta").read_text()
    assert buildx("build", "-q", "--build-arg", "WORD=x", ".").strip() == image


def test_a_failure_shows_the_line(buildx: Buildx) -> None:
    (buildx.folder / "Dockerfile").write_text("FROM busybox\nRUN true\nRUN false\n")
    said = buildx("build", "--progress=plain", ".", check=False)
    assert "   3 | >>> RUN false" in said
    assert 'process "/bin/sh -c false" did not complete successfully: exit code: 1' in said


def test_compose_builds_and_runs(engine: EngineProcess, buildx: Buildx) -> None:
    (buildx.folder / "Dockerfile").write_text(
        "FROM busybox AS one\nRUN --mount=type=cache,target=/c echo one > /w\nFROM busybox\nCOPY --from=one /w /w\n"
    )
    (buildx.folder / "compose.yaml").write_text(
        "name: built\nservices:\n  a:\n    build: .\n    image: composed-a\n"
        "  b:\n    build:\n      context: .\n      target: one\n    image: composed-b\n"
    )
    buildx("build", program="docker-compose")
    for name in ("composed-a", "composed-b"):
        assert engine.docker("run", "--rm", name, "cat", "/w") == "one\n"


def test_the_stock_client_takes_this_door_by_itself(buildx: Buildx) -> None:
    docker = shutil.which("docker")
    assert docker is not None
    (buildx.folder / "Dockerfile").write_text("FROM busybox\nRUN echo from-the-client\n")
    done = subprocess.run(
        [docker, "build", "--progress=plain", "."],
        capture_output=True, cwd=buildx.folder, env=buildx._env, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "[internal] load build definition" in done.stderr


def test_outputs_are_files_and_archives(engine: EngineProcess, buildx: Buildx) -> None:
    (buildx.folder / "Dockerfile").write_text(
        "FROM busybox AS b\nRUN mkdir /d && echo made > /d/f && ln -s f /d/l\nFROM scratch\nCOPY --from=b /d /\n"
    )
    folder = buildx.folder / "out"
    buildx("build", "-o", "out", ".")
    assert {path.name for path in folder.iterdir()} == {"f", "l"}
    assert os.readlink(folder / "l") == "f"
    assert (folder / "l").read_text() == "made\n"
    buildx("build", "-o", "type=tar,dest=files.tar", ".")
    with tarfile.open(buildx.folder / "files.tar") as archive:
        assert sorted(archive.getnames()) == ["f", "l"]
    for kind in ("docker", "oci"):
        buildx("build", "-o", f"type={kind},dest=image.tar", "-t", f"archived-{kind}", ".")
        assert f"archived-{kind}:latest" in engine.docker("load", "-i", str(buildx.folder / "image.tar"))


def test_contexts_come_from_stages_of_other_targets_directories_and_images(
    engine: EngineProcess, buildx: Buildx
) -> None:
    (buildx.folder / "more").mkdir()
    (buildx.folder / "more" / "file").write_text("from a directory\n")
    (buildx.folder / "base").write_text("FROM busybox\nCOPY more/file /base\n")
    (buildx.folder / "Dockerfile").write_text(
        "FROM base\nCOPY --from=dir file /dir\nCOPY --from=img /bin/busybox /img\nRUN cat /base /dir > /all\n"
    )
    (buildx.folder / "docker-bake.hcl").write_text(
        'target "base" {\n dockerfile = "base"\n}\n'
        'target "default" {\n contexts = {\n  base = "target:base"\n  dir = "more"\n'
        '  img = "docker-image://busybox"\n }\n'
        ' tags = ["linked"]\n}\n'
    )
    buildx("bake")
    assert engine.docker("run", "--rm", "linked", "cat", "/all") == "from a directory\n" * 2


def test_contexts_come_from_the_standard_input_and_from_git(engine: EngineProcess, buildx: Buildx) -> None:
    said = subprocess.run(
        [buildx._plugins / "docker-buildx", "build", "--progress=plain", "-"],
        input="FROM busybox\nRUN echo from-stdin\n",
        capture_output=True, env=buildx._env, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "from-stdin" in said.stderr


def test_a_client_without_buildx_builds_through_the_api(engine: EngineProcess, buildx: Buildx) -> None:
    old = next((path for path in ("/usr/bin/docker",) if Path(path).exists()), None)
    if old is None or b"20.10" not in subprocess.check_output([old, "--version"]):
        pytest.skip("needs a client of before buildx (Debian 12's)")
    (buildx.folder / "Dockerfile").write_text("FROM busybox\nRUN --mount=type=tmpfs,target=/t echo through-the-api\n")
    env = {"PATH": "/usr/bin:/bin", "HOME": str(buildx.folder / "home"), "DOCKER_HOST": engine.host}
    done = subprocess.run(
        [old, "build", "--progress=plain", "-t", "through-api", "."],
        capture_output=True, cwd=buildx.folder, env=env, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "through-the-api" in done.stderr
    assert engine.inspect("through-api")["Id"]


def test_checks_are_made_and_targets_and_arguments_listed(buildx: Buildx) -> None:
    (buildx.folder / "Dockerfile").write_text("ARG BASE=busybox\nFROM $BASE as one\nCOPY $NONE /x\nFROM one\nCMD x\n")
    said = buildx("build", "--check", ".", check=False)
    for rule in ("FromAsCasing", "JSONArgsRecommended"):
        assert f"WARNING: {rule} - https://docs.docker.com/go/dockerfile/rule/" in said
    assert "Usage of undefined variable '$NONE'" in said
    assert "one" in buildx("build", "--call=targets", ".")
    assert "BASE        busybox" in buildx("build", "--call=outline", ".")


def test_an_image_brings_its_cache_along(engine: EngineProcess, buildx: Buildx) -> None:
    (buildx.folder / "Dockerfile").write_text("FROM busybox\nCOPY Dockerfile /d\nRUN date +%s%N > /when\nENV A=b\n")
    buildx("build", "--cache-to", "type=inline", "-t", "inline", ".")
    image = engine.inspect("inline")["Id"]
    engine.api("POST", "/build/prune?all=true")
    assert engine.api("GET", "/system/df?type=build-cache")[1]["BuildCache"] == []
    said = buildx("build", "--progress=plain", "--cache-from", "inline", "--cache-from", "nosuch", "-t", "again", ".")
    assert said.count("CACHED") == 3
    layers = engine.inspect("again")["RootFS"]["Layers"]
    assert layers == engine.inspect(image)["RootFS"]["Layers"]
    # what an image claims is no one else's: without naming it the steps are made
    assert buildx("build", "--progress=plain", ".").count("CACHED") == 1
