"""How a container is to be checkpointed or restored: the flags of both commands, in CRIU's terms (criu(8))."""

import importlib
import os
from typing import Any

import msgspec

from dockyard.runtime.command import Session
from dockyard.runtime.errors import RuntimeFailure
from dockyard.runtime.usage import Flags

CGROUP_MODES = ("", "soft", "full", "strict", "ignore")
NAMESPACES = ("network",)


class CriuOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`images` is where CRIU's files are, absolute; `parent` those of an earlier pre-dump, relative to them."""

    criu: str
    images: str
    work: str = ""
    parent: str = ""
    leave_running: bool = False
    tcp_established: bool = False
    tcp_skip_in_flight: bool = False
    link_remap: bool = False
    external_sockets: bool = False
    shell_job: bool = False
    file_locks: bool = False
    pre_dump: bool = False
    auto_dedup: bool = False
    lazy_pages: bool = False
    status_fd: int = -1
    page_server: tuple[str, int] | None = None
    cgroup_mode: str = ""
    empty_namespaces: tuple[str, ...] = ()
    lsm_profile: str = ""
    lsm_mount_context: str = ""


def room() -> Any:
    """The module that talks to CRIU. Raises RuntimeFailure in a build without it."""
    try:
        return importlib.import_module("dockyard.runtime.checkpoint")
    except ImportError:
        raise RuntimeFailure("this build of the runtime can't checkpoint or restore") from None


def of_flags(session: Session, flags: Flags) -> CriuOptions:
    """What the flags of `checkpoint` or `restore` say; makes the directory of the images. Raises RuntimeFailure."""
    images = os.path.abspath(flags.text("image-path") or "checkpoint")
    os.makedirs(images, 0o700, exist_ok=True)
    mode = flags.text("manage-cgroups-mode")
    if mode not in CGROUP_MODES:
        raise RuntimeFailure("Invalid manage-cgroups-mode value")
    for namespace in flags.all("empty-ns"):
        if namespace not in NAMESPACES:
            raise RuntimeFailure(f"namespace {namespace} is not supported")
    return CriuOptions(
        criu=session.criu,
        images=images,
        work=os.path.abspath(flags.text("work-path")) if flags.text("work-path") else "",
        parent=_parent(images, flags.text("parent-path")),
        leave_running=flags.on("leave-running"),
        tcp_established=flags.on("tcp-established"),
        tcp_skip_in_flight=flags.on("tcp-skip-in-flight"),
        link_remap=flags.on("link-remap"),
        external_sockets=flags.on("ext-unix-sk"),
        shell_job=flags.on("shell-job"),
        file_locks=flags.on("file-locks"),
        pre_dump=flags.on("pre-dump"),
        auto_dedup=flags.on("auto-dedup"),
        lazy_pages=flags.on("lazy-pages"),
        status_fd=flags.number("status-fd", -1),
        page_server=_page_server(flags.text("page-server")),
        cgroup_mode=mode,
        empty_namespaces=tuple(flags.all("empty-ns")),
        lsm_profile=flags.text("lsm-profile"),
        lsm_mount_context=flags.text("lsm-mount-context"),
    )


def _parent(images: str, path: str) -> str:
    if not path:
        return ""
    if os.path.isabs(path):
        raise RuntimeFailure("--parent-path must be relative")
    if not os.path.isdir(os.path.join(images, path)):
        raise RuntimeFailure(f"invalid --parent-path: {os.path.join(images, path)} is no directory")
    return path


def _page_server(text: str) -> tuple[str, int] | None:
    if not text:
        return None
    address, colon, port = text.rpartition(":")
    if not colon or not address or not port.isdigit():
        raise RuntimeFailure("Use --page-server ADDRESS:PORT to specify page server")
    return address, int(port)
