"""The client of a build that came through BuildKit's door: what it serves on its sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dockyard.builder.doors.buildkit.content import SessionStore
from dockyard.builder.doors.buildkit.sending import send_directory
from dockyard.builder.doors.buildkit.session import Session, Sessions
from dockyard.builder.graph.client import Terminal
from dockyard.builder.sources.contexts import ContextStore
from dockyard.builder.trees import ArchiveTree, File
from dockyard.content.registry_auth import Credentials
from dockyard.errors import NotFound


class SessionClient:
    """Asks the session that has what is wanted: each directory may be served by another one."""

    def __init__(
        self,
        sessions: Sessions,
        store: ContextStore,
        session: str,
        local: Mapping[str, str],
        beside: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """`session`: the build's own; `local`: {directory: ID of the session that serves it}."""
        self._sessions = sessions
        self._store = store
        self._session = session
        self._local = local
        self._beside = beside
        self.closing: list[Callable[[], object]] = []
        # what the client uploads beside its session, if it does
        self.uploads: Callable[[str], AsyncIterator[bytes]] | None = None

    async def own(self) -> Session:
        """The build's own session. Raises NotFound."""
        return await self._sessions.get(self._session)

    async def _serving(self, directory: str) -> Session:
        named = self._local.get(directory, "")
        return await self._sessions.get(named.rpartition(":")[2] or self._session)

    async def files(self, name: str, paths: Sequence[str]) -> dict[str, bytes]:
        session = await self._serving(name)
        return await session.files(name, paths)

    async def directory(
        self,
        name: str,
        *,
        follow: Sequence[str],
        excludes: Sequence[str],
        told: Callable[[int], None],
        includes: Sequence[str] = (),
    ) -> ArchiveTree:
        session = await self._serving(name)
        return await session.directory(
            self._store,
            name,
            follow=follow,
            excludes=excludes,
            includes=includes,
            told=told,
            closing=self.closing.append,
            beside=self._beside,
        )

    async def upload(self, path: str) -> AsyncIterator[bytes]:
        pieces = self.uploads(path) if self.uploads is not None else (await self.own()).upload(path)
        async for piece in pieces:
            yield piece

    async def secret(self, name: str) -> bytes | None:
        return await (await self.own()).secret(name)

    async def ssh_agent(self, name: str, socket: Path) -> Callable[[], None]:
        return await (await self.own()).ssh_agent(name, socket)

    async def shell(self, about: str) -> Terminal | None:
        try:
            session = await self.own()
        except NotFound:
            return None
        return await session.shell(about)

    @asynccontextmanager
    async def file_to(self, number: int, metadata: dict[str, str]) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
        async with (await self.own()).file_to(number, metadata) as write:
            yield write

    async def store(self, name: str) -> SessionStore:
        return (await self.own()).store(name)

    async def directory_to(self, number: int, root: File, time_ns: int | None) -> None:
        await send_directory((await self.own()).directory_to(number), root, time_ns=time_ns)

    async def credentials(self, domain: str) -> Credentials | None:
        return await (await self.own()).credentials(domain)

    def close(self) -> None:
        """The build has ended."""
        for close in self.closing:
            close()
        self.closing.clear()
