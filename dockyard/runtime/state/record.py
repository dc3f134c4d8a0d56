"""What is kept of a container in the state directory, `<root>/<id>/`, to find it again.

`state.json` is small, so that a command that only signals or deletes reads no more than it needs; `spec.json` is the
whole config.json as it was taken.
"""

import os
import shutil

import msgspec

from dockyard.linux.cgroups import Cgroup
from dockyard.runtime.errors import RuntimeFailure

STATE = "state.json"
SPEC = "spec.json"
# For the launcher's shell, of a container that needs only the usual at its start and end: PID and start time, the
# file that says whether it is frozen, then the cgroup's directories, a line each.
PLAIN = "plain"
# A record of what is about to be made, for who is to take it away should its maker be killed; or state.json be damaged.
PLAN = "plan.json"
PF_EXITING = 4  # include/linux/sched.h


class Record(msgspec.Struct, omit_defaults=True):
    """state.json. `started` is PID 1's start time, in clock ticks since boot: a PID comes again, both do not."""

    id: str
    bundle: str
    pid: int
    started: int
    cgroup: str  # "": none, its maker being allowed none
    created_ns: int
    oci_version: str
    rootfs: str  # absolute
    annotations: dict[str, str] = {}
    late_hooks: bool = False  # whether the spec has hooks that run after `start` or at the end
    own_mounts: bool = True  # whether it has a mount namespace of its own
    own_pids: bool = True  # whether it has a PID namespace of its own
    userns: bool = False
    gated: bool = False
    resctrl: list[str] = []  # directories of ours there, to be removed
    cgroup_paths: dict[str, str] = {}  # where they are not the usual ones of `cgroup`
    unit: str = ""  # the systemd unit that keeps the cgroup
    rootless: bool = False


_decode = msgspec.json.Decoder(Record).decode


def load(root: str, container_id: str) -> Record:
    """The record of a container. Raises RuntimeFailure when there is none."""
    if not container_id or "/" in container_id or container_id in (".", ".."):
        raise RuntimeFailure("invalid container id format")
    try:
        with open(os.path.join(root, container_id, STATE), "rb") as file:
            return _decode(file.read())
    except FileNotFoundError:
        raise RuntimeFailure("container does not exist") from None
    except ValueError as error:
        raise RuntimeFailure(
            f"the state of container {container_id} is damaged ({error}): delete --force it"
        ) from error


def load_plan(root: str, container_id: str) -> Record | None:
    """What was planned of a container that `load` finds no record of, or a damaged one; None without a plan."""
    try:
        with open(os.path.join(root, container_id, PLAN), "rb") as file:
            return _decode(file.read())
    except (FileNotFoundError, ValueError):
        return None


def save_plan(root: str, record: Record) -> None:
    """Write down what will be made; the PID is not known yet."""
    _write(os.path.join(root, record.id, PLAN), record)


def save(root: str, record: Record, spec: bytes, group: Cgroup) -> None:
    """Write the files; the container is found from then on."""
    directory = os.path.join(root, record.id)
    special = record.late_hooks or record.resctrl or record.unit or record.rootless or not record.own_mounts
    freezer = group.directory("freezer")
    if record.gated and not special and freezer is not None:
        state = "cgroup.freeze" if group.version == 2 else "freezer.state"
        lines = [f"{record.pid} {record.started}", f"{freezer}/{state}", *group.directories]
        with open(os.path.join(directory, PLAIN), "w") as file:
            file.write("\n".join(lines) + "\n")
    with open(os.path.join(directory, SPEC), "wb") as file:
        file.write(spec)
    _write(os.path.join(directory, STATE), record)


def _write(path: str, record: Record) -> None:
    with open(path + ".tmp", "wb") as file:
        file.write(msgspec.json.encode(record))
    os.rename(path + ".tmp", path)


def remove_files(directory: str) -> None:
    """Remove the directory, which has nothing but files as a rule, as far as it can be removed."""
    try:
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
        os.rmdir(directory)
    except FileNotFoundError:
        pass
    except OSError:
        shutil.rmtree(directory, ignore_errors=True)


def start_time(pid: int) -> int:
    """When the process started, in clock ticks since boot."""
    return parentage(pid)[1]


def parentage(pid: int) -> tuple[int, int]:
    """The PID of the process's parent, and its own start time. Raises OSError when there is no such process."""
    fields = _stat(pid)
    return int(fields[1]), int(fields[19])


def is_ending(pid: int) -> bool:
    """Whether the process is on its way out or has ended: nothing gets into its namespaces any more."""
    try:
        return bool(int(_stat(pid)[6]) & PF_EXITING)
    except OSError:
        return True


def is_alive(pid: int, started: int) -> bool:
    """Whether the process that had `pid` when it started at `started` still runs."""
    try:
        fields = _stat(pid)
    except OSError:
        return False
    return int(fields[19]) == started and fields[0] not in (b"Z", b"X")


def _stat(pid: int) -> list[bytes]:
    """proc_pid_stat(5) from the third field, the state, on."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()
