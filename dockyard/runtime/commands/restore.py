"""restore: make a container again from a checkpoint's files, by CRIU."""

from dockyard.runtime.command_line.main import Session
from dockyard.runtime.command_line.usage import Flags, check_arguments

HELP = """\
NAME:
   dockyard-runc restore - restore a container from a previous checkpoint

USAGE:
   dockyard-runc restore [command options] <container-id>

Where "<container-id>" is the name for the instance of the container to be restored.

DESCRIPTION:
   Restores the saved state of the container instance that was previously saved using the checkpoint command.

OPTIONS:
   --console-socket value       path to an AF_UNIX socket that will receive the master end of the container's terminal
   --image-path value           path to criu image files for restoring (default: "checkpoint")
   --work-path value            path for saving work files and logs
   --tcp-established            allow open tcp connections
   --ext-unix-sk                allow external unix sockets
   --shell-job                  allow shell jobs
   --file-locks                 handle file locks, for safety
   --manage-cgroups-mode value  cgroups mode: soft|full|strict|ignore (default: soft)
   --bundle value, -b value     path to the bundle, defaults to the current directory
   --detach, -d                 leave the container running and return
   --pid-file value             file to write the process id to
   --no-subreaper               do not become the parent of the container's orphans
   --no-pivot                   change the root without pivot_root, as is needed when the root is on a ramdisk
   --empty-ns value             create a namespace, but don't restore its properties (may be repeated)
   --auto-dedup                 enable auto deduplication of memory images
   --lazy-pages                 use userfaultfd to lazily restore memory pages
   --lsm-profile value          an LSM profile to use during restore in the form of TYPE:NAME
   --lsm-mount-context value    an LSM mount context to use during restore
   --keep                       do not delete the container after it has ended
   --preserve-fds value         taken for the sake of other runtimes' callers (default: 0)
   --pidfd-socket value         path to an AF_UNIX socket that will receive a pidfd of the container's first process
"""


def command(session: Session, flags: Flags) -> int:
    """Restore it; detached that is all, else its exit status when it has ended."""
    check_arguments("restore", flags.arguments, 1, 1)
    from dockyard.runtime.checkpoint import dump as checkpoint
    from dockyard.runtime.command_line import launch

    options = checkpoint.Options(
        images=flags.text("image-path") or "checkpoint",
        work=flags.text("work-path"),
        tcp_established=flags.on("tcp-established"),
        external_unix_sockets=flags.on("ext-unix-sk"),
        shell_job=flags.on("shell-job"),
        file_locks=flags.on("file-locks"),
        auto_dedup=flags.on("auto-dedup"),
        lazy_pages=flags.on("lazy-pages"),
        cgroup_mode=flags.text("manage-cgroups-mode"),
        empty_namespaces=flags.all("empty-ns"),
        lsm_profile=flags.text("lsm-profile"),
        lsm_mount_context=flags.text("lsm-mount-context"),
        program=session.criu,
    )
    return launch.restore(session, flags, options)
