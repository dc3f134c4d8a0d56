"""Bringing an image's layers in, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from dockyard.engine.layers import Layer, LayerSource, chains_of

if TYPE_CHECKING:
    from dockyard.engine.images import ImageService


async def register_layers(
    images: ImageService,
    diff_ids: list[str],
    source: Callable[[int, str], Callable[[], Awaitable[LayerSource]]],
    *,
    present: Callable[[int], None] = lambda index: None,
    unpacked: Callable[[int, int], None] = lambda index, current: None,
    done: Callable[[int], None] = lambda index: None,
) -> list[Layer]:
    """Bring in the layers `diff_ids` (bottom first), those that are missing side by side; each is held for the caller.

    `source(index, diff_id)` opens the tar stream of one layer when it is wanted. `present`, `unpacked` (with the
    compressed bytes so far) and `done` tell how it goes. All or nothing: on an error every hold is dropped.
    """
    layers = images.layers
    chains = chains_of(diff_ids)
    held: list[Layer] = []
    missing = 0
    while missing < len(chains) and chains[missing] in layers:
        layers.hold(chains[missing])
        held.append(layers.get(chains[missing]))
        present(missing)
        missing += 1
    tasks: list[asyncio.Task[Layer]] = []

    async def bring(index: int) -> Layer:
        layer = await layers.register(
            lambda: below(index),
            source(index, diff_ids[index]),
            diff_id=diff_ids[index],
            chain_id=chains[index],
            progress=lambda current: unpacked(index, current),
        )
        held.append(layer)
        done(index)
        return layer

    async def below(index: int) -> str | None:
        if index == 0:
            return None
        if index == missing:
            return chains[index - 1]
        return (await asyncio.shield(tasks[index - missing - 1])).chain_id

    try:
        for index in range(missing, len(chains)):
            tasks.append(asyncio.ensure_future(bring(index)))
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for layer in held:
            layers.drop(layer.chain_id)
        raise
    return held
