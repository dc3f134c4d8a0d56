"""`dockyard bake URL`: definitions in git repositories, archives and files behind addresses, and their contexts."""

import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builder.test_attestations import file_server
from tests.engine_process import EngineProcess


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("engine"), number=46) as process:
        yield process


BAKED = """
target "default" {
  tags = ["baked-whole"]
  contexts = {lib = "sub"}
}
target "part" {
  context = "sub"
  tags = ["baked-part"]
}
target "here" {
  context = BAKE_CMD_CONTEXT
  dockerfile = "cwd://Dockerfile.here"
  tags = ["baked-here"]
}
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A web server with a repository, an archive of the same files, and the definition alone; its address."""
    root = tmp_path_factory.mktemp("published")
    tree = root / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "docker-bake.hcl").write_text(BAKED)
    (tree / "other.hcl").write_text('target "default" {\n context = "."\n tags = ["baked-other"]\n}\n')
    (tree / "Dockerfile").write_text("FROM busybox\nCOPY --from=lib word /from-lib\nCOPY other.hcl /whole\n")
    (tree / "sub/Dockerfile").write_text("FROM busybox\nCOPY . /part/\n")
    (tree / "sub/word").write_text("word of the address\n")
    for words in ("init -q -b main", "add .", "-c user.name=a -c user.email=a commit -qm one", "tag v1"):
        subprocess.run(["git", *words.split()], cwd=tree, check=True)
    subprocess.run(["git", "clone", "-q", "--bare", tree, root / "repo.git"], check=True)
    subprocess.run(["git", "update-server-info"], cwd=root / "repo.git", check=True)
    with tarfile.open(root / "tree.tar.gz", "w:gz") as archive:
        archive.add(tree, ".", filter=lambda entry: None if ".git" in entry.name.split("/") else entry)
    shutil.copy(tree / "docker-bake.hcl", root / "alone.hcl")
    with file_server(root) as port:
        yield f"http://127.0.0.1:{port}"


def content(engine: EngineProcess, image: str, path: str) -> str:
    return engine.docker("run", "--rm", image, "cat", path)


@pytest.mark.parametrize("address", ["repo.git#v1", "repo.git?ref=v1", "tree.tar.gz"])
def test_definitions_at_an_address_are_built_with_what_is_there(
    engine: EngineProcess, published: str, address: str
) -> None:
    done = engine.dockyard("bake", f"{published}/{address}", "default", "part")
    assert done.returncode == 0, done.stderr.decode()
    assert content(engine, "baked-whole", "/from-lib") == "word of the address\n"
    assert "baked-other" in content(engine, "baked-whole", "/whole")
    assert content(engine, "baked-part", "/part/word") == "word of the address\n"
    other = json.loads(engine.dockyard("bake", f"{published}/{address}", "-f", "other.hcl", "--print").stdout)
    assert other["target"]["default"]["tags"] == ["baked-other"]
    engine.docker("rmi", "-f", "baked-whole", "baked-part")
    printed = json.loads(engine.dockyard("bake", f"{published}/{address}", "--print").stdout)
    assert printed["target"]["default"]["context"] == f"{published}/{address}"


def test_what_is_not_at_an_address_is_told(engine: EngineProcess, published: str) -> None:
    for words, said in (
        ((f"{published}/repo.git#nowhere",), "nowhere"),
        ((f"{published}/repo.git", "-f", "missing.hcl"), "missing.hcl"),
        ((f"{published}/gone.hcl",), "404"),
        ((f"{published}/repo.git#main:sub",), "couldn't find a bake definition"),
    ):
        done = engine.dockyard("bake", *words)
        assert done.returncode == 1
        assert said in done.stderr.decode()


def test_a_definition_of_an_address_may_be_of_files_here(
    engine: EngineProcess, published: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Dockerfile.here").write_text("FROM busybox\nCOPY mine /mine\n")
    (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY mine /mine\nCOPY --from=lib x /x\n")
    (tmp_path / "mine").write_text("of this folder\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    for address in ("repo.git", "alone.hcl"):
        done = engine.dockyard("bake", f"{published}/{address}", "here")
        assert done.returncode == 0, done.stderr.decode()
        assert content(engine, "baked-here", "/mine") == "of this folder\n"
        engine.docker("rmi", "baked-here")
    (tmp_path / "mine.hcl").write_text('target "here" {\n tags = ["baked-mine"]\n}\n')
    done = engine.dockyard("bake", f"{published}/repo.git", "-f", "docker-bake.hcl", "-f", "cwd://mine.hcl", "here")
    assert done.returncode == 0, done.stderr.decode()
    engine.docker("rmi", "baked-mine")
    refused = engine.dockyard("bake", f"{published}/repo.git", "here", "--set", "here.dockerfile=Dockerfile")
    assert b"reading a dockerfile for a remote build invocation is currently not supported" in refused.stderr


def test_what_a_target_is_built_with_brings_its_configuration(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "docker-bake.hcl").write_text(
        f'target "base" {{\n context = "{tmp_path}"\n dockerfile-inline = "FROM busybox\\nENV WORD=of-base\\n"\n}}\n'
        f'target "default" {{\n context = "{tmp_path}"\n contexts = {{base = "target:base"}}\n tags = ["baked-on"]\n'
        ' dockerfile-inline = "FROM base\\nRUN echo $WORD > /word\\n"\n}\n'
    )
    done = engine.dockyard("bake", "-f", str(tmp_path / "docker-bake.hcl"), "--allow=fs=*")
    assert done.returncode == 0, done.stderr.decode()
    assert content(engine, "baked-on", "/word") == "of-base\n"
    assert "WORD=of-base" in engine.inspect("baked-on")["Config"]["Env"]
    engine.docker("rmi", "baked-on")
