"""/containers/{id}/checkpoints; starting from one is containers' own operation."""

import msgspec

from dockyard import web
from dockyard.api.router import Call, Route, json_response, no_content
from dockyard.api.services import Services


class CheckpointRequest(msgspec.Struct, rename="pascal"):
    """The body of POST /containers/{id}/checkpoints."""

    checkpoint_id: str = msgspec.field(default="", name="CheckpointID")
    checkpoint_dir: str = ""
    exit: bool = False


def routes(services: Services) -> list[Route]:
    """Operations on checkpoints."""
    api = Checkpoints(services)
    return [
        Route("POST", "/containers/{id}/checkpoints", api.create),
        Route("GET", "/containers/{id}/checkpoints", api.list_all),
        Route("DELETE", "/containers/{id}/checkpoints/{checkpoint}", api.remove),
    ]


class Checkpoints:
    """Handlers of these operations."""

    def __init__(self, services: Services) -> None:
        self._checkpoints = services.checkpoints

    async def create(self, call: Call) -> web.StreamResponse:
        asked = await call.body(CheckpointRequest)
        await self._checkpoints.create(
            call.params["id"], asked.checkpoint_id, asked.checkpoint_dir, leave_running=not asked.exit
        )
        return no_content(201)

    async def list_all(self, call: Call) -> web.StreamResponse:
        found = self._checkpoints.list(call.params["id"], call.text("dir"))
        return json_response([{"Name": name} for name in found] or None)

    async def remove(self, call: Call) -> web.StreamResponse:
        await self._checkpoints.remove(call.params["id"], call.params["checkpoint"], call.text("dir"))
        return no_content()
