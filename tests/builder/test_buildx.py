"""BuildKit's door with the stock buildx and compose, which `make test` fetches (packaging/newer-buildx)."""

import os
import shutil
import subprocess
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
