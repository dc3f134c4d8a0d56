"""The overlay2 driver on the real kernel: Docker's layout, copy-on-write, crash safety."""

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dockyard.engine.system.id_ranges import IdRange
from dockyard.errors import InvalidParameter, SystemFailure
from dockyard.linux import mounts
from dockyard.snapshots import overlay2
from dockyard.snapshots.driver import Change, ChangeKind, Fixture
from dockyard.snapshots.overlay2 import MAX_DEPTH, Overlay2

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

FIXTURES = (
    Fixture("/dev/pts", "directory"),
    Fixture("/etc/hosts", "file"),
    Fixture("/etc/mtab", "symlink", "/proc/mounts"),
)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Overlay2]:
    opened = Overlay2(str(tmp_path / "overlay2"), {})
    yield opened
    for name in os.listdir(opened.home):
        if name != "l":
            opened.put(name)
    opened.cleanup()


def image(driver: Overlay2, id: str, parent: str | None, **files: str) -> str:
    """A layer with `files` (name: content) in its /etc."""
    diff = Path(driver.create(id, parent))
    (diff / "etc").mkdir()
    for name, content in files.items():
        (diff / "etc" / name).write_text(content)
    return id


def test_a_layer_has_dockers_layout(driver: Overlay2) -> None:
    image(driver, "base", None, motd="1")
    image(driver, "top", "base", motd="2")
    link = Path(driver.home, "top/link").read_text()
    assert len(link) == 26
    assert os.readlink(f"{driver.home}/l/{link}") == "../top/diff"
    below = Path(driver.home, "base/link").read_text()
    assert Path(driver.home, "top/lower").read_text() == f"l/{below}"
    assert sorted(os.listdir(f"{driver.home}/top")) == ["diff", "link", "lower", "work"]
    assert sorted(os.listdir(f"{driver.home}/base")) == ["committed", "diff", "link"]


def test_a_container_sees_the_uppermost_file_and_writes_to_its_own_layer(driver: Overlay2) -> None:
    image(driver, "base", None, motd="1", issue="1")
    image(driver, "top", "base", motd="2")
    driver.create_read_write("box", "top", fixtures=FIXTURES)
    root = Path(driver.get("box"))
    assert root == Path(driver.home, "box/merged")
    assert (root / "etc/motd").read_text() == "2"
    assert (root / "etc/issue").read_text() == "1"
    (root / "etc/issue").write_text("mine")
    driver.put("box")
    assert Path(driver.home, "box/diff/etc/issue").read_text() == "mine"
    assert Path(driver.home, "base/diff/etc/issue").read_text() == "1"
    assert not Path(driver.home, "box/merged").exists()


def test_the_init_layer_provides_the_fixtures_and_keeps_the_images_directories(driver: Overlay2) -> None:
    diff = Path(driver.create("base", None))
    (diff / "etc").mkdir(0o700)
    os.chown(diff / "etc", 5, 6)
    (diff / "etc/hosts").write_text("the image's")
    (diff / "dev").symlink_to("/tmp")
    driver.create_read_write("box", "base", fixtures=FIXTURES)
    root = Path(driver.get("box"))
    assert (root / "etc/hosts").read_text() == ""
    assert os.readlink(root / "etc/mtab") == "/proc/mounts"
    assert (root / "dev/pts").is_dir()
    assert not (root / "dev").is_symlink()
    status = os.lstat(root / "etc")
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o700, 5, 6)
    assert sorted(os.listdir(f"{driver.home}/box-init/diff")) == ["dev", "etc"]
    assert driver.changes("box") == []


