"""Images: ls, inspect, history, tag, rm, save, load, import, prune."""

from __future__ import annotations

import sys

from dockyard.cli import output, progress
from dockyard.cli.archive_files import CHUNK, opened, save_to
from dockyard.cli.commands.observe import inspect_each
from dockyard.cli.errors import Failure
from dockyard.cli.image_names import platforms, split
from dockyard.cli.session import Session, confirm, filters, path, prune_filters
from dockyard.cli.usage import Flags, usage
from dockyard.client.errors import APIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

COLUMNS = {"Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID", "CreatedSince": "CREATED", "Size": "SIZE"}
HEADINGS = {
    "CreatedAt": "CREATED AT",
    "Digest": "DIGEST",
    "VirtualSize": "SIZE",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
}


@usage(
    """
dockyard images [OPTIONS] [REPOSITORY[:TAG]]

List images

Options:
  -a, --all             Show intermediate images too (default hides them)
      --digests         Show digests
  -f, --filter filter   Which ones (dangling=true, label=…, before=…, since=…, reference=…)
      --format string   'table', 'table TEMPLATE', 'json' or a Go template
      --no-trunc        Do not shorten anything
  -q, --quiet           Show IDs only
      --tree            Show the platforms of each image, and which of them are here
"""
)
def ls(session: Session, flags: Flags) -> int:
    """Prints a table, a row for each name of each image."""
    chosen = filters(flags)
    if flags.arguments:
        chosen.setdefault("reference", []).append(flags.arguments[0])
    tree = flags.on("tree")
    asked = path("/images/json", all=flags.on("all"), filters=chosen, manifests=tree, **{"shared-size": tree})
    found = session.api.request("GET", asked).json()
    found.sort(key=lambda image: -image["Created"])
    if tree:
        from dockyard.cli import image_tree

        image_tree.show(found, full=flags.on("no-trunc"))
        return 0
    form = flags.text("format") or session.setting("imagesFormat")
    shown = flags.on("digests") or "{{.Digest}}" in form
    rows = [row for image in found for row in rows_of(image, digests=shown, full=flags.on("no-trunc"))]
    if flags.on("quiet") and form in ("", "table"):
        for row in rows:
            print(row["ID"])
        return 0
    columns = dict(COLUMNS)
    if flags.on("digests"):
        columns = {"Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", **COLUMNS}
        if form.startswith("table") and "{{" in form and "{{.Digest}}" not in form:
            form += "\t{{.Digest}}"
    if form == "raw":
        form = "image_id: {{.ID}}" if flags.on("quiet") else RAW.replace("DIGEST", DIGEST if shown else "")
    output.rows(rows, form, columns, HEADINGS, "*formatter.imageContext")
    return 0


DIGEST = "digest: {{.Digest}}\n"
RAW = """\
repository: {{ .Repository }}
tag: {{.Tag}}
DIGESTimage_id: {{.ID}}
created_at: {{.CreatedAt}}
virtual_size: {{.Size}}
"""


def rows_of(image: dict[str, Any], *, digests: bool, full: bool) -> Iterator[dict[str, Any]]:
    """A row for each name of an image; with `digests` for each digest of the name, too."""
    tags = [split(name) for name in image.get("RepoTags") or [] if name != "<none>:<none>"]
    known: dict[str, list[str]] = {}
    for text in image.get("RepoDigests") or []:
        if text != "<none>@<none>":
            known.setdefault(text.partition("@")[0], []).append(text.partition("@")[2])
    names = [
        (name, tag, digest) for name, tag in tags for digest in (known.get(name) if digests else None) or ["<none>"]
    ]
    for name in known.keys() - {name for name, _ in tags}:
        names += [(name, "<none>", digest) for digest in (known[name] if digests else [""])]
    for name, tag, digest in names or [("<none>", "<none>", "<none>")]:
        shared = image.get("SharedSize", -1)
        yield {
            "Repository": name,
            "Tag": tag,
            "Digest": digest,
            "ID": image["Id"] if full else image["Id"].removeprefix("sha256:")[:12],
            "CreatedSince": output.since(image["Created"]),
            "CreatedAt": output.local_time(image["Created"]),
            "Size": output.size(image["Size"]),
            "VirtualSize": output.size(image["Size"], 4),
            "SharedSize": "N/A" if shared < 0 else output.size(shared, 4),
            "UniqueSize": "N/A" if shared < 0 else output.size(image["Size"] - shared, 4),
            "Containers": "N/A" if image.get("Containers", -1) < 0 else str(image["Containers"]),
        }


