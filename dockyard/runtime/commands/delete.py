"""delete: remove what is left of a container."""

import os
import shutil

from dockyard.runtime.command_line.main import Session
from dockyard.runtime.command_line.usage import Flags, check_arguments

HELP = """\
NAME:
   dockyard-runc delete - delete any resources held by the container often used with detached container

USAGE:
   dockyard-runc delete [command options] <container-id>

Where "<container-id>" is the name of a container that has stopped, or with --force of any.

OPTIONS:
   --force, -f  kill the container first if it is still running; succeed when there is none
"""


def command(session: Session, flags: Flags) -> None:
    """Delete."""
    check_arguments("delete", flags.arguments, 1, 1)
    from dockyard.runtime.errors import RuntimeFailure
    from dockyard.runtime.lifecycle.handle import ContainerHandle

    name, force = flags.arguments[0], flags.on("force")
    container: ContainerHandle | None
    try:
        container = ContainerHandle.load(session.root, name)
    except RuntimeFailure:
        if not force or "/" in name or name in ("", ".", ".."):
            raise
        container = ContainerHandle.load_remains(session.root, name)
        if container is None:  # killed before it had made anything else, if there is anything
            shutil.rmtree(os.path.join(session.root, name), ignore_errors=True)
            return
    container.delete(force=force)
    for warning in container.warnings:
        session.log.warning(warning)
