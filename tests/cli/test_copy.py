"""`cp`, as both clients do it, and against containers that mean harm."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess


@pytest.fixture(scope="module")
def source(engine: EngineProcess) -> Iterator[EngineProcess]:
    """A container with files of every kind."""
    engine.docker("run", "-d", "--name", "files", "busybox", "top")
    script = "mkdir -p /d/e; echo 1 >/d/e/f; chmod 640 /d/e/f; ln -s /etc/passwd /d/l; ln /d/e/f /d/h; mknod /d/p p"
    engine.docker("exec", "files", "sh", "-c", script)
    yield engine
    engine.docker("rm", "-f", "files")


def tree(folder: Path) -> list[tuple[str, int, str]]:
    """Names, modes and contents below a folder."""
    found = []
    for path in sorted(folder.rglob("*")):
        what = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else ""
        found.append((str(path.relative_to(folder)), path.lstat().st_mode, what))
    return found


@pytest.mark.parametrize(
    ("what", "target"),
    [("/d", ""), ("/d", "new"), ("/d/.", ""), ("/d/.", "new"), ("/d/e/f", ""), ("/d/e/f", "g"), ("/d/l", "")],
)
def test_files_come_out_as_with_docker(source: EngineProcess, tmp_path: Path, what: str, target: str) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
    one = source.dockyard("cp", f"files:{what}", str(ours / target))
    two = source.run_docker("cp", f"files:{what}", str(theirs / target))
    assert (one.returncode, two.returncode) == (0, 0), one.stderr
    assert tree(ours) == tree(theirs)


@pytest.mark.parametrize("target", ["/t1", "/root", "/root/", "/t4/"])
@pytest.mark.parametrize("what", ["dir", "dir/.", "dir/one"])
def test_files_go_in_as_with_docker(source: EngineProcess, tmp_path: Path, what: str, target: str) -> None:
    (tmp_path / "dir" / "sub").mkdir(parents=True)
    (tmp_path / "dir" / "one").write_text("1")
    (tmp_path / "dir" / "sub" / "two").symlink_to("../one")
    seen = []
    for client in (source.dockyard, source.run_docker):
        source.docker("exec", "files", "sh", "-c", "rm -rf /t1 /root/* /t4")
        done = client("cp", f"{tmp_path}/{what}", f"files:{target}")
        listed = source.docker(
            "exec", "files", "sh", "-c", "find /t1 /root /t4 2>/dev/null | sort; ls -ln /root /t1", check=False
        )
        seen.append((done.returncode, listed))
    assert seen[0] == seen[1]


def test_a_container_cannot_write_outside_the_target(source: EngineProcess, tmp_path: Path) -> None:
    import io
    import tarfile

    from dockyard.client.archive import unpack
    from dockyard.client.errors import ArchiveError

    outside = tmp_path / "outside"
    outside.mkdir()
    inside = tmp_path / "inside"
    inside.mkdir()
    for evil in ("link", "dots", "hard"):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            if evil == "link":
                member = tarfile.TarInfo("x/link")
                member.type, member.linkname = tarfile.SYMTYPE, str(outside)
                archive.addfile(member)
                archive.addfile(tarfile.TarInfo("x/link/file"))
            elif evil == "dots":
                archive.addfile(tarfile.TarInfo("x/../../outside/file"))
            else:
                member = tarfile.TarInfo("x/hard")
                member.type, member.linkname = tarfile.LNKTYPE, "x/../../../../../../../../etc/passwd"
                archive.addfile(member)
        with pytest.raises(ArchiveError, match="refusing"):
            unpack(iter([data.getvalue()]), str(inside), into=True, contents=False)
        assert list(outside.iterdir()) == []


def test_a_refused_copy_says_why_and_not_that_a_pipe_broke(source: EngineProcess, tmp_path: Path) -> None:
    # the engine closed the connection while the client was still sending, which then saw only that
    (tmp_path / "big").write_bytes(bytes(20_000_000))
    for client in (source.dockyard, source.run_docker):
        for name in ("/etc/hostname", str(tmp_path / "big")):
            done = client("cp", name, "files:/nothing/x")
            assert done.returncode == 1
            assert b"Could not find the file /nothing in container files" in done.stderr


def test_files_go_from_one_container_straight_into_another(source: EngineProcess) -> None:
    source.docker("run", "-d", "--name", "taker", "busybox", "top")
    source.docker("exec", "taker", "mkdir", "/there")
    places = {"/d": ("/new", "/there"), "/d/.": ("/there",), "/d/e/f": ("/there/g", "/there")}
    for what, target in [(what, target) for what, targets in places.items() for target in targets]:
        done = source.dockyard("cp", f"files:{what}", f"taker:{target}")
        assert done.returncode == 0, done.stderr
    script = "cd /; find new there | sort; cat there/g; stat -c %a new/e/f; readlink new/l"
    found = source.docker("exec", "taker", "sh", "-c", script)
    tree = ["", "/e", "/e/f", "/h", "/l", "/p"]
    below = sorted([*(f"there/d{name}" for name in tree), *(f"there{name}" for name in tree), "there/f", "there/g"])
    assert found.split("\n") == [*(f"new{name}" for name in tree), *below, "1", "640", "/etc/passwd", ""]
    assert source.dockyard("cp", "files:/nothing", "taker:/there").returncode == 1
    assert source.dockyard("cp", "files:/d", "taker:/there/g").returncode == 1
    source.docker("rm", "-f", "taker")
