"""`--chown`: names and numbers, looked up in the image's own /etc/passwd and /etc/group."""

from __future__ import annotations

from dockyard.builder.layer_plan import Owner
from dockyard.builder.trees import Tree
from dockyard.engine.containers.spec.users import in_range, number
from dockyard.errors import InvalidParameter

LARGEST_FILE = 4 << 20


def find_owner(text: str, tree: Tree | None) -> Owner:
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


def find_account(name: str, tree: Tree | None) -> tuple[int, int]:
    """The IDs of a user and of the group that is that one's own. Raises InvalidParameter."""
    fields = _line(tree, "/etc/passwd", name)
    uid = number(fields[2]) if len(fields) > 3 else number(name)
    if uid is None:
        raise InvalidParameter(f"unable to find user {name}: no matching entries in passwd file")
    gid = number(fields[3]) if len(fields) > 3 else None
    return in_range(uid), in_range(gid or 0)


def find_group(name: str, tree: Tree | None) -> int:
    """The ID of a group. Raises InvalidParameter."""
    gid = _number(tree, "/etc/group", name)
    if gid is None:
        raise InvalidParameter(f"unable to find group {name}: no matching entries in group file")
    return gid


def _number(tree: Tree | None, path: str, name: str) -> int | None:
    known = number(name)
    if known is not None:
        return in_range(known)
    fields = _line(tree, path, name)
    found = number(fields[2]) if fields else None
    return in_range(found) if found is not None else None


def _line(tree: Tree | None, path: str, name: str) -> list[str]:
    """The fields of what a file says about a name; none when it says nothing."""
    file = tree.find(path) if tree is not None else None
    if file is None or not 0 < file.entry.size <= LARGEST_FILE:
        return []
    for line in b"".join(file.read()).decode(errors="replace").splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[0] == name and number(fields[2]) is not None:
            return fields
    return []
