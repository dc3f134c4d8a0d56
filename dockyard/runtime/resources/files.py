"""Writing one limit to its file of a cgroup, with the errors that say which."""

from dockyard.linux.cgroups import Cgroup
from dockyard.oci.runtime_spec import Rdma
from dockyard.runtime.errors import RuntimeFailure


def write(group: Cgroup, controller: str, name: str, value: str) -> None:
    """Write a limit. Raises RuntimeFailure naming file and value when the kernel refuses it or has no such file."""
    try:
        group.write(controller, name, value)
    except FileNotFoundError:
        raise RuntimeFailure(f"this kernel or host has no {name}: cannot set {value!r}") from None
    except OSError as error:
        raise refused(group, controller, name, value, error) from error


def refused(group: Cgroup, controller: str, name: str, value: str, error: OSError) -> RuntimeFailure:
    """The failure that says what the kernel would not take."""
    directory = group.directory(controller) or controller
    return RuntimeFailure(f'failed to write "{value}": write {directory}/{name}: {(error.strerror or "").lower()}')


def offer(group: Cgroup, controller: str, name: str, value: str) -> bool:
    """Write a limit that not every kernel has; False when there is no such file. Raises RuntimeFailure."""
    if group.read(controller, name) is None:
        return False
    write(group, controller, name, value)
    return True


def rdma_row(device: str, limits: Rdma) -> str:
    """A row of rdma.max, the same in both versions."""
    pairs = (("hca_handle", limits.hca_handles), ("hca_object", limits.hca_objects))
    return " ".join([device, *(f"{key}={value}" for key, value in pairs if value is not None)])


def most_tasks(limit: int) -> str:
    """pids.max: no limit for a negative one; none at all would keep even the container's first process out."""
    return "max" if limit < 0 else str(max(limit, 1))
