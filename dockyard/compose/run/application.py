"""What everything that is done to a project shares: the project, the engine, and where to tell of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dockyard.compose.model.project import Project
    from dockyard.compose.run.engine import Engine
    from dockyard.compose.run.progress import Progress


class Application:
    """A project on an engine. `limit`: how much is done at once, 0 for all that can be.

    `lease`: labels that everything gets which is made, beside those that its configuration is told by.
    """

    def __init__(
        self,
        project: Project,
        engine: Engine,
        progress: Progress,
        warn: Callable[[str], None],
        limit: int = 0,
        proxies: dict[str, str] | None = None,
        lease: dict[str, str] | None = None,
    ) -> None:
        self.project = project
        self.engine = engine
        self.progress = progress
        self.warn = warn
        self.limit = limit
        self.proxies = proxies or {}
        self.lease = lease or {}
        self.disturbed: list[str] = []  # networks and volumes for which containers were stopped or removed

    def of(self, project: Project) -> Application:
        """The same for another project."""
        known = {key: value for key, value in self.__dict__.items() if key != "disturbed"}
        return Application(**{**known, "project": project})

    def container_name(self, service: str, number: int) -> str:
        """The name that a service's container gets."""
        given = self.project.service(service).get("container_name")
        return str(given or self.default_name(service, number))

    def default_name(self, service: str, number: int) -> str:
        """PROJECT-SERVICE-NUMBER."""
        return self.project.separator.join((self.project.name, service, str(number)))
