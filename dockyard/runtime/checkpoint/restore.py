"""Restore: a container made again from the files of its checkpoint, its processes going on where they were."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator

from dockyard.linux import null_device, syscalls
from dockyard.linux.cgroups import Cgroup
from dockyard.linux.rooted import Root
from dockyard.oci import runtime_spec
from dockyard.oci.runtime_spec import Spec, State
from dockyard.runtime.birth import hooks, init
from dockyard.runtime.checkpoint import dump as checkpoint
from dockyard.runtime.checkpoint import external_resources, namespace_settings
from dockyard.runtime.checkpoint.criu import Act, Criu
from dockyard.runtime.checkpoint.dump import Options
from dockyard.runtime.checkpoint.external_resources import ExternalMount
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.lifecycle import validation
from dockyard.runtime.lifecycle.container import Container, Started, Stdio
from dockyard.runtime.resources import groups
from dockyard.runtime.state import record as records
from dockyard.runtime.state.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dockyard.runtime.checkpoint.criu import Value

LOG = "restore.log"
HOST = "/dev"


def restore(
    root: str,
    container_id: str,
    bundle: str,
    spec: Spec,
    stdio: Stdio | None,
    options: Options,
    *,
    systemd: bool = False,
    rootless: bool = False,
) -> Container:
    """Make the container again from the images, its first process a child of the caller's, and running.

    `stdio` (None: the caller's own) takes the place of the pipes that it had. Raises RuntimeFailure; then nothing is
    left.
    """
    validation.check(spec, bundle, pivot=True)
    external_resources.check_joined_pids(spec)
    streams = external_resources.load_streams(os.path.abspath(options.images))
    images, work = checkpoint.directories(options)
    _let_read(images, spec)
    with contextlib.ExitStack() as undo:
        directory = os.path.join(root, container_id)
        try:
            os.makedirs(directory, mode=0o711)
        except FileExistsError:
            raise RuntimeFailure(f"container with given ID already exists: {container_id}") from None
        undo.callback(shutil.rmtree, directory, ignore_errors=True)
        group = groups.of_spec(spec, container_id, systemd=systemd, rootless=rootless)
        groups.make(group, spec, rootless=rootless)
        undo.callback(_remove, group)
        rootfs = init.root_path(bundle, spec)
        restored = _Restored(container_id, bundle, spec, streams, moved=options.moved)
        undo.callback(restored.abandon)

        def enter(pid: int) -> None:
            if group.unit:
                groups.start(group, spec, pid, rootless=rootless)
            else:
                groups.join(group, pid)

        with _mounted(directory, rootfs) as top, contextlib.ExitStack() as given:
            if options.moved:
                given.enter_context(namespace_settings.any_address(spec))
            devices = given.enter_context(_devices(directory, spec))
            wanted, keep = _wanted(top, devices, bundle, spec, group, streams, stdio, options, given)
            places = given.enter_context(checkpoint.opened(images, work))
            Criu(options.program).ask(
                Act.RESTORE, wanted | places, f"{work}/{LOG}", on_notice=restored.on_notice, keep=keep, enter=enter
            )
        record = Record(
            id=container_id,
            bundle=bundle,
            pid=restored.pid,
            started=records.start_time(restored.pid),
            cgroup=group.path if group.paths else "",
            created_ns=time.time_ns(),
            oci_version=spec.oci_version,
            rootfs=rootfs,
            annotations=spec.annotations,
            late_hooks=spec.hooks is not None and bool(spec.hooks.poststart or spec.hooks.poststop),
            own_mounts=external_resources.has_namespace(spec, "mount"),
            own_pids=any(namespace.type == "pid" and not namespace.path for namespace in spec.linux.namespaces),
            userns=external_resources.has_namespace(spec, "user"),
            cgroup_paths=groups.unusual_paths(group),
            unit=group.unit,
            rootless=rootless,
        )
        records.save(root, record, runtime_spec.encode(spec), group)
        undo.pop_all()
    container = Container.load(root, container_id)
    container.process = Started(restored.pid, os.pidfd_open(restored.pid), restored.console)
    return container


class _Restored:
    """What becomes known of the container while CRIU makes it."""

    def __init__(self, container_id: str, bundle: str, spec: Spec, streams: list[str], *, moved: bool) -> None:
        self.pid = 0
        self.console: int | None = None  # the terminal's master
        self._id = container_id
        self._bundle = bundle
        self._spec = spec
        self._streams = streams
        self._moved = moved

    def on_notice(self, name: str, pid: int, fd: int) -> None:
        """CRIU has come to a point."""
        if name == "setup-namespaces" and self._spec.hooks is not None:
            state = State(
                id=self._id, status="creating", pid=pid, bundle=self._bundle, annotations=self._spec.annotations
            )
            hooks.run("prestart", self._spec.hooks.prestart, state, directory=self._bundle)
            hooks.run("createRuntime", self._spec.hooks.create_runtime, state, directory=self._bundle)
        elif name == "post-restore":
            self.pid = pid
            if self._moved and self._spec.hostname:
                namespace_settings.set_hostname(pid, self._spec)
        elif name == "orphan-pts-master" and fd >= 0:
            if self.console is None and external_resources.is_terminal_of(fd, self._streams):
                self.console = fd
            else:
                os.close(fd)  # of a process run in the container later: its client has gone

    def abandon(self) -> None:
        """Let go of it."""
        if self.console is not None:
            os.close(self.console)
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, 9)


@contextlib.contextmanager
def _mounted(directory: str, rootfs: str) -> Iterator[str]:
    """The container's tree as CRIU wants it: a mount point, and nothing mounted over its parent."""
    top = f"{directory}/criu-root"
    os.mkdir(top)
    try:
        syscalls.mount(rootfs, top, None, syscalls.MS_BIND | syscalls.MS_REC)
        try:
            yield top
        finally:
            syscalls.umount2(top, syscalls.MNT_DETACH)
    finally:
        os.rmdir(top)


def _let_read(images: str, spec: Spec) -> None:
    """Let the container's root, if it is not the host's, read the images: it is in its user namespace by then."""
    group = next((row.host_id for row in spec.linux.gid_mappings if row.container_id == 0), 0)
    if not group:
        return
    for entry in os.scandir(images):
        os.chown(entry.path, -1, group, follow_symlinks=False)
        if entry.is_file(follow_symlinks=False):
            os.chmod(entry.path, 0o640)
    os.chown(images, -1, group)
    os.chmod(images, 0o750)


@contextlib.contextmanager
def _devices(directory: str, spec: Spec) -> Iterator[str]:
    """A directory with a null device for the masks, and for a user namespace's devices what the host's /dev has.

    None of them is the container's to change: that of the masks alone is of a file system made for it, as at a birth
    (rootfs/tree.py); the host's are read-only from the beginning, since CRIU 4.1 makes only the first of several binds
    of one file what it was.
    """
    users = external_resources.has_namespace(spec, "user")
    place = f"{directory}/devices"
    os.mkdir(place)
    try:
        if users:
            # a copy of the mount: where it is shared, what is bound from there gets its propagation from no other
            made = syscalls.open_tree(syscalls.AT_FDCWD, HOST, syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC)
        else:
            made = null_device.file_system(attributes=0)  # CRIU gives each mask what attributes it had
        try:
            if users:
                syscalls.mount_setattr(made, "", syscalls.AT_EMPTY_PATH, set_=syscalls.MOUNT_ATTR_RDONLY)
            syscalls.move_mount(made, syscalls.AT_FDCWD, place)
        finally:
            os.close(made)
        try:
            yield place
        finally:
            syscalls.umount2(place, syscalls.MNT_DETACH)
    finally:
        os.rmdir(place)


def _source(outer: ExternalMount, devices: str) -> str:
    """What CRIU is to bind for it: a device from `devices`, if it is there, and not from the host's /dev."""
    place = f"{devices}{outer.source.removeprefix(HOST)}"
    with contextlib.suppress(OSError):
        if outer.device and outer.source.startswith(f"{HOST}/") and os.path.samefile(place, outer.source):
            return place
    return outer.source


def _wanted(
    top: str,
    devices: str,
    bundle: str,
    spec: Spec,
    group: Cgroup,
    streams: list[str],
    stdio: Stdio | None,
    options: Options,
    undo: contextlib.ExitStack,
) -> tuple[dict[str, Value], list[int]]:
    """CRIU's options, and the descriptors that it needs for them, which `undo` closes."""
    root = Root(top)
    undo.callback(root.close)
    try:
        external_resources.make_places(root, spec, bundle)
    except OSError as error:
        raise RuntimeFailure(f"cannot make a place to mount on: {error.filename}: {error.strerror}") from error
    outside = external_resources.mounts(spec, group, bundle, root).values()
    mounts = {outer.name: _source(outer, devices) for outer in outside}
    mounts[external_resources.MASK] = f"{devices}/null"
    inherited = external_resources.namespaces_given(spec, undo) + _streams_given(streams, stdio, undo)
    wanted = checkpoint.common(options, spec) | {
        "root": top,
        "log_file": LOG,
        "rst_sibling": True,
        "evasive_devices": True,
        "external": [f"mnt[{name}]:{source}" for name, source in mounts.items()],
        "inherit_fd": list(inherited),
        "join_ns": list(external_resources.namespaces_joined(spec)),
    }
    for name, value in (("lsm_profile", options.lsm_profile), ("lsm_mount_context", options.lsm_mount_context)):
        if value:
            wanted[name] = value
    return wanted, [fd for _, fd in inherited]


def _streams_given(streams: list[str], stdio: Stdio | None, undo: contextlib.ExitStack) -> list[tuple[str, int]]:
    """The new pipes in the places of the old: criu's key and a descriptor."""
    given = (stdio.stdin, stdio.stdout, stdio.stderr) if stdio is not None else (0, 1, 2)
    found: dict[str, int] = {}
    for stream, fd in zip(streams, given, strict=False):
        if stream.startswith("pipe:") and stream not in found:
            # above the first three, which are CRIU's own
            found[stream] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
            undo.callback(os.close, found[stream])
    return list(found.items())


def _remove(group: Cgroup) -> None:
    with contextlib.suppress(OSError):
        group.remove()
