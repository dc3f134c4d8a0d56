"""From a request to its answer: who asks, what for, what came of it."""

import logging
import time

from dockyard.registry.errors import Refused
from dockyard.registry.handlers import Handlers
from dockyard.registry.routes import find_target
from dockyard.web import Request, Response, StreamResponse

log = logging.getLogger("dockyard.registry")
access_log = logging.getLogger("dockyard.registry.access")

VERSION_HEADER = {"Docker-Distribution-Api-Version": "registry/2.0"}


class App:
    """Answers requests: the handler of a `web.Server`."""

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    async def __call__(self, request: Request) -> StreamResponse:
        began = time.monotonic()
        try:
            answer = await self._answer(request)
        except Refused as refused:
            answer = refused.response()
        except ConnectionError:
            raise
        except OSError as error:
            log.error("%s %s failed: %s", request.method, request.path, error)
            answer = Refused("UNKNOWN", str(error)).response()
        answer.headers |= VERSION_HEADER
        answer.headers.setdefault("X-Content-Type-Options", "nosniff")
        self._note(request, answer, time.monotonic() - began)
        return answer

    async def _answer(self, request: Request) -> StreamResponse:
        if request.path in ("/", "/healthz"):
            return Response(200, {"Cache-Control": "no-cache"})
        target = find_target(request.path, request.query)
        if target is None:
            return Response(404, content_type="text/plain; charset=utf-8", body=b"404 page not found\n")
        handler = self._handlers.find(target.kind, request.method)
        return await handler(target, request)

    def _note(self, request: Request, answer: StreamResponse, duration: float) -> None:
        access_log.info("%s %s %d %.1f ms", request.method, request.path, answer.status, duration * 1000)

    def refuse(self, status: int, message: str) -> Response:
        """The answer to what is no request."""
        return Response(status, content_type="text/plain; charset=utf-8", body=message.encode() + b"\n")