@usage(
    """
dockyard image inspect [OPTIONS] IMAGE [IMAGE...]

Display detailed information on one or more images

Options:
  -f, --format string     'json' or a Go template
      --platform string   Platform to choose from several
"""
)
def inspect(session: Session, flags: Flags) -> int:
    """Prints JSON."""
    return inspect_each(session, flags, lambda name: path(f"/images/{name}/json", platform=platforms(flags)))


@usage(
    """
dockyard history [OPTIONS] IMAGE

Show the history of an image

Options:
      --format string     'table', 'table TEMPLATE', 'json' or a Go template
  -H, --human             Sizes and times for people (default true)
      --no-trunc          Do not shorten anything
      --platform string   Platform to choose from several
  -q, --quiet             Show IDs only
"""
)
def history(session: Session, flags: Flags) -> int:
    """Prints a table, newest first."""
    full, human = flags.on("no-trunc"), flags.on("human", default=True)
    found = session.api.request("GET", path(f"/images/{flags.arguments[0]}/history", platform=platforms(flags))).json()
    rows = []
    for entry in found:
        identifier = entry["Id"] if full else entry["Id"].removeprefix("sha256:")[:12]
        command = (entry["CreatedBy"] or "").replace("\t", " ")
        created = output.since(entry["Created"]) if entry["Created"] > 0 else "N/A"
        rows.append(
            {
                "ID": identifier,
                "CreatedSince": created,
                "CreatedAt": output.rfc3339(entry["Created"]),
                "CreatedBy": command if full else output.ellipsis(command, 45),
                "Size": output.size(entry["Size"]) if human else str(entry["Size"]),
                "Comment": entry.get("Comment", ""),
            }
        )
    if flags.on("quiet"):
        for row in rows:
            print(row["ID"])
        return 0
    when = "CreatedSince" if human else "CreatedAt"
    columns = {
        "ID": "IMAGE",
        when: "CREATED" if human else "CREATED AT",
        "CreatedBy": "CREATED BY",
        "Size": "SIZE",
        "Comment": "COMMENT",
    }
    headings = {"CreatedAt": "CREATED AT", "CreatedSince": "CREATED"}
    output.rows(rows, flags.text("format"), columns, headings, "*image.historyContext")
    return 0


@usage(
    """
dockyard tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]

Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
"""
)
def tag(session: Session, flags: Flags) -> int:
    """Prints nothing."""
    source, target = flags.arguments
    name, label = split(target)
    try:
        session.api.request("POST", path(f"/images/{source}/tag", repo=name, tag=label)).read()
    except APIError as error:
        if not error.message.startswith("invalid reference format"):
            raise
        raise Failure(f'Error parsing reference: "{target}" is not a valid repository/tag: {error}') from None
    return 0


@usage(
    """
dockyard rmi [OPTIONS] IMAGE [IMAGE...]

Remove one or more images

Options:
  -f, --force              Remove it even if containers use it
      --no-prune           Keep untagged parents
      --platform strings   Platform to choose from several
"""
)
def rm(session: Session, flags: Flags) -> int:
    """Prints what was untagged and deleted."""
    force, keep = flags.on("force"), flags.on("no-prune")

    def one(name: str) -> None:
        place = path(f"/images/{name}", force=force, noprune=keep, platforms=platforms(flags))
        for row in session.api.request("DELETE", place).json():
            print(*(f"{word}: {value}" for word, value in row.items()), sep="\n")

    return session.each(flags.arguments, one, forgiven=404 if force else 0)


