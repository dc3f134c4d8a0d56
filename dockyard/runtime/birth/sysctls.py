"""The spec's sysctls: which a container may have, and setting them.

/proc/sys is namespaced in parts only. A sysctl that is not, or whose namespace the container shares with the host,
would change the host, and is refused.
"""

import os

from dockyard.linux import procfs, syscalls
from dockyard.oci.runtime_spec import Spec
from dockyard.runtime.errors import RuntimeFailure, doing

OF_IPC_NAMESPACE = frozenset(
    "kernel." + name for name in "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced".split()
)


def normal_name(name: str) -> str:
    """`name` with dots between its parts: by sysctl(8) the first separator says which of . and / it is."""
    first = next((letter for letter in name if letter in "./"), ".")
    return name if first == "." else name.translate({ord("."): "/", ord("/"): "."})


def _path(name: str) -> str:
    """Where below /proc/sys the sysctl of that normal name is."""
    return name.translate({ord("."): "/", ord("/"): "."})


def check(spec: Spec) -> None:
    """Raise RuntimeFailure for a sysctl that would change more than the container."""
    if not spec.linux.sysctl:
        return
    paths = {namespace.type: namespace.path for namespace in spec.linux.namespaces}
    for given in spec.linux.sysctl:
        name = normal_name(given)
        if any(part in ("", ".", "..") for part in _path(name).split("/")):
            # net/../kernel/core_pattern is in no namespace, for all that it begins with net
            raise RuntimeFailure(f'sysctl "{given}" is not a clean name')
        if name in OF_IPC_NAMESPACE or name.startswith("fs.mqueue."):
            if "ipc" not in paths:
                raise RuntimeFailure(f'sysctl "{name}" is not allowed in the hosts ipc namespace')
        elif name.startswith("net."):
            if "network" not in paths or (paths["network"] and _is_own(paths["network"])):
                raise RuntimeFailure(f'sysctl "{name}" not allowed in host network namespace')
        elif name == "kernel.hostname" and "uts" in paths:
            raise RuntimeFailure(f'sysctl "{name}" is not allowed as it conflicts with the OCI "hostname" field')
        elif name == "kernel.domainname" and "uts" in paths:
            continue
        elif name.startswith("user."):
            if "user" not in paths:
                raise RuntimeFailure(f"setting ucounts without a user namespace not allowed: {name}")
        else:
            raise RuntimeFailure(f'sysctl "{name}" is not in a separate kernel namespace')


def _is_own(path: str) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.stat("/proc/self/ns/net"))
    except OSError as error:
        raise RuntimeFailure(f"invalid netns path: stat {path}: {error.strerror}") from None


def apply(sysctls: dict[str, str]) -> None:
    """Write them through the host's /proc: whose they are goes by the writer's namespaces.

    Raises RuntimeFailure naming the one refused.
    """
    if not sysctls:
        return
    # Neither a name with .. in it nor a link may lead out of /proc/sys, nor a mount on it elsewhere (CVE-2025-52881).
    top = os.open("/proc/sys", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if syscalls.file_system_type(top) != procfs.MAGIC:
            raise RuntimeFailure("/proc/sys is not on a procfs")
        resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_XDEV
        for name, value in sysctls.items():
            with doing(f"open sysctl {name} file"):
                fd = syscalls.openat2(top, _path(normal_name(name)), os.O_WRONLY, resolve=resolve)
            try:
                with doing(f'failed to write sysctl {name} = "{value}"'):
                    os.write(fd, value.encode())
            finally:
                os.close(fd)
    finally:
        os.close(top)
