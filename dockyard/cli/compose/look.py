"""Commands that only look: ps, logs, ls, images and the like."""

from __future__ import annotations

import json
import sys
import time

from dockyard.cli import output
from dockyard.cli.usage import usage
from dockyard.compose.errors import ComposeError, Missing
from dockyard.compose.model.go_values import duration, html_safe
from dockyard.compose.plan import labels
from dockyard.compose.plan.observed import Observed, of_services

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from dockyard.cli.compose.session import ComposeSession
    from dockyard.cli.usage import Flags
    from dockyard.compose.model.project import Project

    Row = dict[str, Any]


def _check_services(project: Project | None, services: Iterable[str]) -> None:
    for name in services:
        if project is not None and name not in project.services:
            raise Missing(f"no such service: {name}")


def compact(value: Any) -> str:
    """JSON on one line, as Go writes it."""
    return html_safe(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def plain_table(rows: list[list[str]], *, gap: int = 3, narrowest: int = 20) -> str:
    """Columns as Go's tabwriter lays them out with Compose's settings."""
    widths = [max(narrowest, max(len(row[column]) for row in rows) + gap) for column in range(len(rows[0]))]
    return "\n".join(
        "".join(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)) + row[-1] for row in rows
    )


PS_COLUMNS = {
    "Name": "NAME",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "Service": "SERVICE",
    "RunningFor": "CREATED",
    "Status": "STATUS",
    "Ports": "PORTS",
}
PS_HEADINGS = {
    "ID": "CONTAINER ID",
    "Project": "PROJECT",
    "CreatedAt": "CREATED AT",
    "State": "STATE",
    "Size": "SIZE",
    "Labels": "LABELS",
    "Names": "NAMES",
    "Mounts": "MOUNTS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Networks": "NETWORKS",
    "Health": "HEALTH",
    "ExitCode": "EXIT CODE",
    "Publishers": "PUBLISHERS",
}


@usage(
    """
dockyard compose ps [OPTIONS] [SERVICE...]

List containers

Options:
  -a, --all             Show all stopped containers (including those created by the run command)
      --filter string   Filter services by a property (supported filters: status)
      --format string   'table', 'table TEMPLATE', 'json' or a Go template (default "table")
      --no-trunc        Don't truncate output
      --orphans         Include orphaned services (not declared by project) (default true)
  -q, --quiet           Only display IDs
      --services        Display services
      --status list     Filter services by status (paused, restarting, removing, running, dead, created, exited)
"""
)
def ps(session: ComposeSession, flags: Flags) -> int:
    """Running ones, unless told."""
    statuses = list(flags.all("status"))
    if flags.given("filter"):
        name, equals, value = flags.text("filter").partition("=")
        if not equals:
            raise ComposeError("arguments to --filter should be in form KEY=VAL")
        if name == "source":
            raise ComposeError("not implemented")
        if name != "status":
            raise ComposeError(f"unknown filter {name}")
        statuses.append(value)
    project, name = session.project_or_name(flags.arguments)
    services = list(flags.arguments)
    _check_services(project, services)
    if project is not None and not services and not flags.on("orphans", default=True):
        services = list(project.services)
    everything = flags.on("all") or bool(statuses)
    containers = session.engine.containers(
        name.lower(), services, all=everything, one_off=None if everything else False
    )
    if services:
        containers = of_services(containers, services)
    if statuses:
        containers = [one for one in containers if one.state in statuses]
    containers.sort(key=lambda one: one.name)
    if flags.on("quiet"):
        for one in containers:
            print(one.id)
        return 0
    if flags.on("services"):
        print("\n".join(dict.fromkeys(one.service for one in containers)))
        return 0
    form = flags.text("format", "table") or session.config.get("psFormat") or ""
    needs_more = form == "json" or "{{" in form
    rows = [_ps_row(session, one, full=flags.on("no-trunc"), more=needs_more) for one in containers]
    if form == "json":
        for row in rows:
            print(output.row_json(row))
        return 0
    output.rows(rows, form, PS_COLUMNS, PS_HEADINGS, "*formatter.ContainerContext")
    return 0


