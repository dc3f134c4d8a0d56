"""What fsck mends it mends without losing anything."""

from pathlib import Path
from typing import Any

import pytest

from dockyard.engine.images.names import NameRow
from dockyard.engine.repair.fsck import Fsck
from dockyard.engine.state.database import Database
from dockyard.engine.state.documents import write_private
from tests.small_disk import fill, small_disk


async def test_a_row_that_cannot_be_put_aside_stays_where_it_is(tmp_path: Path) -> None:
    database = Database(tmp_path / "dockyard.db")
    names = database.collection("image_names", NameRow)
    too_long = "x" * 300  # for a file
    for key in ("short", too_long):
        database.write(names._put, (key, b"torn"))
    assert list(names.all()) == []
    nothing: Any = None
    found = {finding.name: finding for finding in await Fsck(tmp_path, database, *[nothing] * 5).repair()}
    assert found["image_names/short"].mended.startswith("put aside: ")
    assert not found[f"image_names/{too_long}"].mended
    assert "file name too long" in found[f"image_names/{too_long}"].remedy
    assert [row.key for row in database.unreadable.values()] == [too_long]
    assert database.raw(database.unreadable["image_names", too_long]) == b"torn"
    assert [path.read_bytes() for path in (tmp_path / "aside").rglob("image_names-*")] == [b"torn"]
    database.close()


def test_a_document_that_a_full_disk_takes_in_part_is_not_taken_for_written(tmp_path: Path) -> None:
    with small_disk(tmp_path, 16 << 20) as disk:
        (disk / "room").write_bytes(b"x" * 8192)
        fill(disk / "ballast")
        (disk / "room").unlink()
        with pytest.raises(OSError, match="No space left"):
            write_private(str(disk / "document"), b"y" * (1 << 20))
