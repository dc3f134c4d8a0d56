"""Operations of parts this engine runs without: swarm mode and plugins, answered as an engine without them answers."""

from aiohttp import web

from dockyard.api.router import Call, Route, json_response
from dockyard.api.services import Services
from dockyard.errors import InvalidParameter, NotFound, NotImplementedHere, Unavailable

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
    """Swarm and plugin operations."""
    return [
        *(Route(method, path, _no_swarm) for method, path in map(str.split, SWARM_OPERATIONS)),
        Route("POST", "/swarm/init", _swarm_to_come),
        Route("POST", "/swarm/join", _swarm_to_come),
        Route("POST", "/swarm/leave", _not_in_swarm),
        Route("GET", "/plugins", _no_plugins),
        Route("GET", "/plugins/privileges", _plugins_to_come),
        Route("POST", "/plugins/pull", _plugins_to_come),
        Route("POST", "/plugins/create", _plugins_to_come),
        Route("GET", "/plugins/{name:path}/json", _no_plugin),
        Route("DELETE", "/plugins/{name:path}", _no_plugin),
        *(
            Route("POST", f"/plugins/{{name:path}}/{action}", _no_plugin)
            for action in ("enable", "disable", "upgrade", "push", "set")
        ),
    ]


async def _no_swarm(call: Call) -> web.StreamResponse:
    raise Unavailable(NO_SWARM)


async def _not_in_swarm(call: Call) -> web.StreamResponse:
    raise Unavailable("This node is not part of a swarm")


async def _swarm_to_come(call: Call) -> web.StreamResponse:
    raise NotImplementedHere("swarm mode is not available in this engine")


async def _no_plugins(call: Call) -> web.StreamResponse:
    return json_response([])


async def _no_plugin(call: Call) -> web.StreamResponse:
    raise NotFound(f'plugin "{call.params["name"]}" not found')


async def _plugins_to_come(call: Call) -> web.StreamResponse:
    if not call.query:
        raise InvalidParameter("a plugin reference is needed")
    raise NotImplementedHere("managed plugins are not available in this engine")
