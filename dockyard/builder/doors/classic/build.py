"""One build that came through the classic API's door: its context, its options, what it has made so far."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import msgspec

from dockyard.builder import stages
from dockyard.builder.arguments import Arguments
from dockyard.builder.doors.classic.cache import BuildCache
from dockyard.builder.doors.classic.client import SentBefore
from dockyard.builder.doors.classic.images import StepImages
from dockyard.builder.doors.classic.output import CommandOutput, Output
from dockyard.builder.doors.classic.steps import StageState, Steps, base_config
from dockyard.builder.doors.classic.vertices import Containers
from dockyard.builder.frontend.platforms import platform_arguments
from dockyard.builder.graph.solver import Job, Solver
from dockyard.builder.sources.image import ImageResolver
from dockyard.builder.sources.local import LocalDirectory
from dockyard.builder.squashing import squashed
from dockyard.dockerfile import parser as dockerfile
from dockyard.dockerfile.instructions import Pairs
from dockyard.dockerfile.substitution import expand
from dockyard.errors import DockyardError, InvalidParameter
from dockyard.oci.image_config import History, ImageConfig
from dockyard.oci.manifest import parse_platform

if TYPE_CHECKING:
    from dockyard.builder.context import Context
    from dockyard.builder.doors.classic.options import BuildOptions
    from dockyard.builder.graph.vertex import Vertex
    from dockyard.builder.stages import Stage
    from dockyard.engine.images.image import Image

SCRATCH = "scratch"
_WHOLE_ID = re.compile(r"(?:sha256:)?[0-9a-f]{64}")


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
        self.options = options
        self._solver = solver
        self._context = context
        self._output = output
        said = CommandOutput(output)
        client = SentBefore(context.tree, options.credentials)
        self.job = Job(solver, client, said)
        self.containers = Containers(solver, output, said)
        self.images = StepImages(self.job, cache, options, architecture, self.say)
        self._resolver = ImageResolver(self.job, pull=options.pull, told=output.message)
        self._files = LocalDirectory("the build context", client, "context")
        self._results: dict[int, Image | None] = {}
        self._stages: list[Stage] = []
        self._base_image: Image | None = None  # what the stage is on that was begun last
        self._cancelled = False
        self.mounted = AsyncExitStack()  # what the step at hand copies from

    def say(self, text: str) -> None:
        """Add to the build's log."""
        self._output.text(text)

    async def close(self) -> None:
        """Its end has come, however: leave nothing of it."""
        try:
            await self.job.close()
            await self.mounted.aclose()
            if self._cancelled and self.options.remove:
                self.containers.remove()
            await self.containers.gone()
        finally:
            self._context.close()  # whatever still looks at its files, nothing can be read there any more

    # -- the story

    async def run(self) -> Image:
        """Build everything that is wanted; the last stage's image. Raises what the user did wrong, or CommandFailed."""
        options = self.options
        file = dockerfile.parse(self._context.dockerfile, self._context.dockerfile_name)
        plan = stages.plan(file)
        target = plan.target(options.target)
        wanted = plan.needed(target) if options.target else plan.stages
        self._stages = plan.stages
        for name in sorted(options.labels):
            value = options.labels[name]
            target.steps.append(Pairs(f"LABEL {name}={value}", "LABEL", ((name, value),), literal=True))
        for warning in file.warnings:
            self.say(warning)
        total = len(plan.arguments) + sum(1 + len(stage.steps) for stage in wanted)
        numbers = iter(range(1, total + 1))
        arguments = Arguments(options.arguments, platform_arguments(options.platform))
        for argument in plan.arguments:
            self.say(f"Step {next(numbers)}/{total} : {argument.code}\n")
            for name, default in argument.arguments:
                if default is not None:
                    default = expand(default, arguments.global_values(), file.escape)
                arguments.declare_global(name, default)
        image: Image | None = None
        for stage in wanted:
            image = await self._stage(stage, arguments, file.escape, numbers, total)
        unused = arguments.unused()
        if unused:
            self.say(f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed\n")
        await self.containers.gone()
        if image is None:
            raise InvalidParameter("No image was generated. Is your Dockerfile empty?")
        if options.squash:
            image = await self._squash(image)
        await self._finish(image)
        return image

    async def _stage(
        self, stage: Stage, arguments: Arguments, escape: str, numbers: Iterator[int], total: int
    ) -> Image | None:
        self.say(f"Step {next(numbers)}/{total} : {stage.start.code}\n")
        self.images.begin_stage()
        image = self._base_image = await self._base(stage, arguments, escape)
        state = StageState(image, base_config(image), arguments.stage())
        steps = Steps(self, state, escape)
        await steps.run_triggers()
        self._tell(state.image)
        for step in stage.steps:
            self.say(f"Step {next(numbers)}/{total} : {step.code}\n")
            try:
                await steps.do(step)
                await self.mounted.aclose()
            except asyncio.CancelledError:
                self._cancelled = True  # its container, if it has one, goes when the solver has let go of it
                raise
            except Exception:
                if self.options.force_remove:
                    self.containers.remove()
                raise
            if self.options.remove:
                self.containers.remove()
            self._tell(state.image)
        self._results[stage.index] = state.image
        if state.image is not None:
            await self._solver.images.on_disk()
            self._output.image(state.image.id)
        return state.image

    def _tell(self, image: Image | None) -> None:
        self.say(f" ---> {image.id.removeprefix('sha256:')[:12] if image is not None else ''}\n")

    async def _squash(self, image: Image) -> Image:
        """The image with its own layers as one; itself when it has fewer than two."""
        base = list(self._base_image.config.rootfs.diff_ids) if self._base_image is not None else []
        images, layers = self._solver.images, self._solver.layers
        one = await squashed(layers, image.config.rootfs.diff_ids, base, self._solver.folder)
        if one is None:
            return image
        try:
            config = msgspec.json.decode(image.raw, type=ImageConfig)
            inherited = len(self._base_image.config.history or []) if self._base_image is not None else 0
            history = config.history or []
            own = [msgspec.structs.replace(line, empty_layer=True) for line in history[inherited:]]
            what = f"merge {image.id} to {self._base_image.id if self._base_image is not None else SCRATCH}"
            merged = History(created=config.created or "", comment=what)
            config.history = [*history[:inherited], *own, merged]
            config.rootfs.diff_ids = [*base, one.diff_id]
            return images.find(images.put(msgspec.json.encode(config)))
        finally:
            layers.drop(one.chain_id)

    async def _finish(self, image: Image) -> None:
        self.say(f"Successfully built {image.id.removeprefix('sha256:')[:12]}\n")
        images = self._solver.images
        for tag in self.options.tags:
            images.tag(image.id, tag)
        await images.on_disk()
        for tag in self.options.tags:
            self.say(f"Successfully tagged {tag.familiar()}\n")

    # -- where stages and copies come from

    async def _base(self, stage: Stage, arguments: Arguments, escape: str) -> Image | None:
        name = expand(stage.start.base, arguments.global_values(), escape)
        if not name:
            raise InvalidParameter(f"base name ({stage.start.base}) should not be blank")
        platform = expand(stage.start.platform, arguments.global_values(), escape) or self.options.platform
        earlier = next((one for one in self._stages[: stage.index] if one.name and one.name == name.lower()), None)
        if earlier is not None:
            image = self._results.get(earlier.index)
            if image is None:
                raise InvalidParameter(f"stage {name} is empty")
            return image
        return None if name == SCRATCH else await self._image(name, platform)

    async def source(self, stage: str) -> Vertex:
        """What COPY reads from: the context, or with `--from` the files of a stage or an image."""
        if not stage:
            return self._files
        earlier = stages.find(self._stages, stage)
        if earlier is not None:
            if earlier.index not in self._results:
                raise InvalidParameter(f"invalid from flag value {stage}: refers to current build stage")
            return self.images.files(self._results[earlier.index])
        if stage.isdigit() and int(stage) >= len(self._results):
            raise InvalidParameter(f"invalid from flag value {stage}: index out of bounds")
        try:
            return self.images.files(await self._image(stage, self.options.platform))
        except DockyardError as error:
            raise type(error)(f"invalid from flag value {stage}: {error}") from None

    async def _image(self, name: str, platform: str) -> Image:
        """The image `name`, pulled when it is not here or when asked to."""
        if _WHOLE_ID.fullmatch(name):  # which is here, or nowhere
            wanted = parse_platform(platform) if platform else None
            image = self._solver.images.platforms.choose(name, wanted)
            self._solver.images.note_use(image.id)
        else:
            image = await self._resolver.resolve(name, platform)
        self.images.use(image)
        return image
