"""What a build may ask of its client while it goes on; each door answers in its own way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from dockyard.builder.trees import ArchiveTree, File
from dockyard.content.registry_auth import Credentials


class ContentStore(Protocol):
    """Blobs on the client's side, by their digests."""

    async def size(self, digest: str) -> int | None:
        """The size of a blob; None when it is not there."""

    def read(self, digest: str) -> AsyncIterator[bytes]:
        """A blob, in pieces. Raises NotFound."""

    async def write(self, digest: str, size: int, pieces: Callable[[], AsyncIterator[bytes]]) -> None:
        """Have a blob there, unless it is there already."""


class Terminal(Protocol):
    """A terminal of the client's."""

    async def show(self, data: bytes) -> None:
        """Write to it. Raises Unavailable when it is gone."""

    async def typed(self) -> bytes | tuple[int, int] | None:
        """What is typed next, or the (rows, columns) that it has from now on; None when it is gone."""

    def close(self) -> None:
        """Leave it."""


class ClientSide(Protocol):
    """The client of one build."""

    async def files(self, name: str, paths: Sequence[str]) -> dict[str, bytes]:
        """The contents of small files in the client's directory `name`; what is not there is not in the answer."""

    async def directory(
        self,
        name: str,
        *,
        follow: Sequence[str],
        excludes: Sequence[str],
        told: Callable[[int], None],
        includes: Sequence[str] = (),
    ) -> ArchiveTree:
        """The client's directory `name`: all of it or, with `follow`, those paths and what they link to.

        With `includes` only what matches one of those patterns.

        `told` is called with the bytes that have come. The tree can be read until the job ends.
        """

    def upload(self, path: str) -> AsyncIterator[bytes]:
        """What the client has on its standard input, in pieces; `path` is its own name for it."""

    async def secret(self, name: str) -> bytes | None:
        """A secret; None when the client has none of that name. Raises what is wrong with it."""

    async def ssh_agent(self, name: str, socket: Path) -> Callable[[], None]:
        """Serve the client's agent on the UNIX socket `socket` until what is returned is called. Raises NotFound."""

    def file_to(
        self, number: int, metadata: dict[str, str]
    ) -> AbstractAsyncContextManager[Callable[[bytes], Awaitable[None]]]:
        """A file on the client's side, the output `number` of the build: what writes it, a piece at a time."""

    async def store(self, name: str) -> ContentStore:
        """A content store that the client has under a name. Raises NotFound when it serves none."""

    async def shell(self, about: str) -> Terminal | None:
        """The client's terminal, to look into a container that has failed; None when it wants none."""

    async def directory_to(self, number: int, root: File, time_ns: int | None) -> None:
        """Write what is below `root` into a directory on the client's side; `time_ns`: what it is dated, if given."""

    async def credentials(self, domain: str) -> Credentials | None:
        """The login for a registry."""
