"""resume: let the processes of a paused container go on."""

from dockyard.runtime.command_line.main import Session
from dockyard.runtime.command_line.usage import Flags, check_arguments

HELP = """\
NAME:
   dockyard-runc resume - resumes all processes that have been previously paused

USAGE:
   dockyard-runc resume <container-id>

Where "<container-id>" is the name of the container.
"""


def command(session: Session, flags: Flags) -> None:
    """Resume."""
    check_arguments("resume", flags.arguments, 1, 1)
    from dockyard.runtime.lifecycle.handle import ContainerHandle

    ContainerHandle.load(session.root, flags.arguments[0]).resume()
