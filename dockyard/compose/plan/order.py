"""Doing something for every service, those that others depend on first (or last), otherwise side by side."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dockyard.compose.model.project import Project


def dependencies(project: Project) -> dict[str, set[str]]:
    """What of the project each service depends on."""
    return {
        name: {other for other in service.get("depends_on") or () if other in project.services}
        for name, service in project.services.items()
    }


def reversed_graph(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Who depends on each."""
    found: dict[str, set[str]] = {name: set() for name in graph}
    for name, others in graph.items():
        for other in others:
            found[other].add(name)
    return found


def first_to_last(project: Project) -> list[str]:
    """The services, each after what it depends on."""
    graph = dependencies(project)
    found: list[str] = []
    while len(found) < len(graph):
        ready = sorted(name for name, others in graph.items() if name not in found and others <= set(found))
        if not ready:
            return sorted(graph)  # a circle, which loading has refused
        found += ready
    return found


class Walk:
    """Calls `work` for every service of a graph, in threads. `limit`: at most so many at once; 0 is no limit."""

    def __init__(self, graph: dict[str, set[str]], work: Callable[[str], None], limit: int = 0) -> None:
        self._waiting = {name: set(others) for name, others in graph.items()}
        self._work = work
        self._limit = limit
        self._done: list[str] = []
        self._running = 0
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def run(self) -> None:
        """Return when all is done. Raises the first error, once what runs has ended; nothing is begun after it."""
        if not any(self._waiting.values()) and len(self._waiting) <= 1:
            for name in self._waiting:
                self._work(name)
            return
        with self._changed:
            while True:
                if self._error is None:
                    self._start_ready()
                if not self._running and (self._error is not None or not self._waiting):
                    break
                self._changed.wait()
        if self._error is not None:
            raise self._error

    def _start_ready(self) -> None:
        done = set(self._done)
        for name in sorted(name for name, others in self._waiting.items() if others <= done):
            if self._limit and self._running >= self._limit:
                return
            del self._waiting[name]
            self._running += 1
            threading.Thread(target=self._one, args=(name,), daemon=True).start()

    def _one(self, name: str) -> None:
        error: BaseException | None = None
        try:
            self._work(name)
        except BaseException as raised:
            error = raised
        with self._changed:
            self._running -= 1
            self._done.append(name)
            self._error = self._error or error
            self._changed.notify()


def together(works: Sequence[Callable[[], None]], limit: int = 0) -> None:
    """Do all of these side by side. Raises the first error, when all have ended."""
    if len(works) == 1:
        works[0]()
        return
    Walk({str(index): set() for index in range(len(works))}, lambda name: works[int(name)](), limit).run()


def for_each_service(
    project: Project, work: Callable[[str], None], *, backwards: bool = False, limit: int = 0, only: Iterable[str] = ()
) -> None:
    """Call `work` for every service (or for `only` some, in the same order), dependencies first unless `backwards`."""
    graph = dependencies(project)
    if backwards:
        graph = reversed_graph(graph)
    wanted = set(only)

    def chosen(name: str) -> None:
        if not wanted or name in wanted:
            work(name)

    Walk(graph, chosen, limit).run()
