"""Asynchronous generators that hold something: a file, a process, a place in a queue."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


@asynccontextmanager
async def closing(items: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """`items`, ended with the block; without it, what a generator holds waits for the garbage collector.

    async with closing(worker.pack_tree(root)) as pieces:
        async for piece in pieces: …

    An iterator that is no generator has nothing to end.
    """
    try:
        yield items
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()
