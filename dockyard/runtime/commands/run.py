"""run: create a container and start it, and watch it until it ends unless `--detach` says not to."""

from dockyard.runtime.command import Session
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.usage import Flags, check_arguments

HELP = """\
NAME:
   dockyard-runc run - create and run a container

USAGE:
   dockyard-runc run [command options] <container-id>
   dockyard-runc run --rootfs DIR [command options] COMMAND [ARG...]

Where "<container-id>" is your name for the new container. It must be unique on your host.

DESCRIPTION:
   Makes a container of a bundle, a directory with a "config.json" and a root file system, runs its program and, unless
told to detach, waits for its end, passes its exit status on and deletes it.

With --rootfs there need not be a bundle: the directory is the container's root, and the command is run in it.

OPTIONS:
   --bundle value, -b value  path to the bundle, defaults to the current directory
   --console-socket value    path to an AF_UNIX socket that will receive the master end of the container's terminal
   --pidfd-socket value      path to an AF_UNIX socket that will receive a pidfd of the container's first process
   --detach, -d              leave the container running and return
   --keep                    do not delete the container after it has ended
   --pid-file value          file to write the process id to
   --no-subreaper            do not become the parent of the container's orphans
   --no-pivot                change the root without pivot_root, as is needed when the root is on a ramdisk
   --no-new-keyring          leave the container the caller's session keyring instead of making it one of its own
   --preserve-fds value      pass N file descriptors to the container besides stdio and $LISTEN_FDS (default: 0)
"""


def command(session: Session, flags: Flags) -> int:
    """Run; returns the container's exit status."""
    check_arguments("run", flags.arguments, 1, 1)
    from dockyard.runtime import launch

    try:
        return launch.run(session, flags)
    except RuntimeFailure as failure:
        raise RuntimeFailure(f"runc run failed: {failure.message}", 1) from failure
