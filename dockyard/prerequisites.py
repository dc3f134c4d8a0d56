"""What the host must have for the engine, and what some of its abilities want besides: each tried, with what it is for.

Imported by the daemon before it starts and by the client's `system check`; by the standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

OLDEST_KERNEL = (5, 10)
# The first that is there. Debian 12's crashes on `wget -T`: packaging/newer-busybox puts another before it.
BUSYBOXES = (f"{sys.prefix}/libexec/dockyard/busybox", "/usr/libexec/dockyard/busybox", "/bin/busybox")


@dataclass(frozen=True, slots=True)
class Prerequisite:
    """`purpose` completes "for …"; `packages`: what to install, by the family of distributions (ID of os-release)."""

    name: str
    purpose: str
    found: Callable[[], str]  # what was found, in a few words; "" for nothing
    required: bool = True
    packages: Mapping[str, str] = field(default_factory=dict)

    def advice(self) -> str:
        """How to get it here; "" when that is not known."""
        for family in families():
            package = self.packages.get(family, "")
            if package:
                return f"{INSTALLERS[family]} {package}"
        return ""


INSTALLERS = {
    "debian": "apt-get install",
    "fedora": "dnf install",
    "arch": "pacman -S",
    "alpine": "apk add",
    "suse": "zypper install",
}


def families() -> list[str]:
    """The distribution here and those it is made of, nearest first, as far as INSTALLERS has them."""
    known: dict[str, str] = {}
    try:
        with open("/etc/os-release") as file:
            for line in file:
                name, _, value = line.strip().partition("=")
                known[name] = value.strip("\"'")
    except OSError:
        return []
    names = [known.get("ID", ""), *known.get("ID_LIKE", "").split()]
    spelled = {"ubuntu": "debian", "rhel": "fedora", "centos": "fedora", "opensuse": "suse", "sles": "suse"}
    return [name for name in dict.fromkeys(spelled.get(name, name) for name in names) if name in INSTALLERS]


# -- looking


def _kernel() -> str:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    return release if numbers >= OLDEST_KERNEL else ""


def _namespaces() -> str:
    wanted = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    return "all seven" if all(os.path.exists(f"/proc/self/ns/{name}") for name in wanted) else ""


def _file_system(name: str) -> Callable[[], str]:
    def look() -> str:
        with open("/proc/filesystems") as file:
            if any(line.split()[-1] == name for line in file):
                return "in the kernel"
        return _module(name)

    return look


def _module(name: str) -> str:
    """Whether the kernel can load a module, or has it built in."""
    folder = f"/lib/modules/{platform.release()}"
    for listed in ("modules.builtin", "modules.dep"):
        try:
            with open(f"{folder}/{listed}") as file:
                if any(f"/{name}.ko" in line.split(":")[0] for line in file):
                    return "built in" if listed == "modules.builtin" else "a module"
        except OSError:
            continue
    return ""


def _cgroups() -> str:
    try:
        with open("/sys/fs/cgroup/cgroup.controllers") as file:
            return f"version 2: {file.read().strip()}"
    except OSError:
        pass
    try:
        with open("/proc/self/mountinfo") as file:
            mounted = {line.split()[4].rpartition("/")[2] for line in file if " - cgroup " in line}
    except OSError:
        return ""
    return f"version 1: {' '.join(sorted(mounted))}" if mounted else ""


def _seccomp() -> str:
    try:
        with open("/proc/sys/kernel/seccomp/actions_avail") as file:
            return "filters" if "errno" in file.read() else ""
    except OSError:
        return ""


def _bridge() -> str:
    if os.path.isdir("/sys/module/bridge"):
        return "loaded"
    return _module("bridge") and _module("veth")


def _library(name: str) -> Callable[[], str]:
    def look() -> str:
        try:
            ctypes.CDLL(name)
        except OSError:
            return ""
        return name

    return look


def _program(*names: str) -> Callable[[], str]:
    def look() -> str:
        path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
        return next((found for name in names if (found := shutil.which(name, path=path))), "")

    return look


def _subordinate_ids() -> str:
    if not (shutil.which("newuidmap") and shutil.which("newgidmap")):
        return ""
    return "newuidmap, newgidmap" if os.path.exists("/etc/subuid") else ""


def _same(package: str, **others: str) -> dict[str, str]:
    """`package` in every family but those that call it otherwise."""
    return {**dict.fromkeys(INSTALLERS, package), **others}


def prerequisites() -> list[Prerequisite]:
    """All of them, in the order in which they are told. Required is what surely stops everything when it is missing."""
    return [
        Prerequisite("Linux 5.10 or newer", "everything", _kernel),
        Prerequisite("namespaces", "what a container sees", _namespaces),
        Prerequisite("cgroups", "what a container may use", _cgroups),
        Prerequisite("seccomp", "the system calls that a container may make", _seccomp, False),
        Prerequisite("overlay", "images that are not copied (else the driver vfs)", _file_system("overlay"), False),
        Prerequisite("bridge and veth", "networks of containers", _bridge, False),
        Prerequisite(
            "libseccomp",
            "the system calls that a container may make",
            _library("libseccomp.so.2"),
            packages=_same("libseccomp", debian="libseccomp2", suse="libseccomp2"),
        ),
        Prerequisite(
            "libnftables",
            "networks and published ports",
            _library("libnftables.so.1"),
            packages=_same("nftables", debian="libnftables1", fedora="nftables-libs", suse="libnftables1"),
        ),
        Prerequisite("iptables", "firewalls that use it, and the chain DOCKER-USER", _program("iptables"), False,
                     _same("iptables")),
        Prerequisite("tini", "run --init", _program("docker-init", "tini-static", "tini", "catatonit"), False,
                     _same("tini")),
        Prerequisite("busybox", "the embedded image busybox", lambda: busybox() or "", False,
                     _same("busybox", debian="busybox-static", suse="busybox-static")),
        Prerequisite("git", "building from git repositories", _program("git"), False, _same("git")),
        Prerequisite("criu", "checkpoint and restore", _program("criu"), False, _same("criu")),
        Prerequisite("subordinate ids", "dockyard-runc of ordinary users", _subordinate_ids, False,
                     _same("shadow-utils", debian="uidmap", arch="shadow", alpine="shadow-uidmap", suse="shadow")),
        Prerequisite("apparmor_parser", "AppArmor profiles of one's own", _program("apparmor_parser"), False,
                     {"debian": "apparmor", "suse": "apparmor-parser"}),
    ]  # fmt: skip


def busybox() -> str | None:
    """The program of the image busybox, None when this host has none."""
    return next((path for path in BUSYBOXES if os.access(path, os.X_OK)), None)


def missing() -> Iterator[Prerequisite]:
    """What is required and not there."""
    for one in prerequisites():
        if one.required and not one.found():
            yield one


def complaint() -> str:
    """One line on what is missing and how to get it; "" when all that is required is there."""
    lacking = list(missing())
    if not lacking:
        return ""
    advice = list(dict.fromkeys(filter(None, (one.advice() for one in lacking))))
    names = ", ".join(one.name for one in lacking)
    how = f" ({'; '.join(advice)})" if advice else ""
    return f"this host lacks {names}{how}: `dockyard system check` tells what for"
