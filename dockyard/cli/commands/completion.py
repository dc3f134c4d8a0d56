"""`completion`: the scripts that make shells ask us."""

from __future__ import annotations

from dockyard.cli.completion import script
from dockyard.cli.session import Session
from dockyard.cli.usage import Flags, usage


@usage(
    """
dockyard completion SHELL [NAME...]

Print a completion script for bash, zsh or fish
"""
)
def completion(session: Session, flags: Flags) -> int:
    """Prints a script, also for further names that the client is called by ("docker")."""
    shell, *names = flags.arguments
    print(script(shell, ["dockyard", *names]))
    return 0
