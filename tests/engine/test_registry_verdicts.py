"""What is made of odd and hostile images: Docker's verdict or a better one, with the reason; and nothing is left."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from dockyard.content.patience import Patience
from dockyard.content.registry import RegistryClient
from dockyard.errors import DockyardError
from tests.engine import registry_cases
from tests.engine.test_image_transfer import Connected, free_port

VERDICTS = Path(__file__).with_name("registry_verdicts.txt")


def verdicts() -> dict[str, str]:
    """taken or refused, by the name of the case; after # why it is not Docker's."""
    lines = [line.partition("#")[0].split() for line in VERDICTS.read_text().splitlines()]
    return {words[0]: words[1] for words in lines if words}


class Cautious(Connected):
    """Gives up at once: what these registries do wrong they do again."""

    def open(self) -> None:
        super().open()
        self.images.registry = RegistryClient(patience=Patience((0.0,)))


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Connected]:
    opened = Cautious(tmp_path)
    yield opened
    await opened.close()


async def pull(room: Connected, name: str) -> str:
    """taken, or the reason why not."""
    try:
        async with asyncio.timeout(30):
            await room.pull(name)
    except DockyardError as error:
        return f"refused: {error}"
    except Exception as error:
        return f"failed: {error!r}"
    return "taken"


async def test_every_odd_image_meets_its_verdict(room: Connected) -> None:
    cases = registry_cases.all_cases()
    expected = verdicts()
    assert set(cases) == set(expected)
    runner = web.AppRunner(registry_cases.application(cases), shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    wrong: dict[str, Any] = {}
    try:
        for case in cases:
            name = f"127.0.0.1:{port}/{case}:latest"
            said = await pull(room, name)
            if said.partition(":")[0] != expected[case]:
                wrong[case] = said
            if said == "taken":
                await room.images.remove(name, force=True)
            if room.layers.all():
                wrong[case] = f"{said}; and left {room.layers.all()}"
                break
    finally:
        await runner.cleanup()
    assert wrong == {}, "\n".join(f"{case}: {said}" for case, said in wrong.items())
