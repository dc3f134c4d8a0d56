"""`dockyard build` by the graph of steps: what our own client asks for, and what it shows."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("engine"), number=43) as process:
        yield process


def build(engine: EngineProcess, folder: Path, dockerfile: str, *flags: str, fails: bool = False) -> tuple[str, str]:
    (folder / "Dockerfile").write_text(dockerfile)
    done = engine.dockyard("build", *flags, str(folder))
    assert (done.returncode != 0) == fails, done.stderr.decode()
    return done.stdout.decode(), done.stderr.decode()


def test_it_shows_the_steps_and_quiet_the_image(engine: EngineProcess, tmp_path: Path) -> None:
    text = "FROM busybox AS a\nRUN echo said\nFROM busybox\nCOPY --from=a /bin/busybox /b\n"
    out, said = build(engine, tmp_path, text, "-t", "mine", "--metadata-file", str(tmp_path / "meta"))
    assert out == ""
    assert "] RUN echo said" in said
    assert " said\n" in said
    assert "naming to docker.io/library/mine:latest done" in said
    image = engine.inspect("mine")["Id"]
    assert json.loads((tmp_path / "meta").read_text())["containerimage.config.digest"] == image
    assert build(engine, tmp_path, text, "-q") == (f"{image}\n", "")


def test_a_failure_is_said_with_the_commands_own_status(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN exit 42\n")
    done = engine.dockyard("build", "-q", str(tmp_path))
    assert done.returncode == 42
    assert b'process "/bin/sh -c exit 42" did not complete successfully: exit code: 42' in done.stderr


def test_secrets_are_given_from_files(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hush")
    text = "FROM busybox\nRUN --mount=type=secret,id=t [ $(cat /run/secrets/t) = hush ]\n"
    build(engine, tmp_path, text, "--secret", f"id=t,src={tmp_path / 'token'}")


def test_the_cache_says_why(engine: EngineProcess, tmp_path: Path) -> None:
    text = "FROM busybox\nARG WORD\nCOPY file /\nRUN echo $WORD > /w\n"
    (tmp_path / "file").write_text("one")
    flags = ("--explain-cache", "--build-arg")
    assert "no step with this instruction is known" in build(engine, tmp_path, text, *flags, "WORD=a")[1]
    said = build(engine, tmp_path, text, *flags, "WORD=a")[1]
    assert said.count("cache hit: made at") == 2
    said = build(engine, tmp_path, text, *flags, "WORD=b")[1]
    assert "cache miss: variable WORD was 'a', is 'b'" in said
    (tmp_path / "file").write_text("two")
    said = build(engine, tmp_path, text, *flags, "WORD=b")[1]
    assert "cache miss: file file has changed" in said
    assert "cache miss: the base has changed" in said


def test_raw_progress_is_events_in_json(engine: EngineProcess, tmp_path: Path) -> None:
    said = build(engine, tmp_path, "FROM busybox\nRUN echo x\n", "--progress=rawjson")[1]
    events = [json.loads(line) for line in said.splitlines()]
    assert {"step", "output"} <= {event["kind"] for event in events}


def test_what_only_the_classic_builder_has_takes_it(engine: EngineProcess, tmp_path: Path) -> None:
    out, _ = build(engine, tmp_path, "FROM busybox\nRUN true\n", "--memory=64m")
    assert "Successfully built" in out
    _, said = build(engine, tmp_path, "FROM busybox\n", "--memory=64m", "--explain-cache", fails=True)
    assert "--explain-cache is not for the classic builder, which --memory asks for" in said
