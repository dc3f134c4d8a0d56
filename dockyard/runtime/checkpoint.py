"""Checkpoint and restore: a container's processes to files and back, by CRIU.

CRIU is run as a command. What lies outside the container is named to it: bind mounts, a joined network namespace, the
pipes and the terminal that are the first process's streams. What a restore must know of these lies beside CRIU's own
images, in `descriptors.json` (runc's name for it). criu(8); criu.org, "External bind mounts", "Inheriting FDs".
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from dockyard.linux import syscalls
from dockyard.linux.cgroups import Cgroup, path_of
from dockyard.oci import runtime_spec
from dockyard.oci.runtime_spec import Mount, Spec
from dockyard.runtime import groups, init, validation
from dockyard.runtime import record as records
from dockyard.runtime.container import Container, Started, Stdio
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.existing import Existing
from dockyard.runtime.record import Record

DESCRIPTORS = "descriptors.json"
NETWORK = "extRootNetNS"
DEFAULT_PROGRAM = "criu"
CGROUP_MODES = ("soft", "full", "strict", "ignore")


@dataclass(frozen=True, slots=True)
class Options:
    """As criu's flags and runc's: `images` and `work` are directories, `parent` one below `images` of a pre-dump."""

    images: str
    work: str = ""
    parent: str = ""
    leave_running: bool = False
    tcp_established: bool = False
    tcp_skip_in_flight: bool = False
    external_unix_sockets: bool = False
    shell_job: bool = False
    link_remap: bool = False
    lazy_pages: bool = False
    file_locks: bool = False
    pre_dump: bool = False
    auto_dedup: bool = False
    page_server: str = ""  # ADDRESS:PORT
    status_fd: int = -1
    cgroup_mode: str = ""
    empty_namespaces: Sequence[str] = field(default_factory=list)
    lsm_profile: str = ""
    lsm_mount_context: str = ""
    program: str = DEFAULT_PROGRAM


def checkpoint(container: Existing, options: Options) -> None:
    """Write the container's processes to `options.images`. They end, unless they are left running or only pre-dumped.

    Raises RuntimeFailure with CRIU's reason. The container is still to be deleted.
    """
    status = container.status()
    if status in ("created", "stopped"):
        raise RuntimeFailure(f"Container cannot be checkpointed in {status} state")
    images, work = _directories(options)
    spec = container.spec
    words = ["pre-dump" if options.pre_dump else "dump", "--tree", str(container.record.pid)]
    words += _common(options, images, work, "dump.log")
    words += ["--root", container.record.rootfs]
    if options.parent:
        words += ["--prev-images-dir", options.parent, "--track-mem"]
    if options.leave_running:
        words.append("--leave-running")
    if options.tcp_skip_in_flight:
        words.append("--skip-in-flight")
    if options.link_remap:
        words.append("--link-remap")
    if options.page_server:
        address, _, port = options.page_server.rpartition(":")
        words += ["--page-server", "--address", address, "--port", port]
    keep: list[int] = []
    if options.lazy_pages:
        words.append("--lazy-pages")
        if options.status_fd >= 0:
            words += ["--status-fd", str(options.status_fd)]
            keep.append(options.status_fd)
    freezer = container.group.directory("freezer")
    if freezer is not None and os.path.exists(freezer):
        words += ["--freeze-cgroup", freezer]
    if not options.pre_dump:
        streams = _streams(container.record.pid)
        with open(f"{images}/{DESCRIPTORS}", "wb") as file:
            file.write(json.dumps(streams).encode())
        for mount in _outside_mounts(spec, container.group):
            words += ["--external", f"mnt[{mount}]:{mount}"]
        words += [word for stream in streams if stream.startswith("tty[") for word in ("--external", stream)][:2]
        network = _joined_network(spec)
        if network:
            words += ["--external", f"net[{os.stat(network).st_ino}]:{NETWORK}"]
    was_frozen = container.group.frozen()
    if was_frozen:
        container.group.freeze(False)  # CRIU needs the processes' help
    try:
        _run(options.program, words, work, "dump.log", keep)
    except RuntimeFailure:
        if was_frozen:
            container.group.freeze(True)
        raise


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

    `stdio` takes the place of the pipes that it had. Raises RuntimeFailure; then nothing is left.
    """
    validation.check(spec, bundle, pivot=True)
    images, work = _directories(options, make=False)
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
        pid, console = _restore(directory, rootfs, spec, group, stdio, options, images, work, rootless)
        undo.callback(_kill, pid)
        record = Record(
            id=container_id,
            bundle=bundle,
            pid=pid,
            started=records.start_time(pid),
            cgroup=group.path if group.paths else "",
            created_ns=time.time_ns(),
            oci_version=spec.oci_version,
            rootfs=rootfs,
            annotations=spec.annotations,
            late_hooks=spec.hooks is not None and bool(spec.hooks.poststart or spec.hooks.poststop),
            own_mounts=any(namespace.type == "mount" for namespace in spec.linux.namespaces),
            own_pids=any(namespace.type == "pid" and not namespace.path for namespace in spec.linux.namespaces),
            userns=any(namespace.type == "user" for namespace in spec.linux.namespaces),
            cgroup_paths=groups.unusual_paths(group),
            unit=group.unit,
            rootless=rootless,
        )
        records.save(root, record, runtime_spec.encode(spec), group)
        undo.pop_all()
    container = Container.load(root, container_id)
    container.process = Started(pid, os.pidfd_open(pid), console)
    return container


