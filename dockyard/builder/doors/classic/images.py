"""The classic builder's policy: a step makes an image on top of the one before, and is found again by that.

The solver makes what changes files; whether it is asked to is decided here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from dockyard.builder.doors.classic.cache import BuildCache, CacheSources, key_of
from dockyard.builder.files import Copy, Stack
from dockyard.builder.graph.job import Job, StepFailed
from dockyard.builder.graph.vertex import Scratch, Vertex
from dockyard.builder.sources.image import ImageFiles
from dockyard.engine.images.image import Image
from dockyard.errors import InvalidParameter, NotFound
from dockyard.oci.image_config import ContainerConfig, History, ImageConfig
from dockyard.timestamps import timestamp

if TYPE_CHECKING:
    from dockyard.builder.doors.classic.options import BuildOptions
    from dockyard.builder.doors.classic.steps import StageState

log = logging.getLogger("dockyard.builder")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """What an instruction comes to. `created_by`: as histories say it; `vertex`: what makes its files, if it has any.

    The step's first input are the files of the image before.
    """

    created_by: str
    vertex: Vertex | None = None


class StepImages:
    """Finds and makes the images of one stage's steps."""

    def __init__(
        self,
        job: Job,
        cache: BuildCache,
        options: BuildOptions,
        architecture: str,
        in_use: set[str],
        say: Callable[[str], None],
    ) -> None:
        """`in_use`: the IDs of images that the build stands on."""
        self._job = job
        self._images = job.solver.images
        self._cache = cache
        self._options = options
        self._architecture = architecture
        self._say = say
        self._sources = CacheSources(self._known(options.cache_from))
        # after a step that was not in the cache, none of the stage's can be
        self._cache_on = not options.no_cache
        self._in_use = in_use
        self._files: dict[str, Vertex] = {}

    def _known(self, names: Sequence[str]) -> list[Image]:
        found = []
        for name in names:
            try:
                found.append(self._images.find(name))
            except (NotFound, InvalidParameter):
                log.debug("no image %s to take cached steps from", name)
        return found

    def use(self, image: Image) -> None:
        """Keep an image until the end of the build."""
        self._in_use.add(image.id)

    def files(self, image: Image | None) -> Vertex:
        """The files of an image, None for no image."""
        if image is None:
            return Scratch()
        files = self._files.get(image.id)
        if files is None:
            files = self._files[image.id] = ImageFiles(image.id, image)
            self._job.know(files, files.rootfs())
        return files

    async def add(self, state: StageState, step: Step) -> None:
        """Go on to the step's image: the one that is known, or a new one. Raises what goes wrong in the step."""
        key = key_of(state.image.id if state.image is not None else "", step.created_by, state.config)
        image = self._cached(state, key, step.created_by)
        while image is None and self._cache_on and await self._cache.made_elsewhere(key):
            image = self._cached(state, key, step.created_by)
        if image is not None:
            self._say(" ---> Using cache\n")
        else:
            self._cache_on = False
            with self._cache.making(key):
                image = await self._made(state, step)
                self._cache.put(key, image.id)
        state.image = image
        self.use(image)

    # -- from the cache

    def _cached(self, state: StageState, key: str, created_by: str) -> Image | None:
        if not self._cache_on:
            return None
        image = self._cache.find(key)
        if self._options.cache_from and image is not None and not self._sources.descend_from(image, self._images):
            image = None  # who names sources wants their steps and no others
        return image or self._from_source(state, created_by)

    def _from_source(self, state: StageState, created_by: str) -> Image | None:
        """The step's image: an image of `--cache-from` itself, or put together from what it has."""
        found = self._sources.find(state.image, created_by)
        if found is None:
            return None
        source, step, diff_id = found
        if source.config.history and source.config.history[-1] is step:
            if source.parent is None and state.image is not None:
                self._images.set_parent(source.id, state.image.id)
            return source
        config = self._config(state, created_by, empty=diff_id is None)
        config = msgspec.structs.replace(config, created=step.created or config.created)
        diff_ids = list(state.image.config.rootfs.diff_ids) if state.image is not None else []
        config.rootfs.diff_ids = [*diff_ids, diff_id] if diff_id is not None else diff_ids
        try:
            image_id = self._images.put(
                msgspec.json.encode(config), parent=state.image.id if state.image is not None else None
            )
        except NotFound:
            return None
        return self._images.find(image_id)

    # -- made

    async def solved(self, work: Awaitable[T]) -> T:
        """What comes of asking the solver; when a step goes wrong, its own error is raised."""
        try:
            return await work
        except StepFailed as failure:
            raise failure.__cause__ or failure from None

    async def _made(self, state: StageState, step: Step) -> Image:
        below = list(state.image.config.rootfs.diff_ids) if state.image is not None else []
        layer = None
        if step.vertex is not None:
            rootfs = await self.solved(self._job.rootfs(step.vertex))
            if len(rootfs.diff_ids) > len(below) and rootfs.chain_id is not None:
                layer = self._job.solver.layers.get(rootfs.chain_id)
        config = self._config(state, step.created_by, empty=layer is None)
        image = await self._images.create(config, state.image, layer)
        if not isinstance(step.vertex, Copy | Stack):  # (moby commits a container for all but copies, which is told of)
            self._images.emit("create", image.id, image.id)
        return image

    def _config(self, state: StageState, created_by: str, *, empty: bool) -> ImageConfig:
        parent = (
            state.image.config if state.image is not None else ImageConfig(architecture=self._architecture, os="linux")
        )
        now = timestamp()
        step = History(created=now, created_by=created_by, author=state.maintainer, empty_layer=empty)
        # a copy: the stage goes on changing its own
        config = msgspec.json.decode(msgspec.json.encode(state.config), type=ContainerConfig)
        return ImageConfig(
            architecture=parent.architecture or self._architecture,
            variant=parent.variant,
            os=parent.os or "linux",
            os_version=parent.os_version,
            os_features=parent.os_features,
            author=state.maintainer or parent.author,
            created=now,
            config=config,
            history=[*(parent.history or ()), step],
        )
