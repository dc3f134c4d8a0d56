"""Whether the system is on its way down: who is told to end may want to know whether all else ends, too."""

import os
import struct

from dockyard.linux import systemd
from dockyard.linux.dbus import DBusError

UTMP = "/run/utmp"
# struct utmp of utmp(5) as glibc has it on every 64-bit machine: its type, its PID, and its size.
_UTMP_HEAD, _UTMP_SIZE = struct.Struct("hxxi"), 384
RUN_LEVEL = 1  # the kind of record that tells the run level
HALT, REBOOT = "0", "6"


def is_under_way() -> bool:
    """Whether all processes of the system, or of the container that we are in, end with us or soon.

    systemd says so as soon as the job for shutdown.target is there, whatever has asked for it: reboot, power-off, halt,
    kexec, soft-reboot. Other inits write their run level down. The first process of a PID namespace takes all of it
    along.
    """
    if os.getpid() == 1:
        return True
    if systemd.is_running():
        try:
            manager = systemd.Manager()
            try:
                return bool(manager.value_of("SystemState") == "stopping")
            finally:
                manager.close()
        except (OSError, DBusError):
            pass  # then perhaps it has written that down as well
    return _run_level() in (HALT, REBOOT)


def _run_level() -> str:
    """The current run level, a character; "" when no init has told one."""
    try:
        with open(UTMP, "rb") as file:
            data = file.read()
    except OSError:
        return ""
    for position in range(0, len(data) - _UTMP_SIZE + 1, _UTMP_SIZE):
        kind, pid = _UTMP_HEAD.unpack_from(data, position)
        if kind == RUN_LEVEL:
            return chr(pid % 256)  # the higher byte is the level before
    return ""
