"""Volumes: create, ls, inspect, rm, prune."""

from __future__ import annotations

from dockyard.cli import output, values
from dockyard.cli.commands.observe import inspect_each
from dockyard.cli.session import Session, confirm, filters, path, prune_filters
from dockyard.cli.usage import Flags, usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@usage(
    """
dockyard volume create [OPTIONS] [VOLUME]

Create a volume

Options:
  -d, --driver string   Volume driver (default "local")
      --label list      Labels
  -o, --opt map         Options of the driver
"""
)
def create(session: Session, flags: Flags) -> int:
    """Prints the name."""
    body = {
        "Name": flags.arguments[0] if flags.arguments else "",
        "Driver": flags.text("driver", "local"),
        "DriverOpts": values.pairs(flags.all("opt")),
        "Labels": values.pairs(flags.all("label")),
    }
    print(session.api.request("POST", "/volumes/create", body).json()["Name"])
    return 0


@usage(
    """
dockyard volume ls [OPTIONS]

List volumes

Options:
  -f, --filter filter   Which ones (dangling=true, driver=…, label=…, name=…)
      --format string   'table', 'table TEMPLATE', 'json' or a Go template
  -q, --quiet           Show names only
"""
)
def ls(session: Session, flags: Flags) -> int:
    """Prints a table."""
    found = session.api.request("GET", path("/volumes", filters=filters(flags))).json()["Volumes"] or []
    found.sort(key=lambda volume: volume["Name"])
    form = flags.text("format") or session.setting("volumesFormat") * (not flags.on("quiet"))
    if flags.on("quiet") and form in ("", "table"):
        for volume in found:
            print(volume["Name"])
        return 0
    rows = [row_of(volume) for volume in found]
    if form == "raw":
        form = "name: {{.Name}}" if flags.on("quiet") else "name: {{.Name}}\ndriver: {{.Driver}}\n"
    output.rows(rows, form, {"Driver": "DRIVER", "Name": "VOLUME NAME"}, {}, "*formatter.volumeContext")
    return 0


def row_of(volume: dict[str, Any]) -> dict[str, Any]:
    """What `volume ls` shows of a volume."""
    labels = volume.get("Labels") or {}
    data = volume.get("UsageData")
    return {
        "Driver": volume["Driver"],
        "Name": volume["Name"],
        "Mountpoint": volume["Mountpoint"],
        "Scope": volume["Scope"],
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Label": lambda key: labels.get(key, ""),
        "Links": str(data["RefCount"]) if data else "N/A",
        "Size": output.size(max(data["Size"], 0), 4) if data else "N/A",
        "Availability": "N/A",
        "Group": "N/A",
        "Status": "N/A",
    }


@usage(
    """
dockyard volume inspect [OPTIONS] VOLUME [VOLUME...]

Display detailed information on one or more volumes

Options:
  -f, --format string   'json' or a Go template
"""
)
def inspect(session: Session, flags: Flags) -> int:
    """Prints JSON."""
    return inspect_each(session, flags, lambda name: path("/volumes", name))


@usage(
    """
dockyard volume rm [OPTIONS] VOLUME [VOLUME...]

Remove one or more volumes

Options:
  -f, --force   Whatever the driver says
"""
)
def rm(session: Session, flags: Flags) -> int:
    """Prints the names."""

    def one(name: str) -> None:
        session.api.request("DELETE", path("/volumes", name, force=flags.on("force"))).read()
        print(name)

    return session.each(flags.arguments, one)


@usage(
    """
dockyard volume prune [OPTIONS]

Remove unused local volumes

Options:
  -a, --all             Those with names too, not just anonymous ones
      --filter filter   Which ones (label=…)
  -f, --force           Do not ask
"""
)
def prune(session: Session, flags: Flags) -> int:
    """Prints what is gone and how much space that gave."""
    kind = "all local volumes" if flags.on("all") else "anonymous local volumes"
    question = f"WARNING! This will remove {kind} not used by at least one container."
    if not flags.on("force") and not confirm(question):
        return 0
    chosen = prune_filters(session, flags) | ({"all": ["true"]} if flags.on("all") else {})
    answer = session.api.request("POST", path("/volumes/prune", filters=chosen)).json()
    if answer["VolumesDeleted"]:
        print("Deleted Volumes:", *answer["VolumesDeleted"], "", sep="\n")
    print(f"Total reclaimed space: {output.size(answer['SpaceReclaimed'], 4)}")
    return 0
