"""The shims' place among systemd's units: a scope of their own, which what befalls the daemon's unit does not touch.

A shim left in the daemon's service would be that service's process: counted and limited with it, shown with it, and at
the mercy of its KillMode; started from a login, it would end with the session.
"""

import os

from dockyard.linux import systemd
from dockyard.linux.cgroups import own_pid
from dockyard.linux.dbus import DBusError

SLICE = "dockyard.slice"
AT_SHUTDOWN = "dockyard-containers.service"  # ends at a shutdown what no daemon looks after


def enders() -> list[str]:
    """The units that end containers when the system goes down: containers' own must not be stopped before them."""
    service = systemd.own_service()
    return [service, AT_SHUTDOWN] if service else []


def leave_the_daemons() -> None:
    """Move this process, and with it all that it forks from now on, out of the unit that it was started in.

    Does nothing where systemd does not run. Raises OSError when systemd can't be asked, or refuses.
    """
    if not systemd.is_running():
        return
    properties: list[systemd.Property] = [
        ("Description", ("s", "Shims of Dockyard's containers")),
        ("Slice", ("s", SLICE)),
        ("Delegate", ("b", True)),
        ("TasksMax", ("t", systemd.INFINITY)),
        # At a shutdown it is the daemon that ends the containers, each in its own way.
        ("DefaultDependencies", ("b", False)),
        ("PIDs", ("au", [own_pid()])),
    ]
    if before := enders():
        properties.append(("Before", ("as", before)))  # what starts before another stops after it
    try:
        manager = systemd.Manager()
        try:
            # not by the PID alone: shims of an earlier process of that number may still be there
            manager.start(f"dockyard-shims-{own_pid()}-{os.urandom(4).hex()}.scope", properties)
        finally:
            manager.close()
    except DBusError as error:
        raise OSError(f"systemd: {error.message}") from error
