"""Building services' images through the engine's classic builder."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from dockyard.client.errors import OperationFailed
from dockyard.compose.errors import ComposeError
from dockyard.compose.plan import labels
from dockyard.compose.plan.order import Walk
from dockyard.compose.plan.targets import SERVICE, checked_platforms
from dockyard.compose.run.progress import DONE
from dockyard.dockerfile.git_source import REMOTE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dockyard.compose.run.application import Application
    from dockyard.compose.run.build import BuildRequest

Tree = dict[str, Any]


def build_classically(application: Application, request: BuildRequest, wanted: Sequence[str]) -> dict[str, str]:
    """Build the images of services; their IDs by image. Raises ComposeError, OperationFailed."""
    project = application.project
    graph = {
        name: {
            target
            for context in (project.all_services()[name]["build"].get("additional_contexts") or {}).values()
            if (target := context.removeprefix(SERVICE)) in wanted and context.startswith(SERVICE)
        }
        for name in wanted
    }
    built: dict[str, str] = {}

    def build(name: str) -> None:
        service = project.all_services()[name]
        application.progress.event(f"Service {name}", "Building")
        image = project.image_of(name)
        built[image] = _build(application, request, name, service, image)
        application.progress.event(f"Service {name}", "Built", DONE)

    # one after the other: what they print would run into one another
    Walk(graph, build, 1).run()
    return built


_UNABLE = {
    "privileged": "privileged mode",
    "additional_contexts": "additional contexts",
    "ssh": "SSH keys",
    "secrets": "secrets",
}


def _build(application: Application, request: BuildRequest, name: str, service: Tree, image: str) -> str:
    build = service["build"]
    for key, what in _UNABLE.items():
        if build.get(key):
            raise ComposeError(f"the classic builder doesn't support {what}, set DOCKER_BUILDKIT=1 to use BuildKit")
    platforms = checked_platforms(application.project, name, one=request.one)
    if len(platforms) > 1:
        raise ComposeError(
            "the classic builder doesn't support multi-arch build, set DOCKER_BUILDKIT=1 to use BuildKit"
        )
    context = build.get("context", ".")
    options = _options(application, request, name, service, image)
    if not context.startswith(REMOTE) and not os.path.isdir(context):
        raise ComposeError(f'unable to prepare context: path "{context}" not found')
    steps = application.engine.client.images.stream_build(context, **options)
    made = ""
    try:
        for step in steps:
            if step.text and not request.quiet:
                sys.stdout.write(step.text)
                sys.stdout.flush()
            made = step.aux.get("ID", made)
    except OperationFailed as error:
        raise ComposeError(error.message) from None
    found = application.engine.image(made or image)
    if found is None:
        raise ComposeError(f"the build of service {name} gave no image")
    return str(found["Id"])


def _options(application: Application, request: BuildRequest, name: str, service: Tree, image: str) -> Any:
    build = service["build"]
    project = application.project
    arguments = {**(build.get("args") or {}), **request.arguments}
    resolved = {key: project.environment.get(key) if value is None else value for key, value in arguments.items()}
    options: dict[str, Any] = {
        "tag": [*(build.get("tags") or ()), image],
        "build_args": {
            **application.proxies,
            **{key: value for key, value in resolved.items() if value is not None},
        },
        "labels": {
            **(build.get("labels") or {}),
            labels.BUILDER: "classic",
            labels.VERSION: labels.COMPATIBLE_VERSION,
            labels.PROJECT: project.name,
            labels.SERVICE: name,
        },
        "no_cache": request.no_cache or bool(build.get("no_cache")),
        "pull": request.pull or bool(build.get("pull")),
        "rm": True,
    }
    platform = next(iter(checked_platforms(project, name, one=request.one)), "")
    for key, value in (
        ("target", build.get("target")),
        ("network_mode", build.get("network")),
        ("platform", platform),
        ("mem_limit", request.memory),
        ("shm_size", build.get("shm_size")),
        ("cache_from", build.get("cache_from")),
    ):
        if value:
            options[key] = value
    hosts = build.get("extra_hosts")
    if hosts:
        options["extra_hosts"] = {host: addresses[0] for host, addresses in hosts.items() if addresses}
    if build.get("dockerfile_inline"):
        options["dockerfile_text"] = build["dockerfile_inline"]
    elif build.get("dockerfile"):
        context = build.get("context", ".")
        local = not context.startswith(REMOTE)
        # as seen from the context, wherever we are
        options["dockerfile"] = os.path.join(context, build["dockerfile"]) if local else build["dockerfile"]
    return options