def _ps_row(session: ComposeSession, one: Observed, *, full: bool, more: bool) -> Row:
    from dockyard.cli.commands.observe import row_of

    shown = row_of({**one.row, "Ports": _sorted_ports(one)}, full)
    command = str(one.row.get("Command", ""))
    ports = _sorted_ports(one)
    row: Row = {
        "ID": one.id if full else one.id[:12],
        "Name": one.name,
        "Names": ",".join(str(name).removeprefix("/") for name in one.row.get("Names") or ()),
        "Image": one.row.get("Image", ""),
        "Command": json.dumps(command if full else output.ellipsis(command, 20), ensure_ascii=False),
        "Project": one.project,
        "Service": one.service,
        "CreatedAt": shown["CreatedAt"],
        "RunningFor": shown["RunningFor"],
        "Status": one.row.get("Status", ""),
        "State": one.state,
        "Ports": shown["Ports"],
        "Size": shown["Size"],
        "Labels": ",".join(f"{key}={value}" for key, value in one.labels.items()),
        "Mounts": shown["Mounts"],
        "LocalVolumes": shown["LocalVolumes"],
        "Networks": shown["Networks"],
        "Label": lambda name: one.labels.get(name, ""),
    }
    if more:
        health, code = _state(session, one)
        row["Health"], row["ExitCode"] = health, code
        row["Publishers"] = [
            {
                "URL": port.get("IP", ""),
                "TargetPort": port.get("PrivatePort", 0),
                "PublishedPort": port.get("PublicPort", 0),
                "Protocol": port.get("Type", ""),
            }
            for port in ports
        ] or None
    return row


def _sorted_ports(one: Observed) -> list[Row]:
    return sorted(one.row.get("Ports") or (), key=lambda port: port.get("PrivatePort", 0))


def _state(session: ComposeSession, one: Observed) -> tuple[str, int]:
    state = session.engine.container(one.id)["State"]
    if state["Status"] == "running":
        return str((state.get("Health") or {}).get("Status", "")), 0
    return "", int(state["ExitCode"]) if state["Status"] in ("exited", "dead") else 0


@usage(
    """
dockyard compose logs [OPTIONS] [SERVICE...]

View output from containers

Options:
  -f, --follow          Follow log output
      --index int       index of the container if service has multiple replicas
      --no-color        Produce monochrome output
      --no-log-prefix   Don't print prefix in logs
      --since string    Show logs since timestamp (e.g. 2013-01-02T13:23:37Z) or relative (e.g. 42m for 42 minutes)
  -n, --tail string     Number of lines to show from the end of the logs for each container (default "all")
  -t, --timestamps      Show timestamps
      --until string    Show logs before a timestamp (e.g. 2013-01-02T13:23:37Z) or relative (e.g. 42m for 42 minutes)
"""
)
def logs(session: ComposeSession, flags: Flags) -> int:
    """With --follow until all have ended."""
    from dockyard.compose.run.found import project_of
    from dockyard.compose.run.logs import LogPrinter, LogRequest, show_logs

    if flags.given("index") and len(flags.arguments) != 1:
        raise ComposeError("--index requires one service to be selected")
    project, name = session.project_or_name(flags.arguments)
    _check_services(project, flags.arguments)
    containers = session.engine.containers(name.lower(), flags.arguments)
    if flags.given("index"):
        containers = [specified(containers, flags.arguments[0], flags.number("index"))]
    elif project is not None and not flags.arguments:
        containers = of_services(containers, project.services)
    application = session.application(project or project_of(name, containers))
    printer = LogPrinter(color=session.color and not flags.on("no-color"), prefix=not flags.on("no-log-prefix"))
    request = LogRequest(
        services=flags.arguments or (list(project.services) if project is not None else []),
        follow=flags.on("follow"),
        since=moment(flags.text("since")),
        until=moment(flags.text("until")),
        tail=flags.text("tail", "all"),
        timestamps=flags.on("timestamps"),
    )
    show_logs(application, containers, request, printer)
    return 0


