"""Files in and out of a container's tree, with the real archive process; only the container service is a stand-in."""

import io
import os
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from dockyard.api.archive import go_mode
from dockyard.content.unpack import Worker
from dockyard.engine.containers.archive import ArchiveService
from dockyard.engine.containers.config import ContainerConfig, HostConfig
from dockyard.engine.containers.container import Container, MountPoint, Record
from dockyard.engine.containers.layers import Tree
from dockyard.errors import DockyardError, InvalidParameter, NotFound

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


class Containers:
    """One stopped container whose root is a plain directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        config, host = ContainerConfig(), HostConfig()
        self.container = Container(
            Record(id="c" * 64, name="c", created="", image_id="", chain_id=None, config=config, host_config=host)
        )

    def get(self, reference: str) -> Container:
        return self.container

    def emit(self, container: Container, action: str, **further: str) -> None:
        return

    def folder(self, container: Container) -> str:
        return "/nonexistent"  # it has not run

    @asynccontextmanager
    async def rootfs(self, container: Container) -> AsyncIterator[Tree]:
        yield Tree(str(self.root))


class Room:
    """The service on a tree in `root`; `outside` is beside it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.outside = folder / "root", folder / "outside"
        for path in (self.root, self.root / "etc", self.outside):
            path.mkdir()
        (self.root / "etc/passwd").write_text("bob:x:5:6::/:/bin/sh\n")
        (self.outside / "secret").write_text("secret")
        self.worker = Worker()
        self.containers = Containers(self.root)
        self.service = ArchiveService(cast(Any, self.containers), cast(Any, None), cast(Any, None), self.worker)

    async def read(self, path: str) -> dict[str, bytes | None]:
        async with self.service.read("c", path) as (_, pieces):
            data = b"".join([piece async for piece in pieces])
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return {member.name: file.read() if (file := _file(tar, member)) else None for member in tar.getmembers()}

    async def write(self, path: str, *members: tarfile.TarInfo, **options: bool) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as tar:
                for member in members:
                    tar.addfile(member, io.BytesIO(b"x" * member.size) if member.isfile() else None)
            yield buffer.getvalue()

        await self.service.write("c", path, pieces(), **options)


def _file(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    return tar.extractfile(member) if member.isfile() else None


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", uid: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.uid = kind, link, uid
    info.size = 1 if kind == tarfile.REGTYPE else 0
    return info


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    with tempfile.TemporaryDirectory(prefix="dockyard-archive-") as name:
        made = Room(Path(name))
        yield made
        made.worker.close()


async def test_a_file_and_a_directory_come_out_under_their_names(room: Room) -> None:
    assert await room.read("/etc/passwd") == {"passwd": b"bob:x:5:6::/:/bin/sh\n"}
    assert list(await room.read("etc")) == ["etc", "etc/passwd"]
    found = await room.service.stat("c", "/etc")
    assert (found.name, go_mode(found.mode)) == ("etc", 1 << 31 | 0o755)
    with pytest.raises(NotFound, match=r"^Could not find the file /nope in container c$"):
        await room.service.stat("c", "/nope")


async def test_symlinks_are_told_of_and_stay_inside(room: Room) -> None:
    os.symlink("etc", room.root / "link")
    os.symlink("../../../.." + str(room.outside), room.root / "out")
    found = await room.service.stat("c", "/link")
    assert (found.link_target, bool(go_mode(found.mode) & 1 << 27)) == ("/etc", True)
    assert list(await room.read("/link/")) == ["link", "link/passwd"]
    with pytest.raises(NotFound):
        await room.read("/out/secret")
    with pytest.raises(DockyardError):
        await room.write("/out", entry("planted"))
    assert os.listdir(room.outside) == ["secret"]


async def test_hostile_archives_write_inside_only(room: Room) -> None:
    (room.root / "d").mkdir()
    # through a link of its own as a chrooted tar would: to that path inside
    await room.write("/d", entry("l", tarfile.SYMTYPE, str(room.outside)), entry("l/planted"))
    assert (room.root / str(room.outside).lstrip("/") / "planted").is_file()
    with pytest.raises(InvalidParameter):
        await room.write("/d", entry("../../../planted"))
    assert os.listdir(room.outside) == ["secret"]


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE])
async def test_the_place_of_unpacking_stays_a_directory(room: Room, kind: bytes) -> None:
    await room.write("/etc", entry(".", kind, "/"), entry("new"))
    assert sorted(os.listdir(room.root / "etc")) == ["new", "passwd"]


