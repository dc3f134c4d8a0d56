"""What of a container lies outside of it: what CRIU must be told of, and what a restore puts in its place.

These are the sources of bind mounts, namespaces joined by their path, and the first process's streams; what a restore
must know of the streams lies beside CRIU's own images, in `descriptors.json` (runc's name for it).
criu.org, "External bind mounts", "Inheriting FDs".
"""

import contextlib
import fcntl
import json
import os
import stat
import struct
from dataclasses import dataclass

from dockyard.linux import capabilities, procfs
from dockyard.linux.cgroups import Cgroup
from dockyard.linux.rooted import Root
from dockyard.oci.runtime_spec import Mount, Spec
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.rootfs import devices

TIOCGPTN = 0x80045430  # ioctl_tty(2): a master's number
DESCRIPTORS = "descriptors.json"
MASK = "/dev/null"
# Those that CRIU leaves as they are; any other is joined anew.
EXTERNAL = {"network": ("net", "extRootNetNS"), "pid": ("pid", "extRootPidNS")}
# As criu_opts.join_ns calls them.
JOINED = {"ipc": "ipc", "uts": "uts", "user": "user", "mount": "mnt", "time": "time"}


@dataclass(frozen=True, slots=True)
class ExternalMount:
    """A mount whose `source` is outside, and the name by which a dump and a restore mean the same one.

    The name is the destination as config.json has it, and not the place that this leads to in the container's tree, by
    links that the image, and the running container, choose (runc CVE-2026-119101).

    `device`: it stands for a device that the container could not make itself.
    """

    name: str
    source: str
    device: bool = False


def mounts(spec: Spec, group: Cgroup, bundle: str, root: Root) -> dict[str, ExternalMount]:
    """Mounts from outside by their places in the tree `root`, symlinks resolved as far as it has them.

    Raises RuntimeFailure for a path that CRIU would take for several things.
    """
    found = {}
    for mount in spec.mounts:
        place = os.path.normpath(root.resolve(mount.destination))
        if is_bind(mount):
            source = os.path.realpath(os.path.join(bundle, mount.source))  # CRIU follows no link
            found[place] = ExternalMount(mount.destination, source)
        elif mount.type == "cgroup" and group.version == 1 and not has_namespace(spec, "cgroup"):
            for name, directory in group.paths.items():
                if name:
                    below = os.path.basename(group.layout.tops[name])
                    found[f"{place}/{below}"] = ExternalMount(f"{mount.destination}/{below}", directory)
    if has_namespace(spec, "user"):
        # who is root only there may make no devices: the host's are bound
        for path in (
            *(device.path for device in spec.linux.devices),
            *(f"/dev/{name}" for name, _, _ in devices.DEFAULTS),
        ):
            found.setdefault(path, ExternalMount(path, path, device=True))
    for place, outer in found.items():
        # it finds an option "mnt[KEY]:VALUE" by its beginning
        if "]" in place or "]" in outer.name:
            raise RuntimeFailure(
                f"a container with a mount at {place!r} can't be checkpointed: there is a ] in its name"
            )
    return found


def masks(spec: Spec, pid: int) -> list[str]:
    """Files over which the process's container has the null device."""
    found = []
    for path in spec.linux.masked_paths:
        with contextlib.suppress(OSError):
            if not stat.S_ISDIR(os.stat(f"/proc/{pid}/root{path}").st_mode):
                found.append(path)
    return found


def is_bind(mount: Mount) -> bool:
    """Whether it shows what is elsewhere."""
    return mount.type == "bind" or "bind" in mount.options or "rbind" in mount.options


def has_namespace(spec: Spec, kind: str) -> bool:
    """Whether it has one of its own, or joins one."""
    return any(namespace.type == kind for namespace in spec.linux.namespaces)