def moment(text: str) -> str | None:
    """A time as it was given, or that long ago."""
    if not text:
        return None
    try:
        return f"{time.time() - duration(text) / 1e9:.9f}"
    except ComposeError:
        return text


def specified(containers: list[Observed], service: str, index: int = 0) -> Observed:
    """A service's container of that number, or its first one. Raises ComposeError."""
    found = [one for one in containers if one.service == service and (not index or one.number == index)]
    if not found:
        number = f" container #{index}" if index else ""
        raise ComposeError(f'service "{service}" is not running{number}')
    return min(found, key=lambda one: (one.one_off, one.number))


@usage(
    """
dockyard compose ls [OPTIONS]

List running compose projects

Options:
  -a, --all             Show all stopped Compose projects
      --filter filter   Filter output based on conditions provided
      --format string   Format the output. Values: [table | json] (default "table")
  -q, --quiet           Only display project names
"""
)
def ls(session: ComposeSession, flags: Flags) -> int:
    """Whatever program has made them."""
    import re

    containers = session.engine.marked(labels.PROJECT, labels.CONFIG_HASH, all=flags.on("all"))
    groups: dict[str, list[Observed]] = {}
    for one in containers:
        groups.setdefault(one.project, []).append(one)
    wanted = []
    for text in flags.all("filter"):
        key, _, value = text.partition("=")
        if key != "name":
            raise ComposeError(f"invalid filter '{key}'")
        wanted.append(value)
    rows = [
        {"Name": name, "Status": _combined(groups[name]), "ConfigFiles": _files(groups[name])}
        for name in sorted(groups)
        if not wanted or any(re.search(pattern, name) for pattern in wanted)
    ]
    if flags.on("quiet"):
        for row in rows:
            print(row["Name"])
    elif flags.text("format") == "json":
        print(compact(rows))
    elif flags.text("format", "table") in ("table", "pretty", ""):
        print(plain_table([["NAME", "STATUS", "CONFIG FILES"], *([*row.values()] for row in rows)]))
    else:
        raise ComposeError(f'format value "{flags.text("format")}" could not be parsed: parsing failed')
    return 0


def _combined(containers: list[Observed]) -> str:
    states = sorted(one.state for one in containers)
    return ", ".join(f"{state}({states.count(state)})" for state in dict.fromkeys(states))


def _files(containers: list[Observed]) -> str:
    found: dict[str, None] = {}
    for one in containers:
        if labels.FILES not in one.labels:
            return "N/A"
        found.update(dict.fromkeys(one.labels[labels.FILES].split(",")))
    return ",".join(found)


@usage(
    """
dockyard compose images [OPTIONS] [SERVICE...]

List images used by the created containers

Options:
      --format string   Format the output. Values: [table | json] (default "table")
  -q, --quiet           Only display IDs
"""
)
def images(session: ComposeSession, flags: Flags) -> int:
    """By container."""
    _, name = session.project_or_name()
    containers = session.engine.marked(f"{labels.PROJECT}={name}")
    if flags.arguments:
        containers = of_services(containers, flags.arguments)
    containers.sort(key=lambda one: one.name)
    found = [(one, session.engine.image(str(one.row["ImageID"]))) for one in containers]
    if flags.on("quiet"):
        for digest in dict.fromkeys(str((image or {}).get("Id", "")) for _, image in found):
            print(digest.removeprefix("sha256:"))
        return 0
    rows = [_image_row(one, image or {}) for one, image in found]
    if flags.text("format") == "json":
        print(json.dumps(rows, ensure_ascii=False, separators=(",", ":")), end="\n\n")
        return 0
    table = [["CONTAINER", "REPOSITORY", "TAG", "PLATFORM", "IMAGE ID", "SIZE", "CREATED"]]
    for row in rows:
        created = output.age(time.time() - output.moment(row["LastTagTime"])) + " ago"
        table.append(
            [
                row["ContainerName"],
                row["Repository"] or "<none>",
                row["Tag"] or "<none>",
                row["Platform"],
                row["ID"].removeprefix("sha256:")[:12],
                output.size(row["Size"], 3),
                created,
            ]
        )
    print(plain_table(table))
    return 0


