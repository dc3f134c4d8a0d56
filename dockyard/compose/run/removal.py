"""Containers and networks of a project stopped and removed in one pass, dependents before what they depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dockyard.compose.plan.observed import of_services
from dockyard.compose.plan.order import dependencies, reversed_graph
from dockyard.compose.run.one_pass import OnePass, Steps
from dockyard.compose.run.progress import ERROR
from dockyard.compose.run.resources import remove_networks_at_once

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dockyard.client.errors import APIError
    from dockyard.compose.plan.observed import Observed
    from dockyard.compose.run.application import Application

GONE, BUSY = 404, 409


def remove_at_once(
    application: Application,
    containers: Sequence[Observed],
    services: Iterable[str],
    timeout: int | None,
    *,
    volumes: bool,
    orphans: bool,
) -> None:
    """Stop and remove the containers of `services`, then those of no service (with `orphans`), then the networks.

    Raises ComposeError, APIError.
    """
    project, at_once = application.project, OnePass(application)
    dependents = reversed_graph(dependencies(project))
    wanted = set(services)
    keys: dict[str, list[str]] = {}

    def add(name: str) -> list[str]:
        """The keys of the removal of a service's containers and of all that depend on it."""
        if name not in keys:
            before = [key for other in sorted(dependents[name]) for key in add(other)]
            mine = of_services(containers, [name]) if name in wanted else []
            keys[name] = before + [_add(application, at_once, one, timeout, before, volumes=volumes) for one in mine]
        return keys[name]

    every = list(dict.fromkeys(key for name in project.services for key in add(name)))
    if orphans:
        # (one that `run` has made of a service is both)
        strangers = [one for one in containers if one.orphaned(project) and f"remove {one.id}" not in at_once]
        every += [_add(application, at_once, one, timeout, every, volumes=False) for one in strangers]
    remove_networks_at_once(application, at_once, every)
    at_once.run()


def _add(
    application: Application,
    at_once: OnePass,
    one: Observed,
    timeout: int | None,
    after: Iterable[str],
    *,
    volumes: bool,
) -> str:
    """Add the stop and the removal of a container, after others; the key of the removal."""
    progress, event = application.progress, f"Container {one.name}"
    gone: list[bool] = []

    def stopped(status: int, answer: object) -> None:
        if status == GONE:
            gone.append(True)
        progress.event(event, "Removed" if gone else "Stopped")

    def removed(status: int, answer: object) -> None:
        if not gone:
            progress.event(event, "Removed")

    def failing(what: str) -> Steps:
        def failed(error: APIError) -> Exception:
            progress.event(event, f"Error while {what}", ERROR)
            return error

        def begun() -> None:
            if not gone:
                progress.event(event, what)

        return Steps(begun, stopped if what == "Stopping" else removed, failed)

    stop = at_once.add(
        f"stop {one.id}",
        "POST",
        f"/containers/{one.id}/stop",
        failing("Stopping"),
        after=after,
        tolerated=(GONE,),
        t=None if timeout is None else str(timeout),
    )
    return at_once.add(
        f"remove {one.id}",
        "DELETE",
        f"/containers/{one.id}",
        failing("Removing"),
        after=[stop],
        tolerated=(GONE, BUSY),
        force=True,
        v=volumes,
    )
