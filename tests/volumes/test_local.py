"""The local driver and copy-up on the real file system."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.engine.events.service import Events
from dockyard.engine.state.database import Database
from dockyard.engine.volumes.service import VolumeService
from dockyard.errors import Conflict, InvalidParameter, NotFound, SystemFailure
from dockyard.linux import mounts
from dockyard.volumes.copy_up import copy_up
from dockyard.volumes.local import LocalDriver


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dockyard-volumes-") as name:
        yield Path(name)


def service(folder: Path) -> VolumeService:
    return VolumeService([LocalDriver(folder / "volumes")], Database(folder / "state.db"), Events())


async def test_a_volume_is_a_directory_with_data(folder: Path) -> None:
    volume = await service(folder).create("data", labels={"a": "b"})
    assert volume.mountpoint == str(folder / "volumes/data/_data")
    assert os.path.isdir(volume.mountpoint)
    assert volume.labels == {"a": "b"}


async def test_names_and_options_are_checked(folder: Path) -> None:
    volumes = service(folder)
    for name in ("../x", "a", ".hidden", "a/b"):
        with pytest.raises(InvalidParameter, match=r"^create "):
            await volumes.create(name)
    with pytest.raises(InvalidParameter, match='invalid option: "foo"'):
        await volumes.create("data", driver_opts={"foo": "1"})
    with pytest.raises(InvalidParameter, match='missing required option: "device"'):
        await volumes.create("data", driver_opts={"type": "tmpfs"})
    with pytest.raises(NotFound, match='plugin "other" not found'):
        await volumes.create("data", "other")


async def test_a_volume_whose_filling_a_disk_has_lost_is_never_taken_for_settled(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """syncfs(2) tells of a lost write once; that it succeeds afterwards says nothing of what was lost."""

    def fails(path: str) -> None:
        raise OSError(5, "Input/output error")

    volumes = service(folder)
    await volumes.create("data")
    (folder / "image/place").mkdir(parents=True)
    (folder / "image/place/file").touch()
    await volumes.populate("data", str(folder / "image"), "/place")
    with monkeypatch.context() as patched:
        patched.setattr("dockyard.engine.volumes.service.sync_file_system", fails)
        with pytest.raises(SystemFailure, match="Input/output error"):
            await volumes.settle(["data"])
    with pytest.raises(SystemFailure, match="Input/output error"):
        await volumes.settle(["data"])


async def test_unknown_and_used_volumes_are_not_removed(folder: Path) -> None:
    volumes = service(folder)
    with pytest.raises(NotFound, match=r"^get data: no such volume$"):
        await volumes.remove("data")
    await volumes.remove("data", force=True)
    await volumes.create("data")
    volumes.users.append(lambda name: ["0123"])
    with pytest.raises(Conflict, match=r"^remove data: volume is in use - \[0123\]$"):
        await volumes.remove("data")


async def test_a_device_is_mounted_once_for_all_containers(folder: Path) -> None:
    volumes = service(folder)
    await volumes.create("memory", driver_opts={"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=1000,nosuid"})

    def mounted() -> list[mounts.Mount]:
        return [mount for mount in mounts.mount_table() if mount.target.startswith(str(folder))]

    path = await volumes.mount("memory", "one")
    await volumes.mount("memory", "two")
    assert len(mounted()) == 1
    assert "nosuid" in mounted()[0].options
    assert os.stat(path).st_uid == 1000
    await volumes.unmount("memory", "one")
    assert len(mounted()) == 1
    await volumes.unmount("memory", "two")
    assert not mounted()


async def test_a_read_only_bind_volume_is_read_only(folder: Path) -> None:
    volumes = service(folder)
    (folder / "shared").mkdir()
    device = str(folder / "shared")
    await volumes.create("bound", driver_opts={"type": "none", "device": device, "o": "bind,ro"})
    path = await volumes.mount("bound", "one")
    try:
        with pytest.raises(OSError):
            Path(path, "file").write_text("x")
    finally:
        await volumes.unmount("bound", "one")


async def test_a_mount_that_fails_says_so(folder: Path) -> None:
    volumes = service(folder)
    await volumes.create("gone", driver_opts={"type": "none", "device": "/does/not/exist", "o": "bind"})
    with pytest.raises(SystemFailure, match="failed to mount local volume"):
        await volumes.mount("gone", "one")


async def test_volumes_survive_a_restart_and_half_made_ones_do_not(folder: Path) -> None:
    first = VolumeService([LocalDriver(folder / "volumes")], database := Database(folder / "state.db"), Events())
    await first.create("kept", labels={"a": ""})
    await first.create("lost")
    shutil.rmtree(folder / "volumes/lost")
    (folder / "volumes/.new-1/_data").mkdir(parents=True)
    (folder / "volumes/found/_data").mkdir(parents=True)
    database.close()
    again = service(folder)
    assert [volume.name for volume in await again.list()] == ["found", "kept", "lost"]
    assert not (folder / "volumes/.new-1").exists()
    with pytest.raises(Conflict, match="the data of volume lost are gone"):  # said, and not made anew in silence
        await again.mount("lost", "container")
    await again.remove("lost")


async def test_a_volume_that_the_database_has_lost_is_what_it_was(folder: Path) -> None:
    first = VolumeService([LocalDriver(folder / "volumes")], database := Database(folder / "state.db"), Events())
    await first.create("kept", labels={"a": "b"}, driver_opts={"type": "tmpfs", "device": "tmpfs"})
    database.close()
    (folder / "state.db").unlink()
    kept = await service(folder).get("kept")
    assert kept.labels == {"a": "b"}
    assert kept.options == {"type": "tmpfs", "device": "tmpfs"}


async def test_prune_takes_anonymous_volumes_only(folder: Path) -> None:
    volumes = service(folder)
    await volumes.create("named")
    anonymous = await volumes.create()
    Path(anonymous.mountpoint, "file").write_bytes(b"x" * 100)
    assert await volumes.prune() == ([anonymous.name], 100)
    assert await volumes.prune({"all": ["true"]}) == (["named"], 0)


async def test_list_filters(folder: Path) -> None:
    volumes = service(folder)
    await volumes.create("first", labels={"a": "1"})
    await volumes.create("second", labels={"a": "2"})
    volumes.users.append(lambda name: ["c"] if name == "first" else [])

    async def names(**filters: list[str]) -> list[str]:
        return [volume.name for volume in await volumes.list(filters)]

    assert await names(label=["a=1"]) == ["first"]
    assert await names(label=["a"]) == ["first", "second"]
    assert await names(dangling=["true"]) == ["second"]
    assert await names(name=["^sec"]) == ["second"]
    assert await names(driver=["other"]) == []
    with pytest.raises(InvalidParameter, match="invalid filter 'x'"):
        await names(x=["1"])


def test_copy_up_keeps_owner_mode_links_and_attributes(folder: Path) -> None:
    source = folder / "root/srv"
    (source / "deep").mkdir(parents=True)
    (source / "file").write_text("x")
    os.chown(source / "file", 5, 6)
    os.chmod(source / "file", 0o4755)
    os.setxattr(source / "file", "user.note", b"kept")
    os.link(source / "file", source / "deep/linked")
    os.symlink("/etc/passwd", source / "symlink")
    os.chown(source, 7, 8)
    os.chmod(source, 0o1777)
    (folder / "data").mkdir()
    assert copy_up(str(folder / "root"), "/srv", str(folder / "data"))
    data = folder / "data"
    status = os.stat(data / "file")
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (5, 6, 0o4755)
    assert os.getxattr(data / "file", "user.note") == b"kept"
    assert os.stat(data / "deep/linked").st_ino == status.st_ino
    assert os.readlink(data / "symlink") == "/etc/passwd"
    assert (os.stat(data).st_uid, stat.S_IMODE(os.stat(data).st_mode)) == (7, 0o1777)


def test_copy_up_resolves_links_inside_the_root_only(folder: Path) -> None:
    (folder / "root").mkdir()
    (folder / "outside").mkdir()
    (folder / "outside/secret").write_text("x")
    os.symlink("../../../.." + str(folder / "outside"), folder / "root/out")
    (folder / "data").mkdir()
    assert not copy_up(str(folder / "root"), "/out", str(folder / "data"))
    assert not os.listdir(folder / "data")
