"""The spec's resources as limits of a cgroup: what version 1 and 2 do alike, and the errors that programs match on.

Specification: config-linux.md, "Control groups". How each version takes them is in resources_v1 and resources_v2.
"""

from dockyard.linux.cgroups import Cgroup
from dockyard.oci.runtime_spec import Resources, Struct
from dockyard.runtime.errors import RuntimeFailure

# The cgroup of a container that may have none (its runtime is no root's) lacks these only if nothing asks for them.
_CONTROLLERS_OF = {
    "memory": "memory",
    "cpu": "cpu",
    "pids": "pids",
    "block_io": "blkio",
    "hugepage_limits": "hugetlb",
    "rdma": "rdma",
}


def check(resources: Resources, version: int) -> None:
    """Refuse what no cgroup of this version can do. Raises RuntimeFailure."""
    if version == 1 and resources.unified:
        raise RuntimeFailure("invalid configuration: cannot use unified resources with cgroup v1")
    for name in resources.unified:
        if "/" in name:
            raise RuntimeFailure(f'unified resource "{name}" must be a file name (no slashes)')
    memory = resources.memory
    if memory is not None and memory.swappiness is not None and not 0 <= memory.swappiness <= 100:
        raise RuntimeFailure(f"invalid memory swappiness value: {memory.swappiness} (valid range is 0-100)")


def apply(group: Cgroup, resources: Resources, *, rootless: bool = False) -> None:
    """Set every limit of `resources` on the existing cgroup `group`. Raises RuntimeFailure naming what is refused.

    `rootless`: a caller who is not root; without a cgroup, or the right to filter devices, it does without.
    """
    check(resources, group.version)
    _refuse_without_cgroup(group, resources)
    try:
        if group.unit:
            from dockyard.runtime.resources import systemd_properties  # only where systemd keeps the cgroup

            resources = systemd_properties.rounded(resources)
            systemd_properties.set_on(group, resources)
        if group.version == 2:
            from dockyard.runtime.resources import v2 as resources_v2

            resources_v2.apply(group, resources, rootless=rootless)
        else:
            from dockyard.runtime.resources import v1 as resources_v1

            resources_v1.apply(group, resources, rootless=rootless)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise RuntimeFailure(
            f"error setting cgroup config:{where}: {(error.strerror or str(error)).lower()}"
        ) from error


def _refuse_without_cgroup(group: Cgroup, resources: Resources) -> None:
    for name, controller in _CONTROLLERS_OF.items():
        if group.directory(controller) is not None or not _asks_for_something(getattr(resources, name)):
            continue
        if group.version == 2:
            raise RuntimeFailure(
                "rootless needs no limits + no cgrouppath when no permission is granted for cgroups: no cgroup to limit"
            )
        raise RuntimeFailure(f"cannot set {controller} limit: container could not join or create cgroup")


def _asks_for_something(wanted: Struct | list[Struct] | dict[str, Struct] | None) -> bool:
    if isinstance(wanted, Struct):
        return any(getattr(wanted, name) for name in wanted.__struct_fields__)
    return bool(wanted)
