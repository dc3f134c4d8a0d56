"""Every operation of the API, put together."""

from dockyard import web
from dockyard.api import (
    absent,
    archive,
    attach,
    build,
    buildkit,
    checkpoints,
    commit,
    container_logs,
    containers,
    events,
    execs,
    extensions,
    images,
    networks,
    plugins,
    several,
    stats,
    system,
    volumes,
)
from dockyard.api.router import Router
from dockyard.api.services import Services

RESOURCES = (
    system,
    containers,
    container_logs,
    attach,
    events,
    execs,
    commit,
    archive,
    stats,
    images,
    build,
    buildkit,
    volumes,
    networks,
    plugins,
    extensions,
    checkpoints,
    absent,
)


def build_server(services: Services) -> web.Server:
    """The protocol factory that serves the API: give it to `loop.create_server` or `create_unix_server`."""
    together = several.Several()
    router = Router(
        (*together.routes(), *(route for resource in RESOURCES for route in resource.routes(services))),
        on_disk=services.on_disk,
        experimental=services.system.config.experimental,
    )
    together.router = router
    return web.Server(router, router.refusal)
