"""`--chown`: names and numbers, looked up in the image's own /etc/passwd and /etc/group."""

from __future__ import annotations

from dockyard.builder.layer_plan import Owner
from dockyard.builder.trees import DirectoryTree
from dockyard.engine.containers.spec.users import in_range, number
from dockyard.errors import InvalidParameter

LARGEST_FILE = 4 << 20


def find_owner(text: str, tree: DirectoryTree | None) -> Owner:
    """Whom `user[:group]` means; the group defaults to the one called like the user. Raises InvalidParameter."""
    user, colon, group = text.partition(":")
    if not user or ":" in group or (colon and not group):
        raise InvalidParameter(f"invalid chown string format: {text}")
    trouble = "unable to convert uid/gid chown string to host mapping: can't find"
    uid = _number(tree, "/etc/passwd", user)
    if uid is None:
        raise InvalidParameter(f"{trouble} uid for user {user}: no such user: {user}")
    group = group or user
    gid = _number(tree, "/etc/group", group)
    if gid is None:
        raise InvalidParameter(f"{trouble} gid for group {group}: no such group: {group}")
    return Owner(uid, gid)


def _number(tree: DirectoryTree | None, path: str, name: str) -> int | None:
    known = number(name)
    if known is not None:
        return in_range(known)
    file = tree.find(path) if tree is not None else None
    if file is None or not 0 < file.entry.size <= LARGEST_FILE:
        return None
    for line in b"".join(file.read()).decode(errors="replace").splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[0] == name and (found := number(fields[2])) is not None:
            return in_range(found)
    return None
