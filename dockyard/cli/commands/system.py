"""The engine as a whole: version, info, events, df, prune, inspect."""

from __future__ import annotations

import sys

from dockyard.cli import output
from dockyard.cli.session import Failure, Session, confirm, filters, path
from dockyard.cli.usage import Flags, usage
from dockyard.client.errors import APIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

INSPECTED = ("container", "image", "network", "volume")


@usage(
    """
dockyard version [OPTIONS]

Show the version information

Options:
  -f, --format string   'json' or a Go template
"""
)
def version(session: Session, flags: Flags) -> int:
    """Prints the client's version and the engine's."""
    import platform

    from dockyard.version import VERSION

    server = session.api.request("GET", "/version").json()
    client = {
        "Version": VERSION,
        "ApiVersion": server["ApiVersion"],
        "PythonVersion": platform.python_version(),
        "Os": "linux",
        "Arch": server["Arch"],
        "Context": session.context,
    }
    if flags.text("format"):
        output.objects([{"Client": client, "Server": server}], flags.text("format"))
        return 0
    print("Client:")
    _pairs({"Version": VERSION, "API version": client["ApiVersion"], "Python version": client["PythonVersion"]}, 1)
    print(f"\nServer: {server.get('Platform', {}).get('Name', '')}")
    for component in server.get("Components") or []:
        print(f" {component['Name']}:")
        _pairs({"Version": component["Version"], **(component.get("Details") or {})}, 2)
    return 0


def _pairs(rows: dict[str, Any], indent: int) -> None:
    for key, value in rows.items():
        print(f"{' ' * indent}{key + ':':<{19 - indent}}{value}")


@usage(
    """
dockyard info [OPTIONS]

Display system-wide information

Options:
  -f, --format string   'json' or a Go template
"""
)
def info(session: Session, flags: Flags) -> int:
    """Prints what the engine says about itself."""
    found = session.api.request("GET", "/info").json()
    if flags.text("format"):
        output.objects([found], flags.text("format"))
        return 0
    from dockyard.version import VERSION

    print(f"Client:\n Version:    {VERSION}\n\nServer:")
    _info(found)
    for warning in found.get("Warnings") or []:
        print(warning, file=sys.stderr)
    return 0


def _info(found: dict[str, Any]) -> None:
    print(f" Containers: {found['Containers']}")
    for name in ("Running", "Paused", "Stopped"):
        print(f"  {name}: {found['Containers' + name]}")
    print(f" Images: {found['Images']}")
    print(f" Server Version: {found['ServerVersion']}")
    print(f" Storage Driver: {found['Driver']}")
    for key, value in found.get("DriverStatus") or []:
        print(f"  {key}: {value}")
    print(f" Logging Driver: {found['LoggingDriver']}")
    print(f" Cgroup Driver: {found['CgroupDriver']}")
    print(f" Cgroup Version: {found['CgroupVersion']}")
    print(" Plugins:")
    for kind in ("Volume", "Network", "Log"):
        print(f"  {kind}: {' '.join(found['Plugins'][kind] or [])}")
    print(f" Swarm: {(found.get('Swarm') or {}).get('LocalNodeState') or 'inactive'}")
    print(f" Runtimes: {' '.join(sorted(found['Runtimes']))}")
    print(f" Default Runtime: {found['DefaultRuntime']}")
    print(" Security Options:")
    for option in found["SecurityOptions"]:
        name, *more = option.split(",")
        print(f"  {name.removeprefix('name=')}")
        for pair in more:
            key, _, value = pair.partition("=")
            print(f"   {key.title()}: {value}")
    for label, key in {
        "Kernel Version": "KernelVersion",
        "Operating System": "OperatingSystem",
        "OSType": "OSType",
        "Architecture": "Architecture",
        "CPUs": "NCPU",
    }.items():
        print(f" {label}: {found[key]}")
    print(f" Total Memory: {output.binary_size(found['MemTotal'])}")
    print(f" Name: {found['Name']}\n ID: {found['ID']}\n Docker Root Dir: {found['DockerRootDir']}")
    print(f" Debug Mode: {str(found['Debug']).lower()}")
    print(f" Experimental: {str(found['ExperimentalBuild']).lower()}")
    registries = found.get("RegistryConfig") or {}
    insecure = [name for name, entry in (registries.get("IndexConfigs") or {}).items() if not entry["Secure"]]
    insecure += registries.get("InsecureRegistryCIDRs") or []
    if insecure:
        print(" Insecure Registries:", *insecure, sep="\n  ")
    if registries.get("Mirrors"):
        print(" Registry Mirrors:", *registries["Mirrors"], sep="\n  ")
    print(f" Live Restore Enabled: {str(found['LiveRestoreEnabled']).lower()}")


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

    form = flags.text("format")
    template = None
    if form and form != "json":
        from dockyard.cli.template import Template

        template = Template(form)
    place = path(
        "/events",
        since=timestamp(flags, "since"),
        until=timestamp(flags, "until"),
        filters=filters(flags.all("filter")),
    )
    for event in session.api.request("GET", place).objects():
        if template is not None:
            print(template.render({**event, "ID": event["Actor"]["ID"]}), flush=True)
        elif form:
            import json

            print(json.dumps(event, separators=(",", ":")), flush=True)
        else:
            print(_event_line(event), flush=True)
    return 0


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
      --type string     Only objects of this kind (container, image, network, volume)
