"""What a container needs that goes on elsewhere: a host name of its own, and to be let bind where it no longer is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from dockyard.linux import syscalls
from dockyard.oci.runtime_spec import Spec

NONLOCAL_BIND = "/proc/sys/net/ipv4/ip_nonlocal_bind", "/proc/sys/net/ipv6/ip_nonlocal_bind"


@contextlib.contextmanager
def any_address(spec: Spec) -> Iterator[None]:
    """For the time of the block sockets in the network that `spec` joins by path may be bound to any address.

    A restored socket that listens on the other container's address would else be refused, and all with it; nobody will
    reach it there. ip_nonlocal_bind: kernel, networking/ip-sysctl.
    """
    path = next((namespace.path for namespace in spec.linux.namespaces if namespace.type == "network"), "")
    if not path:
        yield
        return
    before = {}
    with _inside(path, "net", syscalls.CLONE_NEWNET):
        for setting in NONLOCAL_BIND:
            with contextlib.suppress(OSError):
                before[setting] = _swap(setting, "1")
    try:
        yield
    finally:
        with _inside(path, "net", syscalls.CLONE_NEWNET):
            for setting, value in before.items():
                _swap(setting, value)


def set_hostname(pid: int, spec: Spec) -> None:
    """Give the container of process `pid`, if it has a name of its own, that of `spec`. Raises OSError."""
    if not any(namespace.type == "uts" and not namespace.path for namespace in spec.linux.namespaces):
        return
    with _inside(f"/proc/{pid}/ns/uts", "uts", syscalls.CLONE_NEWUTS):
        syscalls.sethostname(spec.hostname)
        if spec.domainname:
            syscalls.setdomainname(spec.domainname)


@contextlib.contextmanager
def _inside(path: str, kind: str, flag: int) -> Iterator[None]:
    """Be in the namespace `path` for a moment. The caller must have but one thread."""
    home = os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.setns(there, flag)
        finally:
            os.close(there)
        try:
            yield
        finally:
            syscalls.setns(home, flag)
    finally:
        os.close(home)


def _swap(path: str, value: str) -> str:
    with open(path, "r+") as file:
        before = file.read()
        file.seek(0)
        file.write(value)
    return before
