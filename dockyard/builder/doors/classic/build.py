"""One build that came through the classic API's door: from a context and options to an image with its names.

Stages that do not wait for each other are built side by side; what they say is told in the order of the Dockerfile.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from dockyard.builder import stages
from dockyard.builder.arguments import Arguments
from dockyard.builder.doors.classic.client import SentBefore
from dockyard.builder.doors.classic.output import LaterOutput, Output
from dockyard.builder.doors.classic.stage import SCRATCH, StageBuild, Surroundings
from dockyard.builder.frontend.platforms import platform_arguments
from dockyard.builder.squashing import squashed
from dockyard.dockerfile import parser as dockerfile
from dockyard.dockerfile.instructions import Pairs
from dockyard.dockerfile.substitution import expand
from dockyard.errors import InvalidParameter
from dockyard.oci.image_config import History, ImageConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dockyard.builder.context import Context
    from dockyard.builder.doors.classic.cache import BuildCache
    from dockyard.builder.doors.classic.options import BuildOptions
    from dockyard.builder.graph.solver import Solver
    from dockyard.builder.stages import Plan, Stage
    from dockyard.engine.images.image import Image


class Build:
    """One build under way."""

    def __init__(
        self,
        solver: Solver,
        cache: BuildCache,
        context: Context,
        options: BuildOptions,
        output: Output,
        architecture: str,
    ) -> None:
        """`architecture`: of images that are built from scratch."""
        self.in_use: set[str] = set()
        self._options = options
        self._solver = solver
        self._cache = cache
        self._architecture = architecture
        self._context = context
        self._output = output
        self._stages: list[StageBuild] = []
        self._results: dict[int, asyncio.Task[Image | None]] = {}

    async def close(self) -> None:
        """Its end has come, however: leave nothing of it."""
        try:
            for task in self._results.values():
                task.cancel()
            await asyncio.gather(*self._results.values(), return_exceptions=True)
            await asyncio.gather(*(stage.close() for stage in self._stages))
        finally:
            for stage in self._stages:
                stage.output.close()
            self._context.close()  # whatever still looks at its files, nothing can be read there any more

    async def run(self) -> Image:
        """Build everything that is wanted; the last stage's image. Raises what the user did wrong, or CommandFailed."""
        options = self._options
        file = dockerfile.parse(self._context.dockerfile, self._context.dockerfile_name)
        plan = stages.plan(file)
        target = plan.target(options.target)
        arguments = self._arguments(plan, file.escape)
        wanted = plan.needed(target) if options.target else plan.stages
        for name in sorted(options.labels):
            value = options.labels[name]
            target.steps.append(Pairs(f"LABEL {name}={value}", "LABEL", ((name, value),), literal=True))
        for warning in file.warnings:
            self._output.text(warning)
        total = len(plan.arguments) + sum(1 + len(stage.steps) for stage in wanted)
        for number, argument in enumerate(plan.arguments, 1):
            self._output.text(f"Step {number}/{total} : {argument.code}\n")
        image = await self._build(plan, wanted, arguments, file.escape, total)
        unused = arguments.unused()
        if unused:
            self._output.text(f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed\n")
        for stage in self._stages:
            await stage.containers.gone()
        if image is None:
            raise InvalidParameter("No image was generated. Is your Dockerfile empty?")
        if options.squash:
            image = await self._squash(image, self._stages[-1].base)
        await self._finish(image)
        return image

    def _arguments(self, plan: Plan, escape: str) -> Arguments:
        """What is known before the first stage; by that it is seen which stages need which."""
        arguments = Arguments(self._options.arguments, platform_arguments(self._options.platform))
        for argument in plan.arguments:
            for name, default in argument.arguments:
                if default is not None:
                    default = expand(default, arguments.global_values(), escape)
                arguments.declare_global(name, default)
        for stage in plan.stages:
            base = expand(stage.start.base, arguments.global_values(), escape).lower()
            stage.needs |= {one.index for one in plan.stages[: stage.index] if one.name and one.name == base}
        return arguments

    async def _build(
        self, plan: Plan, wanted: Sequence[Stage], arguments: Arguments, escape: str, total: int
    ) -> Image | None:
        """Build stages, all at once as far as they let each other; the last one's image."""
        around = Surroundings(
            self._solver,
            self._cache,
            self._architecture,
            self._options,
            SentBefore(self._context.tree, self._options.credentials),
            arguments,
            escape,
            plan.stages,
            total,
            self.in_use,
            self._results,
        )
        number = len(plan.arguments) + 1
        for stage in wanted:
            self._stages.append(StageBuild(around, stage, number, LaterOutput(self._output, self._solver.folder)))
            number += 1 + len(stage.steps)
        twins: dict[tuple[str, ...], asyncio.Task[Image | None]] = {}
        for build in self._stages:
            # a stage that begins as one before it did has from the cache what that makes: it is the earlier that runs
            begin = build.stage.start
            same = (begin.base.lower(), begin.platform, *(step.code for step in build.stage.steps[:1]))
            twin = None if self._options.no_cache else twins.get(same)
            twins[same] = self._results[build.stage.index] = asyncio.ensure_future(build.run(twin))
        image = None
        for build in self._stages:
            build.output.release()
            image = await asyncio.shield(self._results[build.stage.index])
        return image

    async def _squash(self, image: Image, base: Image | None) -> Image:
        """The image with its own layers as one; itself when it has fewer than two."""
        below = list(base.config.rootfs.diff_ids) if base is not None else []
        images, layers = self._solver.images, self._solver.layers
        one = await squashed(layers, image.config.rootfs.diff_ids, below, self._solver.folder)
        if one is None:
            return image
        try:
            config = msgspec.json.decode(image.raw, type=ImageConfig)
            inherited = len(base.config.history or []) if base is not None else 0
            history = config.history or []
            own = [msgspec.structs.replace(line, empty_layer=True) for line in history[inherited:]]
            what = f"merge {image.id} to {base.id if base is not None else SCRATCH}"
            merged = History(created=config.created or "", comment=what)
            config.history = [*history[:inherited], *own, merged]
            config.rootfs.diff_ids = [*below, one.diff_id]
            return images.find(images.put(msgspec.json.encode(config)))
        finally:
            layers.drop(one.chain_id)

    async def _finish(self, image: Image) -> None:
        self._output.text(f"Successfully built {image.id.removeprefix('sha256:')[:12]}\n")
        images = self._solver.images
        for tag in self._options.tags:
            images.tag(image.id, tag)
        await images.on_disk()
        for tag in self._options.tags:
            self._output.text(f"Successfully tagged {tag.familiar()}\n")
