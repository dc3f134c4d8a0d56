"""update: new limits for a container."""

import sys

from dockyard.runtime.command_line.main import Session
from dockyard.runtime.command_line.sizes import size_in_bytes
from dockyard.runtime.command_line.usage import Flags, check_arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dockyard.oci.runtime_spec import Resources

HELP = """\
NAME:
   dockyard-runc update - update container resource constraints

USAGE:
   dockyard-runc update [command options] <container-id>

DESCRIPTION:
   Sets the limits that are given and leaves the others as they are. With --resources they are read as JSON, in the form
of "linux.resources" in config.json, and all other options are ignored:

   {"memory": {"limit": 0, "reservation": 0, "swap": 0, "checkBeforeUpdate": true},
    "cpu": {"shares": 0, "quota": 0, "burst": 0, "period": 0, "realtimeRuntime": 0, "realtimePeriod": 0,
            "cpus": "", "mems": "", "idle": 0},
    "blockIO": {"weight": 0}, "pids": {"limit": 0}, "unified": {"file": "value"}}

OPTIONS:
   --resources value, -r value  file with the limits as JSON, or '-' for standard input
   --blkio-weight value         weight among cgroups for block I/O, 10 to 1000 (default: 0)
   --cpu-period value           CPU CFS period in microseconds, 0 for the system's default
   --cpu-quota value            CPU CFS quota: microseconds of CPU time in a period
   --cpu-burst value            microseconds of CPU time that may be saved up for a later period
   --cpu-share value            CPU shares, relative to other cgroups
   --cpu-rt-period value        CPU realtime period in microseconds, 0 for the system's default
   --cpu-rt-runtime value       CPU realtime limit: microseconds in a period
   --cpuset-cpus value          CPUs to use
   --cpuset-mems value          memory nodes to use
   --cpu-idle value             1: run only when nobody else wants to (SCHED_IDLE), 0: as usual
   --kernel-memory value        (obsolete, ignored)
   --kernel-memory-tcp value    (obsolete, ignored)
   --memory value               memory limit in bytes, or with a unit, -1 for none
   --memory-reservation value   soft limit of memory
   --memory-swap value          limit of memory and swap together, -1 for none
   --pids-limit value           most processes and threads, -1 for no limit (default: 0)
   --l3-cache-schema value      Intel RDT/CAT L3 cache schema
   --mem-bw-schema value        Intel RDT/MBA memory bandwidth schema
"""


def command(session: Session, flags: Flags) -> None:
    """Set them."""
    check_arguments("update", flags.arguments, 1, 1)
    from dockyard.runtime.lifecycle.handle import ContainerHandle

    container = ContainerHandle.load(session.root, flags.arguments[0])
    wanted = _read(flags.text("resources")) if flags.text("resources") else _of_flags(session, flags)
    for warning in container.left_out(wanted):
        session.log.warning(warning)
    container.update(wanted)


def _read(path: str) -> "Resources":
    from dockyard.oci.runtime_spec import decode_resources

    if path == "-":
        return decode_resources(sys.stdin.buffer.read())
    with open(path, "rb") as file:
        return decode_resources(file.read())


def _of_flags(session: Session, flags: Flags) -> "Resources":
    from dockyard.oci.runtime_spec import BlockIO, Cpu, Memory, Pids, Resources
    from dockyard.runtime.errors import RuntimeFailure

    if flags.text("l3-cache-schema"):
        raise RuntimeFailure("Intel RDT/CAT: l3 cache schema is not enabled")
    if flags.text("mem-bw-schema"):
        raise RuntimeFailure("Intel RDT/MBA: memory bandwidth schema is not enabled")
    if flags.text("kernel-memory") or flags.text("kernel-memory-tcp"):
        session.log.warning("Kernel memory settings are ignored and will be removed")
    weight, pids = flags.number("blkio-weight"), flags.number("pids-limit")
    return Resources(
        memory=Memory(
            limit=_size(flags, "memory"),
            swap=_size(flags, "memory-swap"),
            reservation=_size(flags, "memory-reservation"),
        ),
        cpu=Cpu(
            shares=_integer(flags, "cpu-share"),
            quota=_integer(flags, "cpu-quota", signed=True),
            burst=_integer(flags, "cpu-burst"),
            period=_integer(flags, "cpu-period"),
            realtime_runtime=_integer(flags, "cpu-rt-runtime", signed=True),
            realtime_period=_integer(flags, "cpu-rt-period"),
            cpus=flags.text("cpuset-cpus"),
            mems=flags.text("cpuset-mems"),
            idle=_integer(flags, "cpu-idle", signed=True),
        ),
        pids=Pids(limit=pids) if flags.given("pids-limit") else None,
        block_io=BlockIO(weight=weight) if weight else None,
    )


def _integer(flags: Flags, name: str, *, signed: bool = False) -> int | None:
    text = flags.text(name)
    if not text:
        return None
    if not (text[1:] if signed and text[0] in "+-" else text).isdigit():
        raise ValueError(f'invalid value for {name}: parsing "{text}": invalid syntax')
    return int(text)


def _size(flags: Flags, name: str) -> int | None:
    text = flags.text(name)
    if not text:
        return None
    try:
        return -1 if text == "-1" else size_in_bytes(text)
    except ValueError:
        raise ValueError(f"invalid value for {name}: invalid size: '{text}'") from None
