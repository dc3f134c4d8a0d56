"""Commands that change what runs: up, down, start, stop and the like."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, cast

from dockyard.cli.compose.elsewhere import confirm_remote
from dockyard.cli.usage import usage
from dockyard.compose.errors import ComposeError
from dockyard.compose.model.project import ordered
from dockyard.compose.plan.changes import DIVERGED, FORCE, NEVER
from dockyard.compose.plan.observed import in_order, of_services
from dockyard.compose.plan.order import for_each_service, together
from dockyard.compose.run.converge import CreateRequest
from dockyard.compose.run.converge import create as create_containers
from dockyard.compose.run.down import down as take_down
from dockyard.compose.run.down import with_found_resources
from dockyard.compose.run.found import project_of
from dockyard.compose.run.hooks import run_hooks
from dockyard.compose.run.starting import start_services, wait_for
from dockyard.compose.run.stopping import stop_services

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TextIO

    from dockyard.cli.compose.session import ComposeSession
    from dockyard.cli.usage import Flags
    from dockyard.compose.model.project import Project
    from dockyard.compose.plan.observed import Observed
    from dockyard.compose.run.application import Application
    from dockyard.compose.run.build import BuildRequest
    from dockyard.compose.run.logs import LogPrinter
    from dockyard.compose.run.watch import Watcher


def _timeout(flags: Flags) -> int | None:
    return flags.number("timeout") if flags.given("timeout") else None


def build_request(flags: Flags, mode: str) -> BuildRequest | None:
    """How missing images are built; None: not at all."""
    from dockyard.compose.run.build import BuildRequest

    if flags.on("no-build"):
        return None
    return BuildRequest(always=flags.on("build"), quiet=flags.on("quiet-build"), mode=mode)


def adjusted(project: Project, flags: Flags) -> Project:
    """The project with --pull, --scale and --no-build taken in. Raises ComposeError."""
    services = dict(project.services)
    policy = flags.text("pull")
    if policy:
        if policy not in ("always", "missing", "never", "if_not_present", "build", "policy"):
            raise ComposeError(f'invalid --pull option "{policy}"')
        if policy != "policy":
            services = {name: ordered({**service, "pull_policy": policy}) for name, service in services.items()}
    if flags.on("no-build"):
        for name, service in services.items():
            if "build" in service:
                image = service.get("image") or project.image_of(name)
                kept = {key: item for key, item in service.items() if key != "build"}
                services[name] = ordered({**kept, "image": image})
    for text in flags.all("scale"):
        name, equals, number = text.partition("=")
        if not equals or not number.isdigit():
            raise ComposeError(f'invalid --scale option "{text}". Should be SERVICE=NUM')
        if name not in services:
            project.service(name)
        services[name] = scaled(services[name], int(number))
    return project.with_(services=services)


def scaled(service: dict[str, Any], number: int) -> dict[str, Any]:
    """A service with another number of containers."""
    found = {**service, "scale": number}
    if "deploy" in service:
        found["deploy"] = {**service["deploy"], "replicas": number}
    return ordered(found)


def _strategies(flags: Flags) -> tuple[str, str]:
    """When containers of the services that were asked for are made anew, and those of others."""
    force, never, always = flags.on("force-recreate"), flags.on("no-recreate"), flags.on("always-recreate-deps")
    if force and never:
        raise ComposeError("--force-recreate and --no-recreate are incompatible")
    if always and never:
        raise ComposeError("--always-recreate-deps and --no-recreate are incompatible")
    chosen = FORCE if force else NEVER if never else DIVERGED
    return chosen, FORCE if always else NEVER if never else DIVERGED


def truthy(name: str) -> bool:
    """Whether a variable of the environment says yes."""
    return os.environ.get(name, "").lower() in ("1", "t", "true", "y", "yes")


@usage(
    """
dockyard compose up [OPTIONS] [SERVICE...]

Create and start containers

