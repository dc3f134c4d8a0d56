"""One client, two ways to call it: `Client` blocks, `AsyncClient` is awaited, and every operation is written once.

An operation is a coroutine function of a `Resource`. It does its I/O by awaiting the resource's session. In a blocking
session nothing that is awaited ever suspends, so the coroutine runs to its end in one step, as a plain function would
(about a microsecond more); in an asynchronous session it runs in the caller's event loop.

    class Containers(Resource[M]):
        @operation
        async def list(self, *, all: bool = False) -> list[Container[M]]: ...

    Containers[Sync]().list()           list[Container[Sync]]
    Containers[Async]().list()          Pending[list[Container[Async]]], to be awaited

A type checker sees exactly that: which of the two an attribute is, `operation` tells by the resource's `M`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

if TYPE_CHECKING:
    from dockyard.client.calls import Pending
    from dockyard.client.session import Session


class Mode:
    """How operations are called: a mark for the type checker, never instantiated."""


class Sync(Mode):
    """Operations block and return their results."""


class Async(Mode):
    """Operations return awaitables."""


P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=Mode)


class Resource(Generic[M]):
    """A part of the API, bound to a session."""

    def __init__(self, session: Session) -> None:
        self._session = session


class operation(Generic[P, R]):  # noqa: N801  # a decorator
    """Makes a resource's coroutine function what its session's mode wants: a blocking method or an awaitable one."""

    def __init__(self, core: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> None:
        self._core = core
        self.__doc__ = core.__doc__
        self.__name__ = core.__name__

    @overload
    def __get__(self, resource: Resource[Sync], owner: Any = None) -> Callable[P, R]: ...
    @overload
    def __get__(self, resource: Resource[Async], owner: Any = None) -> Callable[P, Pending[R]]: ...
    @overload
    def __get__(self, resource: None, owner: Any = None) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]: ...
    def __get__(self, resource: Any, owner: Any = None) -> Any:
        core = self._core
        if resource is None:
            return core  # so that `help(Containers)` shows its signature and words
        call: Callable[[Any], Any] = resource._session.call

        def bound(*args: P.args, **kwargs: P.kwargs) -> Any:
            return call(core(resource, *args, **kwargs))

        bound.__wrapped__ = core.__get__(resource)  # type: ignore[attr-defined]  # for inspect.signature
        bound.__name__, bound.__doc__ = core.__name__, core.__doc__
        return bound
