"""`pull`, `push` and `search`."""

from __future__ import annotations

import os
import sys

from dockyard.cli import output, progress
from dockyard.cli.errors import Failure
from dockyard.cli.image_names import full_name, image_problem, platforms, split
from dockyard.cli.session import Session, filters, path
from dockyard.cli.usage import Flags, usage
from dockyard.client import credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO


def pull_image(
    session: Session, image: str, *, platform: str, quiet: bool, to: TextIO, every_tag: bool = False
) -> None:
    """Pull and show how it goes."""
    name, tag = split(image)
    untagged = not tag and not every_tag
    tag = "latest" if untagged else tag
    if untagged and not quiet and to is sys.stdout and not image_problem(image):
        print("Using default tag: latest", flush=True)
    response = session.api.request(
        "POST",
        path("/images/create", fromImage=name, tag="" if every_tag else tag, platform=platform),
        headers=credentials.header(session.config_folder, image),
    )
    progress.show(response.objects(), to, quiet=quiet)


@usage(
    """
dockyard pull [OPTIONS] NAME[:TAG|@DIGEST]

Download an image from a registry

Options:
  -a, --all-tags                Download all tags of the repository
      --disable-content-trust   Accepted for compatibility (default true)
      --platform string         Platform to choose from several
  -q, --quiet                   Show no progress
"""
)
def pull(session: Session, flags: Flags) -> int:
    """Prints the image's full name at the end."""
    image = flags.arguments[0]
    every = flags.on("all-tags")
    if every and split(image)[1]:
        raise Failure("tag can't be used with --all-tags/-a")
    quiet = flags.on("quiet")
    platform = flags.text("platform") or os.environ.get("DOCKER_DEFAULT_PLATFORM", "")
    pull_image(
        session,
        image,
        platform=platform,
        quiet=quiet,
        to=sys.stdout,
        every_tag=every,
    )
    print(full_name(image))
    return 0


PUSHED_ALONE = "Not all multiplatform-content is present and only the available single-platform image was pushed"


@usage(
    """
dockyard push [OPTIONS] NAME[:TAG]

Upload an image to a registry

Options:
  -a, --all-tags                Push all tags of the repository
      --disable-content-trust   Accepted for compatibility (default true)
      --platform string         Platform to choose from several
  -q, --quiet                   Show no progress
"""
)
def push(session: Session, flags: Flags) -> int:
    """Shows what is pushed."""
    image = flags.arguments[0]
    name, tag = split(image)
    every = flags.on("all-tags")
    if every and tag:
        raise Failure("tag can't be used with --all-tags/-a")
    untagged = not tag and not every
    tag = "latest" if untagged else tag
    if untagged and not flags.on("quiet") and not image_problem(image):
        print("Using default tag: latest", flush=True)
    response = session.api.request(
        "POST",
        path(f"/images/{name}/push", tag=tag, platform=platforms(flags)),
        headers=credentials.header(session.config_folder, image),
    )
    told = progress.show(response.objects(), quiet=flags.on("quiet"))
    if flags.on("quiet"):
        print(full_name(image))
    for note in told:
        if note.get("manifestPushedInsteadOfIndex"):
            before, now = note["originalIndex"]["digest"], note["selectedManifest"]["digest"]
            print(f"\n Info -> {PUSHED_ALONE}\n         {before} -> {now}", file=sys.stderr)
    return 0


@usage(
    """
dockyard search [OPTIONS] TERM

Search Docker Hub for images

Options:
  -f, --filter filter   Which ones (is-official=true, stars=3)
      --format string   'table', 'table TEMPLATE', 'json' or a Go template
      --limit int       How many at most
      --no-trunc        Do not shorten anything
"""
)
def search(session: Session, flags: Flags) -> int:
    """Prints a table."""
    term = flags.arguments[0]
    found = session.api.request(
        "GET",
        path("/images/search", term=term, limit=flags.number("limit"), filters=filters(flags)),
        headers=credentials.header(session.config_folder, term),
    ).json()
    rows = []
    for entry in found or []:
        description = (entry.get("description") or "").replace("\n", " ").replace("\r", " ")
        rows.append(
            {
                "Name": entry["name"],
                "Description": description if flags.on("no-trunc") else output.ellipsis(description, 45),
                "StarCount": str(entry["star_count"]),
                "IsOfficial": "[OK]" if entry["is_official"] else "",
            }
        )
    columns = {"Name": "NAME", "Description": "DESCRIPTION", "StarCount": "STARS", "IsOfficial": "OFFICIAL"}
    output.rows(rows, flags.text("format"), columns)
    return 0
