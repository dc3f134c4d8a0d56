"""The layer store with the real archive process and the real overlay driver."""

import asyncio
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from dockyard.content.unpack import Worker
from dockyard.engine.containers.layers import ContainerLayers
from dockyard.engine.images.layer_store import DamagedLayer, LayerRow, LayerStore, chain_of
from dockyard.engine.state.database import Database
from dockyard.engine.system.id_ranges import IdRange
from dockyard.errors import DockyardError, NotFound, SystemFailure
from dockyard.snapshots.choice import choose
from dockyard.snapshots.driver import Change, ChangeKind

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
        self.containers = ContainerLayers(self.store, self.database)

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
    for container in opened.containers.ids():
        await opened.containers.release(container)
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
    await room.store.freed()
    assert room.snapshots() == []
    assert not [name for name in os.listdir(room.store.driver.home) if name.endswith("-removing")]


async def test_a_container_holds_its_layer_over_a_restart(room: Room) -> None:
    base = await room.store.register(None, pieces(tar(a="1")))
    await room.containers.create("box", base.chain_id)
    room.store.drop(base.chain_id)
    store = await room.reopen()
    store.sweep()
    assert (Path(await room.containers.mount("box")) / "a").read_text() == "1"
    await room.containers.unmount("box")
    await room.containers.release("box")
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
    await room.containers.create("box", base.chain_id, volatile=True)
    root = Path(await room.containers.mount("box"))
    assert await room.containers.mount("box") == str(root)
    await room.containers.unmount("box")
    (root / "new").write_text("12345")
    (root / "a").unlink()
    assert set(await room.containers.changes("box")) == {
        Change(ChangeKind.ADDED, "/new"),
        Change(ChangeKind.DELETED, "/a"),
    }
    assert await room.containers.sizes("box") == (5, 7)
    await room.containers.unmount("box")
    async with room.containers.mounted("box") as again:
        assert (Path(again.path) / "new").read_text() == "12345"


async def test_a_commit_is_the_containers_changes_as_a_layer(room: Room) -> None:
    base = await room.store.register(None, pieces(tar(a="1", b="2")))
    await room.containers.create("box", base.chain_id)
    async with room.containers.mounted("box") as root:
        (Path(root.path) / "a").unlink()
        (Path(root.path) / "c").write_text("3")
        layer = await room.containers.commit("box")
    assert layer.parent == base.chain_id
    await room.containers.create("next", layer.chain_id)
    async with room.containers.mounted("next") as root:
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
    await room.containers.create("box", base.chain_id)
    await room.containers.mount("box")
    await room.containers.release("box")
    await room.containers.release("box")
    with pytest.raises(NotFound):
        await room.containers.mount("box")
    assert len(room.snapshots()) == 1


async def power_cut(room: Room) -> dict[str, LayerRow]:
    """Open the store again as after a power cut that came while every layer was unsettled; the layers' rows."""
    await room.close()
    database = Database(room.root / "state.db")
    rows = database.collection(f"layers_{room.driver}", LayerRow)
    known = dict(rows.all())
    for chain_id, row in known.items():
        rows.put(chain_id, msgspec.structs.replace(row, unsettled="another boot"))
    database.close()
    room.open()
    return known


def own_file(room: Room, row: LayerRow, name: str) -> Path:
    """A file of a layer where it lies on the disk."""
    return Path(room.store.driver.diff_path(row.snapshot)) / name


