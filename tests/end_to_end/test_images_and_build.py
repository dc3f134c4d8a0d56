"""Lessons 03, 06, 13 and 22 as a user types them."""

import subprocess
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess
from tests.processes import eventually


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox AS builder\nRUN echo built > /made\n"
        "FROM busybox\nENV GREETING=hello\nWORKDIR /work\nCOPY --from=builder /made made\nCOPY kept .\n"
        'CMD ["sh", "-c", "echo $GREETING; cat made kept"]\n'
    )
    (tmp_path / "kept").write_text("kept\n")
    (tmp_path / "dropped.md").write_text("dropped\n")
    (tmp_path / ".dockerignore").write_text("*.md\n")
    return tmp_path


def build(engine: EngineProcess, context: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["docker", "build", *arguments, str(context)],
        capture_output=True,
        env={
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(context),
            "DOCKER_HOST": engine.host,
            "DOCKER_BUILDKIT": "0",
        },
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_multi_stage_build_and_its_cache(engine: EngineProcess, context: Path) -> None:
    said = build(engine, context, "-t", "multi")
    assert "Step 1/8 : FROM busybox AS builder" in said
    assert "Successfully tagged multi:latest" in said
    assert engine.docker("run", "--rm", "multi") == "hello\nbuilt\nkept\n"
    again = build(engine, context, "-t", "multi")
    assert again.count("Using cache") == 6
    (context / "kept").write_text("changed\n")
    assert "Using cache" in build(engine, context, "-t", "multi")
    assert engine.docker("run", "--rm", "multi") == "hello\nbuilt\nchanged\n"
    engine.docker("rmi", "-f", "multi")


def test_run_without_words_runs_what_the_image_would(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text('FROM busybox\nCMD ["echo", "said"]\nRUN []\n')
    assert "\nsaid\n" in build(engine, tmp_path)


def test_a_build_whose_client_goes_while_a_layer_is_written_leaves_no_container(
    engine: EngineProcess, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN head -c 200000000 /dev/urandom > /big\n")
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "DOCKER_HOST": engine.host, "DOCKER_BUILDKIT": "0"}
    before = set(engine.docker("ps", "-aq", "--no-trunc").split())
    building = subprocess.Popen(["docker", "build", str(tmp_path)], env=environment, stdout=subprocess.PIPE)

    def mine() -> list[str]:
        _, known = engine.api("GET", "/containers/json?all=1")
        return [container["State"] for container in known if container["Id"] not in before]

    eventually(lambda: mine() == ["exited"])
    building.kill()
    building.communicate()
    eventually(lambda: not mine())
    engine.docker("image", "prune", "-f")


def test_two_names_one_image(engine: EngineProcess) -> None:
    engine.docker("run", "--rm", "busybox", "true")
    engine.docker("tag", "busybox:latest", "mybusybox:latest")
    ids = engine.docker("images", "-q", "busybox") + engine.docker("images", "-q", "mybusybox")
    assert len(set(ids.split())) == 1
    assert engine.docker("rmi", "mybusybox") == "Untagged: mybusybox:latest\n"


def test_an_image_is_saved_under_a_name_as_long_as_can_be(engine: EngineProcess, tmp_path: Path) -> None:
    engine.docker("pull", "busybox")
    target = tmp_path / ("n" * 255)
    done = engine.dockyard("save", "-o", str(target), "busybox")
    assert (done.returncode, done.stderr) == (0, b"")
    assert target.stat().st_size > 1 << 20
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_save_and_load_keep_the_image(engine: EngineProcess, tmp_path: Path) -> None:
    engine.docker("run", "--name", "changed", "busybox", "sh", "-c", "echo kept > /kept; rm /bin/vi")
    image = engine.docker("commit", "changed", "busybox:hello").strip()
    engine.docker("rm", "changed")
    engine.docker("save", "-o", str(tmp_path / "image.tar"), "busybox:hello")
    engine.docker("rmi", "busybox:hello")
    assert "Loaded image: busybox:hello" in engine.docker("load", "-i", str(tmp_path / "image.tar"))
    assert engine.docker("images", "-q", "--no-trunc", "busybox:hello").strip() == image
    shown = engine.docker("run", "--rm", "busybox:hello", "sh", "-c", "cat /kept; ls /bin/vi 2>&1 || true")
    assert shown.startswith("kept\nls:")
    engine.docker("rmi", "busybox:hello")


def test_export_and_import_keep_the_tree(engine: EngineProcess, tmp_path: Path) -> None:
    engine.docker("create", "--name", "source", "busybox")
    engine.docker("export", "-o", str(tmp_path / "tree.tar"), "source")
    engine.docker("rm", "source")
    engine.docker("import", str(tmp_path / "tree.tar"), "busybox:test")
    assert engine.docker("run", "--rm", "busybox:test", "echo", "imported") == "imported\n"
    engine.docker("rmi", "busybox:test")


def test_volumes_outlive_containers(engine: EngineProcess, tmp_path: Path) -> None:
    engine.docker("volume", "create", "myvolume")
    engine.docker("run", "--rm", "-v", "myvolume:/data", "busybox", "sh", "-c", "echo kept > /data/file")
    assert engine.docker("run", "--rm", "--mount", "source=myvolume,target=/d", "busybox", "cat", "/d/file") == "kept\n"
    engine.docker("create", "--name", "user", "-v", "myvolume:/data", "busybox")
    assert b"volume is in use" in engine.run_docker("volume", "rm", "myvolume").stderr
    engine.docker("rm", "user")
    assert engine.docker("volume", "rm", "myvolume") == "myvolume\n"
    (tmp_path / "shared").write_text("bound\n")
    assert engine.docker("run", "--rm", "-v", f"{tmp_path}:/host:ro", "busybox", "cat", "/host/shared") == "bound\n"
    # an anonymous volume is filled from the image and goes with --rm
    assert "busybox" in engine.docker("run", "--rm", "-v", "/bin", "busybox", "ls", "/bin")
    assert engine.docker("volume", "ls", "-q") == ""
    # one that was asked for by the name that the engine had chosen for it does not (python-on-whales, volume drivers)
    chosen = engine.docker("volume", "create")
    engine.docker("run", "--rm", "-v", f"{chosen.strip()}:/data", "busybox", "true")
    assert engine.docker("volume", "rm", chosen.strip()) == chosen
