"""Asynchronous generators that hold something: a file, a process, a place in a queue."""

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar, cast

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


async def from_thread(items: Iterator[T]) -> AsyncIterator[T]:
    """Items that it takes blocking work to get, got in threads."""
    end = object()
    try:
        while (item := await asyncio.to_thread(next, items, end)) is not end:
            yield cast(T, item)
    finally:
        if isinstance(items, Generator):
            items.close()


async def blocks(pieces: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """The same bytes in pieces of `size`, the last one shorter: what isal makes of a stream depends on its pieces."""
    buffer = bytearray()
    async with closing(pieces) as given:
        async for piece in given:
            buffer += piece
            while len(buffer) >= size:
                yield bytes(buffer[:size])
                del buffer[:size]
    if buffer:
        yield bytes(buffer)


async def ahead(items: AsyncIterator[T], depth: int = 2) -> AsyncIterator[T]:
    """The same items, up to `depth` of them made while those before are used."""
    ready: asyncio.Queue[tuple[T] | None] = asyncio.Queue(depth)

    async def make() -> None:
        try:
            async with closing(items) as given:
                async for item in given:
                    await ready.put((item,))
        finally:
            if not making.cancelling():
                await ready.put(None)

    making = asyncio.ensure_future(make())
    try:
        while (found := await ready.get()) is not None:
            yield found[0]
        await making
    finally:
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
