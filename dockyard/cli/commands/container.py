"""What is done to containers: kill, stop, pause, rename, remove, update, …"""

from __future__ import annotations

import sys

from dockyard.cli import output
from dockyard.cli.commands.extend import reconfiguration
from dockyard.cli.create_request import resources
from dockyard.cli.errors import Failure
from dockyard.cli.session import Session, confirm, path, prune_filters
from dockyard.cli.usage import Flags, usage
from dockyard.client.errors import APIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _each(session: Session, flags: Flags, place: str, **values: object) -> int:
    """POST to every container named and print the names."""

    def one(name: str) -> None:
        session.api.request("POST", path("/containers", name, place, **values)).read()
        print(name)

    return session.each(flags.arguments, one)


@usage(
    """
dockyard kill [OPTIONS] CONTAINER [CONTAINER...]

Kill one or more running containers

Options:
  -s, --signal string   Signal to send, KILL when not given
"""
)
def kill(session: Session, flags: Flags) -> int:
    """Prints the names."""
    return _each(session, flags, "/kill", signal=flags.text("signal"))


@usage(
    """
dockyard pause CONTAINER [CONTAINER...]

Pause all processes within one or more containers
"""
)
def pause(session: Session, flags: Flags) -> int:
    """Prints the names."""
    return _each(session, flags, "/pause")


@usage(
    """
dockyard unpause CONTAINER [CONTAINER...]

Unpause all processes within one or more containers
"""
)
def unpause(session: Session, flags: Flags) -> int:
    """Prints the names."""
    return _each(session, flags, "/unpause")


STOP_OPTIONS = """\
  -s, --signal string   Signal to send first
  -t, --timeout int     Seconds to wait before killing

Hidden:
      --time int"""


def _stop(session: Session, flags: Flags, place: str) -> int:
    name = "timeout" if flags.given("timeout") else "time"
    patience = str(flags.number(name)) if flags.given(name) else None
    return _each(session, flags, place, signal=flags.text("signal"), t=patience)


@usage(
    f"""
dockyard stop [OPTIONS] CONTAINER [CONTAINER...]

Stop one or more running containers

Options:
{STOP_OPTIONS}
"""
)
def stop(session: Session, flags: Flags) -> int:
    """Prints the names."""
    return _stop(session, flags, "/stop")


@usage(
    f"""
dockyard restart [OPTIONS] CONTAINER [CONTAINER...]

Restart one or more containers

Options:
{STOP_OPTIONS}
"""
)
def restart(session: Session, flags: Flags) -> int:
    """Prints the names."""
    return _stop(session, flags, "/restart")


@usage(
    """
dockyard rm [OPTIONS] CONTAINER [CONTAINER...]

Remove one or more containers

Options:
  -f, --force     Remove it even if it runs (SIGKILL)
  -l, --link      Remove the link, not the container
  -v, --volumes   Remove its anonymous volumes too
"""
)
def rm(session: Session, flags: Flags) -> int:
    """Prints the names."""
    force, link, volumes = flags.on("force"), flags.on("link"), flags.on("volumes")

    def one(name: str) -> None:
        place = path("/containers", name.strip("/"), force=force, link=link, v=volumes)
        try:
            session.api.request("DELETE", place).read()
        except APIError as error:
            if not force or error.status != 404:
                raise
            print(f"Error response from daemon: {error}", file=sys.stderr)  # and no failure, as with rm -f
            return
        print(name)

    return session.each(flags.arguments, one)


@usage(
    """
dockyard rename CONTAINER NEW_NAME

Rename a container
"""
)
def rename(session: Session, flags: Flags) -> int:
    """Prints nothing."""
    old, new = (name.strip() for name in flags.arguments)
    if not old or not new:
        raise Failure("Error: Neither old nor new names may be empty")
    try:
        session.api.request("POST", path("/containers", old, "/rename", name=new)).read()
    except APIError as error:
        message = f"Error response from daemon: {error}\nError: failed to rename container named {old}"
        raise Failure(message) from error
    return 0


@usage(
    """
dockyard wait CONTAINER [CONTAINER...]

Block until one or more containers stop, then print their exit codes
"""
)
def wait(session: Session, flags: Flags) -> int:
    """Prints a status for each."""
    return session.each(
        flags.arguments,
        lambda name: print(session.api.request("POST", path("/containers", name, "/wait")).json()["StatusCode"]),
    )


