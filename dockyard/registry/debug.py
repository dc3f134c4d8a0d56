"""The second address: health and metrics, for those who watch and nobody else."""

import msgspec

from dockyard.registry.health import Health
from dockyard.registry.metrics import Metrics
from dockyard.registry.settings import Debug
from dockyard.web import Request, Response


class DebugApp:
    """Answers requests there: the handler of a `web.Server`."""

    def __init__(self, options: Debug, health: Health, metrics: Metrics) -> None:
        self._prometheus = options.prometheus
        self._health = health
        self._metrics = metrics

    async def __call__(self, request: Request) -> Response:
        if request.path == "/debug/health":
            status = 503 if self._health.failures else 200
            return Response(status, content_type="application/json", body=msgspec.json.encode(self._health.failures))
        if self._prometheus.enabled and request.path == self._prometheus.path:
            kind = "text/plain; version=0.0.4; charset=utf-8"
            return Response(200, content_type=kind, body=self._metrics.text().encode())
        return Response(404, content_type="text/plain; charset=utf-8", body=b"404 page not found\n")
