"""Network namespaces for containers: made in advance, kept as files, entered for a moment by worker threads."""

import asyncio
import logging
import os
import secrets
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dockyard.linux import namespaces
from dockyard.linux.netlink import RouteSocket, set_link

log = logging.getLogger("dockyard.networks")

# Written in every new namespace. A link gets IPv6 only when its network has it; the others as Docker's defaults for
# containers: any port may be bound and echo sockets opened without privileges (moby daemon/oci_linux.go).
# arp_notify and ndisc_notify tell neighbours at once when an address moves to another container.
SYSCTLS = (
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    ("net/ipv4/conf/default/arp_notify", "1"),
    ("net/ipv6/conf/default/ndisc_notify", "1"),
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
)


@dataclass(slots=True)
class Namespace:
    """A container's network namespace: its file, a descriptor of it and a netlink socket inside it."""

    sandbox_id: str
    path: str
    fd: int
    route: RouteSocket

    def close(self) -> None:
        """Let go of our hold on it; it lives on in its file and in the processes inside."""
        if self.fd >= 0:
            self.route.close()
            os.close(self.fd)
            self.fd = -1


@contextmanager
def entered(fd: int) -> Iterator[None]:
    """Be in the network namespace `fd` for a while. Only for worker threads: the whole thread moves."""
    assert threading.current_thread() is not threading.main_thread()
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces.setns(fd, namespaces.CLONE_NEWNET)
        try:
            yield
        finally:
            namespaces.setns(home, namespaces.CLONE_NEWNET)
    finally:
        os.close(home)


def write_sysctl(name: str, value: str) -> bool:
    """Set a sysctl (net/ipv4/…) of the thread's namespace; False when this kernel has no such sysctl."""
    try:
        fd = os.open(f"/proc/sys/{name}", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
    return True


def create(directory: Path, sandbox_id: str | None = None, source: str = "") -> Namespace:
    """Make a namespace with loopback up and its sysctls set; its file is `directory`/<12 hex>. Blocking, ~1 ms.

    `source`: the file of one that is made already, for instance in another user namespace.
    """
    sandbox_id = sandbox_id or secrets.token_hex(32)
    path = str(directory / sandbox_id[:12])
    namespaces.create_netns(path, source)
    try:
        namespace = reopen(path, sandbox_id)
        with entered(namespace.fd):
            for name, value in SYSCTLS:
                write_sysctl(name, value)
        namespace.route.do(set_link(1, up=True))
    except BaseException:
        namespaces.delete_netns(path)
        raise
    return namespace


def reopen(path: str, sandbox_id: str) -> Namespace:
    """Take hold of the namespace that is kept at `path`. Only for worker threads."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with entered(fd):
            route = RouteSocket()
    except BaseException:
        os.close(fd)
        raise
    return Namespace(sandbox_id, path, fd, route)


def destroy(namespace: Namespace) -> None:
    """Remove the namespace's file; the kernel takes the namespace and its links apart on its own time."""
    namespace.close()
    delete_file(namespace.path)


def delete_file(path: str) -> None:
    """Unmount and remove a namespace's file; no error when it is gone."""
    try:
        namespaces.delete_netns(path)
    except FileNotFoundError:
        pass


class HostSettings:
    """What a new namespace takes over from the host: its descriptors stay open, since they are read at every start.

    The kernel copies the settings for all and for new links (of IPv6 only where net.core.devconf_inherit_init_net says
    so) and some of TCP's (net/ipv4/devinet.c, net/ipv4/tcp_ipv4.c); everything else begins with constants.
    """

    NAMES = (
        "net/core/devconf_inherit_init_net",
        "net/ipv4/conf/all/*",
        "net/ipv4/conf/default/*",
        "net/ipv6/conf/all/*",
        "net/ipv6/conf/default/*",
        "net/ipv4/tcp_congestion_control",
        "net/ipv4/tcp_rmem",
        "net/ipv4/tcp_wmem",
        "net/ipv4/tcp_child_ehash_entries",
        "net/ipv4/udp_child_hash_entries",
    )
    LONGEST = 256

    def __init__(self, root: Path = Path("/proc/sys")) -> None:
        self._files: list[int] = []
        inherits = root / "net/core/devconf_inherit_init_net"
        ipv6 = inherits.exists() and inherits.read_text(encoding="ascii").strip() in ("1", "3")
        for name in self.NAMES:
            if name.startswith("net/ipv6") and not ipv6:
                continue
            for path in sorted(root.glob(name)):
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except PermissionError:
                    continue  # can only be written
                try:
                    os.pread(fd, self.LONGEST, 0)
                    self._files.append(fd)
                except OSError:
                    os.close(fd)  # has no value yet (stable_secret)

    def read(self) -> list[bytes]:
        """Their values now; some 60 µs."""
        return [os.pread(fd, self.LONGEST, 0) for fd in self._files]

    def close(self) -> None:
        """Close the descriptors."""
        while self._files:
            os.close(self._files.pop())


class NamespacePool:
    """A few namespaces ready for use, replaced in the background as they are taken.

    One that was made before the host's settings changed is never handed out.
    """

    def __init__(self, directory: Path, executor: ThreadPoolExecutor, size: int = 8) -> None:
        self._directory = directory
        self._executor = executor
        self._size = size
        self._settings = HostSettings()
        # with the host's settings from before they were made
        self._ready: deque[tuple[Namespace, list[bytes]]] = deque()
        self._filling: asyncio.Task[None] | None = None
        self._closed = False

    async def take(self) -> Namespace:
        """A fresh namespace, which now belongs to the caller."""
        loop = asyncio.get_running_loop()
        today = self._settings.read()
        try:
            while self._ready:
                namespace, settings = self._ready.popleft()
                if settings == today:
                    return namespace
                loop.run_in_executor(self._executor, destroy, namespace)
        finally:
            self.fill()
        return await loop.run_in_executor(self._executor, create, self._directory)

    def fill(self) -> None:
        """Start making what is missing, in a moment: those who start containers now go first."""
        if not self._closed and self._filling is None and len(self._ready) < self._size:
            self._filling = asyncio.get_running_loop().create_task(self._fill())

    async def _fill(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(0.02)
            while len(self._ready) < self._size and not self._closed:
                settings = self._settings.read()
                self._ready.append((await loop.run_in_executor(self._executor, create, self._directory), settings))
        except OSError as error:
            log.warning("cannot prepare a network namespace: %s", error)
        finally:
            self._filling = None

    async def close(self) -> None:
        """Destroy those that were never used."""
        self._closed = True
        if self._filling is not None:
            await asyncio.wait({self._filling})
        while self._ready:
            namespace, _ = self._ready.popleft()
            destroy(namespace)
        self._settings.close()
