"""/volumes/…: making, finding and removing volumes."""

from typing import Any

import msgspec

from dockyard import errors, web
from dockyard.api.router import Call, Route, json_response, no_content
from dockyard.api.services import Services
from dockyard.engine.volumes.service import Volume, VolumeService


class CreateRequest(msgspec.Struct):
    """The body of POST /volumes/create."""

    name: str | None = msgspec.field(name="Name", default=None)
    driver: str | None = msgspec.field(name="Driver", default=None)
    driver_opts: dict[str, str] | None = msgspec.field(name="DriverOpts", default=None)
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)
    cluster: dict[str, Any] | None = msgspec.field(name="ClusterVolumeSpec", default=None)


def routes(services: Services) -> list[Route]:
    """Operations on volumes."""
    volumes = Volumes(services)
    return [
        Route("GET", "/volumes", volumes.list),
        Route("POST", "/volumes/create", volumes.create),
        Route("POST", "/volumes/prune", volumes.prune),
        Route("GET", "/volumes/{name:path}", volumes.inspect),
        Route("PUT", "/volumes/{name:path}", volumes.update),
        Route("DELETE", "/volumes/{name:path}", volumes.remove),
    ]


def volume_json(volume: Volume) -> dict[str, Any]:
    """A volume as the API tells it."""
    return {
        "CreatedAt": volume.created_at,
        "Driver": volume.driver,
        "Labels": dict(volume.labels) or None,
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": dict(volume.options) or None,
        "Scope": volume.scope,
    }


class Volumes:
    """Handlers of the operations on volumes."""

    def __init__(self, services: Services) -> None:
        self._volumes: VolumeService = services.volumes

    async def list(self, call: Call) -> web.StreamResponse:
        volumes = await self._volumes.list(call.filters())
        return json_response({"Volumes": [volume_json(volume) for volume in volumes], "Warnings": None})

    async def create(self, call: Call) -> web.StreamResponse:
        request = await call.body(CreateRequest)
        if request.cluster is not None and call.version >= (1, 42):
            raise errors.Unavailable(
                "This node is not a swarm manager. Use "
                '"docker swarm init" or "docker swarm join" to connect this node to swarm and try again.'
            )
        volume = await self._volumes.create(request.name, request.driver, request.driver_opts, request.labels)
        return json_response(volume_json(volume), status=201)

    async def inspect(self, call: Call) -> web.StreamResponse:
        return json_response(volume_json(await self._volumes.get(call.params["name"])))

    async def update(self, call: Call) -> web.StreamResponse:
        raise errors.Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")

    async def remove(self, call: Call) -> web.StreamResponse:
        await self._volumes.remove(call.params["name"], call.flag("force"))
        return no_content()

    async def prune(self, call: Call) -> web.StreamResponse:
        # Before 1.42 prune took named volumes, too; since then it has to be asked to.
        named_too = call.version < (1, 42)
        names, freed = await self._volumes.prune(call.filters(), named_too=named_too)
        return json_response({"VolumesDeleted": names or None, "SpaceReclaimed": freed})
