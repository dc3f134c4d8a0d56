"""What is asked about containers: ls, inspect, logs, diff, stats."""

from __future__ import annotations

import sys

from dockyard.cli import output
from dockyard.cli.errors import Failure
from dockyard.cli.session import Session, filters, path
from dockyard.cli.usage import Flags, usage
from dockyard.client.errors import APIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

COLUMNS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "RunningFor": "CREATED",
    "Status": "STATUS",
    "Ports": "PORTS",
    "Names": "NAMES",
}
# console_codes(4)
HOME, CLEAR_LINE, CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"
HEADINGS = {"CreatedAt": "CREATED AT", "LocalVolumes": "LOCAL VOLUMES", "Size": "SIZE"}


@usage(
    """
dockyard ps [OPTIONS]

List containers

Options:
  -a, --all             Show all containers (default shows just running)
  -f, --filter filter   Which ones (status=…, name=…, label=…, …)
      --format string   'table', 'table TEMPLATE', 'json' or a Go template
  -n, --last int        Show n last created containers, whatever their state (default -1)
  -l, --latest          Show the latest created container, whatever its state
      --no-trunc        Do not shorten anything
  -q, --quiet           Show IDs only
  -s, --size            Show the size of the files
"""
)
def ls(session: Session, flags: Flags) -> int:
    """Prints a table."""
    form, quiet = flags.text("format"), flags.on("quiet")
    if not form:
        form = session.setting("psFormat")
    elif quiet:
        print("WARNING: Ignoring custom format, because both --format and --quiet are set.", file=sys.stderr)
    _try_format(form)
    last = flags.number("last", -1)
    last = 1 if flags.on("latest") and last == -1 else last
    size = flags.on("size", default=not quiet and (".Size" in form or "json ." in form))
    found = session.api.request(
        "GET",
        path(
            "/containers/json",
            all=flags.on("all"),
            limit=last if last > 0 else None,
            size=size,
            filters=filters(flags),
        ),
    ).json()
    full = flags.on("no-trunc")
    if quiet:
        for container in found:
            print(container["Id"] if full else container["Id"][:12])
        return 0
    columns = dict(COLUMNS)
    if size:
        columns["Size"] = "SIZE"
    if form == "raw":
        form = RAW + ("size: {{.Size}}\n" if size else "")
    output.rows([row_of(container, full) for container in found], form, columns, HEADINGS, CONTEXT)
    return 0


def _quoted(text: str) -> str:
    """In quotes as Go puts them: what cannot be printed is escaped."""
    known = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    letters = (known.get(letter) or (letter if letter.isprintable() else f"\\x{ord(letter):02x}") for letter in text)
    return '"' + "".join(letters) + '"'


def _image(found: dict[str, Any], full: bool) -> str:
    image: str = found["Image"]
    if not image:
        return "<no image>"
    if full:
        return image
    short: str = found["ImageID"].removeprefix("sha256:")[:12]
    if image.removeprefix("sha256:")[:12] == short:
        return short
    return image.partition("@")[0]


RAW = """\
container_id: {{.ID}}
image: {{.Image}}
command: {{.Command}}
created_at: {{.CreatedAt}}
state: {{- pad .State 1 0}}
status: {{- pad .Status 1 0}}
names: {{.Names}}
labels: {{- pad .Labels 1 0}}
ports: {{- pad .Ports 1 0}}
"""
CONTEXT = "*formatter.ContainerContext"
_EMPTY = dict.fromkeys(
    (*COLUMNS, "CreatedAt", "State", "Size", "Labels", "Mounts", "LocalVolumes", "Networks", "Platform"), ""
)


def _try_format(form: str) -> None:
    """What is wrong with a template is said before the engine is asked. Raises Failure."""
    if "{{" not in form:
        return
    from dockyard.gotemplate.template import ExecutionError, Template, TemplateError

    try:
        Template(form).render(output.record({**_EMPTY, "Label": lambda name: ""}, CONTEXT))
    except TemplateError as error:
        raise Failure(f"failed to parse template: {error}") from None
    except ExecutionError as error:
        raise Failure(f"failed to execute template: {error}") from None


