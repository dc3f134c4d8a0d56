"""Checkpoints of running containers: create, ls, rm."""

from __future__ import annotations

from dockyard.cli import output
from dockyard.cli.session import Session, path
from dockyard.cli.usage import Flags, usage


@usage(
    """
dockyard checkpoint create [OPTIONS] CONTAINER CHECKPOINT

Create a checkpoint from a running container

Options:
      --checkpoint-dir string   Folder to keep it in
      --leave-running           Let the container run on
"""
)
def create(session: Session, flags: Flags) -> int:
    """Prints the checkpoint's name."""
    container, name = flags.arguments
    body = {
        "CheckpointID": name,
        "CheckpointDir": flags.text("checkpoint-dir"),
        "Exit": not flags.on("leave-running"),
    }
    session.api.request("POST", path("/containers", container, "/checkpoints"), body).read()
    print(name)
    return 0


@usage(
    """
dockyard checkpoint ls [OPTIONS] CONTAINER

List checkpoints for a container

Options:
      --checkpoint-dir string   Folder they are kept in
"""
)
def ls(session: Session, flags: Flags) -> int:
    """Prints a table."""
    place = path("/containers", flags.arguments[0], "/checkpoints", dir=flags.text("checkpoint-dir"))
    found = session.api.request("GET", place).json() or []
    output.table([["CHECKPOINT NAME"], *([row["Name"]] for row in found)])
    return 0


@usage(
    """
dockyard checkpoint rm [OPTIONS] CONTAINER CHECKPOINT

Remove a checkpoint

Options:
      --checkpoint-dir string   Folder it is kept in
"""
)
def rm(session: Session, flags: Flags) -> int:
    """Prints nothing."""
    container, name = flags.arguments
    folder = flags.text("checkpoint-dir")
    session.api.request("DELETE", path("/containers", container, "/checkpoints", name, dir=folder)).read()
    return 0
