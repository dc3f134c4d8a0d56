"""GET /events: what happened, as a stream of JSON objects."""

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from dockyard import timestamps, web
from dockyard.api.container_filters import has_label
from dockyard.api.router import Call, Route
from dockyard.api.services import Services
from dockyard.api.streams import while_connected
from dockyard.engine.events.service import Event, Lagging
from dockyard.errors import InvalidParameter
from dockyard.generators import closing
from dockyard.oci.reference import Reference

log = logging.getLogger("dockyard.api")

# The objects whose events a filter of their kind's name selects, by name or id or the beginning of either.
KINDS = ("config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume")
FILTERS = frozenset({*KINDS, "event", "image", "label", "scope", "type"})
# Actions that carry details behind a colon; a filter for one without them selects all of its kind.
DETAILED = frozenset({"health_status", "exec_create", "exec_start"})

JSON_LINES, NDJSON, JSON_SEQUENCE = "application/jsonl", "application/x-ndjson", "application/json-seq"


def routes(services: Services) -> list[Route]:
    """The operation on events."""

    async def events(call: Call) -> web.StreamResponse:
        # of other names nothing is said, as in Docker
        filters = {name: values for name, values in call.filters().items() if name in FILTERS}
        since = timestamps.unix_time(call.text("since"), "since")
        until = timestamps.unix_time(call.text("until"), "until")
        if since is not None and until is not None and until < since:
            raise InvalidParameter(
                f"`since` time ({call.text('since')}) cannot be after `until` time ({call.text('until')})"
            )

        def wanted(event: Event) -> bool:
            if call.version < (1, 46) and (event.type, event.action) == ("image", "create"):
                return False  # these came with 1.46
            return matches(filters, event)

        return await while_connected(call, send(call, wanted, since, until))

    async def send(
        call: Call, wanted: Callable[[Event], bool], since: int | None, until: int | None
    ) -> web.StreamResponse:
        content_type = _content_type(call)
        begin = b"\x1e" if content_type == JSON_SEQUENCE else b""
        found = services.events.subscribe(wanted, since, until)
        response = await call.open_stream(content_type)
        try:
            async with closing(found):
                async for event in found:
                    await response.write(begin + msgspec.json.encode(event_json(event, call.version)) + b"\n")
        except ConnectionError:
            return response
        except Lagging as failure:
            # the head is out: that the stream is cut, and not ended, is all that can be told
            log.warning("events: %s", failure)
            return web.TakenOver()
        await response.write_eof()
        return response

    return [Route("GET", "/events", events)]


def _content_type(call: Call) -> str:
    accepted = [part.partition(";")[0].strip() for part in call.http.headers.get("Accept", "").split(",")]
    for kind in accepted:
        if kind in (JSON_LINES, NDJSON, JSON_SEQUENCE):
            return kind
    return "application/json" if call.version < (1, 52) else JSON_LINES


def event_json(event: Event, version: tuple[int, int]) -> dict[str, Any]:
    """An event as the API tells it; up to 1.51 those of containers and images carry the fields of before 1.22 too."""
    old: dict[str, Any] = {}
    if version < (1, 52):
        if event.type == "container":
            old = {"status": event.action, "id": event.actor_id, "from": event.attributes.get("image")}
        elif event.type == "image":
            old = {"status": event.action, "id": event.actor_id}
    return {
        **{name: value for name, value in old.items() if value},
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.actor_id, "Attributes": dict(event.attributes)},
        "scope": event.scope,
        "time": event.time_ns // 1_000_000_000,
        "timeNano": event.time_ns,
    }


def matches(filters: dict[str, list[str]], event: Event) -> bool:
    """Whether `event` passes Docker's event filters: one of each name's values must fit, of labels all."""
    return all(_fits(name, values, event) for name, values in filters.items() if values)


def _fits(name: str, values: list[str], event: Event) -> bool:
    attributes = event.attributes
    if name == "type":
        return event.type in values
    if name == "scope":
        return event.scope in values
    if name == "event":
        if DETAILED & set(values):
            return any(event.action.startswith(value) for value in values)
        return event.action in values
    if name == "label":
        return all(has_label(dict(attributes), value) for value in values)
    if name == "image":
        image = attributes.get("name" if event.type == "image" else "image", "")
        return bool({event.actor_id, image, _without_tag(event.actor_id), _without_tag(image)} & set(values))
    return any(event.actor_id.startswith(value) or attributes.get("name", "").startswith(value) for value in values)


def _without_tag(name: str) -> str:
    try:
        reference = Reference.parse(name)
    except InvalidParameter:
        return name
    return reference.familiar_name()
