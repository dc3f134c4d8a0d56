"""The builds of the classic API that are under way."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from dockyard.builder import context as contexts
from dockyard.builder.doors.classic.build import Build
from dockyard.builder.doors.classic.cache import BuildCache
from dockyard.engine.images.image import ImageUser

if TYPE_CHECKING:
    from dockyard.builder.doors.classic.options import BuildOptions
    from dockyard.builder.doors.classic.output import Output
    from dockyard.builder.graph.solver import Solver
    from dockyard.engine.images.image import Image
    from dockyard.engine.state.database import Database


class ClassicBuilds:
    """Begins and ends them."""

    def __init__(self, solver: Solver, database: Database, architecture: str) -> None:
        """`architecture`, in Go's words: of images that are built from scratch."""
        self.cache = BuildCache(solver.images, database)
        self._solver = solver
        self._architecture = architecture
        self._under_way: dict[str, tuple[Build, asyncio.Task[Any] | None]] = {}
        solver.images.users.append(self._users)

    @property
    def under_way(self) -> bool:
        """Whether there are any."""
        return bool(self._under_way)

    def _users(self, image_id: str) -> Sequence[ImageUser]:
        """Builds under way keep what they have made and stand on."""
        return [ImageUser(name, True) for name, (one, _) in self._under_way.items() if image_id in one.in_use]

    async def build(self, source: AsyncIterator[bytes] | str, options: BuildOptions, output: Output) -> Image:
        """Build from a tar stream or, when `source` is a string, from where that URL leads.

        Raises InvalidParameter for what is wrong in the Dockerfile, CommandFailed for a RUN that failed.
        """
        folder = self._solver.folder
        if isinstance(source, str):
            context = await contexts.from_url(source, options.dockerfile, folder, output.text)
        else:
            context = await contexts.from_archive(await contexts.spool(source, folder), options.dockerfile)
        build = Build(self._solver, self.cache, context, options, output, self._architecture)
        name = options.build_id or secrets.token_hex(32)
        self._under_way[name] = (build, asyncio.current_task())
        try:
            return await build.run()
        finally:
            try:
                await build.close()
            finally:
                del self._under_way[name]

    def cancel(self, build_id: str) -> None:
        """End a build that the client gave this ID. No error when there is none."""
        found = self._under_way.get(build_id)
        if found is not None and found[1] is not None:
            found[1].cancel()

    async def close(self) -> None:
        """End them all and wait until they have tidied up."""
        building = [task for _, task in self._under_way.values() if task is not None]
        for task in building:
            task.cancel()
        await asyncio.gather(*building, return_exceptions=True)