def _image_row(one: Observed, image: Row) -> Row:
    name = str(one.row.get("Image", ""))
    repository, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "latest")
    if name.startswith("sha256:"):
        repository = tag = ""
    variant = f"/{image['Variant']}" if image.get("Variant") else ""
    tagged = str((image.get("Metadata") or {}).get("LastTagTime", "0001-01-01T00:00:00Z"))
    return {
        "ID": image.get("Id", ""),
        "ContainerName": one.name,
        "Repository": repository,
        "Tag": tag,
        "Platform": f"{image.get('Os', '')}/{image.get('Architecture', '')}{variant}",
        "Size": image.get("Size", 0),
        "LastTagTime": tagged if not tagged.startswith("0001-") else image.get("Created", tagged),
    }


@usage(
    """
dockyard compose port [OPTIONS] SERVICE PRIVATE_PORT

Print the public port for a port binding

Options:
      --index int         Index of the container if service has multiple replicas
      --protocol string   tcp or udp (default "tcp")
"""
)
def port(session: ComposeSession, flags: Flags) -> int:
    """ADDRESS:PORT."""
    service, number = flags.arguments
    _, name = session.project_or_name()
    if not number.isdigit():
        raise ComposeError(f'strconv.ParseUint: parsing "{number}": invalid syntax')
    container = specified(session.engine.containers(name, [service], all=False), service, flags.number("index"))
    protocol = flags.text("protocol", "tcp").lower()
    for binding in container.row.get("Ports") or ():
        if binding.get("PrivatePort") == int(number) and binding.get("Type") == protocol:
            print(f"{binding.get('IP', '')}:{binding.get('PublicPort', 0)}")
            return 0
    there = ", ".join(f"{one.get('PublicPort', 0)}/{one['Type']}" for one in container.row.get("Ports") or ())
    raise ComposeError(f"no port {number}/{protocol} for container {container.name}: {there}")


@usage(
    """
dockyard compose top [SERVICE...]

Display the running processes
"""
)
def top(session: ComposeSession, flags: Flags) -> int:
    """Of all containers."""
    _, name = session.project_or_name()
    containers = session.engine.containers(name, flags.arguments, all=False, one_off=None)
    containers.sort(key=lambda one: one.name)
    titles: list[str] = ["SERVICE", "#"]
    rows: list[dict[str, str]] = []
    for one in containers:
        found = session.engine.get(f"/containers/{one.id}/top")
        titles += [title for title in found["Titles"] if title not in titles]
        for process in found["Processes"] or ():
            number = str(one.number) if one.number else "-"
            rows.append({"SERVICE": one.service, "#": number, **dict(zip(found["Titles"], process, strict=False))})
    if rows:
        table = [titles, *([row.get(title, "-") for title in titles] for row in rows)]
        print(plain_table(table, gap=2, narrowest=4))
    return 0


@usage(
    """
dockyard compose events [OPTIONS] [SERVICE...]

Receive real time events from containers

Options:
      --json           Output events as a stream of json objects
      --since string   Show all events created since timestamp
      --until string   Stream events until this timestamp
"""
)
def events(session: ComposeSession, flags: Flags) -> int:
    """Until told to stop."""
    _, name = session.project_or_name()
    filters = {"type": "container", "label": f"{labels.PROJECT}={name}"}
    stream = session.engine.client.events(
        since=moment(flags.text("since")), until=moment(flags.text("until")), filters=filters
    )
    for event in stream:
        marks = event.attributes
        service = marks.get(labels.SERVICE, "")
        if marks.get(labels.ONE_OFF) == "True" or (flags.arguments and service not in flags.arguments):
            continue
        attributes = {key: value for key, value in marks.items() if not key.startswith("com.docker.compose.")}
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(event.time)) + f".{int(event.time % 1 * 1e9):09d}Z"
        if flags.on("json"):
            row = {
                "time": when,
                "type": "container",
                "service": service,
                "id": event.id,
                "action": event.action,
                "attributes": attributes,
            }
            print(compact(row), flush=True)
        else:
            told = ", ".join(f"{key}={value}" for key, value in sorted(attributes.items()))
            day = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
            print(f"{day}.{int(event.time % 1 * 1e6):06d} container {event.action} {event.id} ({told})", flush=True)
    return 0


