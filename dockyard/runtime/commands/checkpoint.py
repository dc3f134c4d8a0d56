"""checkpoint: save a container's processes to files, from which `restore` brings them back."""

from dockyard.runtime.command import Session
from dockyard.runtime.usage import Flags, check_arguments

HELP = """\
NAME:
   dockyard-runc checkpoint - checkpoint a running container

USAGE:
   dockyard-runc checkpoint [command options] <container-id>

Where "<container-id>" is the name of the container.

DESCRIPTION:
   Has CRIU save the state of every process of the container, which ends then unless told otherwise.

OPTIONS:
   --image-path value           directory for CRIU's images (default: ./checkpoint)
   --work-path value            directory for CRIU's work files and logs
   --parent-path value          images of an earlier --pre-dump, relative to the image path
   --leave-running              do not end the container
   --tcp-established            save open TCP connections too
   --tcp-skip-in-flight         leave out TCP connections that are being made
   --link-remap                 save deleted files by linking them back
   --ext-unix-sk                allow UNIX sockets connected to the outside
   --shell-job                  the container has a terminal of the caller's
   --lazy-pages                 serve memory pages when they are asked for
   --status-fd value            descriptor to write a zero byte to once lazy pages are ready (default: -1)
   --page-server value          ADDRESS:PORT to send memory pages to
   --file-locks                 save file locks too
   --pre-dump                   save memory only, and let the container run on
   --manage-cgroups-mode value  soft, full, strict or ignore (default: soft)
   --empty-ns value             a namespace to save without what is in it: network (may be repeated)
   --auto-dedup                 leave out pages that the parent's images have
"""


def command(session: Session, flags: Flags) -> None:
    """Checkpoint; the container is deleted after that unless it runs on."""
    check_arguments("checkpoint", flags.arguments, 1, 1)
    from dockyard.runtime import criu_options
    from dockyard.runtime.errors import RuntimeFailure
    from dockyard.runtime.existing import Existing

    container = Existing.load(session.root, flags.arguments[0])
    status = container.status()
    if status in ("created", "stopped"):
        raise RuntimeFailure(f"Container cannot be checkpointed in {status} state")
    options = criu_options.of_flags(session, flags)
    criu_options.room().checkpoint(container, options)
    if not options.leave_running and not options.pre_dump:
        container.delete(force=True)
