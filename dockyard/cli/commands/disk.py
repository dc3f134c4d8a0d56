"""Disk space: `system df`, `system prune` and `builder prune`."""

from __future__ import annotations

from dockyard.cli import output
from dockyard.cli.errors import Failure
from dockyard.cli.session import Session, confirm, path, prune_filters
from dockyard.cli.usage import Flags, usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

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
    form = flags.text("format")
    if form not in ("", "table", "json", "raw"):
        output.parsed(form.removeprefix("table"))
    found = session.api.request("GET", "/system/df").json()
    if flags.on("verbose"):
        _verbose(found, form)
    else:
        output.rows(
            list(_summary(found)), RAW if form == "raw" else form, DF_COLUMNS, kind="*formatter.diskUsageImagesContext"
        )
    return 0


RAW = """\
type: {{.Type}}
total: {{.TotalCount}}
active: {{.Active}}
size: {{.Size}}
reclaimable: {{.Reclaimable}}
"""


def _summary(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    images, containers = found["Images"] or [], found["Containers"] or []
    volumes, cache = found["Volumes"] or [], found["BuildCache"] or []
    used = [image for image in images if image["Containers"] > 0]
    layers = found["LayersSize"]
    free = layers - sum(image["Size"] - max(image["SharedSize"], 0) for image in used)
    running = [row for row in containers if row["State"] in ("running", "paused", "restarting")]
    idle = [row for row in containers if row not in running]
    linked = [volume for volume in volumes if (volume.get("UsageData") or {}).get("RefCount", 0) > 0]
    unused = [entry for entry in cache if not entry["InUse"]]
    yield _row("Images", len(images), len(used), layers, free if images else 0)
    yield _row("Containers", len(containers), len(running), _rw(containers), _rw(idle))
    yield _row("Local Volumes", len(volumes), len(linked), _used(volumes), _used(volumes) - _used(linked))
    total = sum(entry["Size"] for entry in cache)
    reclaimable = sum(entry["Size"] for entry in unused if not entry.get("Shared"))
    yield _row("Build Cache", len(cache), len(cache) - len(unused), total, reclaimable, percent=False)


def _rw(containers: list[dict[str, Any]]) -> int:
    return sum(container.get("SizeRw") or 0 for container in containers)


def _used(volumes: list[dict[str, Any]]) -> int:
    return sum(max((volume.get("UsageData") or {}).get("Size", 0), 0) for volume in volumes)


def _row(kind: str, total: int, active: int, size: int, free: int, *, percent: bool = True) -> dict[str, Any]:
    share = f" ({int(free * 100 / size)}%)" if percent and size > 0 else ""
    return {
        "Type": kind,
        "TotalCount": str(total),
        "Active": str(active),
        "Size": output.size(size, 4),
        "Reclaimable": output.size(max(free, 0), 4) + share,
    }


IMAGES = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "Size": "SIZE",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "Containers": "CONTAINERS",
}
CONTAINERS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "LocalVolumes": "LOCAL VOLUMES",
    "Size": "SIZE",
    "RunningFor": "CREATED",
    "Status": "STATUS",
    "Names": "NAMES",
}
VOLUMES = {"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}
CACHE = {
    "ID": "CACHE ID",
    "CacheType": "CACHE TYPE",
    "Size": "SIZE",
    "CreatedSince": "CREATED",
    "LastUsedSince": "LAST USED",
    "UsageCount": "USAGE",
    "Shared": "SHARED",
}


def _verbose(found: dict[str, Any], form: str) -> None:
    """Every image, container, volume and cache entry."""
    from dockyard.cli.commands import image, observe, volume

    full = form not in ("", "table")
    images = [
        {**next(image.rows_of(entry, digests=False, full=full)), "Digest": ""}  # of several names the first
        for entry in found["Images"] or []
    ]
    containers = [observe.row_of(entry, full) for entry in found["Containers"] or []]
    for row in containers:
        row["Size"] = row["Size"].partition(" (")[0] if not full else row["Size"]
    volumes = [volume.row_of(entry) for entry in found["Volumes"] or []]
    cache = [_cache_row(entry, full) for entry in found["BuildCache"] or []]
    if full:
        named = {"Images": images, "Containers": containers, "Volumes": volumes, "BuildCache": cache}
        _by_format(named, form)
        return
    print("Images space usage:\n")
    output.rows(images, "", IMAGES)
    print("\nContainers space usage:\n")
    output.rows(containers, "", CONTAINERS)
    print("\nLocal Volumes space usage:\n")
    output.rows(volumes, "", VOLUMES)
    total = sum(entry["Size"] for entry in found["BuildCache"] or [])
    print(f"\nBuild cache usage: {output.size(total, 4)}\n")
    output.rows(cache, "", CACHE)


def _by_format(named: dict[str, list[dict[str, Any]]], form: str) -> None:
    if form in ("json", "{{json .}}"):
        parts = (f'"{kind}":[{",".join(output.row_json(row) for row in rows)}]' for kind, rows in named.items())
        print("{" + ",".join(parts) + "}")
        return
    from dockyard.gotemplate.template import ExecutionError

    records = {kind: [output.record(row, "formatter.Context") for row in rows] for kind, rows in named.items()}
    try:
        print(output.parsed(form).render(output.record(records, "*formatter.diskUsageContext")), end="")
    except ExecutionError as error:
        raise Failure(f"template parsing error: {error}") from None


def _cache_row(entry: dict[str, Any], full: bool) -> dict[str, Any]:
    used = entry.get("LastUsedAt") or ""
    return {
        "ID": (entry["ID"] if full else entry["ID"][:12]) + ("*" if entry.get("InUse") else ""),
        "Parent": entry.get("Parent", ""),
        "CacheType": entry["Type"],
        "Description": entry.get("Description", ""),
        "InUse": str(entry["InUse"]).lower(),
        "Shared": str(entry["Shared"]).lower(),
        "Size": output.size(entry["Size"]),
        "CreatedAt": output.exact_time(entry["CreatedAt"]),
        "CreatedSince": output.since(output.moment(entry["CreatedAt"])),
        "LastUsedAt": output.exact_time(used) if used else "",
        "LastUsedSince": output.since(output.moment(used)) if used else "",
        "UsageCount": str(entry["UsageCount"]),
    }


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
    chosen = prune_filters(session, flags)
    if volumes and "until" in chosen:
        raise Failure('ERROR: The "until" filter is not supported with "--volumes"')
    parts = ["all stopped containers", "all networks not used by at least one container"]
    parts += ["all anonymous volumes not used by at least one container"] if volumes else []
    parts += ["all images without at least one container associated to them" if every else "all dangling images"]
    parts += ["all build cache" if every else "unused build cache"]
    warning = "WARNING! This will remove:\n" + "\n".join(f"  - {part}" for part in parts) + "\n"
    if chosen:
        named = [f"  - {name}={value}" for name, given in sorted(chosen.items()) for value in given]
        warning += "\n  Items to be pruned will be filtered with:\n" + "\n".join(named) + "\n"
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
    if not flags.on("force") and not confirm(f"WARNING! This will remove {what}.", " "):
        return 0
    print(f"Total reclaimed space: {output.size(_prune_build_cache(session, every, prune_filters(session, flags)), 4)}")
    return 0
