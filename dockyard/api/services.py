"""What the API's handlers are given: the engine's services, one each."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the modules are wired by the composition root; here only their types are meant
    from dockyard.builder.builder import Builder
    from dockyard.engine.containers.archive import ArchiveService
    from dockyard.engine.containers.checkpoints.forks import ForkService
    from dockyard.engine.containers.checkpoints.service import CheckpointService
    from dockyard.engine.containers.commit import CommitService
    from dockyard.engine.containers.layers import ContainerLayers
    from dockyard.engine.containers.leases import LeaseService
    from dockyard.engine.containers.reconfigure import Reconfigurer
    from dockyard.engine.containers.service import ContainerService
    from dockyard.engine.containers.stats import StatsService
    from dockyard.engine.docker_import.importer import DockerImport
    from dockyard.engine.events.service import Events
    from dockyard.engine.execs.service import ExecService
    from dockyard.engine.images.layer_store import LayerStore
    from dockyard.engine.images.service import ImageService
    from dockyard.engine.networks.service import NetworkService
    from dockyard.engine.repair.fsck import Fsck
    from dockyard.engine.system.plugins import PluginService
    from dockyard.engine.system.service import SystemService
    from dockyard.engine.volumes.service import VolumeService


@dataclass(frozen=True, slots=True)
class Services:
    """Every use case of the engine."""

    containers: "ContainerService"
    execs: "ExecService"
    images: "ImageService"
    layers: "LayerStore"
    container_layers: "ContainerLayers"
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
