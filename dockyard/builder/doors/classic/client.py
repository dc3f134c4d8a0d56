"""What the graph may ask of a client, of one that has sent its context and its logins with the request, and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from dockyard.builder.graph.client import ContentStore, Terminal
from dockyard.builder.trees import ArchiveTree, File
from dockyard.content.registry_auth import Credentials
from dockyard.errors import InvalidParameter, NotFound


class SentBefore:
    """A ClientSide."""

    def __init__(self, context: ArchiveTree, credentials: Mapping[str, Credentials]) -> None:
        self._context = context
        self._credentials = credentials

    async def files(self, name: str, paths: Sequence[str]) -> dict[str, bytes]:
        found = {path: self._context.find(path) for path in paths}
        return {path: b"".join(file.read()) for path, file in found.items() if file is not None and not file.directory}

    async def directory(
        self,
        name: str,
        *,
        follow: Sequence[str],
        excludes: Sequence[str],
        told: Callable[[int], None],
        includes: Sequence[str] = (),
    ) -> ArchiveTree:
        return self._context

    def upload(self, path: str) -> AsyncIterator[bytes]:
        raise self._requires_buildkit()

    async def secret(self, name: str) -> bytes | None:
        return None

    async def ssh_agent(self, name: str, socket: Path) -> Callable[[], None]:
        raise NotFound(f"ssh agent {name}: not found")

    def file_to(
        self, number: int, metadata: dict[str, str]
    ) -> AbstractAsyncContextManager[Callable[[bytes], Awaitable[None]]]:
        raise self._requires_buildkit()

    async def store(self, name: str) -> ContentStore:
        raise NotFound(f"content store {name}: not found")

    async def shell(self, about: str) -> Terminal | None:
        return None

    async def directory_to(self, number: int, root: File, time_ns: int | None) -> None:
        raise self._requires_buildkit()

    async def credentials(self, domain: str) -> Credentials | None:
        known = self._credentials
        if domain == "docker.io":
            return known.get("https://index.docker.io/v1/") or known.get("docker.io")
        return known.get(domain) or known.get(f"https://{domain}")

    @staticmethod
    def _requires_buildkit() -> InvalidParameter:
        return InvalidParameter("this client has sent all that it has: more requires BuildKit")
