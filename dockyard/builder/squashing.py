"""`squash`: the layers on top of a base as one, without what later ones have replaced or removed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from dockyard.builder.context import spool
from dockyard.builder.layer_plan import LayerPlan
from dockyard.engine.images.layer_store import Layer, LayerStore, chains_of
from dockyard.generators import from_thread


async def squashed(layers: LayerStore, diff_ids: Sequence[str], base: Sequence[str], folder: Path) -> Layer | None:
    """The layers above those of `base` as one, held once for the caller; None when there are fewer than two.

    `folder` is for files without names.
    """
    height = len(base)
    if list(diff_ids[:height]) != list(base) or len(diff_ids) - height < 2:
        return None
    chains = chains_of(diff_ids)
    with ExitStack() as stack:
        plan = stack.enter_context(closing(LayerPlan(None)))
        for chain_id in chains[height:]:
            archive = stack.enter_context(await spool(layers.pack(chain_id), folder))
            await asyncio.to_thread(plan.merge, archive, below=height > 0)
        return await layers.register(chains[height - 1] if height else None, from_thread(plan.pieces()))
