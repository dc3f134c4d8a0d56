"""The images of a project's services: found, pulled, built, pushed, removed."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from dockyard.client.errors import APIError, ClientError, Conflict, NotFound, OperationFailed
from dockyard.compose.errors import ComposeError
from dockyard.compose.model.go_values import duration
from dockyard.compose.plan import labels
from dockyard.compose.plan.order import together
from dockyard.compose.run.progress import DONE, ERROR, WARNING, WORKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dockyard.client.images import Progress as Step
    from dockyard.compose.run.application import Application
    from dockyard.compose.run.build import BuildRequest

Tree = dict[str, Any]
DAY = 86_400


def ensure_images(application: Application, build: BuildRequest | None, *, quiet: bool = False) -> dict[str, str]:
    """The IDs of the services' images by service, after those that are missing were pulled or built.

    Raises ComposeError, OperationFailed.
    """
    project = application.project
    for name, service in project.services.items():
        if not service.get("image") and "build" not in service and "provider" not in service:
            raise ComposeError(f'invalid service "{name}". Must specify either image or build')
    there = local_images(application)
    _pull_required(application, there, quiet=quiet)
    if build is not None:
        from dockyard.compose.run.build import build_images

        wanted = {
            name
            for name in project.services
            if "build" in project.services[name]
            and (
                build.always
                or project.image_of(name) not in there
                or project.services[name].get("pull_policy") == "build"
            )
        }
        if wanted:
            for image, digest in build_images(application, build, sorted(wanted)).items():
                there[image] = {"Id": digest}
    return {name: str(there[image]["Id"]) for name in project.services if (image := project.image_of(name)) in there}


def local_images(application: Application) -> dict[str, Tree]:
    """What the engine has of the services' images, by name."""
    project = application.project
    names = {project.image_of(name) for name in project.services}
    names |= {
        mount["source"]
        for service in project.services.values()
        for mount in service.get("volumes") or ()
        if mount.get("type") == "image"
    }
    found: dict[str, Tree] = {}

    def look(name: str) -> Callable[[], None]:
        def work() -> None:
            image = application.engine.image(name)
            if image is not None:
                found[name] = image

        return work

    together([look(name) for name in sorted(names)], application.limit)
    for name, service in project.services.items():
        image = project.image_of(name)
        platform = service.get("platform")
        if platform and image in found and not fits_platform(found[image], platform):
            del found[image]  # the right one is to be fetched
    return found


def fits_platform(image: Tree, platform: str) -> bool:
    """Whether an image is one of `platform` (OS/ARCHITECTURE[/VARIANT])."""
    os_, _, rest = platform.partition("/")
    architecture, _, variant = rest.partition("/")
    if not architecture:
        os_, architecture = "linux", os_
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(architecture, architecture)
    if (image.get("Os"), image.get("Architecture")) != (os_, architecture):
        return False
    return not variant or image.get("Variant", "") in ("", variant)


def _pull_required(application: Application, there: dict[str, Tree], *, quiet: bool) -> None:
    wanted: dict[str, str] = {}
    for name, service in application.project.services.items():
        if _must_pull(service, there.get(service.get("image", ""))):
            wanted[name] = service["image"]
        for index, mount in enumerate(service.get("volumes") or ()):
            if mount.get("type") == "image" and mount["source"] not in there:
                wanted[f"{name}:volume {index}"] = mount["source"]
    pulled: dict[str, Tree] = {}
    lock = threading.Lock()

    def pull(name: str, image: str) -> Callable[[], None]:
        def work() -> None:
            service = application.project.services.get(name, {})
            try:
                found = pull_image(application, name, image, service, quiet=quiet)
            except (ClientError, OSError):
                if _can_be_built(application, image, service):
                    return
                raise
            with lock:
                pulled[image] = found

        return work

    if wanted:
        # one service's image may be another's: it is fetched once
        once = {image: name for name, image in sorted(wanted.items(), reverse=True)}
        together([pull(name, image) for image, name in sorted(once.items())], application.limit)
    there.update(pulled)


