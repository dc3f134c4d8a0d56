"""The vfs driver: whole copies, on any file system."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.errors import NotImplementedHere
from dockyard.snapshots.choice import choose
from dockyard.snapshots.driver import Change, ChangeKind, Fixture
from dockyard.snapshots.vfs import Vfs

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="keeping owners needs root")


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Vfs]:
    opened = Vfs(str(tmp_path / "vfs"), {})
    yield opened
    opened.cleanup()


def test_a_layer_is_a_copy_of_its_parent_with_owners_links_and_times(driver: Vfs) -> None:
    base = Path(driver.create("base", None))
    (base / "file").write_text("x")
    os.chown(base / "file", 7, 8)
    os.utime(base / "file", ns=(1, 2))
    os.link(base / "file", base / "again")
    (base / "link").symlink_to("/etc/passwd")
    os.mkfifo(base / "pipe", 0o640)
    top = Path(driver.create("top", "base"))
    status = os.lstat(top / "file")
    assert (status.st_uid, status.st_gid, status.st_mtime_ns, status.st_nlink) == (7, 8, 2, 2)
    assert os.readlink(top / "link") == "/etc/passwd"
    (top / "file").write_text("y")
    assert (base / "file").read_text() == "x"


def test_changes_and_difference_agree(driver: Vfs) -> None:
    base = Path(driver.create("base", None))
    (base / "etc").mkdir()
    (base / "etc/motd").write_text("1")
    (base / "etc/issue").write_text("1")
    driver.create_read_write("box", "base", fixtures=(Fixture("/etc/hosts", "file"),))
    root = Path(driver.get("box"))
    (root / "etc/motd").unlink()
    (root / "etc/new").write_text("12")
    assert driver.changes("box") == [
        Change(ChangeKind.MODIFIED, "/etc"),
        Change(ChangeKind.ADDED, "/etc/new"),
        Change(ChangeKind.DELETED, "/etc/motd"),
    ]
    assert driver.size("box") == 2
    with driver.difference("box") as place:
        assert (Path(place) / "etc/new").read_text() == "12"
        assert os.lstat(f"{place}/etc/motd").st_rdev == 0
        assert sorted(os.listdir(f"{place}/etc")) == ["motd", "new"]


def test_fixtures_never_follow_the_images_symlinks(driver: Vfs, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    base = Path(driver.create("base", None))
    (base / "etc").symlink_to(outside)
    driver.create_read_write("box", "base", fixtures=(Fixture("/etc/hosts", "file"),))
    assert os.listdir(outside) == []
    assert os.path.isfile(f"{driver.get('box')}/etc/hosts")


def test_vfs_is_chosen_where_overlay_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(home: str, options: str) -> None:
        raise NotImplementedHere("no overlay here")

    monkeypatch.setattr("dockyard.snapshots.overlay2._probe", refuse)
    chosen = choose(None, tmp_path)
    assert chosen.name == "vfs"
    chosen.cleanup()


def test_an_unknown_driver_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedHere, match="overlay2, vfs"):
        choose("zfs", tmp_path)
