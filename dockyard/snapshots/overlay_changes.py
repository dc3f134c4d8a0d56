"""What an upper layer changes in the tree below it, as `docker diff` lists it."""

import os
import stat

from dockyard.errors import SystemFailure
from dockyard.snapshots import trees
from dockyard.snapshots.driver import Change, ChangeKind
from dockyard.snapshots.overlay_marks import is_opaque, is_whiteout


def compare(upper: int, lower: int | None, path: str, found: list[Change], depth: int) -> None:
    """Append to `found` what `upper` (a directory of an upper layer) changes in `lower` (of the merged tree below)."""
    if depth > trees.DEPTH_LIMIT:
        raise SystemFailure(f"cannot compare {path[:200]}…: directories are nested too deep")
    names = set()
    for entry in trees.entries(upper):
        name = f"{path}/{entry.name}"
        names.add(entry.name)
        try:
            status = os.stat(entry.name, dir_fd=upper, follow_symlinks=False)
        except FileNotFoundError:
            continue
        below = None
        if lower is not None:
            try:
                below = os.stat(entry.name, dir_fd=lower, follow_symlinks=False)
            except FileNotFoundError:
                pass
        if is_whiteout(status):
            if below is not None:
                found.append(Change(ChangeKind.DELETED, name))
            continue
        before = len(found)
        listed = True
        if below is None:
            found.append(Change(ChangeKind.ADDED, name))
        elif trees.differs(status, below):
            found.append(Change(ChangeKind.MODIFIED, name))
        else:
            listed = False
        if stat.S_ISDIR(status.st_mode):
            try:
                with trees.opened_directory(entry.name, upper) as child:
                    if below is not None and stat.S_ISDIR(below.st_mode):
                        with trees.opened_directory(entry.name, lower) as child_below:
                            compare(child, child_below, name, found, depth + 1)
                    else:
                        compare(child, None, name, found, depth + 1)
            except (FileNotFoundError, NotADirectoryError):
                continue  # it was replaced while we looked
            # A directory in which something changed is itself reported as changed, ahead of its content.
            if len(found) > before and not listed:
                found.insert(before, Change(ChangeKind.MODIFIED, name))
    if lower is not None and is_opaque(upper):
        found.extend(
            Change(ChangeKind.DELETED, f"{path}/{entry.name}")
            for entry in trees.entries(lower)
            if entry.name not in names
        )
