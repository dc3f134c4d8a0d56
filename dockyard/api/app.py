"""Every operation of the API, put together."""

import asyncio

from aiohttp import web

from dockyard.api import (
    absent,
    archive,
    attach,
    build,
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
    volumes,
    networks,
    plugins,
    extensions,
    checkpoints,
    absent,
)


def build_server(services: Services) -> web.Server:
    """The protocol factory that serves the API: give it to `loop.create_server` or `create_unix_server`."""
    router = Router(
        (route for resource in RESOURCES for route in resource.routes(services)),
        on_disk=services.on_disk,
        experimental=services.system.config.experimental,
    )
    return web.Server(
        router,
        access_log=None,
        auto_decompress=False,  # a request body is an archive or JSON; who sends gzip means it to stay gzip
        read_bufsize=1 << 18,
        # Go's limit for a request's whole head: build arguments, labels and logins travel in it
        max_line_size=1 << 20,
        max_field_size=1 << 20,
        keepalive_timeout=3600,  # clients pool connections and expect Go's patience
        lingering_time=2.0,  # seconds: who is refused before he has sent all of a body shall read why
        loop=asyncio.get_running_loop(),
    )
