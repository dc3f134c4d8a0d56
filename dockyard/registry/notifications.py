"""Webhooks: what has happened is posted to endpoints, each with a queue of its own (distribution: "Notifications")."""

import asyncio
import logging
import socket
import uuid
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec

from dockyard.registry import settings
from dockyard.registry.call import Call
from dockyard.registry.config import seconds
from dockyard.registry.metrics import Metrics

log = logging.getLogger("dockyard.registry")

MEDIA_TYPE = "application/vnd.docker.distribution.events.v2+json"
LONGEST_QUEUE = 10_000  # events that wait for an endpoint; the oldest go first


class Notifier:
    """Makes events and hands them to every endpoint that wants them."""

    def __init__(self, options: settings.Notifications, metrics: Metrics, address: str) -> None:
        self._endpoints = [Endpoint(one, metrics) for one in options.endpoints if not one.disabled]
        self._source = {"addr": f"{socket.gethostname()}:{address.rpartition(':')[2]}", "instanceID": str(uuid.uuid4())}

    def tell(self, call: Call, action: str, repository: str, **target: Any) -> None:
        """Something was done: `action` is pull, push, mount or delete; `target` the event's, without its repository."""
        if not self._endpoints:
            return
        request = call.request
        if "size" in target:
            target["length"] = target["size"]
        if "url" in target:
            target["url"] = f"{_origin(call)}{target['url']}"
        event = {
            "id": str(uuid.uuid4()),
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "action": action,
            "target": {**{name: value for name, value in target.items() if value}, "repository": repository},
            "request": {
                "id": call.id,
                "addr": call.peer,
                "host": request.headers.get("Host"),
                "method": request.method,
                "useragent": request.headers.get("User-Agent"),
            },
            "actor": {"name": call.actor.name} if call.actor.name else {},
            "source": self._source,
        }
        for endpoint in self._endpoints:
            endpoint.put(event)

    async def deliver(self) -> None:
        """Post what waits, for ever."""
        await asyncio.gather(*(endpoint.deliver() for endpoint in self._endpoints))


class Endpoint:
    """One place that hears of events."""

    def __init__(self, options: settings.Endpoint, metrics: Metrics) -> None:
        self._options = options
        self._metrics = metrics
        self._waiting: deque[dict[str, Any]] = deque()
        self._come = asyncio.Event()

    def put(self, event: dict[str, Any]) -> None:
        """Have an event delivered, if the endpoint wants it."""
        options = self._options
        kind = event["target"].get("mediaType", "")
        if event["action"] in options.ignore.actions or kind in (
            *options.ignore.mediatypes,
            *options.ignoredmediatypes,
        ):
            return
        if len(self._waiting) >= LONGEST_QUEUE:
            self._waiting.popleft()
            log.error("notifications: %s does not keep up: an event is given up", options.name or options.url)
        self._waiting.append(event)
        self._come.set()

    async def deliver(self) -> None:
        """Post one event after the other, each until it has arrived."""
        options = self._options
        headers = {name: ", ".join(values) for name, values in options.headers.items()} | {"Content-Type": MEDIA_TYPE}
        timeout = aiohttp.ClientTimeout(total=seconds(options.timeout))
        failures = 0
        async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
            while True:
                while not self._waiting:
                    self._come.clear()
                    await self._come.wait()
                why = await self._post(session, [self._waiting[0]])
                if not why:
                    failures = 0
                    self._waiting.popleft()
                    self._metrics.count("registry_notifications_events_total")
                    continue
                failures += 1
                self._metrics.count("registry_notifications_failures_total")
                log.warning("notifications: %s: %s", options.name or options.url, why)
                if failures >= options.threshold:
                    await asyncio.sleep(seconds(options.backoff))
                else:
                    await asyncio.sleep(min(0.1 * failures, 1))

    async def _post(self, session: aiohttp.ClientSession, events: Sequence[dict[str, Any]]) -> str:
        """Post once; why it has failed, or ""."""
        try:
            async with session.post(self._options.url, data=msgspec.json.encode({"events": events})) as response:
                return "" if 200 <= response.status < 400 else f"response status {response.status} unaccepted"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return str(error) or type(error).__name__


def _origin(call: Call) -> str:
    headers = call.request.headers
    scheme = headers.get("X-Forwarded-Proto") or ("https" if call.request.connection.encrypted else "http")
    return f"{scheme}://{headers.get('Host')}"
