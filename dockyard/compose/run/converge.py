"""Making a project's containers be as its files say: those that have changed are made anew, and no others."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from dockyard.client.errors import APIError, Conflict
from dockyard.compose.errors import ComposeError
from dockyard.compose.model.checks import check_container_names
from dockyard.compose.plan import labels
from dockyard.compose.plan.api_socket import with_api_socket
from dockyard.compose.plan.changes import DIVERGED, Resources, ServicePlan, plan_service
from dockyard.compose.plan.create_body import MANY_NETWORKS, Wanted, by_priority, create_body, endpoint
from dockyard.compose.plan.observed import Observed, in_order
from dockyard.compose.plan.order import Walk, dependencies, together
from dockyard.compose.plan.reasons import changed_keys, summary
from dockyard.compose.run.images import ensure_images, platform_of
from dockyard.compose.run.one_pass import OnePass, Steps, possible
from dockyard.compose.run.progress import ERROR, WARNING
from dockyard.compose.run.providers import has_providers, run_provider
from dockyard.compose.run.resources import ensure_networks, ensure_volumes, network_key
from dockyard.compose.run.starting import creation_key, start_at_once
from dockyard.compose.run.stopping import remove_containers, stop_and_remove, stop_services

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dockyard.compose.run.application import Application
    from dockyard.compose.run.build import BuildRequest

Tree = dict[str, Any]

STOPS = 3  # times that a container is stopped to be removed


class CreateRequest(NamedTuple):
    """What `compose create` and `up` take."""

    services: Sequence[str] = ()  # those that were asked for; the others are there for them
    recreate: str = DIVERGED
    recreate_dependencies: str = DIVERGED
    keep_anonymous_volumes: bool = True
    timeout: int | None = None
    build: BuildRequest | None = None
    quiet_pull: bool = False
    remove_orphans: bool = False
    ignore_orphans: bool = False
    start: bool = False  # what needs nothing in between may be started in the same pass
    confirm: Callable[[str], bool] = lambda question: False


def create(application: Application, request: CreateRequest) -> Converged:
    """Make the project's containers, without starting them; what there is then. Raises ComposeError, ClientError."""
    check_container_names(application.project)
    _check_models(application)
    application.project = with_api_socket(application.project, application.engine.client._session.config_folder)
    project = application.project
    images = ensure_images(application, request.build, quiet=request.quiet_pull)
    there = application.engine.containers(project.name, one_off=None)
    at_once = OnePass(application) if not there and possible(application) else None
    networks = ensure_networks(application, at_once)
    volumes = ensure_volumes(application, request.confirm)
    if application.disturbed:
        there = application.engine.containers(project.name, one_off=None)
    there = _without_orphans(application, request, there)
    converged = Converged(application, request, there, images, networks, volumes)
    try:
        if at_once is None or not converged.make_all(at_once):
            converged.run()
    except Conflict:
        # what a killed command had asked for may just have been done: then there is more than there was
        now = application.engine.containers(project.name, one_off=None)
        if {one.id for one in now} <= {one.id for one in there} | converged.made:
            raise
        converged = Converged(application, request, now, images, ensure_networks(application), volumes)
        converged.run()
    return converged


def _check_models(application: Application) -> None:
    """Models are run by Docker Model Runner, which is no part of any engine. Raises ComposeError."""
    for name, service in application.project.services.items():
        for model in service.get("models") or ():
            raise ComposeError(
                f"services.{name}.models: model {model} can't be run: 'models' support requires Docker Model plugin, "
                "which Dockyard does not have"
            )


def _without_orphans(application: Application, request: CreateRequest, there: list[Observed]) -> list[Observed]:
    orphans = [one for one in there if one.orphaned(application.project)]
    if not orphans or request.ignore_orphans:
        return there
    if request.remove_orphans:
        remove_containers(application, orphans)
        return [one for one in there if one not in orphans]
    names = " ".join(one.name for one in orphans)
    application.warn(
        f"Found orphan containers ([{names}]) for this project. If you removed or renamed this service in your compose "
        "file, you can run this command with the --remove-orphans flag to clean it up."
    )
    return there


