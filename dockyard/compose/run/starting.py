"""Starting a project's containers: each when what it depends on is as it wants it."""

from __future__ import annotations

import io
import threading
import time
from typing import TYPE_CHECKING, Any

from dockyard.compose.errors import ComposeError
from dockyard.compose.model.project import scale_of
from dockyard.compose.plan.mounts import injected
from dockyard.compose.plan.observed import Observed, of_services
from dockyard.compose.plan.order import for_each_service, together
from dockyard.compose.run.hooks import run_hooks
from dockyard.compose.run.one_pass import Steps
from dockyard.compose.run.progress import DONE, ERROR, WARNING
from dockyard.compose.run.resources import network_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dockyard.compose.run.application import Application
    from dockyard.compose.run.hooks import Output
    from dockyard.compose.run.one_pass import OnePass

Tree = dict[str, Any]

RUNNING_OR_HEALTHY = "running_or_healthy"
POLL = 0.1  # seconds between two looks at a container that is waited for
POLL_LONG = 0.5  # ...after the first few
MOMENT = 0.5
_STARTING = threading.Lock()  # one container at a time gets ports out of a range


class Impatience(ComposeError):
    """What was waited for did not happen in time."""


def start_services(
    application: Application,
    *,
    wait: bool = False,
    wait_timeout: float = 0,
    output: Output | None = None,
    containers: Sequence[Observed] | None = None,
) -> None:
    """Start the project's containers in the order of dependencies; with `wait` return when all are well.

    Raises ComposeError, APIError.
    """
    project = application.project
    there = application.engine.containers(project.name) if containers is None else list(containers)
    deadline = time.monotonic() + wait_timeout if wait_timeout else None

    def start(name: str) -> None:
        _start_service(application, name, there, deadline, output)

    try:
        for_each_service(project, start, limit=application.limit)
        if wait:
            wanted = {name: {"condition": _awaited(application, name), "required": True} for name in project.services}
            wait_for(application, project.name, wanted, there, deadline)
    except Impatience:
        raise ComposeError(f"application not healthy after {wait_timeout:g}s") from None


def creation_key(name: str) -> str:
    """By which what comes after a container's making in one pass names it."""
    return f"create {name}"


def start_at_once(application: Application, at_once: OnePass, containers: Sequence[Observed]) -> None:
    """Let `at_once` start those containers that it makes and that need nothing of us before or afterwards.

    None is started unless all could be made.
    """
    services = application.project.services
    made = [creation_key(one.name) for one in containers]
    keys: dict[str, list[str]] = {}

    def add(name: str) -> list[str] | None:
        if name not in keys:
            before = _before(name)
            if before is None:
                return None
            keys[name] = [_start(one, before) for one in of_services(containers, [name])]
        return keys[name]

    def _before(name: str) -> list[str] | None:
        service = services[name]
        if not _plain(application, name, service):
            return None
        before: list[str] = []
        for other, dependency in (service.get("depends_on") or {}).items():
            if dependency.get("condition") != "service_started":
                return None
            others = add(other) if other in services else []
            if others is None:
                return None
            before += others
        return before

    def _start(one: Observed, before: list[str]) -> str:
        event = f"Container {one.name}"

        def done(status: int, answer: Tree) -> None:
            one.state = "running"
            application.progress.event(event, "Started")

        steps = Steps(lambda: application.progress.event(event, "Starting"), done, lambda error: error)
        place = f"/containers/{{{creation_key(one.name)}}}/start"
        networks = [network_key(network) for network in application.project.networks.values()]
        after = [*made, *before, *(key for key in networks if key in at_once)]
        return at_once.add(f"start {one.name}", "POST", place, steps, after=after)

    for name in services:
        add(name)


def _plain(application: Application, name: str, service: Tree) -> bool:
    """Whether a service's containers are started without files that are written into them, hooks, or ports to find."""
    ranges = any("-" in port.get("published", "") for port in service.get("ports") or ())
    return not (ranges or service.get("post_start") or injected(application.project, name, service))


def _awaited(application: Application, name: str) -> str:
    """What a service must come to: one whose end others wait for never gets healthy."""
    for service in application.project.services.values():
        dependency = (service.get("depends_on") or {}).get(name)
        if dependency and dependency.get("condition") == "service_completed_successfully":
            return "service_completed_successfully"
    return RUNNING_OR_HEALTHY


def _start_service(
    application: Application, name: str, there: Sequence[Observed], deadline: float | None, output: Output | None
) -> None:
    service = application.project.services[name]
    if (service.get("deploy") or {}).get("replicas") == 0 or "provider" in service:
        return
    wait_for(application, name, service.get("depends_on") or {}, there, deadline)
    if not there:
        if scale_of(service) == 0:
            return
        raise ComposeError(f'service "{name}" has no container to start')

    def starting(one: Observed) -> Callable[[], None]:
        return lambda: start_container(application, name, service, one, output)

    together([starting(one) for one in of_services(there, [name]) if one.state != "running"], application.limit)


def start_container(
    application: Application, name: str, service: Tree, one: Observed, output: Output | None = None
) -> None:
    """Give a container its configs and secrets, start it and run its `post_start` hooks."""
    for reference, target, content in injected(application.project, name, service):
        inject(application, one.id, reference, target, content)
    event = f"Container {one.name}"
    application.progress.event(event, "Starting")
    if any("-" in port.get("published", "") for port in service.get("ports") or ()):
        with _STARTING:
            application.engine.start(one.id)
    else:
        application.engine.start(one.id)
    one.state = "running"
    run_hooks(application, one, service.get("post_start") or (), output)
    application.progress.event(event, "Started")