def make_places(root: Root, spec: Spec, bundle: str) -> None:
    """Make the places to mount on, which a tree that has not been a container's yet may lack. Raises OSError.

    What is on a file system of the container's own comes with it; what is on a bind mount is made in its source.
    """
    made: dict[str, Mount] = {}
    for mount in spec.mounts:
        place = root.resolve(mount.destination)
        above = max((outer for outer in made if place.startswith(outer.rstrip("/") + "/")), key=len, default="")
        directory = not is_bind(mount) or os.path.isdir(os.path.join(bundle, mount.source))
        made[place] = mount
        if not above:
            os.close(root.make(place, directory))
        elif is_bind(made[above]):
            source = Root(os.path.join(bundle, made[above].source))
            try:
                inside = source.resolve(place[len(above) :])
                os.close(source.make(inside, directory))
            finally:
                source.close()


def namespaces_left(spec: Spec) -> list[str]:
    """Of the namespaces joined by path those that a dump leaves alone, as criu's `external` names them."""
    return [
        f"{EXTERNAL[namespace.type][0]}[{os.stat(namespace.path).st_ino}]:{EXTERNAL[namespace.type][1]}"
        for namespace in spec.linux.namespaces
        if namespace.path and namespace.type in EXTERNAL
    ]


def namespaces_given(spec: Spec, undo: contextlib.ExitStack) -> list[tuple[str, int]]:
    """Their places taken at a restore: criu's key and a descriptor, to be closed by `undo`. Raises RuntimeFailure."""
    found = []
    for namespace in spec.linux.namespaces:
        if namespace.path and namespace.type in EXTERNAL:
            try:
                fd = os.open(namespace.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise RuntimeFailure(f"namespace path: lstat {namespace.path}: {error.strerror}") from error
            undo.callback(os.close, fd)
            found.append((EXTERNAL[namespace.type][1], fd))
    return found


def namespaces_joined(spec: Spec) -> list[tuple[str, str]]:
    """The others joined by path: criu's name of the kind, and the path. Raises RuntimeFailure."""
    found = []
    for namespace in spec.linux.namespaces:
        if not namespace.path or namespace.type in EXTERNAL:
            continue
        if namespace.type not in JOINED:
            raise RuntimeFailure(f"CRIU cannot restore into a {namespace.type} namespace that is there")
        found.append((JOINED[namespace.type], namespace.path))
    return found


def check_joined_pids(spec: Spec) -> None:
    """Raise RuntimeFailure when a restore would show CRIU, with the host's files, to a process that can look into it.

    CRIU forks what it restores into a PID namespace that is joined, while its root is still the host's.
    """
    joined = next((kind.path for kind in spec.linux.namespaces if kind.type == "pid" and kind.path), "")
    if not joined:
        return
    tracer = 1 << capabilities.NUMBERS["CAP_SYS_PTRACE"]
    namespace, users = os.stat(joined), os.stat("/proc/self/ns/user")
    for pid in procfs.in_pid_namespace(namespace):
        with contextlib.suppress(OSError):  # it has ended
            # in a user namespace of its own it has the capability over what is in there only
            here = os.path.samestat(os.stat(f"/proc/{pid}/ns/user"), users)
            if here and int(procfs.status_of(pid, "CapBnd"), 16) & tracer:
                raise RuntimeFailure(
                    f"cannot restore into the PID namespace {joined}: process {pid} is there with CAP_SYS_PTRACE"
                )


# -- streams


def save_streams(pid: int, images: str) -> None:
    """Note what the process has as 0, 1 and 2: paths, or pipe:[inode]."""
    found = []
    for number in range(3):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{number}"))
        except OSError:
            found.append("")
    with open(f"{images}/{DESCRIPTORS}", "wb") as file:
        file.write(json.dumps(found).encode())


def load_streams(images: str) -> list[str]:
    """What was noted. Raises RuntimeFailure when there is no checkpoint."""
    try:
        with open(f"{images}/{DESCRIPTORS}", "rb") as file:
            return [str(stream) for stream in json.load(file)]
    except (OSError, ValueError):
        raise RuntimeFailure(f"no checkpoint at {images}") from None


def is_terminal_of(master: int, streams: list[str]) -> bool:
    """Whether the terminal of which this is the master is the one noted, and not one of a later process."""
    number = struct.unpack("I", fcntl.ioctl(master, TIOCGPTN, b"\0" * 4))[0]
    return f"/dev/pts/{number}" in streams
