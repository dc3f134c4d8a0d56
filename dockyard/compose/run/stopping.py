"""Stopping and removing containers, dependents before what they depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dockyard.client.errors import APIError, Conflict, NotFound
from dockyard.compose.plan.observed import Observed, of_services
from dockyard.compose.plan.order import for_each_service, together
from dockyard.compose.run.hooks import run_hooks
from dockyard.compose.run.progress import ERROR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dockyard.compose.run.application import Application
    from dockyard.compose.run.hooks import Output

Tree = dict[str, Any]


def stop_services(
    application: Application,
    services: Iterable[str] = (),
    timeout: int | None = None,
    output: Output | None = None,
) -> None:
    """Stop the containers of `services`, of all when there are none. Raises APIError."""
    project = application.project
    wanted = list(services) or list(project.services)
    containers = application.engine.containers(project.name)

    def stop(name: str) -> None:
        stop_containers(application, of_services(containers, [name]), project.services[name], timeout, output)

    for_each_service(project, stop, backwards=True, limit=application.limit, only=wanted)


def stop_containers(
    application: Application,
    containers: Iterable[Observed],
    service: Tree | None = None,
    timeout: int | None = None,
    output: Output | None = None,
) -> None:
    """Stop containers side by side. Raises APIError."""
    together([_stopping(application, one, service, timeout, output) for one in containers], application.limit)


def _stopping(
    application: Application, container: Observed, service: Tree | None, timeout: int | None, output: Output | None
) -> Callable[[], None]:
    return lambda: stop_container(application, container, service, timeout, output)


def stop_container(
    application: Application,
    container: Observed,
    service: Tree | None = None,
    timeout: int | None = None,
    output: Output | None = None,
) -> None:
    """Run a container's `pre_stop` hooks and stop it. Raises APIError."""
    event = f"Container {container.name}"
    application.progress.event(event, "Stopping")
    if service is not None and container.state in ("running", "paused"):
        try:
            run_hooks(application, container, service.get("pre_stop") or (), output)
        except (NotFound, Conflict):
            return  # it is stopped or gone already
    try:
        application.engine.stop(container.id, timeout)
    except NotFound:
        raise
    except APIError:
        application.progress.event(event, "Error while Stopping", ERROR)
        raise
    application.progress.event(event, "Stopped")


def remove_containers(
    application: Application,
    containers: Iterable[Observed],
    service: Tree | None = None,
    timeout: int | None = None,
    *,
    volumes: bool = False,
) -> None:
    """Stop and remove containers side by side. Raises APIError."""

    def removing(container: Observed) -> Callable[[], None]:
        return lambda: stop_and_remove(application, container, service, timeout, volumes=volumes)

    together([removing(container) for container in containers], application.limit)


def stop_and_remove(
    application: Application,
    container: Observed,
    service: Tree | None = None,
    timeout: int | None = None,
    *,
    volumes: bool = False,
) -> None:
    """Stop and remove one; that it is gone already is fine. Raises APIError."""
    event = f"Container {container.name}"
    try:
        stop_container(application, container, service, timeout)
    except NotFound:
        application.progress.event(event, "Removed")
        return
    application.progress.event(event, "Removing")
    try:
        application.engine.remove(container.id, force=True, volumes=volumes)
    except (NotFound, Conflict):
        pass  # gone, or just being removed
    except APIError:
        application.progress.event(event, "Error while Removing", ERROR)
        raise
    application.progress.event(event, "Removed")
