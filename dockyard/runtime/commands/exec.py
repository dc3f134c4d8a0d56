"""exec: run one more process in a container."""

from dockyard.runtime.command_line.main import Session
from dockyard.runtime.command_line.usage import Flags, check_arguments
from dockyard.runtime.errors import RuntimeFailure

HELP = """\
NAME:
   dockyard-runc exec - execute new process inside the container

USAGE:
   dockyard-runc exec [command options] <container-id> <command> [command options]  || -p process.json <container-id>

Where "<container-id>" is the name of the container and "<command>" is what to run in it.

OPTIONS:
   --console-socket value             path to an AF_UNIX socket that will receive the master end of its terminal
   --pidfd-socket value               path to an AF_UNIX socket that will receive a pidfd of the process
   --cwd value                        working directory in the container
   --env value, -e value              set an environment variable (may be repeated)
   --tty, -t                          allocate a pseudo-TTY
   --user value, -u value             UID (format: <uid>[:<gid>])
   --additional-gids value, -g value  a group besides the user's own (may be repeated)
   --process value, -p value          path to a process.json; what it leaves out is the container's
   --detach, -d                       leave the process running and return
   --pid-file value                   file to write the process id to
   --process-label value              SELinux label of the process
   --apparmor value                   AppArmor profile of the process
   --no-new-privs                     the process can't gain privileges
   --cap value, -c value              add a capability (may be repeated)
   --preserve-fds value               pass N file descriptors to the process besides stdio and $LISTEN_FDS (default: 0)
   --cgroup value                     a cgroup below the container's: [<controller>:]<cgroup> (may be repeated)
   --ignore-paused                    allow exec in a paused container, where it waits to be resumed
"""


def command(session: Session, flags: Flags) -> int:
    """Execute; returns the process's exit status."""
    check_arguments("exec", flags.arguments, 1)
    from dockyard.runtime.command_line import launch

    try:
        return launch.execute(session, flags)
    except RuntimeFailure as failure:
        raise launch.not_executed(failure) from failure
