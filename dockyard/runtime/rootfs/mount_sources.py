"""What is mounted, as detached mounts: clones for bind mounts, id-mapped or not.

Where the container has a user namespace its own root may neither see the host's files nor map their owners; then the
runtime makes the clones before the container is born, and hands them down. What is in the container's own tree is
cloned when its turn comes, since earlier mounts may be part of it; ids are mapped by the runtime then, too.
"""

import errno
import os
from collections.abc import Mapping
from contextlib import ExitStack

from dockyard.linux import idmaps, syscalls
from dockyard.linux.syscalls import (
    AT_EMPTY_PATH,
    AT_RECURSIVE,
    MS_SLAVE,
)
from dockyard.oci.runtime_spec import Mount, Spec
from dockyard.runtime.rootfs import mount_options
from dockyard.runtime.rootfs.file_systems import failure
from dockyard.runtime.rootfs.mount_options import PROPAGATION, Options


def clone(wanted: Mount, options: Options, bundle: str) -> int:
    """A detached copy of what the bind mount `wanted` has as its source; its descriptor. Raises OSError."""
    recursive = AT_RECURSIVE if options.recursive else 0
    source = os.path.join(bundle, wanted.source)
    try:
        return syscalls.open_tree(
            syscalls.AT_FDCWD, source, syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | recursive
        )
    except OSError as error:
        error.filename = wanted.source
        raise


def open_all(
    spec: Spec, bundle: str, user_namespace: int, undo: ExitStack, pid_namespace: int = -1
) -> Mapping[int, int]:
    """What the container can't mount itself, by its place in the list: clones, and /proc of a joined namespace.

    `user_namespace` is the descriptor of the one that the container joins, -1 if it makes its own or has none;
    `pid_namespace` likewise. Closing is left to `undo`. Raises RuntimeFailure.
    """
    userns = any(namespace.type == "user" for namespace in spec.linux.namespaces)
    sources: dict[int, int] = {}
    for number, wanted in enumerate(spec.mounts):
        options = mount_options.parse(wanted.options)
        if pid_namespace >= 0 and wanted.type == "proc" and not options.bind:
            from dockyard.runtime.rootfs import joined_proc  # a container that joins nothing does without

            sources[number] = joined_proc.mount(pid_namespace, wanted, options)
            undo.callback(_close, sources[number])
            continue
        if not options.bind and wanted.type != "bind":
            continue
        mapped = is_mapped(wanted, options)
        if not userns and not mapped:
            continue
        if _is_in_root(wanted, spec, bundle):
            continue
        try:
            source = clone(wanted, options, bundle)
        except PermissionError:
            if mapped:
                raise failure(wanted, "the caller may not clone mounts") from None
            continue  # an ordinary user's runtime: the container is root in its own namespaces and does it itself
        except OSError as error:
            raise failure(wanted, error.strerror) from error
        undo.callback(_close, source)
        sources[number] = source
        # What is mounted here later may show up there, but nothing from there here.
        root = PROPAGATION.get(spec.linux.rootfs_propagation, MS_SLAVE)
        if not root & syscalls.MS_SHARED:
            syscalls.mount_setattr(source, "", AT_EMPTY_PATH | AT_RECURSIVE, propagation=MS_SLAVE)
        if mapped:
            map_ids(wanted, options, source, spec, user_namespace)
    return sources


def _is_in_root(wanted: Mount, spec: Spec, bundle: str) -> bool:
    """Whether the source is in the container's own tree, where an earlier mount may be what it means."""
    root = os.path.realpath(os.path.join(bundle, spec.root.path))
    return os.path.realpath(os.path.join(bundle, wanted.source)).startswith(root.rstrip("/") + "/")


def is_mapped(wanted: Mount, options: Options) -> bool:
    """Whether the mount has an id mapping of its own."""
    return bool(wanted.uid_mappings or wanted.gid_mappings or options.idmap)


def map_listed(number: int, source: int, spec: Spec, user_namespace: int) -> None:
    """`map_ids` for the mount of that number in the list, of which the container's first process has made a clone."""
    wanted = spec.mounts[number]
    map_ids(wanted, mount_options.parse(wanted.options), source, spec, user_namespace)


def map_ids(wanted: Mount, options: Options, source: int, spec: Spec, user_namespace: int) -> None:
    """Show the mount `source` with the ids that `wanted` or the container maps. Raises RuntimeFailure."""
    uids, gids = wanted.uid_mappings, wanted.gid_mappings
    namespace = -1
    try:
        if not uids and not gids and user_namespace >= 0:
            namespace = os.dup(user_namespace)
        else:
            namespace = idmaps.user_namespace(uids or spec.linux.uid_mappings, gids or spec.linux.gid_mappings)
        idmaps.map_mount(source, namespace, recursive=options.idmap_recursive)
    except OSError as error:
        reason = "its file system has no id-mapped mounts" if error.errno == errno.EINVAL else error.strerror
        raise failure(wanted, f"failed to set MOUNT_ATTR_IDMAP: {reason}") from error
    finally:
        if namespace >= 0:
            os.close(namespace)


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass  # handed on and closed already