@usage(
    """
dockyard save [OPTIONS] IMAGE [IMAGE...]

Save one or more images to a tar archive (streamed to STDOUT by default)

Options:
  -o, --output string     File to write, instead of STDOUT
      --platform string   Platforms to choose from several, with commas between them
"""
)
def save(session: Session, flags: Flags) -> int:
    """Writes the archive."""
    target = flags.text("output")
    if not target and sys.stdout.isatty():
        raise Failure("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    save_to(
        target,
        session.api.request("GET", path("/images/get", names=flags.arguments, platform=platforms(flags))).pieces(),
        "failed to save image: ",
    )
    return 0


@usage(
    """
dockyard load [OPTIONS]

Load an image from a tar archive or STDIN

Options:
  -i, --input string      File to read, instead of STDIN
      --platform string   Platforms to choose from several, with commas between them
  -q, --quiet             Show the results only
"""
)
def load(session: Session, flags: Flags) -> int:
    """Prints the names of what was loaded."""
    source = flags.text("input")
    if not source and sys.stdin.isatty():
        raise Failure("requested load from stdin, but stdin is empty")
    quiet = flags.on("quiet") or not sys.stdout.isatty()
    with opened(source) if source else sys.stdin.buffer as file:
        response = session.api.request(
            "POST",
            path("/images/load", quiet="1" if quiet else "0", platform=platforms(flags)),
            iter(lambda: file.read(CHUNK), b""),
            headers={"Content-Type": "application/x-tar"},
        )
    progress.show(response.objects())
    return 0


@usage(
    """
dockyard import [OPTIONS] file|URL|- [REPOSITORY[:TAG]]

Import the contents from a tarball to create a filesystem image

Options:
  -c, --change list       Dockerfile instruction to apply
  -m, --message string    Message of the image's history
      --platform string   Platform of the image
"""
)
def import_(session: Session, flags: Flags) -> int:
    """Prints the image's ID."""
    source = flags.arguments[0]
    name, label = split(flags.arguments[1]) if len(flags.arguments) > 1 else ("", "")
    from_url = source.startswith(("http://", "https://"))
    place = path(
        "/images/create",
        fromSrc=source if from_url else "-",
        repo=name,
        tag=label,
        message=flags.text("message"),
        platform=flags.text("platform"),
        changes=flags.all("change"),
    )
    if from_url:
        response = session.api.request("POST", place)
    else:
        with opened(source) if source != "-" else sys.stdin.buffer as file:
            response = session.api.request("POST", place, iter(lambda: file.read(CHUNK), b""))
    progress.show(response.objects())
    return 0


@usage(
    """
dockyard image prune [OPTIONS]

Remove unused images

Options:
  -a, --all             All that no container uses, not just dangling ones
      --filter filter   Which ones (until=…, label=…)
  -f, --force           Do not ask
"""
)
def prune(session: Session, flags: Flags) -> int:
    """Prints what is gone and how much space that gave."""
    every = flags.on("all")
    what = "all images without at least one container associated to them" if every else "all dangling images"
    if not flags.on("force") and not confirm(f"WARNING! This will remove {what}."):
        return 0
    chosen = prune_filters(session, flags) | {"dangling": ["false" if every else "true"]}
    answer = session.api.request("POST", path("/images/prune", filters=chosen)).json()
    if answer["ImagesDeleted"]:
        print("Deleted Images:")
        for row in answer["ImagesDeleted"]:
            print(*(f"{word.lower()}: {value}" for word, value in row.items()), sep="\n")
        print()
    print(f"Total reclaimed space: {output.size(answer['SpaceReclaimed'], 4)}")
    return 0
