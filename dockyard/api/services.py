"""What the API's handlers are given: the engine's services, one each."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the modules are wired by the composition root; here only their types are meant
    from dockyard.build.builder import Builder
    from dockyard.engine.archive import ArchiveService
    from dockyard.engine.checkpoints import CheckpointService
    from dockyard.engine.commit import CommitService
    from dockyard.engine.containers import ContainerService
    from dockyard.engine.docker_import.importer import DockerImport
    from dockyard.engine.events import Events
    from dockyard.engine.execs import ExecService
    from dockyard.engine.forks import ForkService
    from dockyard.engine.fsck import Fsck
    from dockyard.engine.images import ImageService
    from dockyard.engine.layers import LayerStore
    from dockyard.engine.leases import LeaseService
    from dockyard.engine.networks import NetworkService
    from dockyard.engine.plugins import PluginService
    from dockyard.engine.reconfigure import Reconfigurer
    from dockyard.engine.stats import StatsService
    from dockyard.engine.system import SystemService
    from dockyard.engine.volumes import VolumeService


@dataclass(frozen=True, slots=True)
class Services:
    """Every use case of the engine."""

    containers: "ContainerService"
    execs: "ExecService"
    images: "ImageService"
    layers: "LayerStore"
    networks: "NetworkService"
    volumes: "VolumeService"
    archive: "ArchiveService"
    commit: "CommitService"
    builder: "Builder"
    stats: "StatsService"
    system: "SystemService"
    plugins: "PluginService"
    events: "Events"
    reconfigurer: "Reconfigurer"
    leases: "LeaseService"
    forks: "ForkService"
    fsck: "Fsck"
    docker_import: "DockerImport"
    checkpoints: "CheckpointService"
    # returns when all that has been changed so far survives a power cut
    on_disk: Callable[[], Awaitable[None]]
