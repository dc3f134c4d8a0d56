"""POST /dockyard/requests: several requests in one, each begun when those it comes after are done.

For a client that makes or removes a whole application: what is independent goes side by side without a round trip in
between, and what comes after something is begun at once when that is done. Each request does what it does alone, and is
on the disk before it is told to be done. What is under way when the client goes is finished; nothing more is begun.
"""

import asyncio
import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

import msgspec

from dockyard import web
from dockyard.api.router import Call, Route, Router, version_text
from dockyard.api.streams import ProgressStream
from dockyard.errors import InvalidParameter
from dockyard.web.body import EMPTY, Body
from dockyard.web.head import Head, Headers, unescape

MOST = 10_000
REFERENCE = re.compile(r"\{([^{}]*)\}")
# none of them answers by a stream or takes the connection over
ALLOWED = frozenset(
    {
        ("POST", "/containers/create"),
        ("POST", "/containers/{id:path}/start"),
        ("POST", "/containers/{id:path}/stop"),
        ("DELETE", "/containers/{id:path}"),
        ("POST", "/networks/create"),
        ("DELETE", "/networks/{id}"),
        ("POST", "/volumes/create"),
        ("DELETE", "/volumes/{name:path}"),
    }
)


class Part(msgspec.Struct, rename="pascal"):
    """One request. In its `path`, `{KEY}` is the ID that the request KEY has been answered with."""

    key: str
    method: str
    path: str
    body: msgspec.Raw = msgspec.Raw(b"")
    after: list[str] = []
    tolerated: list[int] = []  # statuses of errors that do not keep what comes after it from being begun


class SeveralBody(msgspec.Struct, rename="pascal"):
    """The body."""

    requests: list[Part] = []


class Several:
    """The operation; it is given the router whose operations it does."""

    def __init__(self) -> None:
        self.router: Router | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    def routes(self) -> list[Route]:
        """Its one route."""
        return [Route("POST", "/dockyard/requests", self.handle)]

    async def handle(self, call: Call) -> web.StreamResponse:
        try:  # (each request's own body is decoded as it is when it comes alone)
            parts = msgspec.json.decode(await call.read(), type=SeveralBody).requests
        except msgspec.DecodeError as error:
            raise InvalidParameter(f"invalid JSON: {error}") from None
        assert self.router is not None
        _check(parts, self.router)
        progress = ProgressStream(call)
        return await progress.run(self._run(parts, call, progress), errors_in_stream=True)

    async def _run(self, parts: list[Part], call: Call, progress: ProgressStream) -> None:
        ids: dict[str, str] = {}
        by_key = {part.key: part for part in parts}
        order = _order(parts)
        failed: set[str] = set()  # or not begun, because of others
        done: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()

        async def one(part: Part) -> None:
            well = False
            try:
                progress.send({"Key": part.key, "Begun": True})
                status, answer = await self._do(part, ids, call)
                ids[part.key] = str(answer.get("Id", "")) if isinstance(answer, dict) else ""
                well = status < 400 or status in part.tolerated
                progress.send({"Key": part.key, "Status": status, "Answer": answer})
            finally:
                done.put_nowait((part.key, well))

        def begin(part: Part) -> None:
            if call.http.gone or not failed.isdisjoint(part.after):
                # (when the client has gone nobody waits for it: what is not begun need not be)
                progress.send({"Key": part.key, "Skipped": True})
                done.put_nowait((part.key, False))
                return
            task = asyncio.ensure_future(one(part))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

        while order.is_active():
            for key in order.get_ready():
                begin(by_key[key])
            key, well = await done.get()
            if not well:
                failed.add(key)
            order.done(key)
        if not parts:
            progress.send({})

    async def _do(self, part: Part, ids: Mapping[str, str], call: Call) -> tuple[int, Any]:
        assert self.router is not None
        path = REFERENCE.sub(lambda found: ids.get(found[1], ""), part.path)
        place, _, query = path.partition("?")
        data, body, headers = bytes(part.body), EMPTY, Headers({})
        if data:
            body, headers = Body(lambda: None), Headers({"content-type": ["application/json"]})
            body.feed(data)
            body.end()
        head = Head(
            part.method, f"/v{version_text(call.version)}{place}", query, (1, 1), headers, len(data), True, False
        )
        response = await self.router(web.Request(head, body, call.http.connection))
        assert isinstance(response, web.Response)
        return response.status, msgspec.json.decode(response.body) if response.body.strip() else None


def _check(parts: list[Part], router: Router) -> None:
    """Raise InvalidParameter for what can't be done, before anything is."""
    if len(parts) > MOST:
        raise InvalidParameter(f"more than {MOST} requests")
    keys = {part.key for part in parts}
    if len(keys) < len(parts):
        raise InvalidParameter("several requests have the same key")
    for part in parts:
        place = part.path.partition("?")[0]
        found = router.find(part.method, unescape(place).lstrip("/").split("/"))
        if found is None or (part.method, found[0].pattern) not in ALLOWED:
            raise InvalidParameter(f"{part.method} {place} can't be one of several requests")
        for reference in (*part.after, *REFERENCE.findall(part.path)):
            if reference not in keys:
                raise InvalidParameter(f'request "{part.key}": there is no request "{reference}"')
        if not set(REFERENCE.findall(part.path)) <= set(part.after):
            raise InvalidParameter(f'request "{part.key}" does not come after that whose ID it wants')
    _order(parts)


def _order(parts: list[Part]) -> TopologicalSorter[str]:
    """The keys in the order of their requests, as they get done. Raises InvalidParameter for a circle."""
    order = TopologicalSorter({part.key: part.after for part in parts})
    try:
        order.prepare()
    except CycleError:
        raise InvalidParameter("requests come after one another in a circle") from None
    return order
