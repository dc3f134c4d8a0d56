"""Building services' images: by BuildKit's API, or by the classic one where the engine has no other."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from dockyard.compose.errors import ComposeError
from dockyard.compose.plan.targets import BuildWishes, bake_file, with_contexts
from dockyard.compose.run.progress import DONE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dockyard.compose.run.application import Application


class BuildRequest(NamedTuple):
    """What `compose build` and `up --build` take.

    `always`: also what is there already. `one`: for the platform on which it is to run here. `mode`: how it is shown.
    """

    always: bool = False
    pull: bool = False
    no_cache: bool = False
    quiet: bool = False
    push: bool = False
    arguments: Mapping[str, str | None] = {}
    memory: int = 0
    ssh: Sequence[str] = ()
    check: bool = False
    provenance: str = ""
    sbom: str = ""
    one: bool = True
    mode: str = "auto"

    def wishes(self, application: Application) -> BuildWishes:
        """The same for the plan."""
        return BuildWishes(
            pull=self.pull,
            no_cache=self.no_cache,
            push=self.push,
            check=self.check,
            arguments=self.arguments,
            ssh=self.ssh,
            proxies=application.proxies,
        )


def build_images(application: Application, request: BuildRequest, names: Sequence[str]) -> dict[str, str]:
    """Build the images of the services `names`; their IDs by image. Raises ComposeError, OperationFailed."""
    wanted = with_contexts(application.project, names)
    if application.engine.dry:
        return _dry(application, wanted)
    if not by_buildkit(application):
        from dockyard.compose.run.classic_build import build_classically

        return build_classically(application, request, wanted)
    from dockyard.compose.run.graph_build import GraphBuild

    return GraphBuild(application, request, wanted).run()


def by_buildkit(application: Application) -> bool:
    """Whether BuildKit's API is to build: as DOCKER_BUILDKIT says, else where the engine names it as its own choice."""
    given = os.environ.get("DOCKER_BUILDKIT", "")
    if given:
        if given.lower() not in ("0", "1", "f", "t", "false", "true"):
            raise ComposeError(
                "DOCKER_BUILDKIT environment variable expects boolean value: "
                f'strconv.ParseBool: parsing "{given}": invalid syntax'
            )
        return given.lower() in ("1", "t", "true")
    return application.engine.builder == "2"


def printed(application: Application, request: BuildRequest, names: Sequence[str]) -> str:
    """The bake file that says the same (`build --print`)."""
    import json

    wanted = with_contexts(application.project, names)
    return json.dumps(bake_file(application.project, wanted, request.wishes(application), one=request.one), indent=2)


def _dry(application: Application, names: Sequence[str]) -> dict[str, str]:
    from hashlib import sha1

    built = {}
    for name in names:
        image = application.project.image_of(name)
        made = f"dryRun-{sha1(name.encode(), usedforsecurity=False).hexdigest()}"
        application.progress.event(f"{name} ==>", "", DONE, text=f"==> writing image {made}")
        application.progress.event(f"{name} ==> ==>", "", DONE, text=f"naming to {image}")
        built[image] = made
    for name in names:
        application.progress.event(application.project.image_of(name), "Built", DONE)
    return built