"""
)
def inspect(session: Session, flags: Flags) -> int:
    """Prints JSON; a container is found before an image, a network or a volume of the same name."""
    wanted = flags.text("type")
    if wanted and wanted not in INSPECTED:
        raise Failure(f'"{wanted}" is not a valid value for --type')
    output.check(flags.text("format"))
    found, failures = [], []
    for name in flags.arguments:
        for kind in [wanted] if wanted else INSPECTED:
            try:
                found.append(session.api.request("GET", _place(kind, name, flags.on("size"))).json())
                break
            except APIError as error:
                if error.status != 404:
                    raise
        else:
            failures.append(f"error: no such {wanted or 'object'}: {name}")
    return output.inspected(found, failures, flags.text("format"))


def _place(kind: str, name: str, size: bool) -> str:
    if kind in ("container", "image"):
        return path(f"/{kind}s", name, "/json", size=size and kind == "container")
    return path(f"/{kind}s", name)


DF_COLUMNS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}


@usage(
    """
dockyard system df [OPTIONS]

Show disk usage

Options:
      --format string   'table', 'table TEMPLATE', 'json' or a Go template
  -v, --verbose         Show every image, container and volume
"""
)
def df(session: Session, flags: Flags) -> int:
    """Prints how much space images, containers, volumes and the build cache take."""
    found = session.api.request("GET", "/system/df").json()
    if flags.on("verbose"):
        _df_verbose(found)
        return 0
    images, containers = found["Images"] or [], found["Containers"] or []
    volumes, cache = found["Volumes"] or [], found["BuildCache"] or []
    used = [image for image in images if image["Containers"] > 0]
    layers = found["LayersSize"]
    free = layers - sum(image["Size"] - max(image["SharedSize"], 0) for image in used)
    running = [row for row in containers if row["State"] in ("running", "paused", "restarting")]
    idle = [row for row in containers if row not in running]
    linked = [volume for volume in volumes if (volume.get("UsageData") or {}).get("RefCount", 0) > 0]
    rows = [
        _df_row("Images", len(images), len(used), layers, free if images else 0),
        _df_row("Containers", len(containers), len(running), _rw(containers), _rw(idle)),
        _df_row("Local Volumes", len(volumes), len(linked), _used(volumes), _used(volumes) - _used(linked)),
        _df_row(
            "Build Cache",
            len(cache),
            sum(1 for entry in cache if entry["InUse"]),
            sum(entry["Size"] for entry in cache),
            sum(entry["Size"] for entry in cache if not entry["InUse"] and not entry.get("Shared")),
            percent=False,
        ),
    ]
    output.rows(rows, flags.text("format"), DF_COLUMNS)
    return 0


def _rw(containers: list[dict[str, Any]]) -> int:
    return sum(container.get("SizeRw") or 0 for container in containers)


def _used(volumes: list[dict[str, Any]]) -> int:
    return sum(max((volume.get("UsageData") or {}).get("Size", 0), 0) for volume in volumes)


def _df_row(kind: str, total: int, active: int, size: int, free: int, *, percent: bool = True) -> dict[str, Any]:
    share = f" ({int(free * 100 / size)}%)" if percent and size > 0 else ""
    return {
        "Type": kind,
        "TotalCount": str(total),
        "Active": str(active),
        "Size": output.size(size, 4),
        "Reclaimable": output.size(max(free, 0), 4) + share,
    }


def _df_verbose(found: dict[str, Any]) -> None:
    from dockyard.cli.commands.transfer import split

    print("Images space usage:\n")
    rows = [["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS"]]
    for image in found["Images"] or []:
        name, tag = split((image["RepoTags"] or ["<none>:<none>"])[0])
        size, shared = image["Size"], max(image["SharedSize"], 0)
        sizes = [output.size(size), output.size(shared), output.size(size - shared, 4)]
        identifier = image["Id"].removeprefix("sha256:")[:12]
        rows.append([name, tag, identifier, output.since(image["Created"]), *sizes, str(image["Containers"])])
    output.table(rows)
    print("\nContainers space usage:\n")
    rows = [["CONTAINER ID", "IMAGE", "COMMAND", "LOCAL VOLUMES", "SIZE", "CREATED", "STATUS", "NAMES"]]
    for container in found["Containers"] or []:
        local = sum(1 for mount in container["Mounts"] if mount.get("Driver") == "local")
        command = f'"{output.ellipsis(container["Command"], 20)}"'
        when, names = output.since(container["Created"]), ",".join(name.lstrip("/") for name in container["Names"])
        shown = [str(local), output.size(container.get("SizeRw") or 0), when, container["Status"], names]
        rows.append([container["Id"][:12], container["Image"], command, *shown])
    output.table(rows)
    print("\nLocal Volumes space usage:\n")
    rows = [["VOLUME NAME", "LINKS", "SIZE"]]
    for volume in found["Volumes"] or []:
        data = volume.get("UsageData") or {}
        rows.append([volume["Name"], str(data.get("RefCount", 0)), output.size(max(data.get("Size", 0), 0), 4)])
    output.table(rows)
    cache = found["BuildCache"] or []
    print(f"\nBuild cache usage: {output.size(sum(entry['Size'] for entry in cache), 4)}\n")
    rows = [["CACHE ID", "CACHE TYPE", "SIZE", "CREATED", "LAST USED", "USAGE", "SHARED"]]
    for entry in cache:
        created = output.since(output.moment(entry["CreatedAt"]))
        used = output.since(output.moment(entry["LastUsedAt"])) if entry.get("LastUsedAt") else ""
        shown = [output.size(entry["Size"]), created, used, str(entry["UsageCount"]), str(entry["Shared"]).lower()]
        rows.append([entry["ID"][:12], entry["Type"], *shown])
    output.table(rows)


@usage(
    """