@usage(
    """
dockyard compose stats [OPTIONS] [SERVICE]

Display a live stream of container(s) resource usage statistics

Options:
  -a, --all             Show all containers (default shows just running)
      --format string   'table', 'table TEMPLATE', 'json' or a Go template
      --no-stream       Disable streaming stats and only pull the first result
      --no-trunc        Do not truncate output
"""
)
def stats(session: ComposeSession, flags: Flags) -> int:
    """As `stats` of the project's containers."""
    from dockyard.cli.commands import observe
    from dockyard.cli.usage import Flags as Parsed

    _, name = session.project_or_name()
    containers = session.engine.containers(name, flags.arguments, all=flags.on("all"))
    if not containers:
        return 0
    given = [f"--{key}={flags.text(key)}" for key in ("format",) if flags.given(key)]
    given += [f"--{key}" for key in ("all", "no-stream", "no-trunc") if flags.on(key)]
    inner = Parsed(observe.stats.usage, [*given, *(one.id for one in containers)], "stats")  # type: ignore[attr-defined]
    return int(observe.stats(session.plain, inner) or 0)


@usage(
    """
dockyard compose volumes [OPTIONS] [SERVICE...]

List volumes

Options:
      --format string   'table', 'table TEMPLATE', 'json' or a Go template (default "table")
  -q, --quiet           Only display volume names
"""
)
def volumes(session: ComposeSession, flags: Flags) -> int:
    """Those of the project's services."""
    project, name = session.project_or_name(flags.arguments)
    _check_services(project, flags.arguments)
    containers = session.engine.containers(name, flags.arguments, one_off=None)
    used = {mount.get("Name") for one in containers for mount in one.row.get("Mounts") or ()}
    rows = session.engine.volumes(label=[f"{labels.PROJECT}={name}"])
    if flags.arguments:
        rows = [row for row in rows if row["Name"] in used]
    rows.sort(key=lambda row: str(row["Name"]))
    if flags.on("quiet"):
        for row in rows:
            print(row["Name"])
        return 0
    shown = [
        {
            "Name": row["Name"],
            "Driver": row["Driver"],
            "Scope": row.get("Scope", ""),
            "Mountpoint": row.get("Mountpoint", ""),
            "Labels": ",".join(f"{key}={value}" for key, value in (row.get("Labels") or {}).items()),
            "Availability": "N/A",
            "Group": "N/A",
            "Links": "N/A",
            "Size": "N/A",
            "Status": "N/A",
        }
        for row in rows
    ]
    form = flags.text("format", "table")
    if form == "json":
        for row in shown:
            print(output.row_json(row))
        return 0
    columns = {"Driver": "DRIVER", "Name": "VOLUME NAME"}
    headings = {"Scope": "SCOPE", "Mountpoint": "MOUNTPOINT", "Labels": "LABELS"}
    output.rows(shown, form, columns, headings, "*formatter.volumeContext")
    return 0


@usage(
    """
dockyard compose version [OPTIONS]

Show the version information

Options:
  -f, --format string   Format the output. Values: [pretty | json]. (Default: pretty)
      --short           Shows only Compose's version number
"""
)
def version(session: ComposeSession, flags: Flags) -> int:
    """That of the Docker Compose that this one stands in for, so that what asks for a minimum is content."""
    number = labels.COMPATIBLE_VERSION
    if flags.on("short"):
        print(number)
    elif flags.text("format") == "json":
        print(compact({"version": f"v{number}"}))
    else:
        from dockyard.version import VERSION

        print(f"Docker Compose version v{number} (Dockyard {VERSION})")
    sys.stdout.flush()
    return 0
