"""Commands for images: build, pull, push."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dockyard.cli.usage import usage
from dockyard.compose.errors import ComposeError

if TYPE_CHECKING:
    from dockyard.cli.compose.session import ComposeSession
    from dockyard.cli.usage import Flags


@usage(
    """
dockyard compose build [OPTIONS] [SERVICE...]

Build or rebuild services

Options:
      --build-arg list      Set build-time variables for services
      --builder string      Set builder to use
      --check               Check build configuration
  -m, --memory string       Set memory limit for the build container
      --no-cache            Do not use cache when building the image
      --print               Print equivalent bake file
      --provenance string   Add a provenance attestation
      --pull                Always attempt to pull a newer version of the image
      --push                Push service images
  -q, --quiet               Suppress the build output
      --sbom string         Add a SBOM attestation
      --ssh string          Set SSH authentications used when building service images
      --with-dependencies   Also build dependencies (transitively)

Hidden:
      --compress
      --force-rm
      --no-rm
      --parallel
      --progress string
"""
)
def build(session: ComposeSession, flags: Flags) -> int:
    """Services without a build section are left alone."""
    from dockyard.compose.model.kinds import Size
    from dockyard.compose.run.build import BuildRequest, build_images, by_buildkit, printed
    from dockyard.compose.run.images import push_images

    _check_builder(flags)
    project = session.project(flags.arguments)
    names = project.reachable(
        flags.arguments or sorted(project.services), dependencies=flags.on("with-dependencies") or not flags.arguments
    )
    wanted = [name for name in names if "build" in project.services[name]]
    if not wanted:
        session.warn("No services to build")
        return 0
    arguments = {}
    for text in flags.all("build-arg"):
        name, equals, value = text.partition("=")
        arguments[name] = value if equals else None
    request = BuildRequest(
        always=True,
        pull=flags.on("pull"),
        no_cache=flags.on("no-cache"),
        quiet=flags.on("quiet"),
        push=flags.on("push"),
        arguments=arguments,
        memory=Size().read(flags.text("memory"), "memory") if flags.given("memory") else 0,
        ssh=_ssh_keys(flags),
        check=flags.on("check"),
        provenance=flags.text("provenance"),
        sbom=flags.text("sbom"),
        one=False,
        mode=flags.text("progress") or session.mode,
    )
    application = session.application(project, session.progress("Building"))
    if flags.on("print"):
        print(printed(application, request, wanted))
        return 0
    if not session.dry and not by_buildkit(application):
        for name in ("check", "ssh", "sbom", "provenance"):
            if flags.given(name) and flags.text(name) not in ("false", ""):
                raise ComposeError(f"--{name} needs BuildKit, and images are built by the engine's classic builder")
    built = build_images(application, request, wanted)
    if flags.on("push") and not request.check:
        services = {name: one for name, one in project.services.items() if project.image_of(name) in built}
        application = application.of(project.with_(services=services))
        with application.progress:
            push_images(application, quiet=flags.on("quiet"))
    return 0


def _check_builder(flags: Flags) -> None:
    """Builders other than the engine's own belong to docker buildx. Raises ComposeError."""
    import os

    name = flags.text("builder") or os.environ.get("BUILDX_BUILDER", "")
    if name not in ("", "default"):
        raise ComposeError(f'no builder "{name}" found: images are built by the engine itself ("default")')


def _ssh_keys(flags: Flags) -> list[str]:
    """`--ssh ID=PATH`, or "default" for the user's own agent. Raises ComposeError."""
    if not flags.given("ssh"):
        return []
    text = flags.text("ssh") or "default"
    name, equals, path = text.partition("=")
    if not equals and name != "default":
        raise ComposeError(f'invalid ssh key "{name}"')
    return [f"{name}={path}"]


@usage(
    """
dockyard compose pull [OPTIONS] [SERVICE...]

Pull service images

Options:
      --ignore-buildable       Ignore images that can be built
      --ignore-pull-failures   Pull what it can and ignores images with pull failures
      --include-deps           Also pull services declared as dependencies
      --policy string          Apply pull policy ("missing"|"always")
  -q, --quiet                  Pull without printing progress information

Hidden:
      --no-parallel
      --parallel
"""
)
def pull(session: ComposeSession, flags: Flags) -> int:
    """Also those that are there."""

    from dockyard.compose.model.project import ordered
    from dockyard.compose.run.images import PullRequest, pull_images

    policy = flags.text("policy")
    if policy not in ("", "missing", "always", "if_not_present"):
        raise ComposeError(f'unexpected policy "{policy}"')
    project = session.project(flags.arguments)
    if flags.arguments and not flags.on("include-deps"):
        project = project.selected(flags.arguments, dependencies=False)
    if policy:
        services = {
            name: service if service.get("pull_policy") else ordered({**service, "pull_policy": policy})
            for name, service in project.services.items()
        }
        project = project.with_(services=services)
    application = session.application(project, session.progress("Pulling"))
    request = PullRequest(
        quiet=flags.on("quiet"),
        ignore_failures=flags.on("ignore-pull-failures"),
        ignore_buildable=flags.on("ignore-buildable"),
    )
    with application.progress:
        pull_images(application, request)
    return 0


@usage(
    """
dockyard compose push [OPTIONS] [SERVICE...]

Push service images

Options:
      --ignore-push-failures   Push what it can and ignores images with push failures
      --include-deps           Also push images of services declared as dependencies
  -q, --quiet                  Push without printing progress information
"""
)
def push(session: ComposeSession, flags: Flags) -> int:
    """Of services that are built here."""
    from dockyard.compose.run.images import push_images

    project = session.project(flags.arguments)
    if flags.arguments and not flags.on("include-deps"):
        project = project.selected(flags.arguments, dependencies=False)
    application = session.application(project, session.progress("Pushing"))
    with application.progress:
        push_images(application, quiet=flags.on("quiet"), ignore_failures=flags.on("ignore-push-failures"))
    return 0