def _restore(
    directory: str,
    rootfs: str,
    spec: Spec,
    group: Cgroup,
    stdio: Stdio | None,
    options: Options,
    images: str,
    work: str,
    rootless: bool,
) -> tuple[int, int | None]:
    """Run CRIU in the container's cgroup; the PID of the first process, and its terminal's master."""
    with contextlib.ExitStack() as undo:
        # CRIU wants the root to be a mount point, and nothing mounted over its parent
        root = f"{directory}/criu-root"
        os.mkdir(root)
        undo.callback(os.rmdir, root)
        syscalls.mount(rootfs, root, None, syscalls.MS_BIND | syscalls.MS_REC)
        undo.callback(syscalls.umount2, root, syscalls.MNT_DETACH)
        _make_targets(root, spec)
        pid_file = f"{directory}/criu-pid"
        words = ["restore", "--restore-detached", "--restore-sibling", "--pidfile", pid_file, "--root", root]
        words += [*_common(options, images, work, "restore.log"), "--evasive-devices"]
        if options.lazy_pages:
            words.append("--lazy-pages")
        if options.lsm_profile:
            words += ["--lsm-profile", options.lsm_profile]
        if options.lsm_mount_context:
            words += ["--lsm-mount-context", options.lsm_mount_context]
        sources = _outside_mounts(spec, group)
        for destination, source in sources.items():
            words += ["--external", f"mnt[{destination}]:{source}"]
        keep: list[int] = []
        network = _joined_network(spec)
        if network:
            fd = os.open(network, os.O_RDONLY)
            undo.callback(os.close, fd)
            keep.append(fd)
            words += ["--inherit-fd", f"fd[{fd}]:{NETWORK}"]
        console = _inherit(images, stdio, words, keep, undo)
        _run(options.program, words, work, "restore.log", keep, group=group, spec=spec, rootless=rootless)
        with open(pid_file) as file:
            pid = int(file.read())
        os.unlink(pid_file)
        return pid, console


def _inherit(
    images: str, stdio: Stdio | None, words: list[str], keep: list[int], undo: contextlib.ExitStack
) -> int | None:
    """Name the new streams to CRIU in the place of the old; the master of a new terminal, if it had one."""
    with open(f"{images}/{DESCRIPTORS}", "rb") as file:
        streams = [str(stream) for stream in json.load(file)]
    master: int | None = None
    given = (stdio.stdin, stdio.stdout, stdio.stderr) if stdio is not None else (0, 1, 2)
    done: set[str] = set()
    for stream, fd in zip(streams, given, strict=False):
        if stream in done:
            continue
        done.add(stream)
        if stream.startswith("tty["):
            master, slave = os.openpty()
            undo.callback(os.close, slave)
            words += ["--inherit-fd", f"fd[{slave}]:{stream}"]
            keep.append(slave)
        elif stream.startswith("pipe:"):
            # above the first three, which CRIU uses itself
            copy = os.dup(fd) if fd > 2 else _dup_above(fd)
            undo.callback(os.close, copy)
            words += ["--inherit-fd", f"fd[{copy}]:{stream}"]
            keep.append(copy)
    return master


def _dup_above(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)


def _directories(options: Options, *, make: bool = True) -> tuple[str, str]:
    """The directories of the images and of logs, absolute, made if need be. Raises RuntimeFailure."""
    images = os.path.abspath(options.images)
    if options.parent:
        if options.parent.startswith("/"):
            raise RuntimeFailure("--parent-path must be relative")
        if not os.path.isdir(f"{images}/{options.parent}"):
            raise RuntimeFailure(f"invalid --parent-path: stat {images}/{options.parent}: no such directory")
    if options.cgroup_mode and options.cgroup_mode not in CGROUP_MODES:
        raise RuntimeFailure("Invalid manage-cgroups-mode value")
    work = os.path.abspath(options.work) if options.work else images
    if not make and not os.path.exists(f"{images}/{DESCRIPTORS}"):
        raise RuntimeFailure(f"no checkpoint at {images}")
    try:
        if make:
            os.makedirs(images, 0o700, exist_ok=True)
        os.makedirs(work, 0o700, exist_ok=True)
    except OSError as error:
        raise RuntimeFailure(f"cannot make {error.filename}: {error.strerror}") from error
    return images, work


def _common(options: Options, images: str, work: str, log: str) -> list[str]:
    words = ["--images-dir", images, "--work-dir", work, "--log-file", log, "-v4"]
    words.append(f"--manage-cgroups={options.cgroup_mode or 'soft'}")
    for wanted, flag in (
        (options.tcp_established, "--tcp-established"),
        (options.external_unix_sockets, "--ext-unix-sk"),
        (options.shell_job, "--shell-job"),
        (options.file_locks, "--file-locks"),
        (options.auto_dedup, "--auto-dedup"),
    ):
        if wanted:
            words.append(flag)
    for name in options.empty_namespaces:
        if name not in ("network", "net"):
            raise RuntimeFailure(f"namespace {name} is not supported")
        words += ["--empty-ns", "net"]
    return words


