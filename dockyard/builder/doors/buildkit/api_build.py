"""`POST /build?version=2`: BuildKit as the Engine API has it, for clients without buildx; they have a session, too.

Progress travels as `moby.buildkit.trace` messages, each a status response in base64 (moby, builder-next).
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from dockyard.builder.doors.buildkit.build import UPLOAD, Build
from dockyard.builder.doors.buildkit.control import Control
from dockyard.builder.doors.buildkit.reports import response_of
from dockyard.errors import InvalidParameter
from dockyard.generators import closing

CLIENT_SESSION = "client-session"
UPLOAD_REQUEST = "upload-request"


class ApiBuilds:
    """Builds of the API's clients, and what they upload for them."""

    def __init__(self, control: Control) -> None:
        self._control = control
        # contexts that clients send in a request of their own, by the ID of the build that waits for them
        self._uploads: dict[str, asyncio.Future[AsyncIterator[bytes]]] = {}
        self._taken: dict[str, asyncio.Event] = {}

    async def upload(self, build_id: str, pieces: AsyncIterator[bytes]) -> None:
        """Hand a context to the build that waits for it; until it has been read."""
        name = build_id.removeprefix(f"{UPLOAD_REQUEST}:")
        taken = self._taken.setdefault(name, asyncio.Event())
        self._waiting(name).set_result(pieces)
        try:
            await taken.wait()
        finally:
            self._uploads.pop(name, None)
            self._taken.pop(name, None)

    def _waiting(self, name: str) -> asyncio.Future[AsyncIterator[bytes]]:
        if name not in self._uploads:
            self._uploads[name] = asyncio.get_running_loop().create_future()
        return self._uploads[name]

    async def _uploaded(self, name: str) -> AsyncIterator[bytes]:
        async for piece in await asyncio.wait_for(self._waiting(name), 60):
            yield piece
        self._taken[name].set()

    async def build(
        self,
        session: str,
        build_id: str,
        options: Mapping[str, str],
        remote: str,
        exporter: tuple[str, Mapping[str, str]],
        send: Callable[[dict[str, Any]], None],
    ) -> str:
        """Build; the image's ID, "" for another output."""
        attributes = dict(options)
        if remote == UPLOAD_REQUEST:
            attributes["context"] = f"{UPLOAD}{build_id}"
        elif remote and remote != CLIENT_SESSION:
            attributes["context"] = remote
        entitlements = ["network.host"] if options.get("force-network-mode") == "host" else []
        self._control.check_granted(entitlements)
        build = Build(self._control, build_id or secrets.token_hex(16), session, attributes, entitlements)
        if remote == UPLOAD_REQUEST:
            build.client.uploads = self._uploaded
        telling = asyncio.ensure_future(_tell(build, send))
        try:
            told = await self._control.run_build(build, "dockerfile.v0", [exporter])
        finally:
            await build.close()
            await telling
        image_id = told.get("containerimage.config.digest", "")
        if image_id:
            send({"id": "moby.image.id", "aux": {"ID": image_id}})
        return image_id


async def _tell(build: Build, send: Callable[[dict[str, Any]], None]) -> None:
    async with closing(build.progress.follow()) as batches:
        async for batch in batches:
            encoded = response_of(batch).SerializeToString()
            send({"id": "moby.buildkit.trace", "aux": base64.b64encode(encoded).decode()})


def exporters_of(outputs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """What `outputs` of the query ask for: (type, attributes). Raises InvalidParameter."""
    if len(outputs) > 1:
        raise InvalidParameter("multiple outputs not supported")
    kind, attributes = "moby", {}
    if outputs:
        kind = str(outputs[0].get("Type", "")) or "moby"
        attributes = {str(name): str(value) for name, value in (outputs[0].get("Attrs") or {}).items()}
    if kind in ("moby", "image", "docker"):
        attributes.setdefault("name", ",".join(names))
    return kind, attributes
