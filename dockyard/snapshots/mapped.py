"""Trees seen with other ids, through idmapped mounts (mount_setattr(2), MOUNT_ATTR_IDMAP)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from dockyard.errors import NotImplementedHere
from dockyard.linux import syscalls, userns
from dockyard.oci.runtime_spec import IDMapping
from dockyard.snapshots.driver import Ids


@contextmanager
def mapped_tree(path: str, ids: Ids) -> Iterator[int]:
    """A descriptor of `path` as a detached mount with the mapping, for the time of the block.

    Raises NotImplementedHere when the file system there can't.
    """
    namespace = userns.open_namespace(ids.uids, ids.gids)
    try:
        flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
        tree = syscalls.open_tree(syscalls.AT_FDCWD, path, flags)
        try:
            try:
                userns.map_mount(tree, namespace)
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ENOSYS):
                    raise NotImplementedHere(
                        f"the file system of {path} (or this kernel) has no idmapped mounts, which user namespaces need"
                    ) from error
                raise
            yield tree
        finally:
            os.close(tree)
    finally:
        os.close(namespace)


def mount_mapped(source: str, target: str, ids: Ids) -> None:
    """Mount the directory `source` at `target` with the mapping."""
    with mapped_tree(source, ids) as tree:
        syscalls.move_mount(tree, syscalls.AT_FDCWD, target)


def root_of(rows: list[IDMapping]) -> int:
    """The host's id for the tree's id 0."""
    return next(row.host_id - row.container_id for row in rows if row.container_id == 0)
