"""What is written to the state database is there after a crash, a power cut, and with a full disk."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dockyard.engine.state.database import Database
from dockyard.errors import SystemFailure
from tests.small_disk import fill, small_disk


class Document(msgspec.Struct):
    text: str


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    with small_disk(tmp_path, 24 << 20) as place:
        yield place


def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    database = Database(tmp_path / "state.db")
    database.collection("things", Document).put("one", Document("kept"))
    with pytest.raises(SystemFailure, match="is another daemon using it"):
        Database(tmp_path / "state.db")
    database.close()


def test_a_full_disk_keeps_the_database_writable(disk: Path) -> None:
    database = Database(disk / "state.db")
    things = database.collection("things", Document)
    fill(disk / "ballast")
    for number in range(4000):
        things.put(str(number % 100), Document("y" * 2000))
    database.close()
    database = Database(disk / "state.db")
    assert len(list(database.collection("things", Document).all())) == 100
    database.close()


async def test_what_is_on_disk_is_in_the_log_that_a_power_cut_leaves(tmp_path: Path) -> None:
    database = Database(tmp_path / "state.db")
    things = database.collection("things", Document)

    async def put(number: int) -> None:
        things.put(str(number), Document("kept"))
        await database.on_disk()

    await asyncio.gather(*(put(number) for number in range(50)))
    # the files as they are now, without what SQLite would do at its end
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("state.db", "state.db-wal"):
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    recovered = Database(copy / "state.db")
    assert len(list(recovered.collection("things", Document).all())) == 50
    recovered.close()
    database.close()


async def test_nobody_waits_for_what_is_lazy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(tmp_path / "state.db")
    things = database.collection("things", Document)
    await database.on_disk()
    syncs = []
    monkeypatch.setattr("os.fdatasync", syncs.append)
    things.put("passing", Document("lost with the power"), lazy=True)
    await database.on_disk()
    assert not syncs
    things.put("staying", Document("kept"))
    await database.on_disk()
    await database.on_disk()
    assert len(syncs) == 1
    database.close()


async def test_a_disk_that_has_lost_a_write_is_not_trusted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync(2) tells of a lost write once; that it succeeds afterwards says nothing of what was lost."""
    database = Database(tmp_path / "state.db")
    things = database.collection("things", Document)
    things.put("one", Document("lost"))

    def fails(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("os.fdatasync", fails)
        with pytest.raises(SystemFailure, match="Input/output error"):
            await database.on_disk()
    with pytest.raises(SystemFailure, match="restart the daemon"):
        await database.on_disk()
    database.close()
