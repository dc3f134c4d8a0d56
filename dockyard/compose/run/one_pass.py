"""What is done to a project in one request of our own engine's (docs/extensions.md, "Several requests in one").

Containers that need nothing of one another go side by side through the engine's fast path, without a round trip between
the making and the starting of each. Other engines, and what needs us in between (hooks, files that are written into
containers, health that is waited for), take the plain path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from dockyard.client.errors import APIError
from dockyard.client.urls import path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dockyard.compose.run.application import Application

Answer = dict[str, Any]


class Steps(NamedTuple):
    """What is done when a request begins, has been answered, and has failed; `failed` gives what is to be raised."""

    begun: Callable[[], None]
    done: Callable[[int, Answer], None]
    failed: Callable[[APIError], Exception]


class OnePass:
    """Requests that are collected, and then done."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._requests: list[Answer] = []
        self._steps: dict[str, Steps] = {}

    def add(
        self,
        key: str,
        method: str,
        place: str,
        steps: Steps,
        *,
        body: Answer | None = None,
        after: Iterable[str] = (),
        tolerated: Iterable[int] = (),
        **query: Any,
    ) -> str:
        """Add a request; its key, by which others come `after` it. `{KEY}` in `place` is the ID that KEY has given."""
        whole = path(place, **query).replace("%7B", "{").replace("%7D", "}").replace("%20", " ")
        request: Answer = {"Key": key, "Method": method, "Path": whole, "After": sorted(set(after))}
        if body is not None:
            request["Body"] = body
        request["Tolerated"] = list(tolerated)
        self._requests.append(request)
        self._steps[key] = steps
        return key

    def __contains__(self, key: str) -> bool:
        return key in self._steps

    def run(self) -> None:
        """Do them. Raises the first error when all that could be done is."""
        requests, self._requests = self._requests, []
        if not requests:
            return
        error: Exception | None = None
        tolerated = {request["Key"]: set(request["Tolerated"]) for request in requests}
        untold = set(tolerated)
        for told in self._application.engine.client.stream_requests(requests):
            steps = self._steps[told["Key"]]
            status, answer = told.get("Status", 0), told.get("Answer") or {}
            if told.get("Begun"):
                steps.begun()
                continue
            untold.discard(told["Key"])
            if status >= 400 and status not in tolerated[told["Key"]]:
                raised = steps.failed(APIError.of(status, str(answer.get("message", ""))))
                error = error or raised
            elif status:
                steps.done(status, answer)
        if error is not None:
            raise error
        if untold:
            raise APIError.of(500, f"the engine has not told what became of {', '.join(sorted(untold))}")


def possible(application: Application) -> bool:
    """Whether the engine is ours, and as much may be done at once as can be."""
    engine = application.engine
    return (
        not engine.dry and not application.limit and engine.version > (0, 0) and bool(engine.client._session.dockyard)
    )
