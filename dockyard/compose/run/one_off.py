"""`run`: a container of its own for one command of a service, once what the service depends on runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from dockyard.compose.plan import labels
from dockyard.compose.plan.mounts import injected
from dockyard.compose.run.converge import Converged, CreateRequest, create
from dockyard.compose.run.images import ensure_images
from dockyard.compose.run.resources import ensure_networks, ensure_volumes
from dockyard.compose.run.starting import inject, start_services, wait_for

if TYPE_CHECKING:
    from dockyard.compose.plan.create_body import Wanted
    from dockyard.compose.plan.observed import Observed
    from dockyard.compose.run.application import Application
    from dockyard.compose.run.build import BuildRequest


class RunRequest(NamedTuple):
    """What `compose run` takes, besides what it changes in the service."""

    build: BuildRequest | None = None
    quiet_pull: bool = False
    remove_orphans: bool = False
    ignore_orphans: bool = False
    dependencies: bool = True


def make_one_off(application: Application, request: RunRequest, wanted: Wanted) -> Observed:
    """Start what the service depends on, and make the container, which is not started. Raises ClientError."""
    project = application.project
    name = wanted.service
    service = project.services[name]
    slug = os.urandom(32).hex()
    separator = project.separator
    own_name = wanted.name or separator.join((project.name, name, "run", slug[:12]))
    others = project.without([name])
    alone = project.selected([name], dependencies=False)
    with application.progress:
        if request.dependencies and others.services:
            around = application.of(others)
            create(
                around,
                CreateRequest(
                    build=request.build,
                    quiet_pull=request.quiet_pull,
                    remove_orphans=request.remove_orphans,
                    ignore_orphans=request.ignore_orphans,
                ),
            )
            start_services(around)
        images = ensure_images(application.of(alone), request.build, quiet=request.quiet_pull)
        networks = ensure_networks(application)
        volumes = ensure_volumes(application, lambda question: False)
        there = application.engine.containers(project.name)
        if request.dependencies:
            wait_for(application, name, service.get("depends_on") or {}, there)
        converged = Converged(application, CreateRequest(), there, images, networks, volumes)
        made = converged.make(
            converged.resolved(name),
            wanted._replace(name=own_name, extra_labels={labels.SLUG: slug, labels.ONE_OFF: "True"}),
        )
        for reference, target, content in injected(project, name, service):
            inject(application, made.id, reference, target, content)
    return made