def row_of(found: dict[str, Any], full: bool) -> dict[str, Any]:
    """What `ps` shows of a container."""
    created = found["Created"]
    labels = found["Labels"] or {}
    mounts = [mount.get("Name") or mount.get("Source", "") for mount in found["Mounts"]]
    names = [name.removeprefix("/") for name in found["Names"] or []]
    size = output.size(found.get("SizeRw") or 0)
    if found.get("SizeRootFs"):
        size += f" (virtual {output.size(found['SizeRootFs'])})"
    return {
        "ID": found["Id"] if full else found["Id"][:12],
        "Image": _image(found, full),
        "Command": _quoted(found["Command"] if full else output.ellipsis(found["Command"], 20)),
        "CreatedAt": output.local_time(created),
        "RunningFor": output.since(created),
        "Ports": ports(found["Ports"] or []),
        "State": found["State"],
        "Status": found["Status"],
        "Size": size,
        "Names": ",".join(names if full else [name for name in names if "/" not in name][:1] or names),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Label": lambda key: labels.get(key, ""),
        "Mounts": ",".join(mount if full else output.ellipsis(mount, 15) for mount in mounts),
        "LocalVolumes": str(sum(1 for mount in found["Mounts"] if mount.get("Driver") == "local")),
        "Networks": ",".join(sorted((found["NetworkSettings"] or {}).get("Networks") or {})),
        "Platform": None,
    }


def ports(found: list[dict[str, Any]]) -> str:
    """`0.0.0.0:8000-8001->8000-8001/tcp, 90/tcp, 127.0.0.1:1234->80/tcp`: what `docker ps` says of ports.

    Neighbouring ports are joined when they are not published, or published under their own number.
    """
    spans: dict[str, list[int]] = {}
    shown, elsewhere = [], []
    for entry in sorted(found, key=_order):
        address, public, private = entry.get("IP") or "", entry.get("PublicPort") or 0, entry["PrivatePort"]
        place = f"[{address}]" if ":" in address else address
        if address and public != private:
            elsewhere.append(f"{place}:{public}->{private}/{entry['Type']}")
            continue
        key = f"{place}/{entry['Type']}"
        span = spans.get(key)
        if span is not None and private == span[1] + 1:
            span[1] = private
            continue
        if span is not None:
            shown.append(_span(key, span))
        spans[key] = [private, private]
    return ", ".join([*shown, *(_span(key, span) for key, span in spans.items()), *elsewhere])


def _order(entry: dict[str, Any]) -> tuple[int, str, int, str]:
    return entry["PrivatePort"], entry.get("IP") or "", entry.get("PublicPort") or 0, entry["Type"]


def _span(key: str, span: list[int]) -> str:
    place, _, protocol = key.rpartition("/")
    text = str(span[0]) if span[0] == span[1] else f"{span[0]}-{span[1]}"
    return f"{place}:{text}->{text}/{protocol}" if place else f"{text}/{protocol}"


@usage(
    """
dockyard container inspect [OPTIONS] CONTAINER [CONTAINER...]

Display detailed information on one or more containers

Options:
  -f, --format string   'json' or a Go template
  -s, --size            Show the size of the files
"""
)
def inspect(session: Session, flags: Flags) -> int:
    """Prints JSON."""
    size = flags.on("size")
    return inspect_each(session, flags, lambda name: path("/containers", name, "/json", size=size))


def inspect_each(session: Session, flags: Flags, place: Any) -> int:
    """Print what the API says at `place(name)` for every name; 1 when something was missing."""
    output.check(flags.text("format"))
    found, failures = [], []
    for name in flags.arguments:
        try:
            found.append(session.api.request("GET", place(name)).json())
        except APIError as error:
            failures.append(f"Error response from daemon: {error}")
    return output.inspected(found, failures, flags.text("format"))


@usage(
    """
dockyard logs [OPTIONS] CONTAINER

Fetch the logs of a container

Options:
      --details        Show the log driver's extra attributes
  -f, --follow         Go on showing what is written
      --since string   From this time on (2013-01-02T13:23:37Z, 42m)
  -n, --tail string    How many lines from the end (default "all")
  -t, --timestamps     Show the time of each line
      --until string   Up to this time (2013-01-02T13:23:37Z, 42m)
"""
)
def logs(session: Session, flags: Flags) -> int:
    """Writes the two streams to ours."""
    name = flags.arguments[0]
    # a terminal's log is not framed, and Docker says so in the container's own record only
    tty = session.api.request("GET", path("/containers", name, "/json")).json()["Config"]["Tty"]
    response = session.api.request(
        "GET",
        path(
            "/containers",
            name,
            "/logs",
            stdout=True,
            stderr=True,
            follow=flags.on("follow"),
            timestamps=flags.on("timestamps"),
            details=flags.on("details"),
            since=timestamp(flags, "since"),
            until=timestamp(flags, "until"),
            tail=flags.text("tail"),
        ),
    )
    from dockyard.cli import terminal

    terminal.copy_output(response.pieces(), framed=not tty)
    return 0


