"""Checkpoint: a container's processes written to files, from which `restore` lets them go on. CRIU does it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from dockyard.linux.rooted import Root
from dockyard.linux.syscalls import CLONE_NEWNET
from dockyard.oci.runtime_spec import Spec
from dockyard.runtime.checkpoint import external_resources
from dockyard.runtime.checkpoint.criu import CGROUP_MODES, NO_NETWORK_LOCK, Act, Criu
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.lifecycle.handle import ContainerHandle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dockyard.runtime.checkpoint.criu import Value

LOG = "dump.log"
LOG_LEVEL = 4  # with what it has come to, which tells more of a failure than the error
# criu(8): a file of options that have precedence over ours, and the annotation that names another (as runc has them)
CONFIGURATION = "/etc/criu/runc.conf"
CONFIGURED_BY = "org.criu.config"


@dataclass(frozen=True, slots=True)
class Options:
    """As criu's flags and runc's: `images` and `work` are directories, `parent` one below `images` of a pre-dump."""

    images: str
    work: str = ""
    parent: str = ""
    leave_running: bool = False
    tcp_established: bool = False
    tcp_skip_in_flight: bool = False
    tcp_close: bool = False  # connections are forgotten, and what had them finds them closed
    moved: bool = False  # at a restore: elsewhere, with other addresses and another host name, its spec's
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
    program: str = "criu"


def checkpoint(container: ContainerHandle, options: Options, on_written: Callable[[], None] | None = None) -> None:
    """Write the container's processes to `options.images`. They end, unless they are left running or only pre-dumped.

    `on_written` is called when all is written, while the processes stand still: what it raises lets them go on.
    Raises RuntimeFailure with CRIU's reason. The container is still to be deleted.
    """
    status = container.status()
    if status in ("created", "stopped"):
        raise RuntimeFailure(f"Container cannot be checkpointed in {status} state")
    images, work = directories(options)
    criu = Criu(options.program)
    wanted = common(options, container.spec) | {
        "pid": container.record.pid,
        "root": container.record.rootfs,
        "log_file": LOG,
        "leave_running": options.leave_running,
        "tcp_skip_in_flight": options.tcp_skip_in_flight,
        "link_remap": options.link_remap,
    }
    if options.parent:
        wanted |= {"parent_img": options.parent, "track_mem": True}
    if options.page_server:
        wanted["ps"] = _page_server(options.page_server)
    freezer = container.group.directory("freezer")
    if freezer is not None and os.path.exists(freezer):
        wanted["freeze_cgroup"] = freezer
    if options.tcp_close and criu.version() >= (3, 18):
        wanted["network_lock"] = NO_NETWORK_LOCK  # the first one's connections go on
    if options.pre_dump and not criu.has("mem_track"):
        raise RuntimeFailure("this kernel does not track which pages are written to, as --pre-dump needs")
    if options.lazy_pages:
        _check_lazy_pages(criu, options)
    if not options.pre_dump:
        wanted["external"] = _external(container)
        external_resources.save_streams(container.record.pid, images)

    def on_notice(name: str, _pid: int, _fd: int) -> None:
        if name == "status-ready" and options.status_fd >= 0:
            os.write(options.status_fd, b"\0")
            os.close(options.status_fd)
        elif name == "post-dump" and on_written is not None:
            on_written()

    with opened(images, work) as places:
        act = Act.PRE_DUMP if options.pre_dump else Act.DUMP
        criu.ask(act, wanted | places, f"{work}/{LOG}", on_notice=on_notice)


def _page_server(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise RuntimeFailure("Use --page-server ADDRESS:PORT to specify page server")
    return host, int(port)


def _check_lazy_pages(criu: Criu, options: Options) -> None:
    if not criu.has("lazy_pages"):
        raise RuntimeFailure("this kernel or CRIU cannot restore pages lazily (userfaultfd), as --lazy-pages needs")
    if options.status_fd < 0:
        return
    try:
        flags = fcntl.fcntl(options.status_fd, fcntl.F_GETFL)
    except OSError as error:
        raise RuntimeFailure(f"invalid --status-fd argument {options.status_fd}: {error.strerror}") from error
    if flags & os.O_ACCMODE == os.O_RDONLY:
        raise RuntimeFailure(f"invalid --status-fd argument {options.status_fd}: not writable")


def _external(container: ContainerHandle) -> list[Value]:
    """What CRIU is not to write down, each under the name by which the restore puts its own in its place."""
    spec, pid = container.spec, container.record.pid
    root = Root(f"/proc/{pid}/root")
    try:
        places = external_resources.mounts(spec, container.group, container.record.bundle, root)
    finally:
        root.close()
    found: list[Value] = [f"mnt[{place}]:{outer.name}" for place, outer in places.items()]
    found += [f"mnt[{path}]:{external_resources.MASK}" for path in external_resources.masks(spec, pid)]
    return found + list(external_resources.namespaces_left(spec))


# -- what a restore needs too


def common(options: Options, spec: Spec) -> dict[str, Value]:
    """CRIU's options for both ways. Raises RuntimeFailure."""
    if options.cgroup_mode not in CGROUP_MODES:
        raise RuntimeFailure("Invalid manage-cgroups-mode value")
    for name in options.empty_namespaces:
        if name not in ("network", "net"):
            raise RuntimeFailure(f"namespace {name} is not supported")
    found: dict[str, Value] = {
        "log_level": LOG_LEVEL,
        "notify_scripts": True,
        "manage_cgroups_mode": CGROUP_MODES[options.cgroup_mode],
        "tcp_established": options.tcp_established,
        "tcp_close": options.tcp_close,
        "ext_unix_sk": options.external_unix_sockets,
        "shell_job": options.shell_job,
        "file_locks": options.file_locks,
        "auto_dedup": options.auto_dedup,
        "lazy_pages": options.lazy_pages,
        "empty_ns": CLONE_NEWNET if options.empty_namespaces else 0,
        "orphan_pts_master": True,
    }
    configuration = spec.annotations.get(CONFIGURED_BY, CONFIGURATION)
    if configuration:
        found["config_file"] = configuration
    return found


def directories(options: Options) -> tuple[str, str]:
    """The directories of the images and of logs, absolute, made if need be. Raises RuntimeFailure."""
    images = os.path.abspath(options.images)
    if options.parent:
        if options.parent.startswith("/"):
            raise RuntimeFailure("--parent-path must be relative")
        if not os.path.isdir(os.path.normpath(f"{images}/{options.parent}")):  # before `images` is made
            raise RuntimeFailure(f"invalid --parent-path: stat {images}/{options.parent}: no such directory")
    work = os.path.abspath(options.work) if options.work else images
    try:
        os.makedirs(images, 0o700, exist_ok=True)
        os.makedirs(work, 0o700, exist_ok=True)
    except OSError as error:
        raise RuntimeFailure(f"cannot make {error.filename}: {error.strerror}") from error
    return images, work


@contextlib.contextmanager
def opened(images: str, work: str) -> Iterator[dict[str, Value]]:
    """Both, open, as CRIU's options."""
    with contextlib.ExitStack() as undo:
        found: dict[str, Value] = {}
        for name, path in (("images_dir_fd", images), ("work_dir_fd", work)):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, fd)
            found[name] = fd
        yield found