def test_changes_name_what_was_added_modified_and_deleted_with_the_directories_above(driver: Overlay2) -> None:
    image(driver, "base", None, motd="1", issue="1")
    image(driver, "top", "base", passwd="1")
    os.mkdir(f"{driver.home}/base/diff/old")
    Path(driver.home, "base/diff/old/a").write_text("")
    Path(driver.home, "base/diff/old/b").write_text("")
    driver.create_read_write("box", "top")
    root = Path(driver.get("box"))
    (root / "etc/motd").unlink()
    (root / "etc/issue").write_text("other")
    (root / "new").mkdir()
    (root / "new/file").write_text("12345")
    shutil.rmtree(root / "old")
    (root / "old").mkdir()
    (root / "old/a").write_text("new a")
    (root / "never").write_text("")
    (root / "never").unlink()
    assert driver.changes("box") == [
        Change(ChangeKind.MODIFIED, "/etc"),
        Change(ChangeKind.MODIFIED, "/etc/issue"),
        Change(ChangeKind.DELETED, "/etc/motd"),
        Change(ChangeKind.ADDED, "/new"),
        Change(ChangeKind.ADDED, "/new/file"),
        Change(ChangeKind.MODIFIED, "/old"),
        Change(ChangeKind.MODIFIED, "/old/a"),
        Change(ChangeKind.DELETED, "/old/b"),
    ]
    assert driver.size("box") == len("other") + len("12345") + len("new a")


def test_a_stack_of_128_layers_mounts_and_one_more_is_refused(driver: Overlay2) -> None:
    parent = None
    for number in range(MAX_DEPTH):
        layer = f"{number:064d}"
        Path(driver.create(layer, parent), f"file{number}").write_text("")
        parent = layer
    driver.create_read_write("f" * 64, parent)
    assert len(os.listdir(driver.get("f" * 64))) == MAX_DEPTH
    driver.create("e" * 64, parent)
    with pytest.raises(InvalidParameter, match="max depth exceeded"):
        driver.create("d" * 64, "e" * 64)


def test_a_volatile_mount_can_be_mounted_again(driver: Overlay2) -> None:
    image(driver, "base", None, motd="1")
    driver.create_read_write("box", "base")
    root = Path(driver.get("box", volatile=True))
    (root / "file").write_text("kept")
    driver.put("box")
    assert (Path(driver.get("box", volatile=True)) / "file").read_text() == "kept"


def test_get_finds_the_mount_an_earlier_daemon_left(driver: Overlay2) -> None:
    image(driver, "base", None, motd="1")
    driver.create_read_write("box", "base")
    root = driver.get("box")
    later = Overlay2(driver.home, {})
    assert later.get("box") == root
    assert sum(mount.target == root for mount in mounts.mount_table()) == 1
    later.cleanup()


def test_remove_is_at_once_and_takes_the_init_layer_and_links_along(driver: Overlay2) -> None:
    image(driver, "base", None, motd="1")
    driver.create_read_write("box", "base", fixtures=FIXTURES)
    driver.remove("box")
    assert not driver.exists("box")
    driver.cleanup()
    assert sorted(os.listdir(driver.home)) == ["base", "l"]
    assert len(os.listdir(f"{driver.home}/l")) == 1


