"""restore: bring a container back from the files that `checkpoint` made."""

from dockyard.runtime.command import Session
from dockyard.runtime.usage import Flags, check_arguments

HELP = """\
NAME:
   dockyard-runc restore - restore a container from a previous checkpoint

USAGE:
   dockyard-runc restore [command options] <container-id>

Where "<container-id>" is your name for the restored container.

DESCRIPTION:
   Has CRIU bring back the processes that "checkpoint" has saved, in a container of the same bundle.

OPTIONS:
   --console-socket value       path to an AF_UNIX socket that will receive the master end of the container's terminal
   --image-path value           directory of CRIU's images (default: ./checkpoint)
   --work-path value            directory for CRIU's work files and logs
   --tcp-established            bring open TCP connections back too
   --ext-unix-sk                allow UNIX sockets connected to the outside
   --shell-job                  the container has a terminal of the caller's
   --file-locks                 bring file locks back too
   --manage-cgroups-mode value  soft, full, strict or ignore (default: soft)
   --bundle value, -b value     path to the bundle, defaults to the current directory
   --detach, -d                 leave the container running and return
   --pid-file value             file to write the process id to
   --no-subreaper               do not become the parent of the container's orphans
   --no-pivot                   change the root without pivot_root, as is needed when the root is on a ramdisk
   --empty-ns value             a namespace that was saved without what was in it: network (may be repeated)
   --auto-dedup                 remove pages from the images once they are in memory
   --lazy-pages                 fetch memory pages when they are needed
   --lsm-profile value          security profile to restore with: TYPE:NAME
   --lsm-mount-context value    security context of mounts to restore with
"""


def command(session: Session, flags: Flags) -> int:
    """Restore; watched until it ends unless detached."""
    check_arguments("restore", flags.arguments, 1, 1)
    from dockyard.runtime import criu_options

    status: int = criu_options.room().restore(session, flags, criu_options.of_flags(session, flags))
    return status
