"""A project in a program:

with dockyard.Client() as client:
    project = dockyard.compose.load("compose.yaml")
    for container in dockyard.compose.up(client, project, wait=True):
        print(container.name, container.ports)
    dockyard.compose.down(client, project, volumes=True)
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from dockyard.compose.model.project import Project as Project
from dockyard.compose.model.settings import Settings, load_project
from dockyard.compose.run.application import Application
from dockyard.compose.run.converge import CreateRequest, create
from dockyard.compose.run.down import down as take_down
from dockyard.compose.run.engine import Engine
from dockyard.compose.run.progress import Quiet
from dockyard.compose.run.starting import start_services

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from dockyard.client.client import Client
    from dockyard.client.container import Container
    from dockyard.client.modes import Sync


def load(
    *files: str | Path,
    name: str = "",
    folder: str | Path = "",
    services: Sequence[str] = (),
    profiles: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Project:
    """The project of these files, or of those that `dockyard compose` would find. `environment`: instead of ours.

    Of `services`, if there are any, and what they depend on, the others are left out. Raises ComposeError.
    """
    settings = Settings(
        files=[str(file) for file in files],
        name=name,
        folder=str(folder),
        profiles=profiles,
        environment=environment,
    )
    return load_project(settings, services, environment=False).with_environment(discard=True)


def up(
    client: Client,
    project: Project,
    *,
    wait: bool = False,
    timeout: float = 0,
    warn: Callable[[str], None] = lambda text: None,
) -> list[Container[Sync]]:
    """Make and start what the project says; its containers. `wait`: until all are well, `timeout` seconds at most.

    Raises ComposeError, ClientError.
    """
    application = _application(client, project, warn)
    converged = create(application, CreateRequest(ignore_orphans=True, start=True))
    start_services(application, wait=wait, wait_timeout=timeout)
    return [client.containers.get(one.id) for some in converged.containers.values() for one in some]


def down(
    client: Client,
    project: Project,
    *,
    volumes: bool = False,
    timeout: int | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> None:
    """Remove the project's containers and networks, with `volumes` its volumes. Raises ComposeError, ClientError."""
    take_down(_application(client, project, warn), remove_orphans=True, volumes=volumes, timeout=timeout)


def _application(client: Client, project: Project, warn: Callable[[str], None]) -> Application:
    return Application(project, Engine(client, separator=project.separator), Quiet(io.StringIO()), warn)
