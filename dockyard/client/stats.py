"""What a container uses, from the API's figures."""

from __future__ import annotations

from typing import Any, NamedTuple


class Stats(NamedTuple):
    """What a container uses. Bytes, unless said otherwise; counters run from the container's start."""

    cpu_percent: float  # of one core; of the time since the figures before
    cpu_seconds: float
    memory: int  # without the page cache that could be given back
    memory_limit: int
    processes: int
    network_received: int
    network_sent: int
    block_read: int
    block_written: int
    raw: dict[str, Any]  # the API's own words (ContainerStats)


def parse_stats(found: dict[str, Any]) -> Stats:
    """The figures that `docker stats` shows, computed as it does."""
    memory = found.get("memory_stats") or {}
    details = memory.get("stats") or {}
    cache = details.get("inactive_file", details.get("total_inactive_file", 0))
    networks = (found.get("networks") or {}).values()
    blocks = (found.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
    usage = memory.get("usage", 0)
    return Stats(
        cpu_percent=_cpu_percent(found),
        cpu_seconds=found["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
        memory=usage - cache if usage >= cache else usage,
        memory_limit=memory.get("limit", 0),
        processes=(found.get("pids_stats") or {}).get("current", 0) or 0,
        network_received=sum(network["rx_bytes"] for network in networks),
        network_sent=sum(network["tx_bytes"] for network in networks),
        block_read=sum(row["value"] for row in blocks if row["op"].lower() == "read"),
        block_written=sum(row["value"] for row in blocks if row["op"].lower() == "write"),
        raw=found,
    )


def _cpu_percent(found: dict[str, Any]) -> float:
    now, before = found["cpu_stats"], found.get("precpu_stats") or {}
    used = now["cpu_usage"]["total_usage"] - (before.get("cpu_usage") or {}).get("total_usage", 0)
    system = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    cores = now.get("online_cpus") or len(now["cpu_usage"].get("percpu_usage") or ()) or 1
    return used / system * cores * 100 if used > 0 and system > 0 and before.get("system_cpu_usage") else 0.0
