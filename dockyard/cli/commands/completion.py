"""`completion`: the scripts that make shells ask us."""

from __future__ import annotations

from dockyard.cli.completion import script
from dockyard.cli.session import Session
from dockyard.cli.usage import Flags, usage


@usage(
    """
dockyard completion SHELL

Print a completion script for bash, zsh or fish
"""
)
def completion(session: Session, flags: Flags) -> int:
    """Prints a script."""
    print(script(flags.arguments[0]))
    return 0
