"""Commands that go into containers: run, exec, attach, cp, export, commit."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from dockyard.cli.compose.look import specified
from dockyard.cli.usage import Flags, usage
from dockyard.compose.errors import ComposeError
from dockyard.compose.model import short_forms
from dockyard.compose.model.go_values import words
from dockyard.compose.model.language import PORT, VOLUME_MOUNT
from dockyard.compose.model.project import ordered
from dockyard.compose.plan.create_body import Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dockyard.cli.compose.session import ComposeSession
    from dockyard.compose.model.project import Project
    from dockyard.compose.plan.observed import Observed

Tree = dict[str, Any]


def _other(session: ComposeSession, command: Callable[..., Any], name: str, arguments: Sequence[str]) -> int:
    """Run one of the commands for single containers."""
    flags = Flags(command.usage, list(arguments), name)  # type: ignore[attr-defined]  # set by @usage
    return int(command(session.plain, flags) or 0)


def _running(session: ComposeSession, flags: Flags, service: str) -> Observed:
    _, name = session.project_or_name()
    containers = session.engine.containers(name, [service], all=False, one_off=None)
    return specified(containers, service, flags.number("index"))


@usage(
    """
dockyard compose exec [OPTIONS] SERVICE COMMAND [ARG...]

Execute a command in a running container

Options:
  -d, --detach           Detached mode: Run command in the background
  -e, --env list         Set environment variables
      --index int        Index of the container if service has multiple replicas
  -T, --no-tty           Disable pseudo-TTY allocation. By default 'compose exec' allocates a TTY.
      --privileged       Give extended privileges to the process
  -u, --user string      Run the command as this user
  -w, --workdir string   Path to workdir directory for this command

Hidden:
  -i, --interactive
  -t, --tty
      --no-TTY
"""
)
def exec_(session: ComposeSession, flags: Flags) -> int:
    """The command's exit status is ours."""
    from dockyard.cli.commands.attach import exec_ as plain_exec

    service, *command = flags.arguments
    if session.dry:
        print(f"{session_prefix()}docker exec {service} {' '.join(command)}", file=sys.stderr)
        return 0
    container = _running(session, flags, service)
    arguments = [f"--{name}={value}" for name in ("user", "workdir") if (value := flags.text(name))]
    arguments += [f"--env={text}" for text in flags.all("env")]
    arguments += [f"--{name}" for name in ("detach", "privileged") if flags.on(name)]
    if not flags.on("detach"):
        if flags.on("interactive", default=True):
            arguments.append("--interactive")
        plain = flags.on("no-tty") or flags.on("no-TTY")
        if not plain and os.isatty(0) and os.isatty(1):
            arguments.append("--tty")
    return _other(session, plain_exec, "exec", [*arguments, container.id, *command])


def session_prefix() -> str:
    """What stands before everything that a dry run says."""
    from dockyard.compose.run.progress import DRY_RUN

    return DRY_RUN


@usage(
    """
dockyard compose attach [OPTIONS] SERVICE

Attach local standard input, output, and error streams to a service's running container

Options:
      --detach-keys string   Override the key sequence for detaching from a container.
      --index int            index of the container if service has multiple replicas.
      --no-stdin             Do not attach STDIN
      --sig-proxy            Proxy all received signals to the process (default true)
"""
)
def attach(session: ComposeSession, flags: Flags) -> int:
    """Its exit status is ours."""
    from dockyard.cli.commands.attach import attach as plain_attach

    container = _running(session, flags, flags.arguments[0])
    arguments = [f"--detach-keys={flags.text('detach-keys')}"] if flags.given("detach-keys") else []
    arguments += ["--no-stdin"] if flags.on("no-stdin") else []
    arguments += [f"--sig-proxy={'true' if flags.on('sig-proxy', default=True) else 'false'}"]
    return _other(session, plain_attach, "attach", [*arguments, container.id])


@usage(
    """
dockyard compose cp [OPTIONS] SOURCE TARGET

Copy files/folders between a service container and the local filesystem

Options:
      --all           Include containers created by the run command
  -a, --archive       Archive mode (copy all uid/gid information)
  -L, --follow-link   Always follow symbol link in SRC_PATH
      --index int     Index of the container if service has multiple replicas
"""
)
def cp(session: ComposeSession, flags: Flags) -> int:
    """SERVICE:PATH is in a container; what is copied into a service goes into all of its containers."""
    from dockyard.cli.commands.copy import cp as plain_cp

    source, target = flags.arguments
    here, there = _service_path(source), _service_path(target)
    if here and there:
        raise ComposeError("copying between services is not supported")
    if not here and not there:
        raise ComposeError("unknown copy direction")
    service, place = here or there or ("", "")
    _, name = session.project_or_name()
    containers = session.engine.containers(name, [service], one_off=None if flags.on("all") else False)
    if not containers:
        raise ComposeError(f'no container found for service "{service}"')
    if flags.given("index") or here:
        containers = [specified(containers, service, flags.number("index"))]
    arguments = [f"--{name}" for name in ("archive", "follow-link") if flags.on(name)]
    for container in containers:
        inside = f"{container.name}:{place}"
        pair = [inside, target] if here else [source, inside]
        if session.dry:
            print(f"{session_prefix()}docker cp {' '.join(pair)}", file=sys.stderr)
            continue
        status = _other(session, plain_cp, "cp", [*arguments, "--quiet", *pair])
        if status:
            return status
        told = f"{container.name} copy {pair[0]} to {pair[1]}"
        print(f" {told} Copied", file=sys.stderr)
    return 0


