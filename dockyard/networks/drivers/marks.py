"""The mark on every link that a daemon makes: the proof that it is its own to change and to remove."""

import os
from pathlib import Path

from dockyard.linux.netlink import LONGEST_ALIAS, Link

# How the alias of every link begins that any of our daemons makes.
MARK = "dockyard "


def mark_of(exec_root: Path) -> str:
    """What the links that the daemon of `exec_root` makes carry as their alias; it is the proof that they are ours.

    Also against a daemon in a container that shares the host's network, whose directory has the same path: it is not
    the same directory. Makes the directory.
    """
    exec_root.mkdir(mode=0o711, parents=True, exist_ok=True)
    directory = exec_root.stat()
    return f"{MARK}{directory.st_dev:x}:{directory.st_ino:x} {os.path.abspath(exec_root)}"


def is_ours(link: Link, mark: str) -> bool:
    """Whether the daemon whose links carry `mark` has made `link`."""
    return link.alias.encode() == mark.encode()[:LONGEST_ALIAS]
