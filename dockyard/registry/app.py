"""From a request to its answer: who asks, what for, what came of it."""

import logging
import re
import time
from collections.abc import Mapping

from dockyard.registry.auth import Authenticator
from dockyard.registry.call import Call
from dockyard.registry.errors import Refused
from dockyard.registry.handlers import Handlers
from dockyard.registry.health import Health
from dockyard.registry.log import note
from dockyard.registry.metrics import Metrics
from dockyard.registry.routes import find_target, needed
from dockyard.registry.settings import HTTP
from dockyard.web import Request, Response, StreamResponse

log = logging.getLogger("dockyard.registry")

_VERSION_HEADER = "Docker-Distribution-Api-Version"
_OWN_PATH = re.compile(r"(?<![^<])/v2/")


class App:
    """Answers requests: the handler of a `web.Server`."""

    def __init__(
        self, handlers: Handlers, authenticator: Authenticator, health: Health, metrics: Metrics, http: HTTP
    ) -> None:
        self._handlers = handlers
        self._authenticator = authenticator
        self._health = health
        self._metrics = metrics
        self._prefix = http.prefix.rstrip("/")
        self._base = http.host.rstrip("/") + self._prefix  # of what clients are told to go to
        self._headers: Mapping[str, str] = {
            _VERSION_HEADER: "registry/2.0",
            **{name.title(): ", ".join(values) for name, values in http.headers.items()},
        }

    async def __call__(self, request: Request) -> StreamResponse:
        call = Call(request)
        answer: StreamResponse
        status = 499  # the client has gone (nginx's number)
        written = 0
        kind = ""
        try:
            answer = await self._answer(call)
            self._finish(answer)
            await answer.prepare(request)
            status = answer.status
            kind = answer.headers.get("Content-Type", "")
            written = int(answer.headers.get("Content-Length", "0")) if request.method != "HEAD" else 0
            return answer
        finally:
            if call.target is not None:
                self._metrics.end(call.target.kind, request.method, status, time.monotonic() - call.began)
            note(call, status, written, kind)

    async def _answer(self, call: Call) -> StreamResponse:
        try:
            return await self._handle(call)
        except Refused as refused:
            return refused.response()
        except ConnectionError:
            raise
        except OSError as error:
            log.error("%s %s: %s", call.request.method, call.request.path, error)
            return Refused("UNKNOWN", str(error)).response()
        except Exception:
            log.exception("%s %s failed", call.request.method, call.request.path)
            return Refused("UNKNOWN").response()

    async def _handle(self, call: Call) -> StreamResponse:
        request = call.request
        path = request.path
        if path == "/":
            return Response(200, {"Cache-Control": "no-cache"})
        if self._prefix:
            if not path.startswith(self._prefix + "/"):
                return _not_there()
            path = path.removeprefix(self._prefix)
        if self._health.failures:
            raise Refused("UNAVAILABLE", "health check failed: please see /debug/health")
        target = find_target(path, request.query)
        if target is None:
            return _not_there()
        call.target = target
        self._metrics.begin(target.kind)
        call.actor = await self._authenticator.authorize(request, needed(target, request.method))
        return await self._handlers.find(target.kind, request.method)(target, call)

    def _finish(self, answer: StreamResponse) -> None:
        """Add what every answer says, and make the ways in it such as clients can go."""
        for name, value in self._headers.items():
            answer.headers.setdefault(name, value)
        if self._base:
            for name in ("Location", "Link"):
                if name in answer.headers:
                    answer.headers[name] = _OWN_PATH.sub(f"{self._base}/v2/", answer.headers[name])

    def refuse(self, status: int, message: str) -> Response:
        """The answer to what is no request."""
        return Response(status, content_type="text/plain; charset=utf-8", body=message.encode() + b"\n")


def _not_there() -> Response:
    return Response(404, content_type="text/plain; charset=utf-8", body=b"404 page not found\n")
