"""An engine on which nothing is changed: what would be asked for is answered as if it had been done."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from dockyard.compose.run.engine import Body, Engine

if TYPE_CHECKING:
    from dockyard.client.client import Client


class DryEngine(Engine):
    """Looks at the real engine, and remembers what would have been made."""

    def __init__(self, client: Client, *, separator: str = "-") -> None:
        super().__init__(client, separator=separator)
        self.dry = True
        self._lock = threading.Lock()
        self._made: dict[str, Body] = {}
        self._images: dict[str, Body] = {}

    def post(self, place: str, body: Any = None, **query: Any) -> Any:
        """What a change would give."""
        if place == "/containers/create":
            return self._make(str(query.get("name", "")), body)
        if place == "/networks/create":
            return {"Id": body["Name"], "Warning": ""}
        if place.endswith("/wait"):
            return {"StatusCode": 0}
        return None

    def put(self, place: str, body: bytes, **query: Any) -> Any:
        """Nothing is written."""
        return None

    def delete(self, place: str, **query: Any) -> Any:
        """Nothing goes."""
        return None

    def _make(self, name: str, body: Body) -> Body:
        with self._lock:
            key = f"{len(self._made) + 1:064x}"
            self._made[key] = {
                "Id": key,
                "Name": f"/{name}",
                "Config": body,
                "State": {"Status": "running", "ExitCode": 0, "Running": True, "Health": {"Status": "healthy"}},
                "Mounts": [],
            }
        return {"Id": key, "Warnings": []}

    def container(self, id: str) -> Body:
        """One that was made, or a real one."""
        with self._lock:
            found = self._made.get(id)
        return found if found is not None else super().container(id)

    def image(self, name: str) -> Body | None:
        """A real one, or one that would be there by now."""
        return super().image(name) or self._images.get(name)

    def add_image(self, name: str) -> None:
        """Take an image as pulled or built."""
        self._images[name] = {"Id": f"sha256:{'0' * 64}", "Config": {}}

    def containers(self, *arguments: Any, **options: Any) -> Any:
        """The real ones, and those that would have been made."""
        from dockyard.compose.plan import labels
        from dockyard.compose.plan.observed import Observed

        found = super().containers(*arguments, **options)
        project = arguments[0]
        with self._lock:
            for key, made in self._made.items():
                marks = made["Config"].get("Labels") or {}
                if marks.get(labels.PROJECT) == project:
                    row = {"Id": key, "Names": [made["Name"]], "State": "created", "Labels": marks}
                    found.append(Observed(row, self.separator))
        return found