def _can_be_built(application: Application, image: str, service: Tree) -> bool:
    return "build" in service or any(
        other.get("image") == image and "build" in other for other in application.project.services.values()
    )


def _must_pull(service: Tree, image: Tree | None) -> bool:
    if "provider" in service or not service.get("image"):
        return False
    policy = service.get("pull_policy", "")
    if policy == "always":
        return True
    if policy in ("never", "build"):
        return False
    age = refresh_age(policy)
    if age is None or image is None:
        return image is None
    tagged = (image.get("Metadata") or {}).get("LastTagTime") or ""
    return not tagged or time.time() > _moment(tagged) + age


def refresh_age(policy: str) -> float | None:
    """Seconds after which an image is fetched again; None for a policy that does not say. Raises ComposeError."""
    if policy == "daily":
        return DAY
    if policy == "weekly":
        return 7 * DAY
    if policy.startswith("every_"):
        return duration(policy.removeprefix("every_")) / 1e9
    return None


def _moment(text: str) -> float:
    from datetime import datetime

    if text.startswith("0001-"):
        return 0.0
    whole, dot, rest = text.partition(".")
    digits = rest.rstrip("Z").partition("+")[0].partition("-")[0]
    zone = rest[len(digits) :] if dot else ""
    return datetime.fromisoformat(f"{whole}.{digits[:6].ljust(6, '0')}{zone}" if dot else text).timestamp()


def platform_of(application: Application, service: Tree) -> str:
    """The platform that a service's image and container are to be of; "" is the engine's."""
    return str(service.get("platform") or application.project.environment.get("DOCKER_DEFAULT_PLATFORM") or "")


def pull_image(application: Application, name: str, image: str, service: Tree, *, quiet: bool = False) -> Tree:
    """Fetch an image for the service `name` and give what is known of it. Raises ClientError."""
    progress = application.progress
    progress.event(name, "", text="Pulling")
    try:
        steps = application.engine.client.images.stream_pull(image, platform=platform_of(application, service))
        for step in steps:
            if not quiet:
                _tell_step(application, name, step)
    except ClientError as error:
        message = error.message if isinstance(error, (APIError, OperationFailed)) else str(error)
        state, text = (WARNING, "Warning") if "build" in service else (ERROR, "Error")
        progress.event(name, message, state, text=text)
        raise
    progress.event(name, "", DONE, text="Pulled")
    found = application.engine.image(image)
    if found is None:
        raise NotFound(404, f"No such image: {image}")
    return found


_BEGUN = ("Preparing", "Waiting", "Pulling fs layer")
_OVER = ("Download complete", "Already exists", "Pull complete", "Pushed", "Layer already exists")


def _tell_step(application: Application, parent: str, step: Step) -> None:
    if not step.id or (not step.total and step.status not in (*_BEGUN, *_OVER)):
        return
    over = step.status in _OVER
    percent = 100 if over else step.current * 100 // step.total if step.total else 0
    application.progress.event(
        step.id,
        "",
        DONE if over else WORKING,
        text=step.status,
        parent=parent,
        current=step.current,
        total=step.total,
        percent=min(percent, 100),
    )


class PullRequest:
    """What `compose pull` takes."""

    def __init__(self, *, quiet: bool = False, ignore_failures: bool = False, ignore_buildable: bool = False) -> None:
        self.quiet = quiet
        self.ignore_failures = ignore_failures
        self.ignore_buildable = ignore_buildable


def pull_images(application: Application, request: PullRequest) -> None:
    """Fetch the services' images. Raises ClientError."""
    there = local_images(application)
    under_way: dict[str, str] = {}
    must_build: list[str] = []
    errors: list[Exception] = []
    works: list[Callable[[], None]] = []
    for name, service in sorted(application.project.services.items()):
        reason = _skipped(service, there, request, under_way)
        if reason:
            application.progress.event(name, "", DONE, text=reason)
            continue
        under_way[service["image"]] = name
        works.append(_pulling(application, name, service, request, must_build, errors))
    if works:
        together(works, application.limit)
    if must_build:
        application.progress.note(
            "WARNING: Some service image(s) must be built from source by running:\n"
            f"    docker compose build {' '.join(sorted(must_build))}"
        )
    if errors and not request.ignore_failures:
        raise errors[0]


