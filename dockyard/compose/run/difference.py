"""What `up` would change: resources that are missing, containers to be made, made anew (and why), started, removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dockyard.compose.errors import ComposeError
from dockyard.compose.model.hashes import network_hash, volume_hash
from dockyard.compose.plan import labels
from dockyard.compose.plan.order import first_to_last
from dockyard.compose.run.converge import Converged, CreateRequest, explain
from dockyard.compose.run.images import local_images

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dockyard.compose.run.application import Application

Tree = dict[str, Any]


def differences(application: Application) -> Iterator[str]:
    """A line for each thing that would be done: "+" makes, "~" makes anew or starts, "-" removes."""
    project, engine = application.project, application.engine
    networks, volumes = {}, {}
    for key, network in sorted(project.networks.items()):
        there = engine.network(network["name"])
        if there is None:
            yield f"+ network {network['name']}"
            continue
        networks[key] = str(there["Id"])
        if not network.get("external") and _digest(there) not in ("", network_hash(network)):
            yield f"~ network {network['name']}: its configuration has changed"
    for key, volume in sorted(project.volumes.items()):
        found = engine.volume(volume["name"])
        volumes[key] = volume["name"]
        if found is None:
            yield f"+ volume {volume['name']}"
        elif not volume.get("external") and _digest(found) not in ("", volume_hash(volume)):
            yield f"~ volume {volume['name']}: its configuration has changed"
    images = {
        name: str(image["Id"])
        for name in project.services
        if (image := local_images(application).get(project.image_of(name))) is not None
    }
    there_are = engine.containers(project.name, one_off=None)
    converged = Converged(application, CreateRequest(), there_are, images, networks, volumes)
    for name in first_to_last(project):
        yield from _service(application, converged, name, images)
    for one in there_are:
        if one.orphaned(project):
            yield f"- container {one.name}: no service {one.service or '(none)'} in the files (--remove-orphans)"


def _digest(resource: Tree) -> str:
    return str((resource.get("Labels") or {}).get(labels.CONFIG_HASH, ""))


def _service(application: Application, converged: Converged, name: str, images: dict[str, str]) -> Iterator[str]:
    if name not in images:
        verb = "build" if "build" in application.project.services[name] else "pull"
        yield f"+ image {application.project.image_of(name)}: to {verb}"
    try:
        plan, service = converged.plan(name)
    except ComposeError:
        yield f"+ service {name}: once the services that it refers to have containers"
        return
    for number in plan.create:
        yield f"+ container {application.container_name(name, number)}"
    for one in plan.recreate:
        yield f"~ container {one.name}: {explain(application, name, service, one, plan.reasons[one.id])}"
    for one in plan.remove:
        yield f"- container {one.name}: {len(plan.remove)} more than wanted"
    for one in plan.keep:
        if one.state != "running":
            yield f"~ container {one.name}: is {one.state}, would be started"