def timestamp(flags: Flags, name: str) -> str:
    """A flag's moment as seconds since 1970: RFC 3339, a date, UNIX seconds, or a duration back from now."""
    import time

    from dockyard.cli import values

    text = flags.text(name)
    if text in ("", "0"):  # not "0 seconds ago" (moby api/types/time, GetTimestamp)
        return text
    try:
        return f"{time.time() - values.duration(text) / 1e9:.9f}"
    except ValueError:
        pass
    if text.replace(".", "", 1).isdigit():
        return text
    try:
        from datetime import datetime

        when = datetime.fromisoformat(text)
    except ValueError:
        what = f'invalid value for "{name}": ' if flags.verb == "logs" else ""
        raise Failure(f'{what}failed to parse value as time or duration: "{text}"') from None
    return f"{when.timestamp():.9f}"


@usage(
    """
dockyard diff CONTAINER

Inspect changes to files or directories on a container's filesystem
"""
)
def diff(session: Session, flags: Flags) -> int:
    """Prints C, A or D and a path for each."""
    changes = session.api.request("GET", path("/containers", flags.arguments[0], "/changes")).json() or []
    for change in changes:
        print("CAD"[change["Kind"]], change["Path"])
    return 0


STATS = {
    "ID": "CONTAINER ID",
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
}


@usage(
    """
dockyard stats [OPTIONS] [CONTAINER...]

Display a live stream of container(s) resource usage statistics

Options:
  -a, --all             Show all containers (default shows just running)
      --format string   'table', 'table TEMPLATE', 'json' or a Go template
      --no-stream       Show one result and end
      --no-trunc        Do not shorten anything
"""
)
def stats(session: Session, flags: Flags) -> int:
    """Prints a table, again every second unless told not to."""
    from concurrent.futures import ThreadPoolExecutor
    from contextlib import redirect_stdout
    from io import StringIO

    full = flags.on("no-trunc")
    form = flags.text("format") or session.setting("statsFormat")
    for name in flags.arguments:
        session.api.request("GET", path("/containers", name, "/json")).read()

    def sample(name: str) -> dict[str, Any] | None:
        try:
            found = session.api.request("GET", path("/containers", name, "/stats", stream="0")).json()
            return {"Container": name if flags.arguments else name[:12], **_stats_row(found, full)}
        except APIError:
            return None

    def names() -> list[str]:
        listed = session.api.request("GET", path("/containers/json", all=flags.on("all"))).json()
        return flags.arguments or [container["Id"] for container in listed]

    redraw = not flags.on("no-stream") and form in ("", "table")
    with ThreadPoolExecutor(32) as pool:
        while True:
            rows = [row for row in pool.map(sample, names()) if row is not None]
            with redirect_stdout(StringIO()) as shown:
                output.rows(rows, form, STATS, {"Container": "CONTAINER"}, "*container.statsContext")
            text = shown.getvalue()
            if redraw:  # over what is there, not on an empty screen: that would flicker
                lines = "".join(f"{line}{CLEAR_LINE}\n" for line in text.splitlines())
                text = f"{HOME}{lines}{CLEAR_REST}"
            print(text, end="", flush=True)
            if flags.on("no-stream"):
                return 0


def _stats_row(found: dict[str, Any], full: bool) -> dict[str, Any]:
    now, before = found["cpu_stats"], found["precpu_stats"]
    used = now["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    passed = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    cpus = now.get("online_cpus") or len(now["cpu_usage"].get("percpu_usage") or []) or 1
    memory = found["memory_stats"]
    details = memory.get("stats") or {}
    # the page cache that can be dropped at once does not count: v1 and v2 name it differently
    idle = details.get("total_inactive_file", details.get("inactive_file", 0))
    usage_ = memory.get("usage", 0)
    usage_ = usage_ - idle if idle < usage_ else usage_
    limit = memory.get("limit", 0)
    networks = (found.get("networks") or {}).values()
    blocks = found["blkio_stats"].get("io_service_bytes_recursive") or []
    io = {way: sum(row["value"] for row in blocks if row["op"].lower() == way) for way in ("read", "write")}
    received = sum(network["rx_bytes"] for network in networks)
    sent = sum(network["tx_bytes"] for network in networks)
    return {
        "ID": found["id"] if full else found["id"][:12],
        "Name": found["name"].removeprefix("/"),
        "CPUPerc": f"{used / passed * cpus * 100 if used > 0 and passed > 0 else 0:.2f}%",
        "MemUsage": f"{output.binary_size(usage_)} / {output.binary_size(limit)}",
        "MemPerc": f"{usage_ / limit * 100 if limit else 0:.2f}%",
        "NetIO": f"{output.size(received)} / {output.size(sent)}",
        "BlockIO": f"{output.size(io['read'])} / {output.size(io['write'])}",
        "PIDs": str((found.get("pids_stats") or {}).get("current", 0)),
    }
