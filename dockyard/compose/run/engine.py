"""The engine as a project needs it: the client's requests, in the API's own words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dockyard.client.errors import APIError, NotFound
from dockyard.client.session import PATIENT
from dockyard.compose.plan import labels
from dockyard.compose.plan.observed import Observed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dockyard.client.client import Client

Body = dict[str, Any]


class Engine:
    """An engine, by its client. Threads may share it. `dry`: nothing is changed, only said."""

    def __init__(self, client: Client, *, separator: str = "-") -> None:
        self.client = client
        self.separator = separator
        self.dry = False

    @property
    def version(self) -> tuple[int, int]:
        """The version of the API that is spoken."""
        found = self.client._session.version
        if found == (0, 0):
            self.client.ping()
            found = self.client._session.version
        return found

    @property
    def builder(self) -> str:
        """The version of the API for builds that the engine prefers: "2" is BuildKit's."""
        session = self.client._session
        if not session.builder:
            headers = session.call(session.request("GET", "/_ping")).headers
            session.builder = headers.get("builder-version", "") or "1"
        return session.builder

    def get(self, place: str, **query: Any) -> Any:
        """GET, decoded."""
        return self.client.request("GET", place, query=query, timeout=PATIENT)

    def post(self, place: str, body: Any = None, **query: Any) -> Any:
        """POST, decoded."""
        return self.client.request("POST", place, body, query=query, timeout=PATIENT)

    def put(self, place: str, body: bytes, **query: Any) -> Any:
        """PUT bytes."""
        return self.client.request("PUT", place, body, query=query, timeout=PATIENT)

    def delete(self, place: str, **query: Any) -> Any:
        """DELETE."""
        return self.client.request("DELETE", place, query=query, timeout=PATIENT)

    # -- containers

    def containers(
        self, project: str, services: Iterable[str] = (), *, all: bool = True, one_off: bool | None = False
    ) -> list[Observed]:
        """A project's containers; `one_off` False: without those of `run`, True: only those, None: with them."""
        wanted = list(services)
        marks = [f"{labels.PROJECT}={project}", labels.CONFIG_HASH]
        if len(wanted) == 1:
            marks.append(f"{labels.SERVICE}={wanted[0]}")
        if one_off is not None:
            marks.append(f"{labels.ONE_OFF}={one_off}")
        rows = self.get("/containers/json", all=all, filters={"label": marks})
        found = [Observed(row, self.separator) for row in rows]
        return [one for one in found if len(wanted) < 2 or one.service in wanted]

    def marked(self, *marks: str, all: bool = True) -> list[Observed]:
        """Containers with these labels."""
        rows = self.get("/containers/json", all=all, filters={"label": list(marks)})
        return [Observed(row, self.separator) for row in rows]

    def container(self, id: str) -> Body:
        """What is known of a container. Raises NotFound."""
        found: Body = self.get(f"/containers/{id}/json")
        return found

    def create(self, name: str, body: Body, platform: str = "") -> Body:
        """Make a container. Raises APIError."""
        made: Body = self.post("/containers/create", body, name=name, platform=platform)
        return made

    def start(self, id: str) -> None:
        """Start a container. Raises APIError."""
        self.post(f"/containers/{id}/start")

    def stop(self, id: str, timeout: int | None = None) -> None:
        """Stop a container. Raises APIError."""
        self.post(f"/containers/{id}/stop", t=None if timeout is None else str(timeout))

    def remove(self, id: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove a container. Raises APIError."""
        self.delete(f"/containers/{id}", force=force, v=volumes)

    # -- images

    def image(self, name: str) -> Body | None:
        """What is known of an image, None when it is not there."""
        try:
            found: Body = self.get(f"/images/{name}/json")
        except NotFound:
            return None
        return found

    # -- networks and volumes

    def networks(self, **filters: list[str]) -> list[Body]:
        """The networks that `filters` choose."""
        found: list[Body] = self.get("/networks", filters=filters)
        return found

    def network(self, name: str) -> Body | None:
        """What is known of a network, None when it is not there or the name is ambiguous."""
        try:
            found: Body = self.get(f"/networks/{name}")
        except APIError:
            return None
        return found

    def volumes(self, **filters: list[str]) -> list[Body]:
        """The volumes that `filters` choose."""
        return self.get("/volumes", filters=filters).get("Volumes") or []

    def volume(self, name: str) -> Body | None:
        """What is known of a volume, None when it is not there."""
        try:
            found: Body = self.get(f"/volumes/{name}")
        except NotFound:
            return None
        return found
