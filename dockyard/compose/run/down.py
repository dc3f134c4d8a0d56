"""Taking a project away: containers, networks, and volumes and images if they are to go too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dockyard.compose.errors import ComposeError
from dockyard.compose.plan.observed import of_services
from dockyard.compose.plan.order import for_each_service, together
from dockyard.compose.run.images import images_to_remove, removing_images
from dockyard.compose.run.one_pass import possible
from dockyard.compose.run.providers import has_providers, run_provider
from dockyard.compose.run.removal import remove_at_once
from dockyard.compose.run.resources import own_networks, remove_networks, remove_volumes
from dockyard.compose.run.stopping import remove_containers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dockyard.compose.plan.observed import Observed
    from dockyard.compose.run.application import Application


def down(
    application: Application,
    services: Sequence[str] = (),
    *,
    known: bool = True,
    remove_orphans: bool = False,
    volumes: bool = False,
    images: str = "",
    timeout: int | None = None,
) -> None:
    """Stop and remove what there is of the project, of which only `services` and what depends on them if there are any.

    `known`: the project's files are, and not just what the engine has of it. Raises ComposeError, APIError.
    """
    project = application.project
    containers = application.engine.containers(project.name, one_off=None if remove_orphans else False)
    wanted = [name for name in services if name in project.services]
    for name in services:
        if known and name not in project.services:
            raise ComposeError(f"no such service: {name}")
    if services and not wanted:
        return
    only = project.reachable(wanted, dependents=True) if wanted else []

    works: list[Callable[[], None]] = []
    hooks = any(service.get("pre_stop") for service in project.services.values())
    if possible(application) and not hooks and not has_providers(application):
        remove_at_once(
            application,
            containers,
            only or list(project.services),
            timeout,
            volumes=volumes,
            orphans=remove_orphans,
        )
    else:
        _one_after_another(application, containers, only, timeout, volumes=volumes, orphans=remove_orphans)
        works += remove_networks(application)
    if images:
        if images not in ("all", "local"):
            raise ComposeError(f'invalid value for --rmi: "{images}"')
        works += removing_images(application, images_to_remove(application, images))
    if volumes:
        works += remove_volumes(application)
    if not containers and not works and not own_networks(application):
        application.warn(f'Warning: No resource found to remove for project "{project.name}".')
    together(works, application.limit)


def _one_after_another(
    application: Application,
    containers: Sequence[Observed],
    only: Sequence[str],
    timeout: int | None,
    *,
    volumes: bool,
    orphans: bool,
) -> None:
    project = application.project

    def remove(name: str) -> None:
        if "provider" in project.services[name]:
            run_provider(application, name, "down")
            return
        mine = of_services(containers, [name])
        remove_containers(application, mine, project.services[name], timeout, volumes=volumes)

    for_each_service(project, remove, backwards=True, limit=application.limit, only=only)
    strangers = [one for one in containers if one.orphaned(project)] if orphans else []
    if strangers:
        remove_containers(application, strangers, None, timeout)


def with_found_resources(application: Application) -> Application:
    """The application, whose networks and volumes are what the engine has with its labels."""
    from dockyard.compose.plan import labels

    project = application.project
    mark = [f"{labels.PROJECT}={project.name}"]
    networks = {
        row["Labels"].get(labels.NETWORK, row["Name"]): {"name": row["Name"], "driver": row["Driver"]}
        for row in application.engine.networks(label=mark)
    }
    volumes = {
        row["Labels"].get(labels.VOLUME, row["Name"]): {"name": row["Name"], "driver": row["Driver"]}
        for row in application.engine.volumes(label=mark)
    }
    return application.of(project.with_(networks=networks, volumes=volumes))
