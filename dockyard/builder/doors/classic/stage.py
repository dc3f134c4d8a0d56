"""One stage of a build: its base, and its instructions one after the other."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dockyard.builder import stages
from dockyard.builder.doors.classic.images import StepImages
from dockyard.builder.doors.classic.output import CommandOutput, LaterOutput
from dockyard.builder.doors.classic.steps import StageState, Steps, base_config
from dockyard.builder.doors.classic.vertices import Containers
from dockyard.builder.graph.job import Job
from dockyard.builder.graph.solver import Solver
from dockyard.builder.sources.image import ImageResolver
from dockyard.builder.sources.local import LocalDirectory
from dockyard.dockerfile.substitution import expand
from dockyard.errors import DockyardError, InvalidParameter
from dockyard.oci.manifest import parse_platform

if TYPE_CHECKING:
    from dockyard.builder.arguments import Arguments
    from dockyard.builder.doors.classic.cache import BuildCache
    from dockyard.builder.doors.classic.client import SentBefore
    from dockyard.builder.doors.classic.options import BuildOptions
    from dockyard.builder.graph.vertex import Vertex
    from dockyard.builder.stages import Stage
    from dockyard.engine.images.image import Image

SCRATCH = "scratch"
_WHOLE_ID = re.compile(r"(?:sha256:)?[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the stages of a build have in common. `total`: how many steps it has; `in_use`: IDs of images it stands on.

    `results`: what comes of each stage, by its index.
    """

    solver: Solver
    cache: BuildCache
    architecture: str
    options: BuildOptions
    client: SentBefore
    arguments: Arguments
    escape: str
    stages: Sequence[Stage]
    total: int
    in_use: set[str]
    results: Mapping[int, asyncio.Task[Image | None]]


class StageBuild:
    """A stage being built."""

    def __init__(self, around: Surroundings, stage: Stage, first: int, output: LaterOutput) -> None:
        """`first`: the number of its first step."""
        self.stage = stage
        self.options = around.options
        self.output = output
        self.base: Image | None = None
        self._around = around
        self._number = first
        said = CommandOutput(output)
        self.job = Job(around.solver, around.client, said)
        self.containers = Containers(around.solver, output, said)
        self.images = StepImages(
            self.job, around.cache, around.options, around.architecture, around.in_use, output.text
        )
        self._resolver = ImageResolver(self.job, pull=around.options.pull, told=output.message)
        self._context = LocalDirectory("the build context", around.client, "context")
        self.mounted = AsyncExitStack()  # what the step at hand copies from
        self._cancelled = False

    async def close(self) -> None:
        """Its end has come, however: leave nothing of it."""
        await self.job.close()
        await self.mounted.aclose()
        if self._cancelled and self.options.remove:
            self.containers.remove()
        await self.containers.gone()

    async def run(self, twin: asyncio.Task[Image | None] | None) -> Image | None:
        """Do it, when its `twin` is done; the last step's image. Raises what the user did wrong, or CommandFailed."""
        if twin is not None:
            await asyncio.wait([twin])
        self._begin(self.stage.start.code)
        image = self.base = await self._base()
        state = StageState(image, base_config(image), self._around.arguments.stage())
        steps = Steps(self, state, self._around.escape)
        await steps.run_triggers()
        self._tell(state.image)
        for step in self.stage.steps:
            self._begin(step.code)
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
        if state.image is not None:
            await self._around.solver.images.on_disk()
            self.output.image(state.image.id)
        return state.image

    def _begin(self, code: str) -> None:
        self.output.text(f"Step {self._number}/{self._around.total} : {code}\n")
        self._number += 1

    def _tell(self, image: Image | None) -> None:
        self.output.text(f" ---> {image.id.removeprefix('sha256:')[:12] if image is not None else ''}\n")

    # -- where it and its copies come from

    async def _base(self) -> Image | None:
        around, start = self._around, self.stage.start
        name = expand(start.base, around.arguments.global_values(), around.escape)
        if not name:
            raise InvalidParameter(f"base name ({start.base}) should not be blank")
        platform = expand(start.platform, around.arguments.global_values(), around.escape) or self.options.platform
        before = around.stages[: self.stage.index]
        earlier = next((one for one in before if one.name and one.name == name.lower()), None)
        if earlier is not None:
            image = await self._result(earlier)
            if image is None:
                raise InvalidParameter(f"stage {name} is empty")
            return image
        return None if name == SCRATCH else await self._image(name, platform)

    async def _result(self, earlier: Stage) -> Image | None:
        """What comes of a stage before this one; nothing if nobody has wanted it."""
        task = self._around.results.get(earlier.index)
        return await asyncio.shield(task) if task is not None else None

    async def source(self, stage: str) -> Vertex:
        """What COPY reads from: the context, or with `--from` the files of a stage or an image."""
        if not stage:
            return self._context
        earlier = stages.find(list(self._around.stages), stage)
        if earlier is not None:
            if earlier.index >= self.stage.index or earlier.index not in self._around.results:
                raise InvalidParameter(f"invalid from flag value {stage}: refers to current build stage")
            return self.images.files(await self._result(earlier))
        if stage.isdigit():
            raise InvalidParameter(f"invalid from flag value {stage}: index out of bounds")
        try:
            return self.images.files(await self._image(stage, self.options.platform))
        except DockyardError as error:
            raise type(error)(f"invalid from flag value {stage}: {error}") from None

    async def _image(self, name: str, platform: str) -> Image:
        """The image `name`, pulled when it is not here or when asked to."""
        if _WHOLE_ID.fullmatch(name):  # which is here, or nowhere
            wanted = parse_platform(platform) if platform else None
            images = self._around.solver.images
            image = images.platforms.choose(name, wanted)
            images.note_use(image.id)
        else:
            image = await self._resolver.resolve(name, platform)
        self.images.use(image)
        return image
