"""Operations of a part this engine runs without: swarm mode, answered as an engine without it answers."""

from dockyard import web
from dockyard.api.router import Call, Route
from dockyard.api.services import Services
from dockyard.errors import NotImplementedHere, Unavailable

NO_SWARM = (
    "This node is not a swarm manager. "
    'Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.'
)

SWARM_OPERATIONS = (
    "GET /nodes",
    "GET /nodes/{id}",
    "DELETE /nodes/{id}",
    "POST /nodes/{id}/update",
    "GET /swarm",
    "POST /swarm/update",
    "GET /swarm/unlockkey",
    "POST /swarm/unlock",
    "GET /services",
    "POST /services/create",
    "GET /services/{id}",
    "DELETE /services/{id}",
    "POST /services/{id}/update",
    "GET /services/{id}/logs",
    "GET /tasks",
    "GET /tasks/{id}",
    "GET /tasks/{id}/logs",
    "GET /secrets",
    "POST /secrets/create",
    "GET /secrets/{id}",
    "DELETE /secrets/{id}",
    "POST /secrets/{id}/update",
    "GET /configs",
    "POST /configs/create",
    "GET /configs/{id}",
    "DELETE /configs/{id}",
    "POST /configs/{id}/update",
)


def routes(services: Services) -> list[Route]:
    """Swarm operations."""
    return [
        *(Route(method, path, _no_swarm) for method, path in map(str.split, SWARM_OPERATIONS)),
        Route("POST", "/swarm/init", _swarm_to_come),
        Route("POST", "/swarm/join", _swarm_to_come),
        Route("POST", "/swarm/leave", _not_in_swarm),
    ]


async def _no_swarm(call: Call) -> web.StreamResponse:
    raise Unavailable(NO_SWARM)


async def _not_in_swarm(call: Call) -> web.StreamResponse:
    raise Unavailable("This node is not part of a swarm")


async def _swarm_to_come(call: Call) -> web.StreamResponse:
    raise NotImplementedHere("swarm mode is not available in this engine")