Options:
      --abort-on-container-exit      Stops all containers if any container was stopped. Incompatible with -d
      --abort-on-container-failure   Stops all containers if any container exited with failure. Incompatible with -d
      --always-recreate-deps         Recreate dependent containers. Incompatible with --no-recreate.
      --attach list                  Restrict attaching to the specified services
      --attach-dependencies          Automatically attach to log output of dependent services
      --build                        Build images before starting containers
  -d, --detach                       Detached mode: Run containers in the background
      --exit-code-from string        Return the exit code of this service's container, and abort when one exits
      --force-recreate               Recreate containers even if their configuration and image haven't changed
      --lease                        Remove everything when this command ends, however it ends (Dockyard's engine only)
      --menu                         Enable interactive shortcuts when running attached. Incompatible with --detach.
      --no-attach list               Do not attach (stream logs) to the specified services
      --no-build                     Don't build an image, even if it's policy
      --no-color                     Produce monochrome output
      --no-deps                      Don't start linked services
      --no-log-prefix                Don't print prefix in logs
      --no-recreate                  If containers already exist, don't recreate them
      --no-start                     Don't start the services after creating them
      --pull string                  Pull image before running ("always"|"missing"|"never") (default "policy")
      --quiet-build                  Suppress the build output
      --quiet-pull                   Pull without printing progress information
      --remove-orphans               Remove containers for services not defined in the Compose file
  -V, --renew-anon-volumes           Recreate anonymous volumes instead of keeping the previous containers'
      --scale list                   Scale SERVICE to NUM instances, whatever the Compose file says
  -t, --timeout int                  Use this timeout in seconds for container shutdown
      --timestamps                   Show timestamps
      --wait                         Wait for services to be running|healthy. Implies detached mode.
      --wait-timeout int             Maximum duration in seconds to wait for the project to be running|healthy
  -w, --watch                        Watch source code and rebuild/refresh containers when files are updated.
  -y, --yes                          Assume "yes" as answer to all prompts and run non-interactively
"""
)
def up(session: ComposeSession, flags: Flags) -> int:
    """In the foreground the exit status is that of --exit-code-from, or of what made it end."""
    detached = flags.on("detach") or flags.on("wait")
    _check_up(flags, detached)
    project = session.project(flags.arguments)
    project = adjusted(project, flags)
    if flags.on("no-deps"):
        project = project.selected(flags.arguments, dependencies=False)
    confirm_remote(session, project, (), yes=flags.on("yes"))
    chosen, others = _strategies(flags)
    request = CreateRequest(
        services=flags.arguments or list(project.services),
        recreate=chosen,
        recreate_dependencies=others,
        keep_anonymous_volumes=not flags.on("renew-anon-volumes"),
        timeout=_timeout(flags),
        build=build_request(flags, session.mode),
        quiet_pull=flags.on("quiet-pull"),
        remove_orphans=flags.on("remove-orphans") or truthy("COMPOSE_REMOVE_ORPHANS"),
        ignore_orphans=truthy("COMPOSE_IGNORE_ORPHANS"),
        start=detached and not flags.on("no-start"),
        confirm=lambda question: flags.on("yes") or session.confirm(question),
    )
    application = session.application(project)
    attach_to = [] if detached or flags.on("no-start") else _attach_to(project, flags)
    if flags.on("lease") and not session.dry:
        application.lease = _leased(session)
    with application.progress:
        converged = create_containers(application, request)
        if detached and not flags.on("no-start"):
            there = [one for some in converged.containers.values() for one in some]
            start_services(
                application, wait=flags.on("wait"), wait_timeout=flags.number("wait-timeout"), containers=there
            )
    if detached or flags.on("no-start"):
        return 0
    if session.dry:
        print("end of 'compose up' output, interactive run is not supported in dry-run mode")
        return 0
    containers = [one for some in converged.containers.values() for one in some]
    return _foreground(session, application, flags, attach_to, containers)


def _leased(session: ComposeSession) -> dict[str, str]:
    """The labels of a lease that is held as long as this process lives. Raises ComposeError."""
    from dockyard.client.errors import NotFound

    try:
        return session.engine.client.lease().labels
    except NotFound:
        raise ComposeError("--lease: this engine knows no leases") from None


def _check_up(flags: Flags, detached: bool) -> None:
    aborting = flags.on("abort-on-container-exit") or flags.on("abort-on-container-failure")
    if flags.on("build") and flags.on("no-build"):
        raise ComposeError("--build and --no-build are incompatible")
    if detached and (
        aborting or flags.given("exit-code-from") or flags.on("attach-dependencies") or flags.all("attach")
    ):
        if flags.on("wait") and not flags.on("detach"):
            raise ComposeError(
                "--wait cannot be combined with --abort-on-container-exit, --attach or --attach-dependencies"
            )
        raise ComposeError(
            "--detach cannot be combined with --abort-on-container-exit, --abort-on-container-failure, --attach, "
            "--attach-dependencies or --watch"
        )
    if flags.on("lease") and (detached or flags.on("no-start")):
        raise ComposeError(
            "--lease is for what runs as long as this command does: it goes with no --detach or --no-start"
        )
    if flags.on("no-start") and (detached or aborting):
        raise ComposeError("--no-start and other options that start are incompatible")
    if flags.on("attach-dependencies") and flags.all("attach"):
        raise ComposeError("cannot combine --attach and --attach-dependencies")


def _attach_to(project: Project, flags: Flags) -> list[str]:
    """The services whose output is shown."""
    if flags.all("attach"):
        for name in flags.all("attach"):
            project.service(name)
        return flags.all("attach")
    names = flags.arguments if flags.arguments and not flags.on("attach-dependencies") else list(project.services)
    left = flags.all("no-attach")
    return [
        name
        for name in names
        if name in project.services and name not in left and project.services[name].get("attach") is not False
    ]


def _foreground(
    session: ComposeSession,
    application: Application,
    flags: Flags,
    attach_to: list[str],
    containers: Sequence[Observed],
) -> int:
    from dockyard.compose.run.attached import Attached, AttachRequest
    from dockyard.compose.run.logs import Above, LogPrinter
    from dockyard.compose.run.menu import Menu
    from dockyard.compose.run.menu import wanted as menu_wanted
    from dockyard.compose.run.progress import Progress

    source = flags.text("exit-code-from")
    if source:
        application.project.service(source)
    printer = LogPrinter(
        color=session.color and not flags.on("no-color"),
        prefix=not flags.on("no-log-prefix"),
        timestamps=flags.on("timestamps"),
    )
    # what is said from now on stands between what the containers write
    if session.mode not in ("quiet", "json"):
        application.progress = Progress(cast("TextIO", Above(printer)))
    watcher = _watcher(application, printer) if flags.on("watch") else None
    request = AttachRequest(
        attach_to=attach_to,
        abort_on_exit=flags.on("abort-on-container-exit") or bool(source),
        abort_on_failure=flags.on("abort-on-container-failure"),
        exit_code_from=source,
        timeout=_timeout(flags),
        services=flags.arguments,
        once_started=[watcher.begin()] if watcher is not None else [],
    )
    print(f"Attaching to {', '.join(one.short_name for one in of_services(containers, attach_to))}", flush=True)
    attached = Attached(application, request, printer)
    if not menu_wanted(flags.on("menu") if flags.given("menu") else None, session.mode):
        return attached.run(containers)
    with Menu(printer, lambda: _watcher(application, printer), watching=watcher):
        return attached.run(containers)


def _watcher(application: Application, printer: LogPrinter) -> Watcher:
    """What watches the project's files. Raises ComposeError when there is nothing to watch."""
    from dockyard.compose.run.watch import Watcher

    return Watcher(application, printer)


@usage(
    """
dockyard compose create [OPTIONS] [SERVICE...]

Creates containers for a service

Options:
      --build            Build images before starting containers
      --force-recreate   Recreate containers even if their configuration and image haven't changed
      --no-build         Don't build an image, even if it's policy
      --no-recreate      If containers already exist, don't recreate them
      --pull string      Pull image before running ("always"|"missing"|"never"|"build") (default "policy")
      --quiet-pull       Pull without printing progress information
      --remove-orphans   Remove containers for services not defined in the Compose file
      --scale list       Scale SERVICE to NUM instances, whatever the Compose file says
  -y, --yes              Assume "yes" as answer to all prompts and run non-interactively
"""
)
def create(session: ComposeSession, flags: Flags) -> int:
    """Nothing is started."""
    if flags.on("build") and flags.on("no-build"):
        raise ComposeError("--build and --no-build are incompatible")
    project = adjusted(session.project(flags.arguments), flags)
    chosen, others = _strategies(flags)
    application = session.application(project, session.progress("Creating"))
    request = CreateRequest(
        services=flags.arguments or list(project.services),
        recreate=chosen,
        recreate_dependencies=others,
        build=build_request(flags, session.mode),
        quiet_pull=flags.on("quiet-pull"),
        remove_orphans=flags.on("remove-orphans") or truthy("COMPOSE_REMOVE_ORPHANS"),
        ignore_orphans=truthy("COMPOSE_IGNORE_ORPHANS"),
        confirm=lambda question: flags.on("yes") or session.confirm(question),
    )
    with application.progress:
        create_containers(application, request)
    return 0


@usage(
    """
dockyard compose down [OPTIONS] [SERVICE...]

Stop and remove containers, networks

Options:
      --remove-orphans   Remove containers for services not defined in the Compose file
      --rmi string       Remove images used by services, "local" only those without a custom tag ("local"|"all")
  -t, --timeout int      Specify a shutdown timeout in seconds
  -v, --volumes          Remove named volumes of the Compose file, and anonymous volumes of containers
"""
)
def down(session: ComposeSession, flags: Flags) -> int:
    """Without files, what the engine knows of the project goes."""
    project, name = session.project_or_name()
    known = project is not None
    images = flags.text("rmi")
    if images and images not in ("all", "local"):
        raise ComposeError(f'invalid value for --rmi: "{images}"')
    if project is None:
        containers = session.engine.containers(name)
        application = with_found_resources(session.application(project_of(name, containers)))
    else:
        application = session.application(project.with_enabled(flags.arguments))
    with application.progress:
        take_down(
            application,
            flags.arguments,
            known=known,
            remove_orphans=flags.on("remove-orphans") or truthy("COMPOSE_REMOVE_ORPHANS"),
            volumes=flags.on("volumes"),
            images=images,
            timeout=_timeout(flags),
        )
    return 0


def found_application(
    session: ComposeSession, services: Sequence[str] = (), title: str = "Running"
) -> tuple[Application, list[Observed]]:
    """The application, from its files or from what the engine has of it, and its containers. Raises ComposeError."""
    project, name = session.project_or_name(services)
    containers = session.engine.containers(name)
    if project is None:
        project = project_of(name, containers, services)
    return session.application(project, session.progress(title)), containers


@usage(
    """
dockyard compose start [OPTIONS] [SERVICE...]

Start services

Options:
      --wait               Wait for services to be running|healthy. Implies detached mode.
      --wait-timeout int   Maximum duration in seconds to wait for the project to be running|healthy
"""
)
def start(session: ComposeSession, flags: Flags) -> int:
    """Containers must have been made."""
    application, containers = found_application(session, flags.arguments)
    with application.progress:
        start_services(
            application,
            wait=flags.on("wait"),
            wait_timeout=flags.number("wait-timeout"),
            containers=containers,
        )
    return 0


def _check_there(project: Project, services: Sequence[str]) -> None:
    for name in services:
        if name not in project.services:
            raise ComposeError(f"no such service: {name}")


@usage(
    """
dockyard compose stop [OPTIONS] [SERVICE...]

Stop services

Options:
  -t, --timeout int   Specify a shutdown timeout in seconds
"""
)
def stop(session: ComposeSession, flags: Flags) -> int:
    """Containers stay."""
    project, name = session.project_or_name()
    project = project or project_of(name, session.engine.containers(name))
    project = project.with_enabled(flags.arguments)
    _check_there(project, flags.arguments)
    application = session.application(project, session.progress("Stopping"))
    with application.progress:
        stop_services(application, flags.arguments, _timeout(flags))
    return 0


@usage(
    """
dockyard compose restart [OPTIONS] [SERVICE...]

Restart service containers

Options:
      --no-deps       Don't restart dependent services
  -t, --timeout int   Specify a shutdown timeout in seconds
"""
)
def restart(session: ComposeSession, flags: Flags) -> int:
    """Also what depends on them with `restart: true`."""
    project, name = session.project_or_name()
    containers = session.engine.containers(name)
    project = (project or project_of(name, containers)).with_enabled(flags.arguments)
    wanted = list(flags.arguments)
    _check_there(project, wanted)
    if wanted and not flags.on("no-deps"):
        for service in project.services:
            dependencies = project.services[service].get("depends_on") or {}
            if any(one.get("restart") and other in wanted for other, one in dependencies.items()):
                wanted.append(service)
    application = session.application(project, session.progress("Restarting"))

    def one(container: Observed) -> Callable[[], None]:
        def work() -> None:
            hooks = project.services[container.service]
            if container.state == "running":
                run_hooks(application, container, hooks.get("pre_stop") or ())
            application.progress.event(f"Container {container.name}", "Restarting")
            seconds = _timeout(flags)
            application.engine.post(f"/containers/{container.id}/restart", t=None if seconds is None else str(seconds))
            application.progress.event(f"Container {container.name}", "Started")
            run_hooks(application, container, hooks.get("post_start") or ())

        return work

    def service_work(service: str) -> None:
        dependencies = project.services[service].get("depends_on") or {}
        restarted = {name: dependency for name, dependency in dependencies.items() if dependency.get("restart")}
        wait_for(application, service, restarted, containers)
        together([one(container) for container in of_services(containers, [service])], application.limit)

    with application.progress:
        for_each_service(project, service_work, limit=application.limit, only=wanted)
    return 0


def _each(
    session: ComposeSession,
    containers: Sequence[Observed],
    doing: str,
    done: str,
    work: Callable[[Observed], object],
    application: Application,
) -> None:
    def one(container: Observed) -> Callable[[], None]:
        def run() -> None:
            application.progress.event(f"Container {container.name}", doing)
            work(container)
            application.progress.event(f"Container {container.name}", done)

        return run

    with application.progress:
        together([one(container) for container in containers], application.limit)


@usage(
    """
dockyard compose kill [OPTIONS] [SERVICE...]

Force stop service containers

Options:
      --remove-orphans   Remove containers for services not defined in the Compose file
  -s, --signal string    SIGNAL to send to the container (default "SIGKILL")
"""
)
def kill(session: ComposeSession, flags: Flags) -> int:
    """What does not run is left alone."""
    project, name = session.project_or_name(flags.arguments)
    one_off = None if flags.on("remove-orphans") else False
    containers = session.engine.containers(name, flags.arguments, all=False, one_off=one_off)
    if not containers:
        print("no container to kill", file=sys.stderr)
        return 0
    project = project or project_of(name, containers)
    if not flags.on("remove-orphans"):
        containers = [one for one in containers if not one.orphaned(project)]
    application = session.application(project, session.progress("Killing"))
    signal = flags.text("signal", "SIGKILL")
    _each(
        session,
        containers,
        "Killing",
        "Killed",
        lambda one: application.engine.post(f"/containers/{one.id}/kill", signal=signal),
        application,
    )
    return 0


@usage(
    """
dockyard compose pause [OPTIONS] [SERVICE...]

Pause services
"""
)
def pause(session: ComposeSession, flags: Flags) -> int:
    """All processes are frozen."""
    return _pausing(session, flags, "pause", "Pausing", "Paused")


@usage(
    """
dockyard compose unpause [OPTIONS] [SERVICE...]

Unpause services
"""
)
def unpause(session: ComposeSession, flags: Flags) -> int:
    """They go on."""
    return _pausing(session, flags, "unpause", "Unpausing", "Unpaused")


def _pausing(session: ComposeSession, flags: Flags, what: str, doing: str, done: str) -> int:
    project, name = session.project_or_name(flags.arguments)
    containers = session.engine.containers(name, flags.arguments, all=False)
    if project is not None:
        containers = of_services(containers, project.services)
    application = session.application(project or project_of(name, containers), session.progress(doing))
    _each(
        session,
        containers,
        doing,
        done,
        lambda one: application.engine.post(f"/containers/{one.id}/{what}"),
        application,
    )
    return 0


@usage(
    """
dockyard compose rm [OPTIONS] [SERVICE...]

Removes stopped service containers

By default, anonymous volumes attached to containers will not be removed. Any data which is not in a volume
will be lost.

Options:
  -f, --force     Don't ask to confirm removal
  -s, --stop      Stop the containers, if required, before removing
  -v, --volumes   Remove any anonymous volumes attached to containers
  -a, --all       Deprecated - no effect
"""
)
def rm(session: ComposeSession, flags: Flags) -> int:
    """Those that run stay, unless told."""
    project, name = session.project_or_name(flags.arguments)
    containers = session.engine.containers(name, flags.arguments, one_off=None)
    project = project or project_of(name, containers)
    application = session.application(project, session.progress("Removing"))
    if flags.on("stop"):
        with application.progress:
            stop_services(application, flags.arguments or list(project.services))
        containers = session.engine.containers(name, flags.arguments, one_off=None)
    containers = [one for one in containers if one.state != "running" or flags.on("stop")]
    if not flags.arguments:
        containers = [one for one in containers if one.service in project.services]
    if not containers:
        print("No stopped containers", file=sys.stderr)
        return 0
    names = ", ".join(one.name for one in in_order(containers))
    if not flags.on("force"):
        print(f"Going to remove {names}")
        if not session.confirm("Are you sure?"):
            return 0
    _each(
        session,
        containers,
        "Removing",
        "Removed",
        lambda one: application.engine.remove(one.id, force=flags.on("force"), volumes=flags.on("volumes")),
        application,
    )
    return 0


@usage(
    """
dockyard compose scale [OPTIONS] [SERVICE=REPLICAS...]

Scale services

Options:
      --no-deps   Don't start linked services
"""
)
def scale(session: ComposeSession, flags: Flags) -> int:
    """Other services are left as they are."""
    if not flags.arguments:
        raise ComposeError('"scale" requires at least 1 argument.')
    wanted: dict[str, int] = {}
    for text in flags.arguments:
        name, equals, number = text.partition("=")
        if not equals:
            raise ComposeError(f"invalid scale specifier: {text}")
        if not number.isdigit():
            raise ComposeError(f"invalid scale specifier: can't parse replica value as int: {text}")
        wanted[name] = int(number)
    project = session.project(list(wanted))
    if flags.on("no-deps"):
        project = project.selected(list(wanted), dependencies=False)
    services = {**project.services}
    for name, count in wanted.items():
        project.service(name)
        services[name] = scaled(services[name], count)
    application = session.application(project.with_(services=services))
    with application.progress:
        create_containers(application, CreateRequest(services=list(wanted), ignore_orphans=True))
        start_services(application)
    return 0


@usage(
    """
dockyard compose wait [OPTIONS] SERVICE [SERVICE...]

Block until containers of all (or specified) services stop.

Options:
      --down-project   Drops project when the first container stops
"""
)
def wait(session: ComposeSession, flags: Flags) -> int:
    """The exit status is that of the last container to end."""
    _, name = session.project_or_name()
    containers = session.engine.containers(name, flags.arguments, all=False)
    if not containers:
        raise ComposeError(f'no containers for project "{name}"')
    codes: list[int] = []

    def one(container: Observed) -> Callable[[], None]:
        def work() -> None:
            code = int(session.engine.post(f"/containers/{container.id}/wait")["StatusCode"])
            print(f'container "{container.id}" exited with status code {code}')
            codes.append(code)

        return work

    if flags.on("down-project"):
        import queue
        import threading

        first: queue.SimpleQueue[None] = queue.SimpleQueue()

        def until_first(work: Callable[[], None]) -> None:
            work()
            first.put(None)

        for container in containers:
            threading.Thread(target=until_first, args=(one(container),), daemon=True).start()
        first.get()
        down(session, type(flags)("dockyard compose down", []))
        return codes[0]
    together([one(container) for container in containers])
    return codes[-1]
