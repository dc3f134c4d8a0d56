"""GET /containers/{id:path}/stats: once or every second."""

import asyncio
from typing import Any

import msgspec

from dockyard import web
from dockyard.api.router import Call, Route, json_response
from dockyard.api.services import Services
from dockyard.api.system import rfc3339
from dockyard.engine.containers.container import Container
from dockyard.engine.containers.stats import Sample
from dockyard.errors import NotFound
from dockyard.linux.cgroup_counters import BlockRow, Counters
from dockyard.linux.cgroups import layout

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
            if not (call.version >= (1, 41) and call.flag("one-shot")) and container.state.running:
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
    shown: dict[str, Any] = {
        "name": "/" + container.name,
        "id": container.id,
        "read": rfc3339(now.read_ns),
        "preread": rfc3339(before.read_ns) if before.read_ns else "0001-01-01T00:00:00Z",
        "pids_stats": {},
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(now),
        "precpu_stats": _cpu(before),
        "memory_stats": {},
        "blkio_stats": dict.fromkeys(_BLOCKS),
    }
    if now.used is not None:
        v1 = layout().version == 1
        limit = now.used.pids_limit
        shown["pids_stats"] = {"current": now.used.pids, **({"limit": limit} if limit else {})}
        shown["memory_stats"] = _memory(now, now.used, v1)
        shown["blkio_stats"] = _blocks(now.used, v1)
    if now.networks:
        shown["networks"] = now.networks
    return shown


def _memory(sample: Sample, used: Counters, v1: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "usage": used.memory.usage,
        "stats": used.memory_stat,
        "limit": sample.memory_limit,
    }
    if v1:
        shown["max_usage"] = used.memory.peak
    if used.memory.failures:
        shown["failcnt"] = used.memory.failures
    return shown


# Docker's names of what is counted, and ours.
_BLOCKS = {
    "io_service_bytes_recursive": "service_bytes",
    "io_serviced_recursive": "serviced",
    "io_queue_recursive": "queued",
    "io_service_time_recursive": "service_time",
    "io_wait_time_recursive": "wait_time",
    "io_merged_recursive": "merged",
    "io_time_recursive": "time",
    "sectors_recursive": "sectors",
}


def _blocks(used: Counters, v1: bool) -> dict[str, Any]:
    """Docker gives all that version 1 counts in the kernel's words, of version 2 only bytes, in small letters."""
    if v1:
        return {name: _rows(used.blocks.get(kind, [])) for name, kind in _BLOCKS.items()}
    rows = [
        (major, minor, operation.lower(), value)
        for major, minor, operation, value in used.blocks.get("service_bytes", [])
        if operation != "Discard"
    ]
    return {**dict.fromkeys(_BLOCKS), "io_service_bytes_recursive": _rows(rows) or None}


def _rows(rows: list[BlockRow]) -> list[dict[str, Any]]:
    return [
        {"major": major, "minor": minor, "op": operation, "value": value} for major, minor, operation, value in rows
    ]


def _cpu(sample: Sample) -> dict[str, Any]:
    used = sample.used or Counters()
    shown: dict[str, Any] = {
        "cpu_usage": {
            "total_usage": used.cpu_total,
            "usage_in_kernelmode": used.cpu_system,
            "usage_in_usermode": used.cpu_user,
            **({"percpu_usage": used.cpu_per} if used.cpu_per else {}),
        },
        "throttling_data": {
            "periods": used.periods,
            "throttled_periods": used.throttled_periods,
            "throttled_time": used.throttled_time,
        },
    }
    if sample.online_cpus:
        shown["system_cpu_usage"] = sample.host_cpu
        shown["online_cpus"] = sample.online_cpus
    return shown
