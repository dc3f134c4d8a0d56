"""Git contexts: what their addresses may say, from a server that is no more than files behind HTTP."""

import subprocess
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer

import pytest

from dockyard.builder import context
from dockyard.dockerfile import git_source
from dockyard.errors import InvalidParameter
from tests.buildkit_client import Client
from tests.engine_process import EngineProcess


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # without a look for our own name, which may take its time


def git(folder: Path, *commands: str) -> str:
    said = ""
    for command in commands:
        words = ["git", "-C", str(folder), "-c", "user.email=t@t", "-c", "user.name=t", *command.split()]
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    return said


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """(the address of a repository with two tags, two branches and a submodule, its folder)."""
    root = tmp_path_factory.mktemp("git")
    server = _Server(("127.0.0.1", 0), partial(_Silent, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
    for name in ("inner", "main"):
        (root / name).mkdir()
        git(root / name, "init --quiet -b master")
    (root / "inner" / "deep").write_text("deep")
    git(root / "inner", "add deep", "commit --quiet -m one", "update-server-info")
    main = root / "main"
    (main / "file").write_text("one")
    git(main, f"submodule --quiet add {address}/inner/.git sub", "add file", "commit --quiet -m one", "tag v1")
    (main / "folder").mkdir()
    (main / "folder" / "file").write_text("within")
    (main / "file").write_text("two")
    git(main, "add .", "commit --quiet -m two", "branch other", "update-server-info")
    try:
        yield f"{address}/main/.git", main
    finally:
        server.shutdown()
        server.server_close()


async def names(url: str, tmp_path: Path) -> dict[str, bytes]:
    """The files at an address."""
    archive, _ = await context.git_archive(url, tmp_path)
    archive.seek(0)
    with archive, tarfile.open(fileobj=archive) as packed:
        found = {}
        for member in packed:
            file = packed.extractfile(member)
            if file is not None:
                found[member.name.removeprefix("./")] = file.read()
        return found


async def test_refs_folders_and_submodules(repository: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = repository
    first = git(folder, "rev-parse v1")
    found = await names(url, tmp_path)
    assert found["file"] == b"two"
    assert found["sub/deep"] == b"deep"
    assert not any(name.startswith(".git/") for name in found)
    for ask in ("#v1", "?ref=v1", "?tag=v1", f"#{first}", f"?commit={first}", f"?tag=v1&checksum={first[:9]}"):
        assert (await names(url + ask, tmp_path))["file"] == b"one", ask
    assert await names(f"{url}?branch=other&subdir=folder", tmp_path) == {"file": b"within"}
    assert "sub/deep" not in await names(f"{url}?submodules=false", tmp_path)
    assert (await names(f"{url}?tag=v1&keep-git-dir", tmp_path))[".git/HEAD"].decode().strip() == first


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        ("?branch=v1", "repository does not contain ref refs/heads/v1"),
        ("#nowhere", "repository does not contain ref nowhere"),
        ("?tag=v1&commit=0123456", "expected checksum to match 0123456, got"),
        ("?tag=v1#other", 'ref conflicts: "other" vs "refs/tags/v1"'),
        ("?tag=v1&tag=v2", 'query "tag" has multiple values'),
        ("?tag=v1&branch=other", "branch conflicts with tag"),
        ("?ref=", 'query "ref" has no value'),
        ("?what=1", 'unexpected query "what"'),
        ("?submodules=maybe", "invalid submodules value"),
    ],
)
async def test_what_cannot_be_is_said(repository: tuple[str, Path], tmp_path: Path, ask: str, said: str) -> None:
    with pytest.raises(InvalidParameter, match=said):
        await names(repository[0] + ask, tmp_path)


def test_an_address_with_a_query_is_one_of_git() -> None:
    assert git_source.is_git("https://host/a.git?ref=x#y")
    assert not git_source.is_git("https://host/a?x=.git")


def test_a_login_goes_to_the_repositorys_server_alone() -> None:
    settings = context.git_header("https://user@host:8443/a.git", "basic abc")
    assert settings["GIT_CONFIG_KEY_0"] == "http.https://host:8443/.extraheader"
    assert settings["GIT_CONFIG_VALUE_0"] == "Authorization: basic abc"
    assert context.git_header("git@host:a.git", "basic abc") == {}
    assert context.git_header("https://host/a.git", "basic\nX: y") == {}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("engine"), number=47) as process:
        yield process


async def test_a_context_can_be_a_folder_of_one_from_elsewhere_and_keep_what_git_has(
    engine: EngineProcess, repository: tuple[str, Path], tmp_path: Path
) -> None:
    client = Client(engine.socket, tmp_path, key=str(tmp_path))
    (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY . /d/\nRUN cat /d/file; echo; ls -A /d\n")
    asked = {"context": repository[0], "dockerfilekey": "dockerfile"}
    built = await client.build({**asked, "contextsubdir": "folder"})
    assert built.image
    assert built.log == b"within\nfile\n"
    built = await client.build({**asked, "build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR": "1"})
    assert built.image
    assert set(built.log.decode().split()) >= {".git", "folder", "sub"}
    missing = await client.build({**asked, "contextsubdir": "nowhere"})
    assert missing.failure is not None
    assert "nowhere: not found" in missing.failure.message


async def test_a_repository_that_is_added_with_what_git_has_is_known_by_its_commit(
    engine: EngineProcess, repository: tuple[str, Path], tmp_path: Path
) -> None:
    url, folder = repository
    client = Client(engine.socket, tmp_path, key=str(tmp_path))
    commit = git(folder, "rev-parse v1")
    for flags in ("", f"--checksum={commit} "):
        text = f"FROM busybox\nADD --keep-git-dir {flags}{url}#v1 /d\nRUN cat /d/.git/HEAD\n"
        (tmp_path / "Dockerfile").write_text(text)
        built = await client.build()
        assert built.image
    assert built.cached("RUN cat")
    (tmp_path / "Dockerfile").write_text(f"FROM busybox\nADD --keep-git-dir=false {url}?keep-git-dir=true /d\n")
    refused = await client.build()
    assert refused.failure is not None
    assert refused.failure.message == "inconsistent keep-git-dir configuration"
