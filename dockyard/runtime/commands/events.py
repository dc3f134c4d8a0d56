"""events: what a container uses, now or again and again, and when memory ran out."""

import select
import sys
import time

from dockyard.runtime.command_line.main import Session
from dockyard.runtime.command_line.usage import Flags, UsageError, check_arguments

HELP = """\
NAME:
   dockyard-runc events - display container events such as OOM notifications, cpu, memory, and IO usage statistics

USAGE:
   dockyard-runc events [command options] <container-id>

Where "<container-id>" is the name of the container.

DESCRIPTION:
   Prints a JSON object a line: statistics, by default every five seconds, and out-of-memory events as they come.

OPTIONS:
   --interval value  time between statistics (default: 5s)
   --stats           print the statistics once
"""
UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}


def command(session: Session, flags: Flags) -> None:
    """Print them until the container ends."""
    check_arguments("events", flags.arguments, 1, 1)
    from dockyard.runtime.errors import RuntimeFailure
    from dockyard.runtime.lifecycle.handle import ContainerHandle

    container = ContainerHandle.load(session.root, flags.arguments[0])
    interval = duration(flags.text("interval", "5s"))
    if interval <= 0:
        raise RuntimeFailure("duration interval must be greater than 0")
    if container.status() == "stopped":
        raise RuntimeFailure(f"container with id {container.record.id} is not running")
    from dockyard.runtime.resources import statistics
    from dockyard.runtime.resources.oom import OutOfMemory

    if flags.on("stats"):
        _print("stats", container.record.id, statistics.of(container.group, container.record.pid))
        return
    pidfd = container.pidfd()
    alarm = OutOfMemory(container.group)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    alarm.register(poll)
    due = time.monotonic() + interval
    while True:
        for fd, _ in poll.poll(max(0, (due - time.monotonic()) * 1000)):
            if fd == pidfd:
                return
            if alarm.happened():
                _print("oom", container.record.id, None)
        if time.monotonic() >= due:
            _print("stats", container.record.id, statistics.of(container.group, container.record.pid))
            due += interval


def _print(kind: str, container_id: str, data: object) -> None:
    from dockyard.oci import quick_json

    row = {"type": kind, "id": container_id, **({} if data is None else {"data": data})}
    sys.stdout.write(quick_json.dumps(row) + "\n")
    sys.stdout.flush()


def duration(text: str) -> float:
    """`5s`, `100ms`, `1m30s` in seconds. Raises UsageError."""
    rest, total = text.strip().lstrip("+"), 0.0
    sign = -1 if rest.startswith("-") else 1
    rest = rest.lstrip("-")
    if rest == "0":
        return 0
    while rest:
        end = next((i for i, letter in enumerate(rest) if letter not in "0123456789."), len(rest))
        unit_end = next((i for i in range(end, len(rest)) if rest[i] in "0123456789."), len(rest))
        unit = rest[end:unit_end]
        if not end or unit not in UNITS:
            raise UsageError(f'invalid value "{text}" for flag -interval: parse error')
        total += float(rest[:end]) * UNITS[unit]
        rest = rest[unit_end:]
    return sign * total
