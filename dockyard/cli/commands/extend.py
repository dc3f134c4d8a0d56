"""What Docker's command line does not have: fork, and changes of containers that are there already."""

from __future__ import annotations

import os
import sys

from dockyard.cli import values
from dockyard.cli.errors import Failure
from dockyard.cli.session import Session, path
from dockyard.cli.usage import Flags, usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@usage(
    """
dockyard fork [OPTIONS] CONTAINER [NAME]

Make a second container that goes on from the files and the processes of the first

Options:
      --memory      Fail if the processes cannot be copied (else the program then begins anew, with a warning)
      --no-memory   Copy only files: the program begins anew
      --no-start    Do not start it, even if the first one runs
      --start       Start it, even if the first one does not run
"""
)
def fork(session: Session, flags: Flags) -> int:
    """Prints the ID, and warnings to stderr."""
    container, *name = flags.arguments
    start = 1 if flags.on("start") else 0 if flags.on("no-start") else None
    memory = 1 if flags.on("memory") else 0 if flags.on("no-memory") else None
    place = path("/dockyard/containers", container, "/fork", name=name[0] if name else "", start=start, memory=memory)
    forked = session.api.request("POST", place).json()
    for warning in forked["Warnings"] or []:
        print(f"WARNING: {warning}", file=sys.stderr)
    print(forked["Id"])
    return 0


def reconfiguration(flags: Flags) -> dict[str, Any]:
    """The body of POST /dockyard/containers/{id}/reconfigure that the flags of `update` ask for; {} for none."""
    from dockyard.cli.mounts import mount

    body: dict[str, Any] = {}
    try:
        if flags.given("publish-add"):
            body["PublishAdd"] = values.publish(flags.all("publish-add"))[1]
        if flags.given("env-add"):
            body["EnvAdd"] = values.environment(flags.all("env-add"), [])
        if flags.given("label-add"):
            body["LabelsAdd"] = values.pairs(flags.all("label-add"))
        for text in flags.all("mount-add"):
            # as --mount has it, or as --volume
            if "=" in text.partition(",")[0]:
                body.setdefault("MountsAdd", []).append(mount(text))
            else:
                source, colon, rest = text.partition(":")
                if source.startswith((".", "~")):
                    source = os.path.abspath(os.path.expanduser(source))
                body.setdefault("BindsAdd", []).append(source + colon + rest)
    except ValueError as error:
        raise Failure(str(error)) from None
    for name, key in (
        ("publish-rm", "PublishRemove"),
        ("env-rm", "EnvRemove"),
        ("label-rm", "LabelsRemove"),
        ("mount-rm", "MountsRemove"),
    ):
        if flags.given(name):
            body[key] = flags.all(name)
    return body
