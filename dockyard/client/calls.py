"""How a coroutine that does an operation is called: run to its end at once, or left to be awaited."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, Protocol, TypeVar

R = TypeVar("R")


def finish(work: Coroutine[Any, Any, R]) -> R:
    """The result of a coroutine that awaits a blocking session only, and so never suspends."""
    try:
        work.send(None)
    except StopIteration as done:
        result: R = done.value
        return result
    work.close()
    raise RuntimeError("a blocking operation has waited for an event loop")


class _Managed(Protocol):
    async def __aenter__(self) -> Any: ...

    async def __aexit__(self, *error: Any) -> Any: ...


A = TypeVar("A", bound=_Managed)


class Pending(Coroutine[Any, Any, R]):
    """An asynchronous operation under way: `await` it, give it to a task, or enter its result with `async with`."""

    __slots__ = ("_result", "_work")

    def __init__(self, work: Coroutine[Any, Any, R]) -> None:
        self._work = work
        self._result: Any = None

    def __await__(self) -> Generator[Any, None, R]:
        return self._work.__await__()

    async def __aenter__(self: Pending[A]) -> A:
        self._result = await self._work
        return await self._result.__aenter__()  # type: ignore[no-any-return]  # an A, by its own word

    async def __aexit__(self, *error: Any) -> None:
        await self._result.__aexit__(*error)

    def send(self, value: Any) -> Any:
        """As a coroutine does."""
        return self._work.send(value)

    def throw(self, *error: Any) -> Any:
        """As a coroutine does."""
        return self._work.throw(*error)

    def close(self) -> None:
        """As a coroutine does."""
        self._work.close()
