"""Getting along with a host whose iptables drop what is forwarded, as Docker's and many firewalls do.

In nftables no table can accept what another drops. Where the host's FORWARD chain may drop our bridges' traffic, it
gets a rule for each bridge that leaves the decision to our own table. Where it drops nothing, it is left alone.
"""

import asyncio
import logging
import shutil
from collections.abc import Iterable

log = logging.getLogger("dockyard.networks")


async def let_through(bridges: Iterable[str]) -> None:
    """Make the host's FORWARD chain accept traffic of `bridges`, if that chain has anything to say at all."""
    program = shutil.which("iptables")
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


async def forget(bridge: str) -> None:
    """Take the rules for a bridge that is gone out of the host's FORWARD chain."""
    program = shutil.which("iptables")
    listed = await _run(program, "-w", "5", "-S", "FORWARD") if program else None
    if program is None or listed is None:
        return
    for direction in ("-i", "-o"):
        for _ in range(listed.splitlines().count(f"-A FORWARD {direction} {bridge} -j ACCEPT")):
            await _run(program, "-w", "5", "-D", "FORWARD", direction, bridge, "-j", "ACCEPT")


async def _run(*command: str) -> str | None:
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
