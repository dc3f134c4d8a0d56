"""A large layer whose download is broken off goes on where it stopped: cancelled, or because the daemon was killed."""

import asyncio
import gzip
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import web

from dockyard.errors import InvalidParameter, SystemFailure
from tests.engine.fake_registry import FakeRegistry
from tests.engine.test_image_transfer import Connected
from tests.engine.test_images import document, tar
from tests.engine_process import EngineProcess

LARGE = tar({"large": os.urandom(6 << 20)})
LAYER = gzip.compress(LARGE, 1)
HALF = 4 << 20


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Connected]:
    opened = Connected(tmp_path)
    yield opened
    await opened.close()


class Stalling(FakeRegistry):
    """Gives a large layer as far as HALF and then nothing, the first time; notes from where it is asked afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.stalled = asyncio.Event()
        self.ranges: list[str] = []
        self.serve_blob = self.give

    async def give(self, request: web.Request, content: bytes) -> web.StreamResponse:
        if len(content) < HALF:
            return web.Response(body=content)
        asked = request.headers.get("Range", "")
        self.ranges.append(asked)
        if asked:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            told = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            return web.Response(status=206, body=content[start:], headers=told)
        if len(self.ranges) > 1:
            return web.Response(body=content)
        answer = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await answer.prepare(request)
        await answer.write(content[:HALF])
        self.stalled.set()
        await asyncio.sleep(60)
        return answer


def filled(fake: FakeRegistry) -> None:
    from tests.engine import test_registry_faults

    raw = document([LARGE])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(test_registry_faults, "RAW", raw)
        test_registry_faults.filled(fake, [LAYER])


async def half_has_come(root: Path) -> None:
    """Wait until nearly all that the registry gives has been kept."""
    async with asyncio.timeout(30):
        while sum(path.stat().st_size for path in (root / "image/downloads").iterdir()) < HALF // 2:  # noqa: ASYNC110  (nothing tells of a file that grows)
            await asyncio.sleep(0.02)


async def test_a_cancelled_pull_goes_on_where_it_stopped(room: Connected) -> None:
    fake = Stalling()
    filled(fake)
    async with fake.serving():
        pull = asyncio.ensure_future(room.pull(f"{fake.host}/a/box:1"))
        await fake.stalled.wait()
        await half_has_come(room.root)
        pull.cancel()
        with suppress(asyncio.CancelledError):
            await pull
        assert "Status: Downloaded newer image" in (await room.pull(f"{fake.host}/a/box:1"))[-1]
    first, second = fake.ranges
    assert first == ""
    assert HALF // 2 <= int(second.removeprefix("bytes=").removesuffix("-")) <= HALF
    assert list((room.root / "image/downloads").iterdir()) == []


@pytest.mark.parametrize("place", [0.01, 0.5, 0.99])
async def test_what_was_kept_and_is_wrong_is_found_out_and_forgotten(room: Connected, place: float) -> None:
    fake = Stalling()
    filled(fake)
    async with fake.serving():
        pull = asyncio.ensure_future(room.pull(f"{fake.host}/a/box:1"))
        await fake.stalled.wait()
        await half_has_come(room.root)
        pull.cancel()
        with suppress(asyncio.CancelledError):
            await pull
        (kept,) = (room.root / "image/downloads").iterdir()
        with kept.open("r+b") as file:
            file.seek(int(kept.stat().st_size * place))
            file.write(bytes(1000))
        # by whom it is found out first: who unpacks it, or who compares the digest
        with pytest.raises((InvalidParameter, SystemFailure)):
            await room.pull(f"{fake.host}/a/box:1")
        assert list((room.root / "image/downloads").iterdir()) == []
        assert "Status: Downloaded newer image" in (await room.pull(f"{fake.host}/a/box:1"))[-1]


async def test_a_killed_daemon_goes_on_where_it_stopped(tmp_path: Path) -> None:
    fake = Stalling()
    filled(fake)
    engine = EngineProcess(tmp_path, number=7)
    try:
        async with fake.serving():
            name = f"{fake.host}/a/box:1"
            await asyncio.to_thread(engine.start)
            pull = asyncio.create_task(asyncio.to_thread(engine.run_docker, "pull", name))
            await fake.stalled.wait()
            await half_has_come(engine.data_root)
            engine.kill()
            assert (await pull).returncode != 0
            await asyncio.to_thread(engine.start)
            assert "Downloaded newer image" in await asyncio.to_thread(engine.docker, "pull", name)
        assert int(fake.ranges[1].removeprefix("bytes=").removesuffix("-")) >= HALF // 2
    finally:
        await asyncio.to_thread(engine.clean_up)
