"""What the engine tells: events, and objects of any kind."""

from __future__ import annotations

from dockyard.cli import output
from dockyard.cli.errors import Failure
from dockyard.cli.session import Session, filters, path
from dockyard.cli.usage import Flags, usage
from dockyard.client.errors import APIError
from dockyard.gotemplate import go_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

INSPECTED = ("container", "image", "network", "volume")


@usage(
    """
dockyard events [OPTIONS]

Get real time events from the engine

Options:
  -f, --filter filter   Which ones (type=…, event=…, container=…, label=…)
      --format string   'json' or a Go template
      --since string    From this time on (2013-01-02T13:23:37Z, 42m)
      --until string    Up to this time
"""
)
def events(session: Session, flags: Flags) -> int:
    """Prints each event as it happens."""
    from dockyard.cli.commands.observe import timestamp

    show = _event_format(flags.text("format"))
    place = path(
        "/events",
        since=timestamp(flags, "since"),
        until=timestamp(flags, "until"),
        filters=filters(flags),
    )
    for event in session.api.request("GET", place).objects():
        print(show(event), flush=True)
    return 0


_EVENT = dict.fromkeys(("Status", "ID", "From", "Type", "Action", "Scope", "Time", "TimeNano"), "")


def _event_format(form: str) -> Callable[[dict[str, Any]], str]:
    """How an event is shown. Raises Failure for a template that asks for what no event has."""
    if not form:
        return _event_line
    if form == "json":
        return go_json.compact
    from dockyard.gotemplate.template import ExecutionError, Template, TemplateError

    def show(event: dict[str, Any]) -> str:
        fields = {**_EVENT, **event, "ID": event["Actor"]["ID"], "Actor": event["Actor"]}
        return template.render(output.record(fields, "*events.Message"))

    try:
        template = Template(form)
        show({"Actor": {"ID": "", "Attributes": {}}})
    except (TemplateError, ExecutionError) as error:
        raise Failure(f"Error parsing format: {error}", 64) from None
    if form.strip() == "{{json .}}":
        return _event_format("json")
    return show


def _event_line(event: dict[str, Any]) -> str:
    import time

    nanoseconds = event["timeNano"]
    moment = time.localtime(nanoseconds // 10**9)
    zone = time.strftime("%z", moment)
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    when = time.strftime("%Y-%m-%dT%H:%M:%S", moment) + f".{nanoseconds % 10**9:09d}{zone}"
    actor = event["Actor"]
    attributes = ", ".join(f"{key}={value}" for key, value in sorted((actor.get("Attributes") or {}).items()))
    line = f"{when} {event['Type']} {event['Action']} {actor['ID']}"
    return f"{line} ({attributes})" if attributes else line


@usage(
    """
dockyard inspect [OPTIONS] NAME|ID [NAME|ID...]

Return low-level information on objects of any kind

Options:
  -f, --format string   'json' or a Go template
  -s, --size            Show the size of a container's files
      --type string     Only objects of this kind (container, image, network, volume, …)
"""
)
def inspect(session: Session, flags: Flags) -> int:
    """Prints JSON; a container is found before an image, a network or a volume of the same name."""
    wanted = flags.text("type")
    if flags.given("type") and wanted not in PLACES:
        known = ", ".join(f'"{kind}"' for kind in sorted(PLACES))
        problem = f'unknown type: "{wanted}"' if wanted else "type is empty"
        raise Failure(f"{problem}: must be one of {known}")
    output.check(flags.text("format"))
    found, failures = [], []
    for name in flags.arguments:
        for kind in [wanted] if wanted else INSPECTED:
            size = flags.on("size") and kind == "container"
            try:
                found.append(session.api.request("GET", path(*PLACES[kind](name), size=size)).json())
                break
            except APIError as error:
                unknown = error.status == 404 or error.message.startswith("invalid reference format")
                if wanted or not unknown:
                    failures.append(f"Error response from daemon: {error}")
                    break
        else:
            failures.append(f"Error: No such object: {name}")
    return output.inspected(found, failures, flags.text("format"))


PLACES: dict[str, Callable[[str], tuple[str, ...]]] = {
    "config": lambda name: ("/configs", name),
    "container": lambda name: ("/containers", name, "/json"),
    "image": lambda name: (f"/images/{name}/json",),
    "network": lambda name: ("/networks", name),
    "node": lambda name: ("/nodes", name),
    "plugin": lambda name: (f"/plugins/{name}/json",),
    "secret": lambda name: ("/secrets", name),
    "service": lambda name: ("/services", name),
    "task": lambda name: ("/tasks", name),
    "volume": lambda name: ("/volumes", name),
}


@usage(
    """
dockyard system dial-stdio

Join standard input and output to the engine: the far end of an ssh:// address
"""
)
def dial_stdio(session: Session, flags: Flags) -> int:
    """Moves bytes both ways until the engine has no more to say."""
    from dockyard.cli import terminal

    terminal.move(session.api.open(), b"", stdin=0, framed=False)
    return 0
