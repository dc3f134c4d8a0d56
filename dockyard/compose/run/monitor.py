"""Watching a project's containers start, end and be replaced, by the engine's events."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from dockyard.client.errors import NotFound
from dockyard.compose.plan import labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dockyard.compose.plan.observed import Observed
    from dockyard.compose.run.application import Application

Attributes = dict[str, str]


class Monitor:
    """Calls listeners for what happens to a project's containers, until none of them runs any more."""

    def __init__(self, application: Application, services: Iterable[str] = ()) -> None:
        """`services`: whose containers count, all when there are none."""
        self._application = application
        self._services = set(services)
        self._ready = threading.Event()
        # (the containers that are there when events begin to come)
        self.on_ready: list[Callable[[list[Observed]], None]] = []
        # (id, name, restarting)
        self.on_start: list[Callable[[str, str, bool], None]] = []
        # (id, name, service, exit code, restarting)
        self.on_exit: list[Callable[[str, str, str, int, bool], None]] = []
        # (name of what was replaced)
        self.on_recreate: list[Callable[[str], None]] = []

    def wait_until_ready(self) -> None:
        """Return when nothing that happens from now on is missed."""
        self._ready.wait(10)

    def run(self) -> None:
        """Return when no container of the project is left that could still say something. Raises ClientError."""
        engine, project = self._application.engine, self._application.project
        filters = {"type": "container", "label": f"{labels.PROJECT}={project.name}"}
        with engine.client.events(filters=filters) as events:
            there = [
                one for one in engine.containers(project.name) if not self._services or one.service in self._services
            ]
            for ready in self.on_ready:
                ready(there)
            living = {one.id for one in there}
            restarting: set[str] = set()
            self._ready.set()
            if not living:
                return
            for event in events:
                attributes = event.attributes
                service = attributes.get(labels.SERVICE, "")
                if self._services and service not in self._services:
                    continue
                self._handle(event.action, event.id, attributes, living, restarting)
                if not living:
                    return

    def _handle(self, action: str, id: str, attributes: Attributes, living: set[str], restarting: set[str]) -> None:
        name = self._short_name(attributes)
        if action == "create":
            living.add(id)
            if labels.REPLACES in attributes:
                for recreated in self.on_recreate:
                    recreated(attributes[labels.REPLACES])
        elif action == "start":
            living.add(id)
            for started in self.on_start:
                started(id, name, id in restarting)
        elif action == "die":
            again = self._restarts(id)
            code = int(attributes.get("exitCode", "0"))
            for exited in self.on_exit:
                exited(id, name, attributes.get(labels.SERVICE, ""), code, again)
            if again:
                restarting.add(id)
            else:
                living.discard(id)
        elif action == "destroy":
            living.discard(id)

    def _restarts(self, id: str) -> bool:
        try:
            state: dict[str, Any] = self._application.engine.container(id)["State"]
        except NotFound:
            return False
        return bool(state.get("Restarting") or state.get("Running"))

    def _short_name(self, attributes: Attributes) -> str:
        project = self._application.project
        name = attributes.get("name", "")
        parts = (project.name, attributes.get(labels.SERVICE, ""), attributes.get(labels.NUMBER, ""))
        return name[len(project.name) + 1 :] if name == project.separator.join(parts) else name
