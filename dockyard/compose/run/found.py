"""A project without its files: what the engine's containers tell of it by their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dockyard.compose.errors import Missing
from dockyard.compose.model.project import Project
from dockyard.compose.plan import labels
from dockyard.compose.run.starting import RUNNING_OR_HEALTHY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dockyard.compose.plan.observed import Observed

Tree = dict[str, Any]


def project_of(name: str, containers: Iterable[Observed], services: Sequence[str] = ()) -> Project:
    """The project that these containers belong to. Raises Missing when a service of `services` is not among them."""
    found: dict[str, Tree] = {}
    for one in containers:
        key = one.service or one.name
        service = found.setdefault(key, {"image": one.row.get("Image", ""), "scale": 0})
        service["scale"] += 1
        dependencies = _dependencies(one.labels.get(labels.DEPENDENCIES, ""))
        if dependencies:
            service["depends_on"] = dependencies
    for service in found.values():
        wanted = {name: one for name, one in (service.get("depends_on") or {}).items() if name in found}
        service.pop("depends_on", None)
        if wanted:
            service["depends_on"] = wanted
    project = Project(name=name, folder="", services=found)
    for service_name in services:
        if service_name not in found:
            raise Missing(f'no such service: "{service_name}": not found')
    return project.selected(services)


def _dependencies(text: str) -> dict[str, Tree]:
    found: dict[str, Tree] = {}
    for part in text.split(",") if text else ():
        name, _, rest = part.partition(":")
        condition, _, restart = rest.partition(":")
        found[name] = {
            "condition": condition or RUNNING_OR_HEALTHY,
            "restart": restart != "false",
            "required": False,
        }
    return found
