"""`engine`: the daemon of this host, for those who did not make it a service."""

from __future__ import annotations

import os
import sys

from dockyard.cli.errors import Failure
from dockyard.cli.session import Session, confirm
from dockyard.cli.usage import Flags, usage
from dockyard.client import local_engine

STOPPED = 3  # systemctl's status for a unit that does not run


@usage(
    """
dockyard engine start

Start the engine of this host, if it does not run
"""
)
def start(session: Session, flags: Flags) -> int:
    """Waits until it answers."""
    begun = local_engine.start()
    print(f"The engine {'runs' if begun else 'was running already'} (process {local_engine.pid()})")
    return 0


@usage(
    """
dockyard engine stop [OPTIONS]

Stop the engine of this host. Containers go on where live-restore is set

Options:
  -t, --timeout int   Seconds to wait for its end (default 60)
"""
)
def stop(session: Session, flags: Flags) -> int:
    """Waits until it has ended."""
    was_there = local_engine.stop(flags.number("timeout", 60))
    print("The engine has ended" if was_there else "The engine does not run")
    return 0


@usage(
    """
dockyard engine restart [OPTIONS]

Stop the engine of this host and start it again

Options:
  -t, --timeout int   Seconds to wait for its end (default 60)
"""
)
def restart(session: Session, flags: Flags) -> int:
    """Both, one after the other."""
    stop(session, flags)
    start(session, flags)
    return 0


@usage(
    """
dockyard engine status

Show whether the engine of this host runs. Exits with 3 when it does not
"""
)
def status(session: Session, flags: Flags) -> int:
    """Two lines, or one."""
    process = local_engine.pid()
    if process is None:
        print("The engine does not run")
        return STOPPED
    how = local_engine.UNIT if local_engine.by_systemd() else f"its log is {local_engine.LOG}"
    print(f"The engine runs as process {process} ({how})")
    answers = "answers" if local_engine.answers() else "does not answer"
    print(f"It {answers} on unix://{local_engine.SOCKET}")
    return 0


@usage(
    """
dockyard engine logs [OPTIONS]

Show what the engine of this host has said

Options:
  -f, --follow        Go on with what it says from now on
  -n, --tail string   Number of lines to show from the end (default "all")
"""
)
def logs(session: Session, flags: Flags) -> int:
    """Becomes the program that shows it."""
    tail = flags.text("tail") or "all"
    if not (tail == "all" or tail.isdigit()):
        raise Failure(f"invalid number of lines: {tail}")
    follow = ["-f"] if flags.on("follow") else []
    if local_engine.by_systemd():
        command = ["journalctl", "--no-pager", "-u", local_engine.UNIT, *follow, "-n", tail]
    elif os.path.exists(local_engine.LOG):
        command = ["tail", "-n", "+1" if tail == "all" else tail, *(["-F"] if follow else []), local_engine.LOG]
    else:
        raise Failure(f"there is no {local_engine.LOG}: the engine was not started by its clients")
    sys.stdout.flush()
    os.execvp(command[0], command)


@usage(
    """
dockyard system reset [OPTIONS]

Remove all containers, images, volumes and networks of the engine of this host, and all else that it has made

Options:
  -f, --force   Do not prompt for confirmation
"""
)
def reset(session: Session, flags: Flags) -> int:
    """Stops the engine, and has its daemon take everything away."""
    warning = "WARNING! This will remove all containers, images, volumes and networks of the engine of this host."
    if not flags.on("force") and not confirm(warning):
        return 0
    local_engine.reset()
    return 0
