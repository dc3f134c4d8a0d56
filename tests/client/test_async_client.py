"""Claims about `dockyard.AsyncClient`: how it differs from the blocking one, and what goes on meanwhile."""

import asyncio
import os
from pathlib import Path

import pytest

import dockyard
from tests.engine_process import EngineProcess


async def test_operations_are_awaited(engine: EngineProcess, tmp_path: Path) -> None:
    async with dockyard.AsyncClient(engine.host) as client:
        assert await client.ping()
        assert await client.execute("busybox", ["sh", "-c", "echo out; exit 3"]) == (3, b"out\n", b"")
        async with client.run("busybox", "sleep 100", name="awaited") as container:
            with pytest.raises(AttributeError, match=r"await container.reload"):
                _ = container.status
            await container.reload()
            assert (container.name, container.status) == ("awaited", "running")
            assert await container.exec("cat", input=b"in") == (0, b"in", b"")
            await container.files.write("/tmp/file", "text")
            assert await container.files.read("/tmp/file") == b"text"
            await container.files.put(Path(__file__), "/tmp/this")
            await container.files.get("/tmp/this", tmp_path / "back")
            assert (tmp_path / "back").read_bytes() == Path(__file__).read_bytes()
            assert (await container.stats()).processes == 1
            assert [found.name for found in await client.containers.list()] == ["awaited"]
        with pytest.raises(dockyard.NotFound):
            await client.containers.get("awaited")
        assert await client.containers.run("busybox", "echo x", remove=True) == b"x\n"
        image, log = await client.images.build(dockerfile_text="FROM busybox\nENV A=1\n", tag="awaited:1")
        assert "Step 2/2" in log
        await image.remove()
        async with client.networks.create("awaited") as network, client.volumes.create("awaited") as volume:
            assert (network.name, volume.name) == ("awaited", "awaited")


async def test_many_at_once(engine: EngineProcess) -> None:
    async with dockyard.AsyncClient(engine.host) as client:
        results = await asyncio.gather(*(client.execute("busybox", f"echo {number}") for number in range(20)))
        assert [result.text for result in results] == [f"{number}\n" for number in range(20)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.execute("busybox", "true")) for _ in range(3)]
        assert all(task.result().ok for task in tasks)


async def test_streams_are_iterated_over(engine: EngineProcess) -> None:
    async with dockyard.AsyncClient(engine.host) as client:
        async with client.run("busybox", ["sh", "-c", "echo a; sleep 0.1; echo b; sleep 100"]) as container:
            assert (await container.wait_for_log("b")).text == "b"
            async with container.stream_logs() as lines:
                async for line in lines:
                    assert line.text == "a"
                    break
            async with await container.start_exec("cat", stdin=True) as process:
                await process.write(b"one\n")
                assert await anext(aiter(process)) == ("stdout", b"one\n")
                await process.close_stdin()
                assert [output async for output in process] == []
                assert await process.wait() == 0
        async with client.events(filters={"event": "destroy"}) as events:
            await client.execute("busybox", "true", name="seen")
            assert (await anext(aiter(events))).attributes["name"] == "seen"


async def test_input_and_output_of_any_size(engine: EngineProcess) -> None:
    data = os.urandom(1 << 20) * 3
    async with dockyard.AsyncClient(engine.host) as client:
        assert (await client.execute("busybox", "cat", input=data)).stdout == data


async def test_waits_have_limits_and_can_be_cancelled(engine: EngineProcess) -> None:
    async with dockyard.AsyncClient(engine.host) as client:
        with pytest.raises(dockyard.TimedOut):
            await client.execute("busybox", "sleep 100", timeout=0.2, name="limited")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await client.execute("busybox", "sleep 100", name="cancelled")
        assert not await client.containers.list(all=True, filters={"name": ["limited", "cancelled"]})
        async with client.run("busybox", "sleep 100") as container:
            with pytest.raises(dockyard.TimedOut):
                await container.wait(timeout=0.2)
            with pytest.raises(dockyard.TimedOut):
                await container.wait_for_log("never", timeout=0.2)


async def test_who_is_cancelled_while_a_container_is_made_leaves_none(engine: EngineProcess) -> None:
    async with dockyard.AsyncClient(engine.host) as client:
        for milliseconds in range(12):
            for operation in (client.containers.create, client.execute):
                task = asyncio.ensure_future(operation("busybox", "sleep 100", labels={"cancelled": "early"}))
                await asyncio.sleep(milliseconds / 2000)
                task.cancel()
                try:
                    await (await task).remove()  # it was quicker than we
                except asyncio.CancelledError:
                    pass
        assert not await client.containers.list(all=True, filters={"label": "cancelled"})


def test_a_client_outlives_an_event_loop(engine: EngineProcess) -> None:
    client = dockyard.AsyncClient(engine.host)

    async def use() -> bool:
        return await client.ping()

    assert asyncio.run(use())
    assert asyncio.run(use())