def inject(application: Application, container: str, reference: Tree, target: str, content: str) -> None:
    """Write a file into a container."""
    import tarfile

    data = content.encode()
    info = tarfile.TarInfo(target.lstrip("/"))
    info.size = len(data)
    info.mode = reference.get("mode", 0o444)
    info.mtime = int(time.time())
    info.uid, info.gid = (_number(reference.get(key, "")) for key in ("uid", "gid"))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as file:
        file.addfile(info, io.BytesIO(data))
    owned = "uid" in reference or "gid" in reference
    application.engine.put(f"/containers/{container}/archive", archive.getvalue(), path="/", copyUIDGID=owned)


def _number(text: str) -> int:
    if text and not text.isdigit():
        raise ComposeError(f'strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text or 0)


# -- waiting


def wait_for(
    application: Application,
    dependent: str,
    dependencies: dict[str, Tree],
    there: Sequence[Observed],
    deadline: float | None = None,
) -> None:
    """Wait until services are as a dependent wants them. Raises ComposeError, Impatience."""
    works = []
    for name, dependency in sorted(dependencies.items()):
        if not _must_wait(application, name, dependency):
            continue
        containers = [one for one in of_services(there, [name]) if not one.one_off]
        for one in containers:
            application.progress.event(f"Container {one.name}", "Waiting")
        if not containers:
            if dependency.get("required", True):
                raise ComposeError(f"{dependent} is missing dependency {name}")
            application.warn(f"{dependent} is missing dependency {name}")
            continue
        works.append(_waiting(application, name, dependency, containers, deadline))
    if works:
        together(works)


def _must_wait(application: Application, name: str, dependency: Tree) -> bool:
    if dependency.get("condition") == "service_started":
        return False
    project = application.project
    if name not in project.services:
        if name in project.disabled:
            return False
        raise ComposeError(f"no such service: {name}: not found")
    service = project.services[name]
    return scale_of(service) != 0 and "provider" not in service


def _waiting(
    application: Application, name: str, dependency: Tree, containers: list[Observed], deadline: float | None
) -> Callable[[], None]:
    def work() -> None:
        wait = _WAITS.get(dependency.get("condition", ""))
        if wait is None:
            application.warn(f"unsupported depends_on condition: {dependency.get('condition')}")
            return
        looks = 0
        while not wait(application, name, dependency, containers):
            if deadline is not None and time.monotonic() > deadline:
                raise Impatience("timeout waiting for dependencies")
            looks += 1
            time.sleep(POLL if looks < 50 else POLL_LONG)

    return work


def _all(application: Application, containers: list[Observed], status: str, state: str = "") -> None:
    for one in containers:
        application.progress.event(f"Container {one.name}", status, state)


def _optional_failed(application: Application, containers: list[Observed], reason: str, detail: str = "") -> bool:
    _all(application, containers, f"Skipped: {reason}", WARNING)
    application.warn(f"{reason}{detail}")
    return True


def _wait_running(application: Application, name: str, dependency: Tree, containers: list[Observed]) -> bool:
    try:
        healthy = _healthy(application, containers, running=True)
    except ComposeError as error:
        if dependency.get("required", True):
            raise
        reason = f'optional dependency "{name}" is not running or is unhealthy'
        return _optional_failed(application, containers, reason, f": {error}")
    if healthy:
        _all(application, containers, "Healthy")
    return healthy


def _wait_healthy(application: Application, name: str, dependency: Tree, containers: list[Observed]) -> bool:
    try:
        healthy = _healthy(application, containers, running=False)
    except ComposeError as error:
        if not dependency.get("required", True):
            reason = f'optional dependency "{name}" failed to start'
            return _optional_failed(application, containers, reason, f": {error}")
        _all(application, containers, "Error", ERROR)
        raise ComposeError(f"dependency failed to start: {error}") from None
    if healthy:
        _all(application, containers, "Healthy")
    return healthy


def _wait_completed(application: Application, name: str, dependency: Tree, containers: list[Observed]) -> bool:
    for one in containers:
        state = application.engine.container(one.id)["State"]
        if state["Status"] != "exited":
            continue
        code = state["ExitCode"]
        if code == 0:
            _all(application, containers, "Exited", DONE)
            return True
        text = f'"{name}" didn\'t complete successfully: exit {code}'
        if not dependency.get("required", True):
            return _optional_failed(application, containers, f"optional dependency {text}")
        _all(application, containers, f"service {text}", ERROR)
        raise ComposeError(f"service {text}")
    return False


_WAITS: dict[str, Callable[[Application, str, Tree, list[Observed]], bool]] = {
    RUNNING_OR_HEALTHY: _wait_running,
    "service_healthy": _wait_healthy,
    "service_completed_successfully": _wait_completed,
}


def _check_exited(name: str, state: Tree) -> None:
    if state["Status"] == "exited":
        raise ComposeError(f"container {name} exited ({state['ExitCode']})")


def _healthy(application: Application, containers: list[Observed], *, running: bool) -> bool:
    """Whether all are well; `running` is enough without a health check. Raises ComposeError for a sick one."""
    for one in containers:
        found = application.engine.container(one.id)
        state, name = found["State"], found["Name"].removeprefix("/")
        _check_exited(name, state)
        if running and not (found["Config"].get("Healthcheck") or {}).get("Test"):
            if state["Status"] != "running":
                return False
            continue
        health = (state.get("Health") or {}).get("Status")
        if health is None:
            # what ends at once is said to have ended, rather than to have no health
            time.sleep(MOMENT)
            _check_exited(name, application.engine.container(one.id)["State"])
            raise ComposeError(f"container {name} has no healthcheck configured")
        if health == "unhealthy":
            raise ComposeError(f"container {name} is unhealthy")
        if health == "starting":
            return False
        if health != "healthy":
            raise ComposeError(f'container {name} had unexpected health status "{health}"')
    return True
