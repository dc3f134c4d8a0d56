"""Getting along with iptables, in which Docker, many firewalls and administrators say what the host may forward.

In nftables no table can accept what another drops. So the host's FORWARD chain begins with two jumps:

    -A FORWARD -j DOCKER-USER           the administrator's: what is dropped there is dropped, whoever publishes it
    -A FORWARD -j DOCKYARD-<bridge>     ours: leaves what concerns our bridges to our own table (networks/firewall.py)

DOCKER-USER is made where it is missing; after that it is nobody's but the administrator's.
"""

import asyncio
import logging
import shutil
from collections.abc import Iterable, Sequence

log = logging.getLogger("dockyard.networks")

PROGRAMS = {4: "iptables", 6: "ip6tables"}
USER_CHAIN = "DOCKER-USER"


def chain_of(instance: str) -> str:
    """The chain of the daemon `instance` ("dockyard-<bridge>"); a chain's name has 28 characters at most."""
    return f"DOCKYARD-{instance.removeprefix('dockyard-')}"[:28]


async def drop_by_default(version: int = 4) -> None:
    """Let the host forward nothing but what some rule accepts.

    For when forwarding has just been turned on: the host was no router before, and is to be one for containers only
    (as Docker does, moby daemon/libnetwork/drivers/bridge/setup_ip_forwarding.go).
    """
    program = shutil.which(PROGRAMS[version])
    if program is None or await _run(program, "-w", "5", "-P", "FORWARD", "DROP") is None:
        log.warning("forwarding is on, and the host will forward between its other links too: iptables is missing")


async def tells_changes(version: int = 4) -> bool:
    """Whether the kernel tells of changes to the chains (networks/guard.py): of those that are nftables' in truth."""
    program = shutil.which(PROGRAMS[version])
    return program is not None and "nf_tables" in (await _run(program, "-V") or "")


async def let_through(
    chain: str, bridges: Iterable[str], others: Iterable[str], version: int = 4, *, user_first: bool = False
) -> bool:
    """Let FORWARD ask DOCKER-USER, and then accept what comes from or goes to our `bridges`; whether it does now.

    What goes to the bridges `others`, which are somebody else's, is left to the rules after ours. `user_first`: have
    DOCKER-USER asked before anything else, and not only before our own chain.
    """
    program = shutil.which(PROGRAMS[version])
    if program is None:
        return False
    rules = _rules(chain, bridges, others)
    for _ in range(2):  # the second time because others may change the chains while we look
        forward, own = await asyncio.gather(
            _run(program, "-w", "5", "-S", "FORWARD"), _run(program, "-w", "5", "-S", chain)
        )
        if forward is None:
            return False
        commands = changes(chain, rules, forward.splitlines(), (own or "").splitlines(), user_first=user_first)
        if not commands:
            return bool(rules)
        if f"-A FORWARD -j {USER_CHAIN}" not in forward.splitlines():
            await _run(program, "-w", "5", "-N", USER_CHAIN)  # fails when it is there already
        text = "\n".join(["*filter", *commands, "COMMIT", ""])
        if await _run(f"{program}-restore", "--noflush", "-w", "5", said=text) is not None:
            return bool(rules)
    log.warning("%s refuses our rules; it may drop what containers send", program)
    return False


async def rewrite(chain: str, bridges: Iterable[str], others: Iterable[str], version: int = 4) -> bool:
    """Write our own chain, which FORWARD is known to ask, without a look at what is there; whether that went well."""
    text = "\n".join(["*filter", f":{chain} - [0:0]", *_rules(chain, bridges, others), "COMMIT", ""])
    return await _run(f"{PROGRAMS[version]}-restore", "--noflush", "-w", "5", said=text) is not None


def _rules(chain: str, bridges: Iterable[str], others: Iterable[str]) -> list[str]:
    rules = [f"-A {chain} {direction} {bridge} -j ACCEPT" for bridge in bridges for direction in ("-i", "-o")]
    return [*(f"-A {chain} -o {other} -j RETURN" for other in others), *rules] if rules else []


def changes(
    chain: str, rules: Sequence[str], forward: Sequence[str], own: Sequence[str], *, user_first: bool
) -> list[str]:
    """What iptables-restore must be told, given what `iptables -S` lists of FORWARD and of our own `chain`."""
    to_user, to_own = f"-A FORWARD -j {USER_CHAIN}", f"-A FORWARD -j {chain}"
    jumps = [line for line in forward if line.startswith("-A ")]
    commands = []
    if own != [f"-N {chain}", *rules] and (own or rules):
        commands += [f":{chain} - [0:0]", *rules]
    before = jumps[: jumps.index(to_own)] if to_own in jumps else jumps
    # (twice when two daemons have mended it at once)
    if to_user not in (jumps[:1] if user_first else before) or jumps.count(to_user) > 1:
        commands += [f"-D FORWARD -j {USER_CHAIN}"] * jumps.count(to_user)
        commands.append(f"-I FORWARD 1 -j {USER_CHAIN}")
        jumps = [to_user, *(line for line in jumps if line != to_user)]
    if to_own not in jumps and (own or rules):
        commands.append(f"-I FORWARD {jumps.index(to_user) + 2} -j {chain}")
    return commands


async def forget(chain: str, version: int = 4) -> None:
    """Take our own chain away; DOCKER-USER stays, with all that is in it."""
    program = shutil.which(PROGRAMS[version])
    if program is None or await _run(program, "-w", "5", "-S", chain) is None:
        return
    await _run(program, "-w", "5", "-D", "FORWARD", "-j", chain)
    await _run(f"{program}-restore", "--noflush", "-w", "5", said=f"*filter\n-F {chain}\n-X {chain}\nCOMMIT\n")


async def _run(*command: str, said: str = "") -> str | None:
    """The output of a command that is told `said` on its stdin, or None when it fails."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:  # iptables is there, iptables-restore is not
        log.debug("%s: %s", command[0], error)
        return None
    output, errors = await process.communicate(said.encode())
    if process.returncode != 0:
        log.debug("%s: %s", " ".join(command), errors.decode(errors="replace").strip())
        return None
    return output.decode(errors="replace")
