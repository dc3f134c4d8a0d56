"""What must happen to a service's containers for it to be as it is wanted: kept, made anew (and why), made, removed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from dockyard.compose.errors import ComposeError
from dockyard.compose.model.hashes import service_hash
from dockyard.compose.model.project import scale_of
from dockyard.compose.plan import labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dockyard.compose.plan.observed import Observed

Tree = dict[str, Any]

DIVERGED, FORCE, NEVER = "diverged", "force", "never"  # when containers are made anew


class Resources(NamedTuple):
    """What a container is compared with: IDs of networks and names of volumes by their keys, and its image's ID."""

    networks: Mapping[str, str]
    volumes: Mapping[str, str]
    image_id: str


class ServicePlan:
    """What happens to each container of a service; `reasons` by ID say why one is made anew."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.keep: list[Observed] = []
        self.recreate: list[Observed] = []
        self.remove: list[Observed] = []
        self.create: list[int] = []  # the numbers of those that are missing
        self.reasons: dict[str, str] = {}


def plan_service(
    name: str, service: Tree, containers: Iterable[Observed], resources: Resources, strategy: str = DIVERGED
) -> ServicePlan:
    """The plan for a service, whose references to others are resolved. Raises ComposeError."""
    expected = scale_of(service)
    if expected > 1 and service.get("container_name"):
        raise ComposeError(
            f'WARNING: The "{name}" service is using the custom container name "{service["container_name"]}". '
            "Docker requires each container to have a unique name. Remove the custom name to scale the service"
        )
    plan = ServicePlan(name)
    digest = service_hash(service)
    every = list(containers)
    half_made = [one for one in every if _is_half_made(one, every)]
    there = [one for one in every if one not in half_made]
    for one in there:
        reason = why_recreate(service, digest, one, resources, strategy)
        if reason:
            plan.reasons[one.id] = reason
    # what is up to date stays, low numbers first; what there is too much of goes from the other end
    there.sort(key=lambda one: (one.id in plan.reasons, one.number, one.row.get("Created", 0)))
    plan.remove = half_made + there[expected:]
    for one in there[:expected]:
        (plan.recreate if one.id in plan.reasons else plan.keep).append(one)
    following = max((one.number for one in there), default=0) + 1
    plan.create = list(range(following, following + expected - len(there)))
    return plan


def _is_half_made(container: Observed, every: Iterable[Observed]) -> bool:
    """Whether it was to take the place of another one, which is still there: its command was killed in between."""
    if labels.REPLACES not in container.labels or not re.match(r"[0-9a-f]{12}_", container.name):
        return False
    return any(other is not container and other.number == container.number for other in every)


def why_recreate(service: Tree, digest: str, container: Observed, resources: Resources, strategy: str) -> str:
    """Why a container must be made anew; "" when it need not be."""
    if strategy == NEVER:
        return ""
    if strategy == FORCE:
        return "as told by --force-recreate"
    if container.labels.get(labels.CONFIG_HASH) != digest:
        return "its configuration has changed"
    if container.labels.get(labels.IMAGE, "") != resources.image_id:
        return "its image has changed"
    if container.state == "running":
        joined = {
            one.get("NetworkID")
            for one in ((container.row.get("NetworkSettings") or {}).get("Networks") or {}).values()
        }
        for key in service.get("networks") or ():
            if key in resources.networks and resources.networks[key] not in joined:
                return f"it is not connected to network {key}"
    mounted = {mount.get("Name") for mount in container.row.get("Mounts") or () if mount.get("Type") == "volume"}
    for mount in service.get("volumes") or ():
        source = mount.get("source")
        if mount.get("type") == "volume" and source and resources.volumes.get(source) not in mounted:
            return f"volume {source} is not mounted in it"
    return ""
