"""GET /containers/{id:path}/stats: once or every second."""

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from dockyard.api.router import Call, Route, json_response
from dockyard.api.services import Services
from dockyard.api.system import rfc3339
from dockyard.engine.container import Container
from dockyard.engine.stats import Sample
from dockyard.errors import NotFound

INTERVAL = 1.0
NEVER = Sample(0)


def routes(services: Services) -> list[Route]:
    """The operation on statistics."""
    return [Route("GET", "/containers/{id:path}/stats", Stats(services).stats)]


class Stats:
    """Handler of the operation on statistics."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def stats(self, call: Call) -> web.StreamResponse:
        container = self._services.containers.get(call.params["id"])
        service = self._services.stats
        if not call.flag("stream", True):
            before = NEVER
            if not call.flag("one-shot") and container.state.running:
                # a percentage needs two readings
                before = service.sample(container)
                await asyncio.sleep(INTERVAL)
            return json_response(stats_json(container, before, service.sample(container)))
        response = await call.open_stream()
        before = NEVER
        try:
            while True:
                now = service.sample(container)
                await response.write(msgspec.json.encode(stats_json(container, before, now)) + b"\n")
                before = now
                await asyncio.sleep(INTERVAL)
                self._services.containers.get(container.id)
        except (ConnectionError, NotFound):
            pass
        return response


def stats_json(container: Container, before: Sample, now: Sample) -> dict[str, Any]:
    """Two samples as Docker's statistics object."""
    running = container.state.running
    operations = [
        {"major": major, "minor": minor, "op": operation, "value": value}
        for major, minor, operation, value in now.blocks
    ]
    shown: dict[str, Any] = {
        "name": "/" + container.name,
        "id": container.id,
        "read": rfc3339(now.read_ns),
        "preread": rfc3339(before.read_ns) if before.read_ns else "0001-01-01T00:00:00Z",
        "pids_stats": {"current": now.pids, **({"limit": now.pids_limit} if now.pids_limit else {})} if running else {},
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(now),
        "precpu_stats": _cpu(before),
        "memory_stats": {
            "usage": now.memory_usage,
            "max_usage": now.memory_max,
            "stats": now.memory_stats,
            "failcnt": now.memory_failures,
            "limit": now.memory_limit,
        }
        if running
        else {},
        "blkio_stats": {
            "io_service_bytes_recursive": operations if running else None,
            "io_serviced_recursive": None,
            "io_queue_recursive": None,
            "io_service_time_recursive": None,
            "io_wait_time_recursive": None,
            "io_merged_recursive": None,
            "io_time_recursive": None,
            "sectors_recursive": None,
        },
    }
    if now.networks:
        shown["networks"] = now.networks
    return shown


def _cpu(sample: Sample) -> dict[str, Any]:
    throttling = sample.throttling
    shown: dict[str, Any] = {
        "cpu_usage": {
            "total_usage": sample.cpu_total,
            "usage_in_kernelmode": sample.cpu_system,
            "usage_in_usermode": sample.cpu_user,
            **({"percpu_usage": sample.cpu_per} if sample.cpu_per else {}),
        },
        "throttling_data": {
            "periods": throttling.get("nr_periods", 0),
            "throttled_periods": throttling.get("nr_throttled", 0),
            "throttled_time": throttling.get("throttled_time", 0),
        },
    }
    if sample.online_cpus:
        shown["system_cpu_usage"] = sample.host_cpu
        shown["online_cpus"] = sample.online_cpus
    return shown