class Converged:
    """The containers of each service, while and after they are made as they are wanted."""

    def __init__(
        self,
        application: Application,
        request: CreateRequest,
        there: Sequence[Observed],
        images: dict[str, str],
        networks: dict[str, str],
        volumes: dict[str, str],
    ) -> None:
        self._application = application
        self._request = request
        self._images = images
        self._networks = networks
        self._volumes = volumes
        self._lock = threading.Lock()
        self.containers: dict[str, list[Observed]] = {name: [] for name in application.project.services}
        self.reasons: dict[str, str] = {}
        self.made: set[str] = set()  # the IDs of what was made
        for one in there:
            if not one.one_off:
                self.containers.setdefault(one.service, []).append(one)

    def run(self) -> None:
        """Do it, services that others refer to first."""
        Walk(self._graph(), self._service, self._application.limit).run()

    def make_all(self, at_once: OnePass) -> bool:
        """Make all containers in one pass, if none refers to another; otherwise only what is in `at_once` already."""
        if any(self._graph().values()) or has_providers(self._application):
            at_once.run()
            return False
        project, made = self._application.project, []
        for name in project.services:
            plan, service = self.plan(name)
            for number in plan.create:
                wanted = Wanted(name, self._application.container_name(name, number), number)
                made.append(self._make_at_once(service, wanted, at_once))
        if self._request.start:
            start_at_once(self._application, at_once, made)
        at_once.run()
        return True

    def _make_at_once(self, service: Tree, wanted: Wanted, at_once: OnePass) -> Observed:
        """Let `at_once` make a container; what it will be."""
        project, engine = self._application.project, self._application.engine
        body = self._body(service, wanted)[1]
        row: Tree = {"Id": "", "Names": [f"/{wanted.name}"], "State": "created", "Labels": body["Labels"]}
        one = Observed(row, engine.separator)
        steps = self._steps(wanted)

        def done(status: int, answer: Tree) -> None:
            row["Id"] = one.id = str(answer["Id"])
            self.made.add(one.id)
            self.containers[wanted.service].append(one)
            steps.done(status, answer)

        addressed = any(
            (settings or {}).get("IPAMConfig")
            for settings in (body.get("NetworkingConfig") or {}).get("EndpointsConfig", {}).values()
        )
        own = [network_key(project.networks[key]) for key in by_priority(service) if key in project.networks]
        at_once.add(
            creation_key(wanted.name),
            "POST",
            "/containers/create",
            steps._replace(done=done),
            body=body,
            # an address is checked when the container is made, the rest when it is started
            after=[key for key in own if addressed and key in at_once],
            name=wanted.name,
            platform=platform_of(self._application, service),
        )
        return one

    def _graph(self) -> dict[str, set[str]]:
        """Which services' containers must be there before a service's own can be made.

        A container may name another's (its network, its volumes, a link), and the containers of what depends on one
        that is made anew may have to be stopped before: then the order is that of the dependencies. Otherwise all are
        made at once.
        """
        graph = dependencies(self._application.project)
        if any(self.containers[name] for name in graph):
            return graph
        services = self._application.project.services
        return {
            name: {other for other in others if _refers(services[name], other) or "provider" in services[other]}
            for name, others in graph.items()
        }

    def plan(self, name: str) -> tuple[ServicePlan, Tree]:
        """What happens to a service's containers, and the service with references to others resolved."""
        service = self.resolved(name)
        wanted = self._request.services
        strategy = self._request.recreate if not wanted or name in wanted else self._request.recreate_dependencies
        resources = Resources(self._networks, self._volumes, self._images.get(name, ""))
        return plan_service(name, service, self.containers.get(name, ()), resources, strategy), service

    def _service(self, name: str) -> None:
        if "provider" in self._application.project.services[name]:
            run_provider(self._application, name, "up")
            return
        plan, service = self.plan(name)
        self.reasons.update(plan.reasons)
        if plan.recreate:
            self._stop_dependents(name)
        made: dict[int, Observed] = {}
        works: list[Callable[[], None]] = []
        for one in plan.remove:
            works.append(self._removing(service, one))
        for one in plan.recreate:
            works.append(self._recreating(name, service, one, made))
        for number in plan.create:
            works.append(self._creating(name, service, number, made))
        for one in plan.keep:
            if one.state == "running":
                self._application.progress.event(f"Container {one.name}", "Running")
            elif one.state == "paused":
                works.append(self._starting(one))
        together(works, self._application.limit)
        for one in plan.keep:
            self._finish_replacement(name, one)
        self.containers[name] = in_order([*plan.keep, *made.values()])

    def _finish_replacement(self, name: str, one: Observed) -> None:
        """Name a container that was to take another one's place, where that was killed before it could be done."""
        final = self._application.container_name(name, one.number)
        if labels.REPLACES in one.labels and one.name.endswith(f"_{final}"):
            self._application.engine.post(f"/containers/{one.id}/rename", name=final)
            one.row["Names"] = [f"/{final}"]

    def _removing(self, service: Tree, one: Observed) -> Callable[[], None]:
        return lambda: stop_and_remove(self._application, one, service, self._request.timeout)

    def _starting(self, one: Observed) -> Callable[[], None]:
        def work() -> None:
            self._application.progress.event(f"Container {one.name}", "Restart")
            self._application.engine.start(one.id)
            self._application.progress.event(f"Container {one.name}", "Restarted")

        return work

    def _creating(self, name: str, service: Tree, number: int, made: dict[int, Observed]) -> Callable[[], None]:
        def work() -> None:
            wanted = Wanted(name, self._application.container_name(name, number), number)
            made[number] = self.make(service, wanted)

        return work

    def _recreating(self, name: str, service: Tree, old: Observed, made: dict[int, Observed]) -> Callable[[], None]:
        return lambda: made.update({old.number: self._recreate(name, service, old, self.reasons[old.id])})

    def _recreate(self, name: str, service: Tree, old: Observed, reason: str) -> Observed:
        application, engine = self._application, self._application.engine
        event = f"Container {old.name}"
        application.progress.event(event, "Recreate")
        application.progress.note(f" {event} is made anew: {explain(application, name, service, old, reason)}")
        number = old.number
        final = application.container_name(name, number)
        replaced = service.get("container_name") or f"{name}{application.project.separator}{number}"
        wanted = Wanted(
            name,
            f"{old.id[:12]}_{final}",
            number,
            extra_labels={labels.REPLACES: replaced},
            inherited=engine.container(old.id) if self._request.keep_anonymous_volumes else None,
            image_volumes=self._image_volumes(name),
        )
        try:
            created = self.make(service, wanted, quiet=True, alias=final)
            self._remove_stopped(old)
            engine.post(f"/containers/{created.id}/rename", name=final)
        except APIError as error:
            application.progress.event(event, error.message, ERROR)
            raise
        created.row["Names"] = [f"/{final}"]
        application.progress.event(event, "Recreated")
        return created

    def _remove_stopped(self, old: Observed) -> None:
        """Stop a container and remove it; again when something that a killed command has begun has started it since."""
        for attempt in range(STOPS):
            self._application.engine.stop(old.id, self._request.timeout)
            try:
                self._application.engine.remove(old.id)
                return
            except Conflict:
                if attempt == STOPS - 1:
                    raise

    def _image_volumes(self, name: str) -> tuple[str, ...]:
        image = self._application.engine.image(self._application.project.image_of(name))
        return tuple(((image or {}).get("Config") or {}).get("Volumes") or ())

    def _body(self, service: Tree, wanted: Wanted) -> tuple[Wanted, Tree]:
        """What a container is made from. Raises ComposeError."""
        application, engine = self._application, self._application.engine
        full = wanted._replace(
            image_id=self._images.get(wanted.service, ""),
            proxies=application.proxies,
            links=tuple(self._links(service, wanted)),
        )
        try:
            body = create_body(application.project, service, full, engine.version, application.warn)
        except ComposeError as error:
            application.progress.event(f"Container {wanted.name}", str(error), ERROR)
            raise
        body["Labels"].update(application.lease)
        return full, body

    def _steps(self, wanted: Wanted, *, quiet: bool = False) -> Steps:
        """What is told while a container is made."""
        progress, event = self._application.progress, f"Container {wanted.name}"

        def begun() -> None:
            if not quiet:
                progress.event(event, "Creating")

        def done(status: int, answer: Tree) -> None:
            for warning in answer.get("Warnings") or ():
                progress.event(wanted.service, "", WARNING, text=warning)
            if not quiet:
                progress.event(event, "Created")

        def failed(error: APIError) -> Exception:
            progress.event(event, str(error), ERROR)
            return error

        return Steps(begun, done, failed)

    def make(self, service: Tree, wanted: Wanted, *, quiet: bool = False, alias: str = "") -> Observed:
        """Make one container. Raises APIError, ComposeError."""
        application, engine = self._application, self._application.engine
        steps = self._steps(wanted, quiet=quiet)
        steps.begun()
        full, body = self._body(service, wanted)
        if alias:
            _rename_alias(body, wanted.name, alias)
        try:
            made = engine.create(wanted.name, body, platform_of(application, service))
        except APIError as error:
            raise steps.failed(error) from None
        if engine.version < MANY_NETWORKS:
            for key in by_priority(service)[1:]:
                engine.post(
                    f"/networks/{application.project.networks[key]['name']}/connect",
                    {"Container": made["Id"], "EndpointConfig": endpoint(service, key, full, application.warn)},
                )
        self.made.add(str(made["Id"]))
        steps.done(201, made)
        row = {"Id": made["Id"], "Names": [f"/{wanted.name}"], "State": "created", "Labels": body["Labels"]}
        return Observed(row, engine.separator)

    # -- references to other services

    def resolved(self, name: str) -> Tree:
        """A service in which "service:NAME" is a container's ID. Raises ComposeError when that is not there."""
        service = dict(self._application.project.services[name])
        for key, what in (("network_mode", "network"), ("ipc", "IPC"), ("pid", "PID")):
            reference = service.get(key, "")
            if reference.startswith("service:"):
                other = reference.removeprefix("service:")
                service[key] = f"container:{self._first(other, f'cannot share {what} namespace with service {other}')}"
        if service.get("volumes_from"):
            service["volumes_from"] = [self._volumes_source(source) for source in service["volumes_from"]]
        return service

    def _volumes_source(self, source: str) -> str:
        name, _, rest = source.partition(":")
        if name == "container":
            return rest
        # like Compose, which drops a mode here
        return self._first(name, f"cannot share volume with service {name}")

    def _first(self, name: str, failure: str) -> str:
        containers = self.containers.get(name)
        if not containers:
            raise ComposeError(f"{failure}: container missing")
        return min(containers, key=lambda one: one.name).id

    def _links(self, service: Tree, wanted: Wanted) -> list[str]:
        project, separator = self._application.project, self._application.project.separator
        found: list[str] = []
        for link in service.get("links") or ():
            name, _, alias = link.partition(":")
            for one in self.containers.get(name, ()):
                default = separator.join((project.name, name, str(wanted.number)))
                found += [
                    f"{one.name}:{alias or name}",
                    f"{one.name}:{name}{separator}{wanted.number}",
                    f"{one.name}:{default}",
                ]
        for link in service.get("external_links") or ():
            name, _, alias = link.partition(":")
            found.append(f"{name}:{alias or name}")
        return found

    def _stop_dependents(self, name: str) -> None:
        """Stop what is to be restarted with a service that is made anew."""
        project = self._application.project
        dependents = [
            other
            for other in project.dependents(name)
            if project.services[other]["depends_on"][name].get("restart") and self.containers.get(other)
        ]
        if not dependents:
            return
        stop_services(self._application, dependents)
        for other in dependents:
            for one in self.containers[other]:
                one.state = "exited"


def explain(application: Application, name: str, service: Tree, one: Observed, reason: str) -> str:
    """Why a container would be made anew, and which of its service's keys have changed."""
    if "configuration" not in reason:
        return reason
    engine = application.engine
    there = engine.container(one.id)
    wanted = Wanted(name, one.name, one.number)
    body = create_body(application.project, service, wanted, engine.version, lambda text: None)
    image = engine.image(str(there["Image"]))
    return summary(reason, changed_keys(body, there, image))


def _refers(service: Tree, other: str) -> bool:
    """Whether a service's containers cannot be made before another's."""
    references = [service.get(key, "") for key in ("network_mode", "ipc", "pid")]
    if f"service:{other}" in references:
        return True
    names = [*(service.get("volumes_from") or ()), *(service.get("links") or ())]
    return any(name.partition(":")[0] == other for name in names)


def _rename_alias(body: Tree, name: str, alias: str) -> None:
    """A container that takes another one's place is known on its networks by the name that it will have."""
    for settings in (body.get("NetworkingConfig") or {}).get("EndpointsConfig", {}).values():
        settings["Aliases"] = [alias if one == name else one for one in settings.get("Aliases") or ()]
