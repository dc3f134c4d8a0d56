"""A file that the Dockerfile itself holds, as a source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dockyard.builder.graph.vertex import Files, Result, Vertex
from dockyard.builder.trees import ArchiveTree

if TYPE_CHECKING:
    from dockyard.builder.graph.work import Work


class Document(Vertex):
    """An executable file `file_name` with this content."""

    hidden = True

    def __init__(self, file_name: str, content: str) -> None:
        super().__init__(f"[internal] {file_name}")
        self.file_name = file_name
        self.content = content

    def definition(self) -> str:
        return repr((self.file_name, self.content))

    async def make(self, work: Work, inputs: Sequence[Result]) -> Result:
        tree = ArchiveTree()
        tree.add(self.file_name, self.content.encode(errors="surrogateescape"), 0o755)
        return Files(tree)