async def test_a_layer_is_on_the_disk_when_it_is_settled_and_all_who_wait_share_one_sync(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[str] = []
    monkeypatch.setattr("dockyard.engine.images.layer_store.sync_file_system", syncs.append)
    layers = [await room.store.register(None, pieces(tar(a=str(number)))) for number in range(5)]
    await asyncio.gather(*(room.store.settle() for _ in range(10)))
    assert len(syncs) == 1
    await room.store.settle()
    assert len(syncs) == 1
    rows = dict(room.database.collection(f"layers_{room.driver}", LayerRow).all())
    assert {rows[layer.chain_id].unsettled for layer in layers} == {""}


async def test_layers_of_a_disk_that_has_lost_a_write_are_never_taken_for_settled(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """syncfs(2) tells of a lost write once; that it succeeds afterwards says nothing of what was lost."""

    def fails(path: str) -> None:
        raise OSError(5, "Input/output error")

    first = await room.store.register(None, pieces(tar(a="1")))
    with monkeypatch.context() as patched:
        patched.setattr("dockyard.engine.images.layer_store.sync_file_system", fails)
        with pytest.raises(SystemFailure, match="Input/output error"):
            await room.store.settle()
    second = await room.store.register(first.chain_id, pieces(tar(b="2")))
    with pytest.raises(SystemFailure, match="restart the daemon"):
        await room.store.settle()
    rows = dict(room.database.collection(f"layers_{room.driver}", LayerRow).all())
    assert all(rows[layer.chain_id].unsettled for layer in (first, second))
    room.database.collection(f"layers_{room.driver}", LayerRow).put(first.chain_id, rows[first.chain_id])
    with pytest.raises(SystemFailure, match="restart the daemon"):
        await room.database.on_disk()


async def test_the_next_daemon_settles_what_the_last_one_had_not(room: Room) -> None:
    layer = await room.store.register(None, pieces(tar(a="1")))
    await room.close()
    database = Database(room.root / "state.db")
    rows = database.collection(f"layers_{room.driver}", LayerRow)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    rows.put(layer.chain_id, msgspec.structs.replace(dict(rows.all())[layer.chain_id], unsettled=boot))
    database.close()
    room.open()
    room.store.open()
    await room.store.settle()
    await room.store.sound(layer.chain_id)
    found = room.database.collection(f"layers_{room.driver}", LayerRow).get(layer.chain_id)
    assert found is not None
    assert (found.unsettled, found.damaged) == ("", "")


async def test_a_layer_in_doubt_that_is_what_it_was_is_trusted_again(room: Room) -> None:
    base = await room.store.register(None, pieces(tar(a="1")))
    top = await room.store.register(base.chain_id, pieces(tar(b="2")))
    await power_cut(room)
    room.store.open()
    await room.containers.create("box", top.chain_id)
    async with room.containers.mounted("box") as tree:
        assert (Path(tree.path) / "a").read_text() == "1"
    await room.reopen()
    assert {row.unsettled for _, row in room.database.collection(f"layers_{room.driver}", LayerRow).all()} == {""}


async def test_a_damaged_layer_is_kept_and_named_and_whole_again_when_it_comes_once_more(room: Room) -> None:
    data = tar(a="1", b="x" * 5000)
    base = await room.store.register(None, pieces(data))
    top = await room.store.register(base.chain_id, pieces(tar(c="3")))
    await room.containers.create("box", top.chain_id)
    rows = await power_cut(room)
    os.truncate(own_file(room, rows[base.chain_id], "b"), 0)
    room.store.open()
    for again in (False, True):
        with pytest.raises(DamagedLayer, match=base.diff_id):
            await room.containers.mount("box")
        with pytest.raises(DamagedLayer, match="pull, load or build"):
            await room.containers.create("other", top.chain_id)
        with pytest.raises(DamagedLayer, match=base.diff_id):
            await anext(room.store.pack(base.chain_id))
        assert set(room.store.all()) == {base.chain_id, top.chain_id}
        room.containers.graph_data("box")  # who only looks is told what there is
        if not again:  # it is known to the daemons after this one, too
            await room.reopen()
            room.store.open()
    mended = await room.store.register(None, pieces(data), diff_id=base.diff_id, chain_id=base.chain_id)
    assert mended.chain_id == base.chain_id
    await room.reopen()
    path = await room.containers.mount("box")
    assert (Path(path) / "b").read_text() == "x" * 5000
    await room.containers.unmount("box")


async def test_a_container_whose_layer_has_lost_its_folder_says_which(room: Room) -> None:
    if room.driver == "vfs":
        pytest.skip("a copy needs no layer below it")
    data = tar(a="1")
    base = await room.store.register(None, pieces(data))
    await room.containers.create("box", base.chain_id)
    row = dict(room.database.collection("layers_overlay2", LayerRow).all())[base.chain_id]
    await room.close()
    shutil.rmtree(room.store.driver.layer_path(row.snapshot))
    room.open()
    room.store.hold(base.chain_id)
    room.store.sweep()
    with pytest.raises(DamagedLayer, match=f"layer {base.diff_id} is damaged: .* is missing"):
        await room.containers.mount("box")
    room.containers.graph_data("box")


async def test_a_layer_goes_when_the_disk_has_that_its_row_is_gone(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut would leave an image whose files are no more."""
    layer = await room.store.register(None, pieces(tar(a="1")))
    await room.store.settle()
    go_on = asyncio.Event()
    monkeypatch.setattr(room.database, "on_disk", go_on.wait)
    room.store.drop(layer.chain_id)
    await asyncio.sleep(0.1)
    assert len(room.snapshots()) == 1
    go_on.set()
    await room.store.freed()
    assert room.snapshots() == []


async def test_who_starts_with_other_ids_waits_for_who_looks_at_the_files(room: Room) -> None:
    base = await room.store.register(None, pieces(tar(a="1")))
    await room.containers.create("mapped", base.chain_id, ids=IdRange(uid=100000, gid=100000, size=1000))
    async with room.containers.mounted("mapped") as tree:
        assert (tree.ids, os.stat(f"{tree.path}/a").st_uid) == (None, 0)
        starting = asyncio.ensure_future(room.containers.mount("mapped"))
        await asyncio.sleep(0.05)
        assert not starting.done()
    path = await asyncio.wait_for(starting, 60)
    assert os.stat(f"{path}/a").st_uid == 100000
    async with room.containers.mounted("mapped") as tree:
        # it runs: who looks now sees what it sees
        assert tree.ids is not None
        assert os.stat(f"{tree.path}/a").st_uid == 100000
    await room.containers.unmount("mapped")
    async with room.containers.mounted("mapped") as tree:
        assert os.stat(f"{tree.path}/a").st_uid == 0
    await room.containers.release("mapped")


async def test_a_container_whose_files_go_while_they_are_counted_is_not_found(room: Room) -> None:
    base = await room.store.register(None, pieces(tar(a="1")))
    await room.containers.create("box", base.chain_id)
    shutil.rmtree(room.store.driver.diff_path("box"))
    with pytest.raises(NotFound, match="no writable layer for container box"):
        await room.containers.sizes("box")