def _streams(pid: int) -> list[str]:
    """What the process has as 0, 1 and 2, as CRIU names it: a path, pipe:[inode], or tty[rdev:dev]."""
    found = []
    for number in range(3):
        path = f"/proc/{pid}/fd/{number}"
        try:
            name, status = os.readlink(path), os.stat(path)
        except OSError:
            found.append("")
            continue
        is_terminal = os.major(status.st_rdev) in range(136, 144)  # Unix98 pseudo terminals
        found.append(f"tty[{status.st_rdev:x}:{status.st_dev:x}]" if is_terminal else name)
    return found


def _outside_mounts(spec: Spec, group: Cgroup) -> dict[str, str]:
    """Mounts whose source is outside of the container, by destination: binds, and of /dev/null over masked files."""
    found = {}
    for mount in spec.mounts:
        if _is_bind(mount):
            found[os.path.normpath(mount.destination)] = mount.source
        elif mount.type == "cgroup" and group.version == 1 and not _has_namespace(spec, "cgroup"):
            for name, directory in group.paths.items():
                if name:
                    top = os.path.basename(group.layout.tops[name])
                    found[f"{os.path.normpath(mount.destination)}/{top}"] = directory
    for path in spec.linux.masked_paths:
        if not os.path.isdir(path) and os.path.exists(path):
            found[path] = "/dev/null"
    return found


def _is_bind(mount: Mount) -> bool:
    return mount.type == "bind" or "bind" in mount.options or "rbind" in mount.options


def _has_namespace(spec: Spec, kind: str) -> bool:
    return any(namespace.type == kind for namespace in spec.linux.namespaces)


def _joined_network(spec: Spec) -> str:
    return next((namespace.path for namespace in spec.linux.namespaces if namespace.type == "network"), "")


def _make_targets(root: str, spec: Spec) -> None:
    """Places to mount on, which a root that has not been a container's yet may lack."""
    inner = [os.path.normpath(mount.destination) for mount in spec.mounts if not _is_bind(mount)]
    for mount in spec.mounts:
        destination = os.path.normpath(mount.destination)
        if any(destination.startswith(outer + "/") for outer in inner):
            continue  # on a mount that CRIU makes
        parent = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        parts = destination.strip("/").split("/")
        try:
            for number, part in enumerate(parts):
                last = number == len(parts) - 1
                if last and _is_bind(mount) and not os.path.isdir(mount.source):
                    with contextlib.suppress(FileExistsError):
                        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=parent))
                    break
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=parent)
                # the image may hold links to anywhere: never followed out of the root
                child = syscalls.openat2(parent, part, os.O_PATH | os.O_DIRECTORY, resolve=syscalls.RESOLVE_BENEATH)
                os.close(parent)
                parent = child
        except OSError:
            pass  # CRIU says what it lacks
        finally:
            os.close(parent)


def _run(
    program: str,
    words: list[str],
    work: str,
    log: str,
    keep: Sequence[int],
    *,
    group: Cgroup | None = None,
    spec: Spec | None = None,
    rootless: bool = False,
) -> None:
    """Run CRIU to its end, with `group` inside that cgroup. Raises RuntimeFailure with its log's first error."""

    def enter() -> None:
        assert group is not None
        assert spec is not None
        if group.unit:
            groups.start(group, spec, rootless=rootless)
        else:
            groups.join(group)

    if group is not None and not group.unit:
        # new processes go where CRIU is
        for controller, place in _places(group).items():
            words = [*words, "--cgroup-root", f"{controller}:{place}" if controller else place]
    try:
        done = subprocess.run(
            [program, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            pass_fds=keep,
            preexec_fn=enter if group is not None else None,
            check=False,
        )
    except FileNotFoundError:
        raise RuntimeFailure(f"CRIU is not installed: {program} not found") from None
    if done.returncode:
        said = _first_error(f"{work}/{log}") or done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise RuntimeFailure(f"criu failed: {words[0]}: {said or done.returncode}\nlog file: {work}/{log}")


def _places(group: Cgroup) -> dict[str, str]:
    """The group's path by controller, as /proc/<pid>/cgroup would tell it."""
    own = path_of("self")
    return {
        name: group.directory(name)[len(group.layout.tops[name]) :]  # type: ignore[index]  # a key of its own
        for name in group.paths
        if name in own and name and group.version == 1
    } or {"": group.path}


def _first_error(path: str) -> str:
    with contextlib.suppress(OSError), open(path, errors="replace") as rows:
        for row in rows:
            found = re.match(r"\([0-9.]+\)\s*(?:\d+: )?(Error .*)", row)
            if found:
                return found.group(1)
    return ""


def _remove(group: Cgroup) -> None:
    with contextlib.suppress(OSError):
        group.remove()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 9)
