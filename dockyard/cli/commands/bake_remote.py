"""`bake URL`: definitions at an address, and contexts that are there too unless they say otherwise."""

from __future__ import annotations

import posixpath

from dockyard.cli.commands import build_graph
from dockyard.cli.errors import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dockyard.bake.read import File
    from dockyard.buildx.remote_files import Found, Source
    from dockyard.buildx.request import BuildRequest
    from dockyard.cli.session import Session

    Target = dict[str, Any]

LOCAL = "cwd://"
PART = "bake-archive://"  # a context that is a directory of the archive at the address
# variables of the environment that log in to git servers, for the definitions alone
LOGINS = {"BUILDX_BAKE_GIT_AUTH_TOKEN": "GIT_AUTH_TOKEN", "BUILDX_BAKE_GIT_AUTH_HEADER": "GIT_AUTH_HEADER"}


class Remote:
    """The address that a bake is of."""

    def __init__(self, address: str) -> None:
        from dockyard.buildx.remote_files import Source

        self._source: Source = Source(address)
        self._found: Found | None = None

    def files(self, session: Session, names: list[str], mode: str) -> list[File]:
        """The files of these names there, or those that have Bake's usual ones. Raises Failure."""
        import asyncio
        import os

        from dockyard.bake.read import DEFAULT_FILES
        from dockyard.buildx.progress import Trace
        from dockyard.buildx.request import BuildRequest
        from dockyard.buildx.solve import Ask, BuildFailed, solve

        given = {name: os.environ[variable].encode() for variable, name in LOGINS.items() if os.environ.get(variable)}
        agent = os.environ.get("BUILDX_BAKE_GIT_SSH", "")
        known = self._is_ssh() and os.environ.get("SSH_AUTH_SOCK")
        ssh = [f"default={agent}"] if agent else ["default"] if known else []
        display, trace = build_graph.display_of(session, mode), Trace()

        def show(response: Any) -> None:
            trace.take(response)
            display.show(response)

        async def look(ask: Ask) -> None:
            self._found = await self._source.read(ask, names or DEFAULT_FILES, optional=not names)

        request = BuildRequest(secret_values=given, ssh=ssh)
        try:
            asyncio.run(
                solve(session.api, request, config_folder=session.config_folder, shared_key="", show=show, look=look)
            )
        except BuildFailed as error:
            display.end()
            raise Failure(f"ERROR: {error}") from None
        display.end()
        assert self._found is not None
        try:
            return [(name, content.decode()) for name, content in self._found.files]
        except UnicodeDecodeError:
            raise Failure(f"ERROR: {self._source.address} is no text") from None

    def _is_ssh(self) -> bool:
        return self._source.git and self._source.address.startswith(("git@", "ssh://"))

    def locate(self, target: Target) -> None:
        """Have a target's contexts mean what is at the address. Raises Failure."""
        if self._found is None or self._found.tree is None:
            return  # there is the definition alone, whose contexts are ours
        context, dockerfile = target["context"], target["dockerfile"]
        if context.startswith(LOCAL) and not dockerfile.startswith(LOCAL) and not target.get("dockerfile-inline"):
            raise Failure("ERROR: reading a dockerfile for a remote build invocation is currently not supported")
        target["context"] = self._there(context)
        if target.get("contexts"):
            target["contexts"] = {name: self._there(value) for name, value in target["contexts"].items()}

    def _there(self, context: str) -> str:
        from dockyard.bake.read import remote

        if remote(context) or "://" in context or context.startswith("target:"):
            return context
        path = posixpath.normpath(f"/{context}").strip("/")
        if not path:
            return self._source.address
        if not self._source.git:
            return f"{PART}{path}"
        place, _, fragment = self._source.address.partition("#")
        reference, _, folder = fragment.partition(":")
        return f"{place}#{reference}:{posixpath.join(folder, path)}"

    def take_part(self, target: Target, request: BuildRequest) -> None:
        """Give the build the parts of the archive that its contexts are. Raises Failure."""
        for name, value in target.get("contexts", {}).items():
            if value.startswith(PART):
                request.inputs[name] = self._source.unpacked(value.removeprefix(PART))
                request.options[f"context:{name}"] = f"input:{name}"
        if target["context"].startswith(PART):
            if target["dockerfile"].startswith(LOCAL) or target.get("dockerfile-inline"):
                raise Failure("ERROR: a part of an archive has its Dockerfile in it: only the whole can have another")
            part = self._source.unpacked(target["context"].removeprefix(PART))
            request.inputs.update(context=part, dockerfile=part)
            request.options["filename"] = target["dockerfile"]
