"""Getting along with iptables, which Docker and many firewalls use to drop what the host would forward.

In nftables no table can accept what another drops. Where the host's FORWARD chain may drop our bridges' traffic, it
gets a rule for each bridge that leaves the decision to our own table. Where it drops nothing, it is left alone.
"""

import asyncio
import logging
import shutil
from collections.abc import Iterable

log = logging.getLogger("dockyard.networks")

PROGRAMS = {4: "iptables", 6: "ip6tables"}


async def drop_by_default(version: int = 4) -> None:
    """Let the host forward nothing but what some rule accepts.

    For when forwarding has just been turned on: the host was no router before, and is to be one for containers only
    (as Docker does, moby daemon/libnetwork/drivers/bridge/setup_ip_forwarding.go).
    """
    program = shutil.which(PROGRAMS[version])
    if program is None or await _run(program, "-w", "5", "-P", "FORWARD", "DROP") is None:
        log.warning("forwarding is on, and the host will forward between its other links too: iptables is missing")


async def let_through(bridges: Iterable[str], version: int = 4) -> None:
    """Make the host's FORWARD chain accept traffic of `bridges`, if that chain has anything to say at all."""
    program = shutil.which(PROGRAMS[version])
    if program is None:
        return
    listed = await _run(program, "-w", "5", "-S", "FORWARD")
    if listed is None:
        return
    rules = set(listed.splitlines())
    if rules <= {"-P FORWARD ACCEPT"}:
        return
    for bridge in bridges:
        for direction in ("-i", "-o"):
            if f"-A FORWARD {direction} {bridge} -j ACCEPT" not in rules:
                await _run(program, "-w", "5", "-I", "FORWARD", direction, bridge, "-j", "ACCEPT")


async def forget(bridges: Iterable[str], version: int = 4) -> None:
    """Take the rules for bridges that are gone out of the host's FORWARD chain."""
    program = shutil.which(PROGRAMS[version])
    listed = await _run(program, "-w", "5", "-S", "FORWARD") if program else None
    if program is None or listed is None:
        return
    rules = listed.splitlines()
    for bridge in bridges:
        for direction in ("-i", "-o"):
            for _ in range(rules.count(f"-A FORWARD {direction} {bridge} -j ACCEPT")):
                await _run(program, "-w", "5", "-D", "FORWARD", direction, bridge, "-j", "ACCEPT")


async def _run(*command: str) -> str | None:
    """The output of a command, or None when it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    if process.returncode != 0:
        log.debug("%s: %s", " ".join(command), errors.decode(errors="replace").strip())
        return None
    return output.decode(errors="replace")