@usage(
    """
dockyard port CONTAINER [PRIVATE_PORT[/PROTO]]

List port mappings or a specific mapping for the container
"""
)
def port(session: Session, flags: Flags) -> int:
    """Prints `80/tcp -> 0.0.0.0:8080`, or the address only when a port is named."""
    name = flags.arguments[0]
    found: dict[str, Any] = session.api.request("GET", path("/containers", name, "/json")).json()
    ports = found["NetworkSettings"]["Ports"] or {}
    if len(flags.arguments) > 1:
        wanted = flags.arguments[1]
        number = wanted.partition("/")[0]
        if not number.isdigit():
            raise Failure(f'Error: invalid port ({wanted}): strconv.ParseUint: parsing "{number}": invalid syntax')
        key = wanted if "/" in wanted else f"{wanted}/tcp"
        if not ports.get(key):
            raise Failure(f"Error: No public port '{wanted}' published for {name}")
        for binding in ports[key]:
            print(_address(binding))
        return 0
    for private, bindings in sorted(ports.items(), key=lambda row: (int(row[0].partition("/")[0]), row[0])):
        for binding in bindings or []:
            print(f"{private} -> {_address(binding)}")
    return 0


def _address(binding: dict[str, str]) -> str:
    address = binding["HostIp"]
    return f"[{address}]:{binding['HostPort']}" if ":" in address else f"{address}:{binding['HostPort']}"


@usage(
    """
dockyard top CONTAINER [ps OPTIONS]

Display the running processes of a container
"""
)
def top(session: Session, flags: Flags) -> int:
    """Prints a table of processes."""
    name, *arguments = flags.arguments
    found = session.api.request("GET", path("/containers", name, "/top", ps_args=" ".join(arguments))).json()
    output.table([found["Titles"], *found["Processes"]], narrowest=20)
    return 0


@usage(
    """
dockyard update [OPTIONS] CONTAINER [CONTAINER...]

Update configuration of one or more containers

Options:
      --blkio-weight uint16        Block IO weight, 10 to 1000; 0 for none
      --cpu-period int             CFS period in microseconds
      --cpu-quota int              CFS quota in microseconds
      --cpu-rt-period int          Real-time period in microseconds
      --cpu-rt-runtime int         Real-time runtime in microseconds
  -c, --cpu-shares int             CPU weight relative to others
      --cpus decimal               Number of CPUs
      --cpuset-cpus string         CPUs it may run on (0-3, 0,1)
      --cpuset-mems string         Memory nodes it may use (0-3, 0,1)
      --env-add list               Set variables (starts it anew if it runs)
      --env-rm list                Take variables away (starts it anew)
      --label-add list             Set labels
      --label-rm list              Take labels away
  -m, --memory bytes               Memory limit
      --memory-reservation bytes   Soft memory limit
      --memory-swap bytes          Memory and swap together; -1: no limit of swap
      --mount-add list             Mount, live (as --mount or --volume of run)
      --mount-rm list              Unmount, live
      --pids-limit int             Limit of processes; -1: none
      --publish-add list           Publish ports, live
      --publish-rm list            Publish ports no more, live ([HOST:]PORT)
      --restart string             When to start it again after its end

Hidden:
      --kernel-memory bytes
"""
)
def update(session: Session, flags: Flags) -> int:
    """Prints the names."""
    try:
        body = resources(flags)
    except ValueError as error:
        raise Failure(str(error)) from None
    further = reconfiguration(flags)
    if not body and not further:
        raise Failure("you must provide one or more flags when using this command")

    warnings: list[str] = []

    def one(name: str) -> None:
        if further:
            session.api.request("POST", path("/dockyard/containers", name, "/reconfigure"), further).read()
        if not body:
            print(name)
            return
        answer = session.api.request("POST", path("/containers", name, "/update"), body).json()
        warnings.extend(answer.get("Warnings") or [])
        print(name)

    status = session.each(flags.arguments, one)
    for warning in warnings:  # to stdout and after the names, as docker does
        print(warning)
    return status


@usage(
    """
dockyard container prune [OPTIONS]

Remove all stopped containers

Options:
      --filter filter   Which ones (until=…, label=…)
  -f, --force           Do not ask
"""
)
def prune(session: Session, flags: Flags) -> int:
    """Prints what is gone and how much space that gave."""
    if not flags.on("force") and not confirm("WARNING! This will remove all stopped containers."):
        return 0
    answer = session.api.request("POST", path("/containers/prune", filters=prune_filters(session, flags))).json()
    if answer["ContainersDeleted"]:
        print("Deleted Containers:", *answer["ContainersDeleted"], "", sep="\n")
    print(f"Total reclaimed space: {output.size(answer['SpaceReclaimed'], 4)}")
    return 0
