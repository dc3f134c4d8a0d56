"""pause: stop every process of a container where it is."""

from dockyard.runtime.command_line.main import Session
from dockyard.runtime.command_line.usage import Flags, check_arguments

HELP = """\
NAME:
   dockyard-runc pause - pause suspends all processes inside the container

USAGE:
   dockyard-runc pause <container-id>

Where "<container-id>" is the name of the container.
"""


def command(session: Session, flags: Flags) -> None:
    """Pause."""
    check_arguments("pause", flags.arguments, 1, 1)
    from dockyard.runtime.lifecycle.handle import ContainerHandle

    ContainerHandle.load(session.root, flags.arguments[0]).pause()
