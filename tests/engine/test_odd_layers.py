"""Layers that other tools make: with holes in files, and with files that lie behind a link of the same layer."""

import io
import os
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dockyard.builder.trees import ArchiveTree
from dockyard.content import sparse, tar_format
from dockyard.errors import DockyardError, InvalidParameter
from tests.engine.test_layers import Room, digest, pieces

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

FORMS = {
    "gnu": ["--format=gnu"],
    "0.0": ["--format=posix", "--sparse-version=0.0"],
    "0.1": ["--format=posix", "--sparse-version=0.1"],
    "1.0": ["--format=posix", "--sparse-version=1.0"],
}


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    opened = Room(tmp_path, "overlay2")
    yield opened
    for container in opened.containers.ids():
        await opened.containers.release(container)
    await opened.close()


def with_holes(folder: Path, form: str, regions: int) -> tuple[bytes, bytes]:
    """(an archive of a file with holes and one without, the first one's content)."""
    folder.mkdir(exist_ok=True)
    with (folder / "holes").open("wb") as file:
        for number in range(regions):
            file.seek(number * 65536 + 8192)
            file.write(f"{number}".encode() * 4096)
        file.truncate(regions * 65536 + 100_000)
    (folder / "plain").write_bytes(b"plain")
    command = ["tar", "-C", str(folder), "--sparse", *FORMS[form], "-c", "holes", "plain"]
    return subprocess.run(command, capture_output=True, check=True).stdout, (folder / "holes").read_bytes()


@pytest.mark.parametrize("regions", [1, 30])
@pytest.mark.parametrize("form", FORMS)
async def test_files_with_holes_are_unpacked_and_packed_again(
    room: Room, tmp_path: Path, form: str, regions: int
) -> None:
    data, content = with_holes(tmp_path / "files", form, regions)
    layer = await room.store.register(None, pieces(data), diff_id=digest(data))
    assert b"".join([piece async for piece in room.store.pack(layer.chain_id)]) == data
    await room.containers.create("look", layer.chain_id, bare=True)
    async with room.containers.mounted("look") as mounted:
        assert (Path(mounted.path) / "holes").read_bytes() == content
        assert (Path(mounted.path) / "plain").read_bytes() == b"plain"
        assert (Path(mounted.path) / "holes").stat().st_blocks * 512 < len(content)


@pytest.mark.parametrize("form", FORMS)
def test_files_with_holes_are_whole_in_a_build_context(tmp_path: Path, form: str) -> None:
    data, content = with_holes(tmp_path, form, 30)
    archive = (tmp_path / "archive").open("w+b")
    archive.write(data)
    file = ArchiveTree(archive).find("holes")
    assert file is not None
    assert b"".join(file.read()) == content
    archive.close()


@pytest.mark.parametrize(
    "records",
    [
        {"GNU.sparse.size": b"10", "GNU.sparse.map": b"0,5,3,5"},
        {"GNU.sparse.size": b"10", "GNU.sparse.map": b"5,10"},
        {"GNU.sparse.size": b"10", "GNU.sparse.map": b"5"},
        {"GNU.sparse.size": b"-1", "GNU.sparse.map": b"0,1"},
        {"GNU.sparse.size": b"9" * 30, "GNU.sparse.map": b"0,1"},
        {"GNU.sparse.size": b"10", "GNU.sparse.map": b"0,-1"},
        {"GNU.sparse.size": b"10", "GNU.sparse.map": b"0,0," * 200_000},
    ],
)
def test_a_map_of_holes_that_lies_is_refused(records: dict[str, bytes]) -> None:
    with pytest.raises(InvalidParameter):
        sparse.of_records(records)


def test_a_map_of_holes_without_end_is_refused() -> None:
    records = {"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.realsize": b"1"}
    for data in (b"9" * 512, b"99999999\n" + b"0\n" * 252, b""):
        with pytest.raises(InvalidParameter):
            sparse.of_payload(records, lambda size, data=data: data[:size])  # type: ignore[misc]  # bound on purpose


def layer(*entries: tuple[str, str, str]) -> bytes:
    """(name, "f" "d" "l" or "h", content or target)…"""
    buffer = io.BytesIO()
    kinds = {"d": tarfile.DIRTYPE, "l": tarfile.SYMTYPE, "h": tarfile.LNKTYPE, "f": tarfile.REGTYPE}
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind, value in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kinds[kind], 0o755
            if kind in "lh":
                info.linkname = value
            info.size = len(value) if kind == "f" else 0
            archive.addfile(info, io.BytesIO(value.encode()))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([("usr/", "d", ""), ("l", "l", "usr"), ("l/f", "f", "x")], {"usr/f": "x"}),
        ([("l", "l", "usr"), ("l/f", "f", "x")], {"usr/f": "x"}),
        ([("l", "l", "/usr/share"), ("l/a/b/f", "f", "x")], {"usr/share/a/b/f": "x"}),
        ([("l", "l", "../../../../up"), ("l/f", "f", "x")], {"up/f": "x"}),
        ([("l", "l", "m"), ("m", "l", "usr"), ("l/f", "f", "x")], {"usr/f": "x"}),
        ([("usr/", "d", ""), ("l", "l", "usr"), ("usr/f", "f", "x"), ("h", "h", "l/f")], {"usr/f": "x", "h": "x"}),
    ],
)
async def test_a_file_behind_a_link_of_the_layer_is_where_the_link_leads(
    room: Room, entries: list[tuple[str, str, str]], expected: dict[str, str]
) -> None:
    data = layer(*entries)
    made = await room.store.register(None, pieces(data), diff_id=digest(data))
    assert b"".join([piece async for piece in room.store.pack(made.chain_id)]) == data
    await room.containers.create("look", made.chain_id, bare=True)
    async with room.containers.mounted("look") as mounted:
        root = Path(mounted.path)
        assert {path: (root / path).read_text() for path in expected} == expected


async def test_links_in_a_circle_are_refused(room: Room) -> None:
    with pytest.raises(DockyardError):
        await room.store.register(None, pieces(layer(("l", "l", "m"), ("m", "l", "l"), ("l/f", "f", "x"))))
    assert room.snapshots() == []


def test_a_sparse_entry_is_a_regular_file(tmp_path: Path) -> None:
    for form in FORMS:
        data, content = with_holes(tmp_path, form, 3)
        entry = tar_format.Reader(io.BytesIO(data).read).next()
        assert entry is not None
        assert (entry.kind, entry.name) == (tar_format.REGULAR, "holes")
        assert entry.sparse is not None
        assert (entry.sparse.size, entry.size) == (len(content), entry.sparse.stored)