dockyard system prune [OPTIONS]

Remove unused data

Options:
  -a, --all             All unused images, not just dangling ones
      --filter filter   Which objects (until=…, label=…)
  -f, --force           Do not ask
      --volumes         Anonymous volumes too
"""
)
def prune(session: Session, flags: Flags) -> int:
    """Prints what is gone and how much space that gave."""
    every, volumes = flags.on("all"), flags.on("volumes")
    chosen = filters(flags.all("filter"))
    if volumes and "until" in chosen:
        raise Failure('ERROR: The "until" filter is not supported with "--volumes"')
    parts = ["all stopped containers", "all networks not used by at least one container"]
    parts += ["all anonymous volumes not used by at least one container"] if volumes else []
    parts += ["all images without at least one container associated to them" if every else "all dangling images"]
    parts += ["all build cache" if every else "unused build cache"]
    warning = "WARNING! This will remove:\n" + "\n".join(f"  - {part}" for part in parts) + "\n"
    if not flags.on("force") and not confirm(warning):
        return 0
    freed = 0
    for kind, title, key in (
        ("containers", "Deleted Containers:", "ContainersDeleted"),
        ("networks", "Deleted Networks:", "NetworksDeleted"),
        ("volumes", "Deleted Volumes:", "VolumesDeleted"),
        ("images", "Deleted Images:", "ImagesDeleted"),
    ):
        if kind == "volumes" and not volumes:
            continue
        asked = chosen | ({"dangling": ["false"]} if kind == "images" and every else {})
        answer = session.api.request("POST", path(f"/{kind}/prune", filters=asked)).json()
        freed += answer.get("SpaceReclaimed", 0)
        gone = answer[key] or []
        if gone:
            print(title)
            for row in gone:
                lines = [row] if isinstance(row, str) else [f"{word.lower()}: {value}" for word, value in row.items()]
                print(*lines, sep="\n")
            print()
    freed += _prune_build_cache(session, every, chosen)
    print(f"Total reclaimed space: {output.size(freed, 4)}")
    return 0


def _prune_build_cache(session: Session, every: bool, chosen: dict[str, list[str]]) -> int:
    answer = session.api.request("POST", path("/build/prune", all=every, filters=chosen)).json()
    if answer.get("CachesDeleted"):
        print("Deleted build cache objects:", *answer["CachesDeleted"], "", sep="\n")
    freed: int = answer.get("SpaceReclaimed", 0)
    return freed


@usage(
    """
dockyard builder prune [OPTIONS]

Remove build cache

Options:
  -a, --all                  All of it, not just what dangles
      --filter filter        Which ones (until=24h)
  -f, --force                Do not ask
      --keep-storage bytes   Space that the cache may keep
"""
)
def builder_prune(session: Session, flags: Flags) -> int:
    """Prints how much space that gave."""
    every = flags.on("all")
    what = "all build cache" if every else "all dangling build cache"
    if not flags.on("force") and not confirm(f"WARNING! This will remove {what}."):
        return 0
    print(f"Total reclaimed space: {output.size(_prune_build_cache(session, every, filters(flags.all('filter'))), 4)}")
    return 0
