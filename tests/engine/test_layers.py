"""The layer store with the real archive process and the real overlay driver."""

import asyncio
import hashlib
import io
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from dockyard.content.unpack import Worker
from dockyard.engine.database import Database
from dockyard.engine.id_ranges import IdRange
from dockyard.engine.layers import LayerRow, LayerStore, chain_of
from dockyard.errors import DockyardError, NotFound
from dockyard.snapshots.driver import Change, ChangeKind, choose

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def tar(**files: str) -> bytes:
    """A tar of files by name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
    return buffer.getvalue()


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 4096):
        yield data[start : start + 4096]


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Room:
    """A layer store that can be closed and opened again on the same data root."""

    def __init__(self, root: Path, driver: str) -> None:
        self.root = root
        self.driver = driver
        self.open()

    def open(self) -> None:
        self.archives = Worker()
        self.database = Database(self.root / "state.db")
        self.store = LayerStore(choose(self.driver, self.root), self.archives, self.database, self.root)

    async def reopen(self) -> LayerStore:
        await self.close()
        self.open()
        return self.store

    async def close(self) -> None:
        await self.store.close()
        self.archives.close()
        self.database.close()

    def snapshots(self) -> list[str]:
        home = self.store.driver.home if self.driver == "overlay2" else f"{self.store.driver.home}/dir"
        return sorted(name for name in os.listdir(home) if name != "l" and not name.endswith("-removing"))


@pytest.fixture(params=["overlay2", "vfs"])
async def room(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Room]:
    opened = Room(tmp_path, request.param)
    yield opened
    for container in opened.store.container_ids():
        await opened.store.release(container)
    await opened.close()


async def test_a_layer_comes_out_byte_for_byte_as_it_went_in(room: Room) -> None:
    data = tar(a="1", b="2" * 100_000, etc__c="3")
    layer = await room.store.register(None, pieces(data), diff_id=digest(data))
    assert layer.diff_id == layer.chain_id == digest(data)
    assert layer.size == 100_002
    assert b"".join([piece async for piece in room.store.pack(layer.chain_id)]) == data


async def test_the_same_layer_registered_at_once_is_unpacked_once(room: Room) -> None:
    base = await room.store.register(None, pieces(tar(a="1")))
    data = tar(b="2")
    opened = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal opened
        opened += 1
        return pieces(data)

    async def parent() -> str:
        await asyncio.sleep(0.01)
        return base.chain_id

    chain_id = chain_of(base.chain_id, digest(data))
    layers = await asyncio.gather(
        *(room.store.register(parent, source, diff_id=digest(data), chain_id=chain_id) for _ in range(4))
    )
    assert {layer.chain_id for layer in layers} == {chain_id}
    assert opened == 1
    assert len(room.snapshots()) == 2


async def test_a_layer_with_another_digest_than_promised_leaves_nothing(room: Room) -> None:
    with pytest.raises(DockyardError, match="expected sha256:0000"):
        await room.store.register(None, pieces(tar(a="1")), diff_id="sha256:" + "0" * 64)
    with pytest.raises(DockyardError):
        await room.store.register(None, pieces(b"no tar at all" * 1000))
    assert room.snapshots() == []
    assert os.listdir(room.root / "image" / room.driver / "layerdb") == []


async def test_what_nobody_holds_goes_with_what_is_below_it(room: Room) -> None:
    base = await room.store.register(None, pieces(tar(a="1")))
    top = await room.store.register(base.chain_id, pieces(tar(b="2")))
    assert room.store.drop(base.chain_id) == []
    assert [layer.chain_id for layer in room.store.drop(top.chain_id)] == [top.chain_id, base.chain_id]
    assert room.store.all() == {}
    assert room.snapshots() == []


async def test_a_container_holds_its_layer_over_a_restart(room: Room) -> None:
    base = await room.store.register(None, pieces(tar(a="1")))
    await room.store.create_container_layer("box", base.chain_id)
    room.store.drop(base.chain_id)
    store = await room.reopen()
    store.sweep()
    assert (Path(await store.mount("box")) / "a").read_text() == "1"
    await store.unmount("box")
    await store.release("box")
    assert store.all() == {}


async def test_a_restart_sweeps_what_a_crash_left(room: Room) -> None:
    await room.store.register(None, pieces(tar(a="1")))  # registered, but its image was never written
    room.store.driver.create("half", None)
    (room.root / "image" / room.driver / "layerdb" / "half.split").write_text("")
    store = await room.reopen()
    store.sweep()
    assert store.all() == {}
    assert room.snapshots() == []
    assert os.listdir(room.root / "image" / room.driver / "layerdb") == []


async def test_mounts_are_counted_and_changes_survive_them(room: Room) -> None:
    base = await room.store.register(None, pieces(tar(a="1", etc__b="2")))
    await room.store.create_container_layer("box", base.chain_id, volatile=True)
    root = Path(await room.store.mount("box"))
    assert await room.store.mount("box") == str(root)
    await room.store.unmount("box")
    (root / "new").write_text("12345")
    (root / "a").unlink()
    assert set(await room.store.changes("box")) == {
        Change(ChangeKind.ADDED, "/new"),
        Change(ChangeKind.DELETED, "/a"),
    }
    assert await room.store.sizes("box") == (5, 7)
    await room.store.unmount("box")
    async with room.store.mounted("box") as again:
        assert (Path(again.path) / "new").read_text() == "12345"


async def test_a_commit_is_the_containers_changes_as_a_layer(room: Room) -> None:
    base = await room.store.register(None, pieces(tar(a="1", b="2")))
    await room.store.create_container_layer("box", base.chain_id)
    async with room.store.mounted("box") as root:
        (Path(root.path) / "a").unlink()
        (Path(root.path) / "c").write_text("3")
        layer = await room.store.commit("box")
    assert layer.parent == base.chain_id
    await room.store.create_container_layer("next", layer.chain_id)
    async with room.store.mounted("next") as root:
        assert not (Path(root.path) / "a").exists()
        assert (Path(root.path) / "b").read_text() == "2"
        assert (Path(root.path) / "c").read_text() == "3"
    packed = b"".join([piece async for piece in room.store.pack(layer.chain_id)])
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        names = archive.getnames()
    assert ".wh.a" in names
    assert "c" in names


async def test_release_of_a_mounted_container_unmounts_it(room: Room) -> None:
    base = await room.store.register(None, pieces(tar(a="1")))
    await room.store.create_container_layer("box", base.chain_id)
    await room.store.mount("box")
    await room.store.release("box")
    await room.store.release("box")
    with pytest.raises(NotFound):
        await room.store.mount("box")
    assert len(room.snapshots()) == 1


async def test_a_layer_that_a_power_cut_may_have_damaged_is_given_up(room: Room) -> None:
    base = await room.store.register(None, pieces(tar(a="1")))
    await room.store.register(base.chain_id, pieces(tar(b="2")))
    other = await room.store.register(None, pieces(tar(c="3")))
    await room.close()
    database = Database(room.root / "state.db")
    rows = database.collection(f"layers_{room.driver}", LayerRow)
    assert {row.unsettled for _, row in rows.all()} == {""}
    rows.put(base.chain_id, msgspec.structs.replace(dict(rows.all())[base.chain_id], unsettled="another boot"))
    database.close()
    room.open()
    assert list(room.store.all()) == [other.chain_id]
    room.store.hold(other.chain_id)
    room.store.sweep()
    assert len(room.snapshots()) == 1


async def test_who_starts_with_other_ids_waits_for_who_looks_at_the_files(room: Room) -> None:
    base = await room.store.register(None, pieces(tar(a="1")))
    await room.store.create_container_layer("mapped", base.chain_id, ids=IdRange(uid=100000, gid=100000, size=1000))
    async with room.store.mounted("mapped") as tree:
        assert (tree.ids, os.stat(f"{tree.path}/a").st_uid) == (None, 0)
        starting = asyncio.ensure_future(room.store.mount("mapped"))
        await asyncio.sleep(0.05)
        assert not starting.done()
    path = await asyncio.wait_for(starting, 5)
    assert os.stat(f"{path}/a").st_uid == 100000
    async with room.store.mounted("mapped") as tree:
        # it runs: who looks now sees what it sees
        assert tree.ids is not None
        assert os.stat(f"{tree.path}/a").st_uid == 100000
    await room.store.unmount("mapped")
    async with room.store.mounted("mapped") as tree:
        assert os.stat(f"{tree.path}/a").st_uid == 0
    await room.store.release("mapped")