async def test_a_tree_deeper_than_recursion_goes_gives_way_to_a_file(room: Room) -> None:
    deep = "/".join(["d"] * 1500)
    await room.write("/etc", entry(deep, tarfile.DIRTYPE))
    await room.write("/etc", entry("d"))
    assert (room.root / "etc/d").is_file()


async def test_unpacking_minds_what_it_is_told(room: Room) -> None:
    await room.write("/etc", entry("new", uid=9))
    assert os.stat(room.root / "etc/new").st_uid == 9
    room.containers.container.config.user = "bob"
    await room.write("/etc", entry("own"), take_owner=True)
    assert os.stat(room.root / "etc/own").st_uid == 5
    with pytest.raises(InvalidParameter, match="cannot overwrite directory"):
        await room.write("/", entry("etc"), keep_directories=True)
    with pytest.raises(InvalidParameter, match="extraction point is not a directory"):
        await room.write("/etc/passwd", entry("x"))
    room.containers.container.host_config.readonly_rootfs = True
    with pytest.raises(InvalidParameter, match="container rootfs is marked read-only"):
        await room.write("/etc", entry("x"))


async def test_a_stopped_container_has_its_mounts(room: Room) -> None:
    os.symlink("/deep/data", room.root / "short")
    room.containers.container.record.mounts = [
        MountPoint(type="bind", source=str(room.outside), destination="/deep/data"),
        MountPoint(type="bind", source=str(room.outside), destination="/fixed", rw=False),
    ]
    assert await room.read("/short/secret") == {"secret": b"secret"}
    await room.write("/short", entry("kept"))
    assert (room.outside / "kept").exists()
    with pytest.raises(InvalidParameter, match="mounted volume is marked read-only"):
        await room.write("/fixed", entry("x"))
    with open("/proc/self/mountinfo") as table:
        assert str(room.root) not in table.read()


async def test_export_is_the_tree_without_mounts(room: Room) -> None:
    async with room.service.export("c") as pieces:
        data = b"".join([piece async for piece in pieces])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert "etc/passwd" in tar.getnames()


async def test_a_stream_that_fails_at_once_leaves_nothing_open(room: Room, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        raise InvalidParameter("no stream")
        yield b""

    async def unpacked(stream: AsyncIterator[bytes]) -> None:
        with pytest.raises(InvalidParameter):
            await room.worker.unpack(stream, str(tmp_path))

    await unpacked(broken())
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await unpacked(broken())
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
async def test_nothing_of_the_container_is_imported_or_executed(room: Room, tmp_path: Path, mode: Any) -> None:
    """CVE-2019-14271, CVE-2026-41567: who works on a container's files must load its own libraries and programs only.

    Every module of the standard library lies in wait in every place that Python looks at, and programs in every place
    of the PATH; all would write where the container itself could not.
    """
    traps = {"sitecustomize", "encodings", "zstandard", "isal", "msgspec", "dockyard", *sys.stdlib_module_names}
    for place in {*sys.path, "/", "/usr/lib", sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")}:
        folder = room.root / place.lstrip("/")
        if place:
            folder.mkdir(parents=True, exist_ok=True)
            for name in traps:
                (folder / f"{name}.py").write_text("open('/sprung', 'w').close()\n")
    for place in ("bin", "usr/bin", "sbin", "usr/sbin", "usr/local/bin"):
        (room.root / place).mkdir(parents=True, exist_ok=True)
        for name in ("xz", "unxz", "gzip", "unpigz", "bzip2", "zstd", "tar", "docker-tar"):
            program = room.root / place / name
            program.write_text("#!/bin/sh\n: > /sprung\n")
            program.chmod(0o755)

    async def packed(*members: tarfile.TarInfo, damaged: bool = False) -> AsyncIterator[bytes]:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode) as tar:
            for member in members:
                tar.addfile(member, io.BytesIO(b"x" * member.size) if member.isfile() else None)
        data = buffer.getvalue()
        yield data[: len(data) // 2] + b"?" * 9 if damaged else data

    odd = entry("\udcff\u00fc.\N{SNOWMAN}", uid=1 << 20)
    odd.pax_headers = {"SCHILY.xattr.user.k\u00fc": "v\u00fc", "mtime": "1.5"}
    await room.service.write("c", "/etc", packed(odd, entry("link", tarfile.SYMTYPE, "/etc")))
    with pytest.raises(DockyardError):
        await room.service.write("c", "/etc", packed(*(entry(f"f{number}") for number in range(99)), damaged=True))
    with pytest.raises(DockyardError):
        await room.service.write("c", "/etc", packed(entry("../../../x/y", tarfile.LNKTYPE, "/nowhere")))
    assert "etc/link" in await room.read("/etc")
    assert not (room.root / "sprung").exists()
