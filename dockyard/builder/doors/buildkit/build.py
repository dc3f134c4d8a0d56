"""One build that came through BuildKit's door: what its client has asked the gateway, and what it returned."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from dockyard.builder.doors.buildkit.client import SessionClient
from dockyard.builder.doors.buildkit.options import check_frontend, check_syntax, request_of
from dockyard.builder.frontend.contexts import ContextResolver, ignore_patterns
from dockyard.builder.frontend.conversion import Conversion
from dockyard.builder.graph.progress import Progress
from dockyard.builder.graph.request import Built
from dockyard.builder.graph.solver import Job
from dockyard.builder.graph.vertex import Vertex
from dockyard.builder.sources.local import LocalDirectory
from dockyard.builder.sources.remote import Download, Repository
from dockyard.dockerfile import git_source
from dockyard.errors import InvalidParameter

if TYPE_CHECKING:
    from dockyard.builder.doors.buildkit.control import Control


class Build:
    """A build under way, or one that was."""

    def __init__(
        self,
        control: Control,
        ref: str,
        session: str,
        options: Mapping[str, str],
        entitlements: Sequence[str],
    ) -> None:
        self.ref = ref
        self.options = dict(options)
        self.progress = Progress()
        local = {
            name.partition(":")[2]: value for name, value in options.items() if name.startswith("local-sessionid:")
        }
        self.client = SessionClient(control.sessions, control.contexts, session, local, control.solver.beside)
        self.job = Job(control.solver, self.client, self.progress)
        self.entitlements = entitlements
        self.built: dict[str, Built] = {}
        self.dockerfiles: dict[str, tuple[str, bytes]] = {}
        self.returned: asyncio.Future[dict[str, Built]] = asyncio.get_running_loop().create_future()
        self.began = time.time()
        self.ended = 0.0
        self.file_name = ""
        self.text = b""

    async def convert(self, frontend: str, options: Mapping[str, str], inputs: Mapping[str, Built]) -> dict[str, Built]:
        """What the Dockerfile that the options name leads to: {platform: …}. Nothing is built yet."""
        check_frontend(frontend, options)
        text, main = await self._definition(options)
        check_syntax(text)
        platforms = [part for part in options.get("platform", "").split(",") if part] or [""]
        contexts = ContextResolver(self.job, main)
        found = {}
        for platform in platforms:
            request = request_of(options, text, inputs, self.entitlements)
            request.platform = platform
            built = await Conversion(self.job, request, contexts).run()
            found[platform or built.platform] = built
        return found

    def remember(self, built: Built) -> str:
        """A name by which the client may refer to what was made."""
        name = secrets.token_hex(12)
        self.built[name] = built
        return name

    # -- the Dockerfile and the context

    async def _definition(self, options: Mapping[str, str]) -> tuple[str, Callable[[], Vertex]]:
        context_name = options.get("contextkey", "context")
        address = options.get(context_name, "")
        file_name = options.get("filename", "Dockerfile")
        self.file_name = file_name
        remote: Vertex | None = None
        if git_source.is_git(address):
            remote = Repository(f"[internal] load git source {address}", address)
        elif address.startswith(("http://", "https://")):
            remote = Download(f"[internal] load remote build context {address}", address)
        if remote is not None and "dockerfilekey" not in options:
            raise InvalidParameter("a Dockerfile from a remote context is not supported yet")
        directory = options.get("dockerfilekey", "dockerfile")
        ignored: bytes | None = None
        async with self.job.shown(f"[internal] load build definition from {file_name}") as part:
            own_ignore = f"{file_name}.dockerignore"
            found = await self.client.files(directory, [file_name, own_ignore, file_name.lower()])
            content = found.get(file_name, found.get(file_name.lower()))
            if content is None:
                raise InvalidParameter(f"failed to read dockerfile: open {file_name}: no such file or directory")
            ignored = found.get(own_ignore)
            part("transferring dockerfile:", len(content), len(content), True)
        self.text = content
        if remote is not None:
            return content.decode(errors="replace"), lambda: remote
        async with self.job.shown("[internal] load .dockerignore") as part:
            if ignored is None:
                ignored = (await self.client.files(context_name, [".dockerignore"])).get(".dockerignore", b"")
            part("transferring context:", len(ignored), len(ignored), True)
        excludes = ignore_patterns(ignored)
        return content.decode(errors="replace"), lambda: LocalDirectory(
            "[internal] load build context", context_name, excludes=excludes
        )

    async def close(self) -> None:
        """The build has ended, however."""
        self.ended = time.time()
        await self.job.close()
        self.client.close()
        self.progress.end()
        if not self.returned.done():
            self.returned.cancel()
