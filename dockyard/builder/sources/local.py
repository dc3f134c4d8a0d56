"""A directory of the client's as a source: what the steps want of it is asked for at once, when the first needs it."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dockyard.builder.graph.vertex import Files, Result, Vertex

if TYPE_CHECKING:
    from dockyard.builder.graph.client import ClientSide
    from dockyard.builder.graph.work import Work


class LocalDirectory(Vertex):
    """The client's directory `directory`."""

    def __init__(
        self,
        name: str,
        client: ClientSide,
        directory: str,
        *,
        excludes: Sequence[str] = (),
        includes: Sequence[str] = (),
    ) -> None:
        """`client`: whose directory it is, which need not be the client of the build that wants it.

        `includes`: patterns of what is in it, all if there are none.
        """
        super().__init__(name)
        self.includes = tuple(includes)
        self._client = client
        self.directory = directory
        self.excludes = tuple(excludes)
        self._follow: set[str] = set()
        self._whole = False

    def source(self) -> tuple[str, dict[str, str]]:
        return f"local://{self.directory}", {}

    def definition(self) -> str:
        return repr((self.directory, self.includes)) if self.includes else self.directory

    def want(self, path: str) -> None:
        """Note that a step reads `path`, which may have wildcards."""
        place = posixpath.normpath(posixpath.join("/", path)).lstrip("/")
        if place:
            self._follow.add(place)
        else:
            self._whole = True

    async def make(self, work: Work, inputs: Sequence[Result]) -> Result:
        what = f"transferring {self.directory}:"
        tree = await self._client.directory(
            self.directory,
            follow=() if self._whole else sorted(self._follow),
            excludes=self.excludes,
            includes=self.includes,
            told=lambda size: work.part_soon(what, size),
        )
        work.part(what, work.told, work.told, done=True)
        return Files(tree)
