"""Counts for Prometheus (its text format), by the names of the distribution project's registry.

They are kept in memory that all worker processes share: each writes a row of its own, whoever is asked adds them up.
"""

import mmap
import struct
from bisect import bisect_left
from collections.abc import Iterator

HANDLERS = {
    "base": "base",
    "blob": "blob",
    "upload": "blob_upload_chunk",
    "uploads": "blob_upload",
    "catalog": "catalog",
    "manifest": "manifest",
    "referrers": "referrers",
    "tags": "tags",
}
METHODS = ("get", "head", "put", "post", "patch", "delete", "other")
CODES = (200, 201, 202, 204, 206, 304, 400, 401, 403, 404, 405, 413, 416, 429, 499, 500, 503, 507)
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0)
EXTRAS = (
    ("registry_blob_sent_bytes_total", "Bytes of blobs sent to clients"),
    ("registry_blob_received_bytes_total", "Bytes of blobs received from clients"),
    ("registry_proxy_hits_total", "Requests that the cache could answer"),
    ("registry_proxy_misses_total", "Requests that had to go to the other registry"),
    ("registry_proxy_pulled_bytes_total", "Bytes fetched from the other registry"),
    ("registry_notifications_events_total", "Events delivered"),
    ("registry_notifications_failures_total", "Tries to deliver events that failed"),
)
_CELL = struct.Struct("d")


class Metrics:
    """The counts. Make it before the worker processes, and tell each which row is its own."""

    def __init__(self, workers: int = 1) -> None:
        names = list(HANDLERS)
        self._requests = {
            (handler, method, code): position
            for position, (handler, method, code) in enumerate(
                (handler, method, code) for handler in names for method in METHODS for code in CODES
            )
        }
        start = len(self._requests)
        self._durations = {handler: start + number * (len(BUCKETS) + 2) for number, handler in enumerate(names)}
        start += len(names) * (len(BUCKETS) + 2)
        self._in_flight = {handler: start + number for number, handler in enumerate(names)}
        start += len(names)
        self._extras = {name: start + number for number, (name, _) in enumerate(EXTRAS)}
        self._width = start + len(EXTRAS)
        self._rows = workers
        self._memory = mmap.mmap(-1, self._width * workers * _CELL.size)
        self.row = 0

    def begin(self, kind: str) -> None:
        """A request has come."""
        if kind in self._in_flight:
            self._add(self._in_flight[kind], 1)

    def end(self, kind: str, method: str, code: int, duration: float) -> None:
        """It has been answered, after `duration` seconds."""
        if kind not in self._in_flight:
            return
        self._add(self._in_flight[kind], -1)
        method = method.lower() if method.lower() in METHODS else "other"
        known = code if (kind, method, code) in self._requests else code // 100 * 100
        if (kind, method, known) in self._requests:
            self._add(self._requests[kind, method, known], 1)
        first = self._durations[kind]
        self._add(first + bisect_left(BUCKETS, duration), 1)
        self._add(first + len(BUCKETS) + 1, duration)

    def count(self, name: str, value: float = 1) -> None:
        """One of EXTRAS has grown."""
        self._add(self._extras[name], value)

    def _add(self, cell: int, value: float) -> None:
        offset = (self.row * self._width + cell) * _CELL.size
        (old,) = _CELL.unpack_from(self._memory, offset)
        _CELL.pack_into(self._memory, offset, old + value)

    def _sum(self, cell: int) -> float:
        offsets = ((row * self._width + cell) * _CELL.size for row in range(self._rows))
        return float(sum(_CELL.unpack_from(self._memory, offset)[0] for offset in offsets))

    def text(self) -> str:
        """All of them."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield "# HELP registry_http_requests_total Total number of HTTP requests made."
        yield "# TYPE registry_http_requests_total counter"
        for (handler, method, code), cell in self._requests.items():
            value = self._sum(cell)
            if value:
                labels = f'code="{code}",handler="{HANDLERS[handler]}",method="{method}"'
                yield f"registry_http_requests_total{{{labels}}} {value:.0f}"
        yield "# HELP registry_http_in_flight_requests The in-flight HTTP requests"
        yield "# TYPE registry_http_in_flight_requests gauge"
        for handler, cell in self._in_flight.items():
            yield f'registry_http_in_flight_requests{{handler="{HANDLERS[handler]}"}} {self._sum(cell):.0f}'
        yield "# HELP registry_http_request_duration_seconds The HTTP request latencies in seconds."
        yield "# TYPE registry_http_request_duration_seconds histogram"
        for handler, first in self._durations.items():
            yield from self._histogram(HANDLERS[handler], first)
        for name, about in EXTRAS:
            yield f"# HELP {name} {about}."
            yield f"# TYPE {name} counter"
            yield f"{name} {self._sum(self._extras[name]):.0f}"

    def _histogram(self, handler: str, first: int) -> Iterator[str]:
        counted = 0.0
        for position, bound in enumerate((*BUCKETS, float("inf"))):
            counted += self._sum(first + position)
            shown = "+Inf" if bound == float("inf") else f"{bound:g}"
            yield f'registry_http_request_duration_seconds_bucket{{handler="{handler}",le="{shown}"}} {counted:.0f}'
        total = self._sum(first + len(BUCKETS) + 1)
        yield f'registry_http_request_duration_seconds_sum{{handler="{handler}"}} {total:.6f}'
        yield f'registry_http_request_duration_seconds_count{{handler="{handler}"}} {counted:.0f}'