def _service_path(text: str) -> tuple[str, str] | None:
    """SERVICE and PATH, None for a path here."""
    if os.path.isabs(text) or text.startswith("."):
        return None
    service, colon, place = text.partition(":")
    return (service, place) if colon and service else None


@usage(
    """
dockyard compose export [OPTIONS] SERVICE

Export a service container's filesystem as a tar archive

Options:
      --index int       index of the container if service has multiple replicas.
  -o, --output string   Write to a file, instead of STDOUT
"""
)
def export(session: ComposeSession, flags: Flags) -> int:
    """To stdout if that is no terminal."""
    from dockyard.cli.commands.copy import export as plain_export

    container = _any(session, flags, flags.arguments[0])
    arguments = [f"--output={flags.text('output')}"] if flags.given("output") else []
    return _other(session, plain_export, "export", [*arguments, container.id])


def _any(session: ComposeSession, flags: Flags, service: str) -> Observed:
    _, name = session.project_or_name()
    containers = session.engine.containers(name, [service], one_off=None)
    return specified(containers, service, flags.number("index"))


@usage(
    """
dockyard compose commit [OPTIONS] SERVICE [REPOSITORY[:TAG]]

Create a new image from a service container's changes

Options:
  -a, --author string    Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
  -c, --change list      Apply Dockerfile instruction to the created image
      --index int        index of the container if service has multiple replicas.
  -m, --message string   Commit message
  -p, --pause            Pause container during commit (default true)
"""
)
def commit(session: ComposeSession, flags: Flags) -> int:
    """Prints the ID."""
    from dockyard.cli.commands.copy import commit as plain_commit

    service, *image = flags.arguments
    container = _any(session, flags, service)
    arguments = [f"--{name}={flags.text(name)}" for name in ("author", "message") if flags.given(name)]
    arguments += [f"--change={text}" for text in flags.all("change")]
    arguments += [f"--pause={'true' if flags.on('pause', default=True) else 'false'}"]
    return _other(session, plain_commit, "commit", [*arguments, container.id, *image])


@usage(
    """
dockyard compose run [OPTIONS] SERVICE [COMMAND] [ARG...]

Run a one-off command on a service

Options:
      --build                Build image before starting container
      --cap-add list         Add Linux capabilities
      --cap-drop list        Drop Linux capabilities
  -d, --detach               Run container in background and print container ID
      --entrypoint string    Override the entrypoint of the image
  -e, --env list             Set environment variables
      --env-from-file list   Set environment variables from file
  -i, --interactive          Keep STDIN open even if not attached (default true)
  -l, --label list           Add or override a label
      --name string          Assign a name to the container
  -T, --no-TTY               Disable pseudo-TTY allocation (default: auto-detected)
      --no-deps              Don't start linked services
  -p, --publish list         Publish a container's port(s) to the host
      --pull string          Pull image before running ("always"|"missing"|"never") (default "policy")
  -q, --quiet                Don't print anything to STDOUT
      --quiet-build          Suppress progress output from the build process
      --quiet-pull           Pull without printing progress information
      --remove-orphans       Remove containers for services not defined in the Compose file
      --rm                   Automatically remove the container when it exits
  -P, --service-ports        Run command with all service's ports enabled and mapped to the host
      --use-aliases          Use the service's network useAliases in the network(s) the container connects to
  -u, --user string          Run as specified username or uid
  -v, --volume list          Bind mount a volume
  -w, --workdir string       Working directory inside the container

Hidden:
  -t, --tty
      --no-tty
      --volumes list
      --labels list
"""
)
def run(session: ComposeSession, flags: Flags) -> int:
    """The command's exit status is ours."""
    from dockyard.cli.compose.elsewhere import confirm_remote
    from dockyard.cli.compose.life import adjusted, build_request, truthy
    from dockyard.compose.run.one_off import RunRequest, make_one_off

    name, *command = flags.arguments
    if flags.all("publish") and flags.on("service-ports"):
        raise ComposeError("--service-ports and --publish are incompatible")
    project = session.project([name])
    if flags.on("no-deps"):
        project = project.selected([name], dependencies=False)
    project = adjusted(project, flags)
    project.service(name)
    confirm_remote(session, project, flags.all("env"), yes=flags.on("yes"))
    interactive = flags.on("interactive", default=True)
    tty = _wants_tty(flags, interactive=interactive)
    service = _for_run(project, project.services[name], flags, command, interactive=interactive, tty=tty)
    project = project.with_(services={**project.services, name: service})
    progress = session.progress()
    if flags.on("quiet"):
        from dockyard.compose.run.progress import make

        progress = make("quiet")
    application = session.application(project, progress)
    request = RunRequest(
        build=build_request(flags, session.mode),
        quiet_pull=flags.on("quiet-pull") or flags.on("quiet"),
        remove_orphans=flags.on("remove-orphans"),
        ignore_orphans=truthy("COMPOSE_IGNORE_ORPHANS"),
        dependencies=not flags.on("no-deps"),
    )
    wanted = Wanted(
        name,
        flags.text("name"),
        0,
        auto_remove=flags.on("rm") and not flags.on("detach"),
        attach_stdin=interactive,
        use_aliases=flags.on("use-aliases"),
    )
    if flags.on("rm") and flags.on("detach"):
        wanted = wanted._replace(auto_remove=True)
    made = make_one_off(application, request, wanted)
    if session.dry:
        return 0
    from dockyard.cli.commands.attach import start

    if flags.on("detach"):
        application.engine.start(made.id)
        if not flags.on("quiet"):
            print(made.id)
        return 0
    arguments = ["--attach", *(["--interactive"] if interactive else [])]
    return _other(session, start, "start", [*arguments, made.id])


