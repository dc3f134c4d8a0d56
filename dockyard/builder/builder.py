"""The builder: one graph of steps and one solver for all builds, and the doors by which builds come.

solver, usage       what makes steps, and what is remembered of them
classic             `POST /build` of clients without BuildKit (doors/classic)
control, api_builds BuildKit's own API, and what clients reach of it through `POST /build` (doors/buildkit)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dockyard.builder.cache.orders import PruneOrder, collection_orders
from dockyard.builder.cache.records import StepCache
from dockyard.builder.cache.usage import CacheUsage
from dockyard.builder.doors.classic.builds import ClassicBuilds
from dockyard.builder.exec.cache_mounts import CacheMounts
from dockyard.builder.exec.run import Runner
from dockyard.builder.graph.solver import Solver
from dockyard.builder.sources.contexts import ContextStore
from dockyard.builder_settings import BuilderSettings
from dockyard.engine.containers.layers import ContainerLayers
from dockyard.engine.events.service import Events
from dockyard.engine.images.layer_store import LayerStore
from dockyard.engine.images.service import ImageService
from dockyard.engine.state.database import Database
from dockyard.errors import Conflict
from dockyard.folders import own_folder

if TYPE_CHECKING:
    from dockyard.builder.doors.buildkit.api_build import ApiBuilds
    from dockyard.builder.doors.buildkit.control import Control


class Builder:
    """The solver, what it remembers, and the doors by which builds come to it."""

    def __init__(
        self,
        images: ImageService,
        layers: LayerStore,
        container_layers: ContainerLayers,
        runner: Runner,
        database: Database,
        events: Events,
        root: str | Path,
        architecture: str,
        steps: StepCache,
        exec_folder: Path,
        host_gateways: Callable[[], Sequence[str]] = tuple,
        settings: BuilderSettings | None = None,
    ) -> None:
        """`root` is a directory for what builds keep; `architecture` in Go's words; `steps`: what is known of old.

        `exec_folder` is on a tmpfs, for what must not reach the disk. `host_gateways`: what host-gateway stands for.
        `settings`: daemon.json's. Raises InvalidParameter.
        """
        settings = settings or BuilderSettings()
        self._refused = settings.entitlements.refused
        collection_orders(settings.gc, 0)  # what is wrong with it is said at the start
        self._host_gateways = host_gateways
        self._images = images
        self._layers = layers
        self._events = events
        folder = own_folder(root)
        self.solver = Solver(
            images,
            layers,
            container_layers,
            steps,
            runner,
            CacheMounts(database, folder / "cache-mounts"),
            folder,
            exec_folder,
        )
        self.classic = ClassicBuilds(self.solver, database, architecture)
        self.contexts = ContextStore(folder / "contexts")
        self.usage = CacheUsage(
            steps,
            self.solver.cache_mounts,
            self.contexts,
            layers,
            images.packed,
            self._held_layers,
            self._image_layers,
            settings.gc,
        )
        self._control: Control | None = None
        self._api_builds: ApiBuilds | None = None

    @property
    def control(self) -> Control:
        """BuildKit's door, opened when someone comes: what it needs takes a while to import."""
        if self._control is None:
            from dockyard.builder.doors.buildkit.control import Control

            self._control = Control(self.solver, self.contexts, self.usage, self._host_gateways, self._refused)
        return self._control

    @property
    def api_builds(self) -> ApiBuilds:
        """The same door for clients that come through `/build`."""
        if self._api_builds is None:
            from dockyard.builder.doors.buildkit.api_build import ApiBuilds

            self._api_builds = ApiBuilds(self.control)
        return self._api_builds

    async def close(self) -> None:
        """End the builds under way and wait until they have tidied up."""
        await self.classic.close()
        if self._control is not None:
            await self._control.close()
        await self.solver.close()

    async def prune(self, order: PruneOrder) -> tuple[list[str], int]:
        """Forget cached steps: ([what has gone], bytes freed). The classic builder's images are `image prune`'s."""
        if self.classic.under_way:
            raise Conflict("cannot prune the build cache while a build is running")
        gone: list[str] = []
        self.classic.cache.prune()
        freed = await self.usage.prune(order, lambda entry: gone.append(entry.id))
        self._events.emit("builder", "prune", "", {"reclaimed": str(freed)})
        return gone, freed

    def _held_layers(self) -> set[str]:
        """The layers that builds under way need, with all below them."""
        return self._with_parents({chain_id for job in self.solver.jobs for chain_id in job.holds})

    def _image_layers(self) -> set[str]:
        """The layers that images have."""
        return self._with_parents({image.chain_id for image in self._images.all() if image.chain_id is not None})

    def _with_parents(self, chains: set[str]) -> set[str]:
        found: set[str] = set()
        for chain_id in chains:
            current: str | None = chain_id
            while current is not None and current not in found and current in self._layers:
                found.add(current)
                current = self._layers.get(current).parent
        return found