def _pulling(
    application: Application,
    name: str,
    service: Tree,
    request: PullRequest,
    must_build: list[str],
    errors: list[Exception],
) -> Callable[[], None]:
    def work() -> None:
        try:
            pull_image(application, name, service["image"], service, quiet=request.quiet)
        except (ClientError, OSError) as error:
            if "build" in service:
                must_build.append(name)
            errors.append(error)

    return work


def _skipped(service: Tree, there: dict[str, Tree], request: PullRequest, under_way: dict[str, str]) -> str:
    image, policy = service.get("image", ""), service.get("pull_policy", "")
    if not image:
        return "Skipped - No image to be pulled"
    if policy in ("never", "build"):
        return "Skipped"
    if policy in ("missing", "if_not_present") and image in there and not image.endswith(":latest") and _tagged(image):
        return "Skipped - Image is already present locally"
    if "build" in service and request.ignore_buildable:
        return "Skipped - Image can be built"
    if image in under_way:
        return f"Skipped - Image is already being pulled by {under_way[image]}"
    return ""


def _tagged(image: str) -> bool:
    return "@" in image or ":" in image.rpartition("/")[2]


def push_images(application: Application, *, quiet: bool = False, ignore_failures: bool = False) -> None:
    """Send the images of services that are built to their registries. Raises ClientError."""

    def push(name: str, image: str) -> Callable[[], None]:
        def work() -> None:
            application.progress.event(image, "", text="Pushing")
            try:
                for step in application.engine.client.images.stream_push(image):
                    if not quiet:
                        _tell_step(application, image, step)
            except ClientError as error:
                message = error.message if isinstance(error, (APIError, OperationFailed)) else str(error)
                application.progress.event(image, message, ERROR, text="Error")
                if not ignore_failures:
                    raise
                return
            application.progress.event(image, "", DONE, text="Pushed")

        return work

    works = []
    for name, service in sorted(application.project.services.items()):
        if "build" not in service or not service.get("image"):
            if service.get("image"):
                continue
            application.progress.event(name, "", DONE, text="Skipped")
            continue
        works += [push(name, image) for image in (service["image"], *((service["build"].get("tags")) or ()))]
    if works:
        together(works, application.limit)


# -- removal


def images_to_remove(application: Application, mode: str) -> list[str]:
    """The images that `down --rmi` removes: "local" ones without a name of their own, or "all"."""
    project = application.project
    found: list[str] = []
    if mode == "all":
        found += [service["image"] for service in project.services.values() if service.get("image")]
    rows = application.engine.get(
        "/images/json", filters={"label": [f"{labels.PROJECT}={project.name}"], "dangling": ["false"]}
    )
    labelled = [tag for row in rows for tag in row.get("RepoTags") or ()]
    named = {_with_tag(service["image"]) for service in project.services.values() if service.get("image")}
    found += [tag for tag in labelled if mode == "all" or tag not in named]
    for name, service in project.services.items():
        if service.get("image"):
            continue
        default = project.image_of(name)
        if application.engine.image(default) is not None:
            found.append(default)
    once: dict[str, None] = {}
    for image in found:
        once.setdefault(_with_tag(image))
    return list(once)


def _with_tag(image: str) -> str:
    return image if _tagged(image) or image.startswith("sha256:") else f"{image}:latest"


def removing_images(application: Application, images: Iterable[str]) -> list[Callable[[], None]]:
    """What removes images."""

    def removing(image: str) -> Callable[[], None]:
        def work() -> None:
            event = f"Image {image}"
            application.progress.event(event, "Removing")
            try:
                application.engine.delete(f"/images/{image}")
            except Conflict:
                application.progress.event(event, "Resource is still in use", WARNING)
            except NotFound:
                application.progress.event(event, "Warning: No resource found to remove", DONE)
            else:
                application.progress.event(event, "Removed")

        return work

    return [removing(image) for image in images]
