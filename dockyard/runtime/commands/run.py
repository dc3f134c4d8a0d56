"""run: create a container and start it, and watch it until it ends unless `--detach` says not to."""

from dockyard.runtime.command_line.main import Session
from dockyard.runtime.command_line.usage import Flags, check_arguments
from dockyard.runtime.errors import RuntimeFailure

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

With --rootfs there need not be a bundle: the directory is the container's root, and the command is run in it. See
"run --rootfs DIR --help" for its options.

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
HELP_ROOTFS = """\
NAME:
   dockyard-runc run --rootfs - run a command in a directory that holds a root file system

USAGE:
   dockyard-runc run --rootfs DIR [command options] COMMAND [ARG...]

DESCRIPTION:
   The container has namespaces of its own, Docker's default capabilities and system call filter, and the limits given.
It is deleted when the command has ended, whose exit status is ours.

OPTIONS:
   --rootfs value             the directory
   --name value               name of the container (default: one that is free)
   --interactive, -i          pass our standard input on
   --tty, -t                  give it a terminal
   -it                        both
   --detach, -d               leave the container running and return; its output is ours
   --keep                     do not delete the container after it has ended
   --cpus value               how many CPUs' worth of time it may use, like 1.5
   --cpu-shares value         CPU shares, relative to other cgroups
   --cpuset-cpus value        CPUs to use
   --memory value, -m value   memory limit, like 512m
   --memory-swap value        limit of memory and swap together, -1 for none
   --pids-limit value         most processes and threads
   --env value, -e value      set an environment variable (may be repeated)
   --workdir value, -w value  working directory
   --user value, -u value     UID[:GID]
   --hostname value           host name (default: the container's name)
   --network value            none: loopback alone, or host: the host's network (default: none)
   --volume value, -v value   SOURCE:TARGET[:ro], a file or directory of the host's (may be repeated)
   --read-only                make the root read-only
   --pid-file value           file to write the process id to
   --console-socket value     path to an AF_UNIX socket that will receive the terminal's master, with --detach
   --no-subreaper             do not become the parent of the container's orphans
   --no-pivot                 change the root without pivot_root
   --no-new-keyring           leave the container the caller's session keyring
   --preserve-fds value       pass N file descriptors to the container besides stdio and $LISTEN_FDS (default: 0)
"""


def grammar(words: list[str]) -> str:
    """Which of the two grammars `words` are in."""
    for word in words:
        if word == "--":
            break
        if word.startswith("-") and word.lstrip("-").partition("=")[0] == "rootfs":
            return HELP_ROOTFS
    return HELP


def command(session: Session, flags: Flags) -> int:
    """Run; returns the container's exit status."""
    if flags.given("rootfs"):
        from dockyard.runtime.command_line import launch

        return launch.run_rootfs(session, flags)
    check_arguments("run", flags.arguments, 1, 1)
    from dockyard.runtime.command_line import launch

    try:
        return launch.run(session, flags)
    except RuntimeFailure as failure:
        raise launch.not_started("run", failure) from failure
