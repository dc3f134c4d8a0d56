"""Layers are compressed once: what a push has made stays for the next and goes with its layer."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.engine.images import packed_blobs, push
from dockyard.engine.repair.fsck import Fsck
from tests.engine.test_image_transfer import Connected, registry, room
from tests.engine.test_images import BASE, TOP, digest, docker_archive, document

__all__ = ["registry", "room"]  # fixtures

RAW = document([BASE, TOP])


def files(room: Connected) -> dict[str, bytes]:
    """The kept blobs."""
    return {path.name: path.read_bytes() for path in (room.root / "image" / "packed").iterdir()}


async def pushed_once(room: Connected, registry: str, name: str) -> str:
    """Load and push an image, and forget which registry has its blobs; the pushed manifest's digest."""
    await room.load(docker_archive([BASE, TOP], RAW, f"{registry}/{name}:1", f"{registry}/{name}-again:1"))
    await room.push(f"{registry}/{name}:1")
    for diff_id in (digest(BASE), digest(TOP)):
        for row in room.images.layer_blobs.of(diff_id):
            room.images.layer_blobs.forget(diff_id, row.digest, row.repository)
    found: str = room.messages[-1]["aux"]["Digest"]
    return found


def nothing_is_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pieces: AsyncIterator[bytes], progress: Any) -> AsyncIterator[bytes]:
        raise AssertionError("a layer was compressed anew")

    monkeypatch.setattr(push, "compressed", refused)


async def test_a_second_push_compresses_nothing(
    room: Connected, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await pushed_once(room, registry, "packed/once")
    await room.close()
    room.open()
    nothing_is_compressed(monkeypatch)
    await room.push(f"{registry}/packed/once-again:1")
    assert room.messages[-1]["aux"]["Digest"] == first
    await room.images.remove(f"{registry}/packed/once:1")
    assert len(files(room)) == 2
    await room.images.remove(f"{registry}/packed/once-again:1")
    assert files(room) == {}


async def test_a_blob_that_was_damaged_is_made_anew(room: Connected, registry: str) -> None:
    first = await pushed_once(room, registry, "packed/damaged")
    for path in (room.root / "image" / "packed").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    await room.push(f"{registry}/packed/damaged-again:1")
    assert room.messages[-1]["aux"]["Digest"] == first
    assert all(digest(content)[7:] == name for name, content in files(room).items())
    assert len(files(room)) == 2


async def test_fsck_tells_of_a_damaged_blob_and_a_start_of_a_cut_one(room: Connected, registry: str) -> None:
    await pushed_once(room, registry, "packed/checked")
    one, other = sorted((room.root / "image" / "packed").iterdir())
    one.write_bytes(bytes(one.stat().st_size))
    nothing: Any = None
    checker = Fsck(Path(room.root), room.database, room.layers, nothing, room.images, nothing, nothing)
    assert room.images.packed.damaged(content=False) == []
    assert room.images.packed.damaged(content=True) == [f"sha256:{one.name}"]
    checker._unpacker(f"sha256:{one.name}")()
    assert room.images.packed.damaged(content=True) == []
    other.write_bytes(b"cut")
    (other.parent / "new-unfinished").write_bytes(b"what a kill left")
    await room.close()
    room.open()
    assert files(room) == {}
    assert list(room.images.packed.rows()) == []


async def test_what_was_used_longest_ago_makes_room(
    room: Connected, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pushed_once(room, registry, "packed/budget")
    rows = [row for row, _ in room.images.packed.rows()]
    kept = max(rows, key=lambda row: row.used)
    room.images.packed.hold(kept.digest)
    monkeypatch.setattr(packed_blobs, "cache_budget", lambda folder: 0)
    writing = room.images.packed.begin("sha256:" + "0" * 64, "gzip")
    assert writing is not None
    writing.write(b"new")
    writing.keep(digest(b"new"))
    writing.abandon()
    assert set(files(room)) == {kept.digest[7:]}  # what is in use stays


async def test_a_push_goes_on_where_nothing_can_be_kept(
    room: Connected, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_blobs.Writing, "write", lambda self, data: self._fail(OSError("no space left")))
    await pushed_once(room, registry, "packed/full")
    assert files(room) == {}
