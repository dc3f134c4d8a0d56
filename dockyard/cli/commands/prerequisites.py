"""`system check`: what this host has of what the engine needs."""

from __future__ import annotations

from dockyard.cli.session import Session
from dockyard.cli.usage import Flags, usage


@usage(
    """
dockyard system check [OPTIONS]

Show what this host has of what the engine needs, what it is for and how to get what is missing

Options:
  -q, --quiet   Only show what is missing
"""
)
def check(session: Session, flags: Flags) -> int:
    """Prints a line for each; 1 when something is missing without which no container runs."""
    from dockyard.prerequisites import prerequisites

    status = 0
    for one in prerequisites():
        found = one.found()
        if found:
            if not flags.on("quiet"):
                print(f"[ ok ] {one.name}: {found}")
            continue
        status = 1 if one.required else status
        advice = one.advice()
        mark = "[FAIL]" if one.required else "[ -- ]"
        print(f"{mark} {one.name}: missing; it is for {one.purpose}" + (f" ({advice})" if advice else ""))
    return status
