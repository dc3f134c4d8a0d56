"""Stages of a classic build, through the stock client: side by side, and told in the order of the Dockerfile."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess
from tests.processes import eventually

WAIT = "until [ -e /go ]; do sleep 0.1; done"
STAGES = (
    f"FROM busybox AS one\nRUN {WAIT}; echo said-by-one\n"
    f"FROM busybox AS two\nRUN {WAIT}; echo said-by-two\n"
    "FROM busybox\nCOPY --from=one /go /one\nCOPY --from=two /go /two\n"
)


@contextmanager
def building(engine: EngineProcess, folder: Path, text: str, *arguments: str) -> Iterator[Path]:
    """A build under way, and the file in which is what it says; ended with the block, if it has not."""
    (folder / "Dockerfile").write_text(text)
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "DOCKER_HOST": engine.host,
        "DOCKER_BUILDKIT": "0",
    }
    said = folder / "said"
    with said.open("wb") as file:
        process = subprocess.Popen(
            ["docker", "build", *arguments, str(folder)], env=environment, stdout=file, stderr=file
        )
    try:
        yield said
    finally:
        process.kill()
        process.wait()


def running(engine: EngineProcess, what: str) -> str:
    """The ID of the container that runs a command with these words in it; "" for none."""
    lines = engine.docker("ps", "--no-trunc", "--format", "{{.ID}} {{.Command}}").splitlines()
    return next((line.partition(" ")[0] for line in lines if what in line), "")


def go(engine: EngineProcess, container: str) -> None:
    # the container may end, and the exec with it, before the client hears of its success
    engine.docker("exec", container, "touch", "/go", check=False)
    eventually(lambda: container not in engine.docker("ps", "-q", "--no-trunc"))


def test_stages_run_side_by_side_and_speak_in_their_order(engine: EngineProcess, tmp_path: Path) -> None:
    with building(engine, tmp_path, STAGES, "-t", "sides") as said:
        one = eventually(lambda: running(engine, "said-by-one"))
        two = eventually(lambda: running(engine, "said-by-two"))
        go(engine, two)
        assert "Step 3/" not in said.read_text()
        go(engine, one)
        eventually(lambda: "Successfully tagged sides:latest" in said.read_text())
    text = said.read_text()
    order = [text.index(f"Step {number}/7 : ") for number in range(1, 8)]
    assert order == sorted(order)
    assert order[1] < text.index("said-by-one") < order[2] < order[3] < text.index("said-by-two") < order[4]
    assert engine.docker("run", "--rm", "sides", "ls", "/one", "/two").split() == ["/one", "/two"]
    engine.docker("rmi", "-f", "sides")


def test_the_first_stage_that_fails_ends_the_others_unheard(engine: EngineProcess, tmp_path: Path) -> None:
    text = STAGES.replace("echo said-by-one", "echo said-by-one; exit 3")
    with building(engine, tmp_path, text, "--force-rm", "--no-cache") as said:
        one = eventually(lambda: running(engine, "said-by-one"))
        two = eventually(lambda: running(engine, "said-by-two"))
        go(engine, one)
        eventually(lambda: "returned a non-zero code: 3" in said.read_text())
        eventually(lambda: two not in engine.docker("ps", "-aq", "--no-trunc"))
    assert "Step 3/" not in said.read_text()
    assert not running(engine, "said-by")


def test_what_two_stages_begin_with_is_run_once_by_the_earlier(engine: EngineProcess, tmp_path: Path) -> None:
    step = "RUN sleep 0.5; echo once >/made\n"
    text = f"FROM busybox AS one\n{step}RUN echo one\nFROM busybox AS two\n{step}RUN echo two\n"
    with building(engine, tmp_path, text, "-t", "twins") as said:
        eventually(lambda: "Successfully tagged twins:latest" in said.read_text())
    first, second = said.read_text().split("Step 4/6")
    assert ("Using cache" in first, "Using cache" in second) == (False, True)
    engine.docker("rmi", "-f", "twins")


def test_two_builds_at_one_time_run_the_same_step_once(engine: EngineProcess, tmp_path: Path) -> None:
    text = f"FROM busybox\nRUN {WAIT}; echo said-at-once\n"
    with building(engine, tmp_path, text) as said:
        container = eventually(lambda: running(engine, "said-at-once"))
        (tmp_path / "other").mkdir()
        with building(engine, tmp_path / "other", text) as other:
            eventually(lambda: "Step 2/2" in other.read_text())
            go(engine, container)
            eventually(lambda: all("Successfully built" in one.read_text() for one in (said, other)))
            assert "Using cache" in other.read_text()
            assert "Using cache" not in said.read_text()


def test_a_stage_that_a_variable_names_is_built_for_a_target(engine: EngineProcess, tmp_path: Path) -> None:
    text = "ARG BASE=one\nFROM busybox AS one\nRUN echo made >/made\nFROM $BASE AS two\nRUN cat /made\nFROM busybox\n"
    with building(engine, tmp_path, text, "--target", "two", "-t", "named") as said:
        eventually(lambda: "Successfully tagged named:latest" in said.read_text())
    assert "Step 5/5 : RUN cat /made" in said.read_text()
    engine.docker("rmi", "-f", "named")


@pytest.mark.parametrize("keep", ["--rm=false", "--rm=true"])
def test_containers_of_steps_stay_where_that_is_wanted(engine: EngineProcess, tmp_path: Path, keep: str) -> None:
    before = set(engine.docker("ps", "-aq", "--no-trunc").split())
    with building(engine, tmp_path, "FROM busybox\nRUN echo hello\n", keep, "--no-cache", "-t", "kept") as said:
        eventually(lambda: "Successfully tagged kept:latest" in said.read_text())
    left = set(engine.docker("ps", "-aq", "--no-trunc").split()) - before
    try:
        assert len(left) == (keep == "--rm=false")
        assert ("Removed intermediate container" in said.read_text()) == (keep == "--rm=true")
    finally:
        for container in left:
            engine.docker("rm", container)
        engine.docker("rmi", "-f", "kept")