def test_a_tree_nested_deeper_than_any_path_is_removed(driver: Overlay2) -> None:
    descriptor = os.open(driver.create("deep", None), os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("directory", dir_fd=descriptor)
        below = os.open("directory", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    driver.remove("deep")
    driver.cleanup()
    assert os.listdir(driver.home) == ["l"]


def test_sweep_removes_what_is_not_known_and_what_a_crash_left(driver: Overlay2) -> None:
    image(driver, "base", None, motd="1")
    driver.create_read_write("kept", "base", fixtures=FIXTURES)
    driver.create_read_write("lost", "base", fixtures=FIXTURES)
    driver.get("lost")
    os.mkdir(f"{driver.home}/half-made")
    os.mkdir(f"{driver.home}/gone-removing")
    os.symlink("../nowhere/diff", f"{driver.home}/l/{'A' * 26}")
    driver.sweep(["base", "kept"])
    driver.cleanup()
    assert sorted(os.listdir(driver.home)) == ["base", "kept", "kept-init", "l"]
    assert len(os.listdir(f"{driver.home}/l")) == 3
    assert not any("/lost/" in mount.target for mount in mounts.mount_table())


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="unknown option"):
        Overlay2(str(tmp_path / "overlay2"), {"overlay2.colour": "blue"})


def test_metadata_names_the_four_directories(driver: Overlay2) -> None:
    image(driver, "base", None, motd="1")
    driver.create_read_write("box", "base", fixtures=FIXTURES)
    home = driver.home
    assert driver.metadata("box") == {
        "LowerDir": f"{home}/box-init/diff:{home}/base/diff",
        "MergedDir": f"{home}/box/merged",
        "UpperDir": f"{home}/box/diff",
        "WorkDir": f"{home}/box/work",
    }


def test_a_mapped_tree_shows_other_ids_and_keeps_its_own_on_the_disk(driver: Overlay2) -> None:
    Path(driver.create("base", None), "file").write_text("base")
    os.chown(f"{driver.diff_path('base')}/file", 5, 6)
    driver.create_read_write("box", "base")
    root = driver.get("box", ids=IdRange(uid=100000, gid=200000, size=1000))
    try:
        status = os.stat(f"{root}/file")
        assert (status.st_uid, status.st_gid) == (100005, 200006)
        os.chown(f"{root}/file", 100007, 200008)
        with pytest.raises(OSError, match="Value too large"):
            Path(root, "mine").touch()  # the host's root is not among those mapped
        as_user = ["setpriv", "--reuid=100000", "--regid=200000", "--clear-groups"]
        # by the working directory: the way there is the host's root's
        subprocess.run([*as_user, "touch", "new"], cwd=root, check=True)
        subprocess.run([*as_user, "mkdir", "folder"], cwd=root, check=True)
    finally:
        driver.put("box")
    below = driver.diff_path("box")
    assert [os.stat(f"{below}/{name}").st_uid for name in ("file", "new", "folder")] == [7, 0, 0]
    assert {change.path for change in driver.changes("box")} == {"/file", "/new", "/folder"}
    assert Path(driver.get("box"), "new").stat().st_gid == 0
    driver.put("box")


def test_a_mapped_tree_where_overlayfs_takes_no_layers_from_nowhere(
    driver: Overlay2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 6.15 refuses layers of a mount that is not attached."""
    refusals = [OSError(errno.EINVAL, "as an older kernel says")]
    in_thread = overlay2._in_thread

    def older(mount: Callable[[], None]) -> None:
        if refusals:
            raise refusals.pop()
        in_thread(mount)

    monkeypatch.setattr(overlay2, "_in_thread", older)
    Path(driver.create("base", None), "file").write_text("base")
    driver.create_read_write("box", "base")
    root = driver.get("box", ids=IdRange(uid=100000, gid=200000, size=1000))
    try:
        assert not refusals
        assert os.stat(f"{root}/file").st_uid == 100000
        assert not [name for name in os.listdir(f"{driver.home}/box") if name.startswith("mapped-")]
    finally:
        driver.put("box")


@pytest.mark.parametrize("left", [b"", bytes(26), b"\xff" * 26])
def test_what_a_power_cut_left_of_the_drivers_own_files_is_swept_or_mended(driver: Overlay2, left: bytes) -> None:
    """The files' lengths may reach the disk without their content, or nothing at all."""
    driver.create("base", None)
    Path(driver.diff_path("base"), "file").write_text("kept")
    driver.create_read_write("box", "base")
    driver.create_read_write("unknown", "base")
    for snapshot in ("box", "unknown"):
        for name in ("link", "lower"):
            Path(driver.layer_path(snapshot), name).write_bytes(left)
    assert driver.sweep(["base", "box"]) == ["unknown"]
    with pytest.raises(SystemFailure, match="is empty"):
        driver.get("box")
    assert driver.problem("box", "base")
    driver.mend("box", "base")
    assert driver.problem("box", "base") is None
    assert Path(driver.get("box"), "file").read_text() == "kept"
    driver.put("box")
