"""create: make a container from a bundle, up to the point before its program runs."""

from dockyard.runtime.command_line.main import Session
from dockyard.runtime.command_line.usage import Flags, check_arguments
from dockyard.runtime.errors import RuntimeFailure

HELP = """\
NAME:
   dockyard-runc create - create a container

USAGE:
   dockyard-runc create [command options] <container-id>

Where "<container-id>" is your name for the new container. It must be unique on your host.

DESCRIPTION:
   Makes a container of a bundle, a directory with a "config.json" and a root file system, up to the point where its
program would run: "start" lets it.

OPTIONS:
   --bundle value, -b value  path to the bundle, defaults to the current directory
   --console-socket value    path to an AF_UNIX socket that will receive the master end of the container's terminal
   --pidfd-socket value      path to an AF_UNIX socket that will receive a pidfd of the container's first process
   --pid-file value          file to write the process id to
   --no-pivot                change the root without pivot_root, as is needed when the root is on a ramdisk
   --no-new-keyring          leave the container the caller's session keyring instead of making it one of its own
   --preserve-fds value      pass N file descriptors to the container besides stdio and $LISTEN_FDS (default: 0)
"""


def command(session: Session, flags: Flags) -> int:
    """Create; the container outlives us."""
    check_arguments("create", flags.arguments, 1, 1)
    from dockyard.runtime.command_line import launch

    try:
        launch.create(session, flags)
    except RuntimeFailure as failure:
        raise launch.not_started("create", failure) from failure
    return 0
