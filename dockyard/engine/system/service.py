"""What the engine knows of itself and of its host."""

import os
import platform
import shlex
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dockyard.config import Config
from dockyard.engine.events.service import Events
from dockyard.engine.state.database import Database
from dockyard.engine.system.apparmor import AppArmor


class Identity(msgspec.Struct, frozen=True):
    """What tells this engine from every other, for as long as its data root lives."""

    id: str


@dataclass(frozen=True, slots=True)
class Host:
    """Facts of the machine, now; `memory` is in bytes."""

    name: str
    kernel: str
    operating_system: str
    os_version: str
    architecture: str  # as uname says it: x86_64
    cpus: int
    memory: int
    cgroup_version: int


class SystemService:
    """The engine's identity, its settings in force and its host."""

    def __init__(self, config: Config, database: Database, events: Events, apparmor: AppArmor) -> None:
        self.config = config
        self.events = events
        self.apparmor = apparmor
        self.started_ns = time.time_ns()
        identities = database.collection("identity", Identity)
        identity = identities.get("engine")
        if identity is None:
            identity = Identity(str(uuid.uuid4()))
            identities.put("engine", identity)
        self.id = identity.id

    @property
    def host(self) -> Host:
        """The machine as it is now: its name, processors and memory may change."""
        return read_host()

    def reload(self, config: Config) -> None:
        """Take up new settings and say so to event listeners."""
        self.config = config
        attributes = {
            "name": self.host.name,
            "debug": str(config.debug).lower(),
            "live-restore": str(config.live_restore).lower(),
            "default-runtime": config.default_runtime,
            "labels": str(config.labels),
            "insecure-registries": str(config.insecure_registries),
            "registry-mirrors": str(config.registry_mirrors),
            "shutdown-timeout": str(config.shutdown_timeout),
        }
        self.events.emit("daemon", "reload", self.id, attributes)


def read_host() -> Host:
    """Look the host over."""
    release = _os_release()
    return Host(
        name=platform.node(),
        kernel=platform.release(),
        operating_system=release.get("PRETTY_NAME", "Linux"),
        os_version=release.get("VERSION_ID", ""),
        architecture=platform.machine(),
        cpus=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        cgroup_version=2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1,
    )


def _os_release() -> dict[str, str]:
    """os-release(5) as a dict; empty when the file is missing."""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            lines = Path(path).read_text().splitlines()
        except OSError:
            continue
        pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
        return {key: "".join(shlex.split(value)) for key, _, value in pairs}
    return {}
