"""What the classic builder does otherwise than BuildKit when a step is made.

None of these is in the cache of steps (cache/records.py): the images that they lead to are (images.py).
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from dockyard.builder.copying import source_checksum
from dockyard.builder.doors.classic.output import CommandOutput, Output
from dockyard.builder.exec.step import Command, Run
from dockyard.builder.files import Copy, CopyOrder, MakeDirectory, Stack
from dockyard.builder.graph.job import Job, StepFailed
from dockyard.builder.graph.solver import Solver
from dockyard.builder.graph.vertex import Result, Rootfs, Vertex
from dockyard.builder.graph.work import Flight, Work
from dockyard.builder.layer_plan import Source
from dockyard.builder.sources.remote import UNNAMED, Download
from dockyard.engine.containers.config import HostConfig
from dockyard.errors import DockyardError, InvalidParameter
from dockyard.oci.image_config import ContainerConfig

if TYPE_CHECKING:
    from dockyard.builder.exec.mounts import Mounts


class CommandFailed(DockyardError):
    """A RUN ended with a code other than 0; `exit_code` is that."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Containers:
    """The containers that a build's RUNs have made and that are still there."""

    def __init__(self, solver: Solver, output: Output, said: CommandOutput) -> None:
        self._solver = solver
        self._output = output
        self._said = said
        self._there: list[str] = []
        self._removing: list[asyncio.Task[None]] = []

    def begin(self, container_id: str) -> None:
        """One has been made."""
        self._there.append(container_id)
        self._said.begin()
        self._output.text(f" ---> Running in {container_id[:12]}\n")

    def remove(self) -> None:
        """Remove them; meanwhile the next step begins."""
        for container_id in self._there:
            self._removing.append(self._solver.remove_container(container_id))
            self._output.text(f" ---> Removed intermediate container {container_id[:12]}\n")
        self._there.clear()

    def cancel(self) -> None:
        """The build has been cancelled while one ran."""
        self._output.text("Build cancelled\n")
        self.remove()

    async def gone(self) -> None:
        """Wait until those are gone that are being removed."""
        removing, self._removing = self._removing, []
        if removing:
            await asyncio.wait(removing)  # not gather: a build that is cancelled must not cancel its own tidying


class ClassicRun(Run):
    """A command in a container of the image before, which is shown, and stays where the client wants that."""

    def __init__(self, base: Vertex, config: ContainerConfig, host: HostConfig, containers: Containers) -> None:
        """`config`: the container's, `cmd` what it runs."""
        words, env = tuple(config.cmd or ()), tuple(config.env or ())
        command = Command(words, env, config.working_dir, config.user, host=host)
        super().__init__(f"RUN {' '.join(words)}", (base,), command)
        self._config = config
        self._containers = containers

    def key(self, inputs: Sequence[Result]) -> str:
        return ""

    async def _container(self, work: Work, base: Rootfs, mounts: Mounts) -> str:
        container = await work.solver.runner.create(self._config, self.command.host)
        self._containers.begin(container)
        return container

    def _failure(self, code: int) -> DockyardError:
        words = " ".join(self.command.words)
        return CommandFailed(f"The command '{words}' returned a non-zero code: {code}", code)

    async def _failed(self, work: Work, container: str, failure: BaseException) -> None:
        if isinstance(failure, asyncio.CancelledError):
            self._containers.cancel()

    def _done(self, work: Work, container: str) -> None:
        pass


class ClassicCopy(Copy):
    """COPY and ADD, with the classic builder's complaints."""

    gives_unpacked = False

    def __init__(self, name: str, inputs: Sequence[Vertex], order: CopyOrder, destination: str) -> None:
        """`destination`: as it was named."""
        super().__init__(name, inputs, order)
        self._to_directory = destination.endswith("/")
        self._found: list[Source] | None = None

    def key(self, inputs: Sequence[Result]) -> str:
        return ""

    async def content_key(self, work: Work, inputs: Sequence[Result]) -> str:
        return ""

    async def checksum(self, job: Job, mounted: AsyncExitStack) -> str:
        """`file:…`, `dir:…` or `multi:…`: what tells this copy from others. Raises StepFailed, InvalidParameter.

        What is copied stays `mounted`, for who then makes the copy.
        """
        try:
            inputs = [Rootfs(), *[await job.result(one) for one in self.inputs[1:]]]  # whatever it is copied to
        except StepFailed as failure:
            if isinstance(failure.__cause__, InvalidParameter):
                raise InvalidParameter(f"{self.order.word} failed: {failure.__cause__}") from None
            raise
        self._found = await self._sources(Work(job, self, Flight()), inputs, mounted)
        return await asyncio.to_thread(source_checksum, self._found, owners=self.order.keeps_owners)

    async def _sources(self, work: Work, inputs: Sequence[Result], stack: AsyncExitStack) -> list[Source]:
        if self._found is not None:
            return self._found
        word = self.order.word
        try:
            found = await super()._sources(work, inputs, stack)
            if not found:
                raise InvalidParameter("no source files were specified")
            for source in self.order.sources:
                origin = self.inputs[source.input]
                if self._to_directory and isinstance(origin, Download) and UNNAMED in (one.name for one in found):
                    raise InvalidParameter(f"cannot determine filename for source {origin.url}")
        except InvalidParameter as error:
            raise InvalidParameter(f"{word} failed: {error}") from None
        if len(found) > 1 and not self._to_directory:
            raise InvalidParameter(
                f"When using {word} with more than one source file, the destination must be a directory and "
                "end with a /"
            )
        return found


class ClassicDirectory(MakeDirectory):
    """WORKDIR."""

    def key(self, inputs: Sequence[Result]) -> str:
        return ""


class ClassicStack(Stack):
    """The layer of a copy on top of the image before (COPY --link)."""

    def key(self, inputs: Sequence[Result]) -> str:
        return ""


class FreePlaces(Vertex):
    """The first input as it is, if volumes can be mounted at these places: where no file is."""

    hidden = True

    def __init__(self, base: Vertex, places: Sequence[str]) -> None:
        super().__init__(f"VOLUME {' '.join(places)}", (base,))
        self._places = places

    async def make(self, work: Work, inputs: Sequence[Result]) -> Result:
        base = inputs[0]
        assert isinstance(base, Rootfs)
        async with work.tree(base) as tree:
            for place in self._places:
                below = tree.find(posixpath.join("/", place)) if tree is not None else None
                if below is not None and not below.directory:
                    raise InvalidParameter(f"cannot mount volume over existing file, file exists {place}")
        return base
