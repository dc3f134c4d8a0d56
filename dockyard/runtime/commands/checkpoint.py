"""checkpoint: write a container's processes to files, by CRIU."""

from dockyard.runtime.command_line.main import Session
from dockyard.runtime.command_line.usage import Flags, check_arguments
from dockyard.runtime.errors import RuntimeFailure

HELP = """\
NAME:
   dockyard-runc checkpoint - checkpoint a running container

USAGE:
   dockyard-runc checkpoint [command options] <container-id>

Where "<container-id>" is the name for the instance of the container to be checkpointed.

DESCRIPTION:
   The checkpoint command saves the state of the container instance.

OPTIONS:
   --image-path value           path for saving criu image files (default: "checkpoint")
   --work-path value            path for saving work files and logs
   --parent-path value          path for previous criu image files in pre-dump
   --leave-running              leave the process running after checkpointing
   --tcp-established            allow open tcp connections
   --tcp-skip-in-flight         skip in-flight TCP connections
   --link-remap                 allow unlinked files to be linked back where possible
   --ext-unix-sk                allow external unix sockets
   --shell-job                  allow shell jobs
   --lazy-pages                 use userfaultfd to lazily restore memory pages
   --status-fd value            criu writes \\0 to this FD once lazy-pages is ready (default: -1)
   --page-server value          ADDRESS:PORT of the page server
   --file-locks                 handle file locks, for safety
   --pre-dump                   dump the container's memory only, and leave the container running after this
   --manage-cgroups-mode value  cgroups mode: soft|full|strict|ignore (default: soft)
   --empty-ns value             create a namespace, but don't restore its properties (may be repeated)
   --auto-dedup                 enable auto deduplication of memory images
"""


def command(session: Session, flags: Flags) -> None:
    """Checkpoint it; unless it is left running, it is deleted."""
    check_arguments("checkpoint", flags.arguments, 1, 1)
    from dockyard.runtime.checkpoint import dump as checkpoint
    from dockyard.runtime.lifecycle.handle import ContainerHandle

    container = ContainerHandle.load(session.root, flags.arguments[0])
    options = checkpoint.Options(
        images=flags.text("image-path") or "checkpoint",
        work=flags.text("work-path"),
        parent=flags.text("parent-path"),
        leave_running=flags.on("leave-running"),
        tcp_established=flags.on("tcp-established"),
        tcp_skip_in_flight=flags.on("tcp-skip-in-flight"),
        external_unix_sockets=flags.on("ext-unix-sk"),
        shell_job=flags.on("shell-job"),
        link_remap=flags.on("link-remap"),
        lazy_pages=flags.on("lazy-pages"),
        file_locks=flags.on("file-locks"),
        pre_dump=flags.on("pre-dump"),
        auto_dedup=flags.on("auto-dedup"),
        page_server=flags.text("page-server"),
        status_fd=int(flags.text("status-fd") or "-1"),
        cgroup_mode=flags.text("manage-cgroups-mode"),
        empty_namespaces=flags.all("empty-ns"),
        program=session.criu,
    )
    checkpoint.checkpoint(container, options)
    if not options.leave_running and not options.pre_dump:
        try:
            container.delete(force=True)
        except RuntimeFailure as failure:
            session.log.warning(failure.message)
