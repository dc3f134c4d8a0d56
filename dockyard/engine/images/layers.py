"""Bringing an image's layers in, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from dockyard.engine.images.layer_store import Layer, LayerSource, chains_of

if TYPE_CHECKING:
    from dockyard.engine.images.service import ImageService


async def register_layers(
    images: ImageService,
    diff_ids: list[str],
    source: Callable[[int, str], Callable[[], Awaitable[LayerSource]]],
    *,
    present: Callable[[int], None] = lambda index: None,
    missing: Callable[[int], None] = lambda index: None,
    done: Callable[[int], None] = lambda index: None,
) -> list[Layer]:
    """Bring in the layers `diff_ids` (bottom first), those that are missing side by side; each is held for the caller.

    `source(index, diff_id)` opens the tar stream of one layer when it is wanted. `present`, `missing` and `done` tell
    what becomes of each. All or nothing: on an error every hold is dropped.
    """
    layers = images.layers
    chains = chains_of(diff_ids)
    held: list[Layer] = []
    known = 0
    while known < len(chains) and await layers.is_whole(chains[known]):
        layers.hold(chains[known])
        held.append(layers.get(chains[known]))
        present(known)
        known += 1
    for index in range(known, len(chains)):
        missing(index)
    tasks: list[asyncio.Task[Layer]] = []

    async def bring(index: int) -> Layer:
        layer = await layers.register(
            lambda: below(index),
            source(index, diff_ids[index]),
            diff_id=diff_ids[index],
            chain_id=chains[index],
        )
        held.append(layer)
        done(index)
        return layer

    async def below(index: int) -> str | None:
        if index == 0:
            return None
        if index == known:
            return chains[index - 1]
        return (await asyncio.shield(tasks[index - known - 1])).chain_id

    try:
        for index in range(known, len(chains)):
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