def _wants_tty(flags: Flags, *, interactive: bool) -> bool:
    """Whether the command gets a terminal. Raises ComposeError when it must be ours and we have none."""
    if flags.given("tty") and flags.given("no-TTY"):
        raise ComposeError("--tty and --no-TTY can't be used together")
    if not (flags.given("tty") or flags.given("no-TTY") or flags.given("no-tty")):
        return os.isatty(1) and (os.isatty(0) or not interactive)
    wanted = flags.on("tty") if flags.given("tty") else not (flags.on("no-TTY") or flags.on("no-tty"))
    if wanted and interactive and not flags.on("detach") and not os.isatty(0):
        raise ComposeError("the input device is not a TTY")
    return wanted


def _for_run(
    project: Project, service: Tree, flags: Flags, command: list[str], *, interactive: bool, tty: bool
) -> Tree:
    """The service with what was asked for on the command line."""
    found = {**service, "tty": tty, "stdin_open": interactive, "scale": 1}
    for key in ("restart", "container_name"):
        found.pop(key, None)
    if "deploy" in found:
        found["deploy"] = {key: item for key, item in found["deploy"].items() if key != "restart_policy"}
    if command:
        found["command"] = command
    if flags.given("entrypoint"):
        found["entrypoint"] = words(flags.text("entrypoint"))
        if not command:
            found["command"] = []
    for name, key in (("user", "user"), ("workdir", "working_dir")):
        if flags.text(name):
            found[key] = flags.text(name)
    _add_capabilities(found, flags)
    environment = _environment(project, flags)
    if environment:
        found["environment"] = {**(found.get("environment") or {}), **environment}
    for text in [*flags.all("label"), *flags.all("labels")]:
        name, _, value = text.partition("=")
        found["labels"] = {**(found.get("labels") or {}), name: value}
    if not flags.on("service-ports"):
        found["ports"] = []
    for text in flags.all("publish"):
        found["ports"] = [*found["ports"], *(PORT.read(port, "ports") for port in short_forms.ports(text))]
    for text in [*flags.all("volume"), *flags.all("volumes")]:
        mount = VOLUME_MOUNT.read(short_forms.volume(text), "volumes")
        if mount["type"] == "bind":
            mount["source"] = os.path.abspath(os.path.expanduser(mount["source"]))
        others = [one for one in found.get("volumes") or () if one["target"] != mount["target"]]
        found["volumes"] = [*others, mount]
    return ordered(found)


def _add_capabilities(service: Tree, flags: Flags) -> None:
    for name, key, other in (("cap-add", "cap_add", "cap_drop"), ("cap-drop", "cap_drop", "cap_add")):
        given = flags.all(name)
        if given:
            service[key] = [*(service.get(key) or ()), *given]
            service[other] = [one for one in service.get(other) or () if one not in given]


def _environment(project: Project, flags: Flags) -> dict[str, str]:
    from dockyard.compose.model import dotenv

    found = dotenv.read_files(flags.all("env-from-file"), project.environment)
    for text in flags.all("env"):
        name, equals, value = text.partition("=")
        if equals:
            found[name] = value
        elif name in project.environment:
            found[name] = project.environment[name]
    return found
