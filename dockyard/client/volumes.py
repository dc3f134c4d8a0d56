"""Volumes: `client.volumes`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dockyard.client.calls import finish
from dockyard.client.errors import NotFound
from dockyard.client.filters import filter_lists
from dockyard.client.leases import with_lease
from dockyard.client.modes import Async, M, Resource, Sync, operation
from dockyard.client.results import Pruned
from dockyard.client.session import PATIENT
from dockyard.client.urls import path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dockyard.client.leases import Lease
    from dockyard.client.session import Session


class Volume(Resource[M]):
    """A volume. Leaving its `with` block removes it. `attrs` is what the engine says about it (the API's Volume)."""

    def __init__(self, session: Session, attrs: dict[str, Any]) -> None:
        super().__init__(session)
        self.attrs = attrs

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @property
    def name(self) -> str:
        """Its name, which is also its ID."""
        return str(self.attrs["Name"])

    @property
    def driver(self) -> str:
        """The driver that keeps it."""
        return str(self.attrs["Driver"])

    @property
    def mountpoint(self) -> str:
        """Where it is on the engine's host."""
        return str(self.attrs["Mountpoint"])

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return dict(self.attrs.get("Labels") or {})

    @operation
    async def reload(self) -> None:
        """Ask the engine again. Raises NotFound."""
        self.attrs = (await self._session.request("GET", path("/volumes", self.name))).json()

    @operation
    async def remove(self, *, force: bool = False) -> None:
        """Remove it; `force` also when its driver is gone. Raises Conflict when a container uses it."""
        await self._remove(force=force)

    async def _remove(self, *, force: bool) -> None:
        await self._session.request("DELETE", path("/volumes", self.name, force=force))

    async def _leave(self) -> None:
        try:
            await self._remove(force=False)
        except NotFound:
            pass  # it was removed already

    def __enter__(self: Volume[Sync]) -> Volume[Sync]:
        return self

    def __exit__(self: Volume[Sync], *_: object) -> None:
        finish(self._leave())

    async def __aenter__(self: Volume[Async]) -> Volume[Async]:
        return self

    async def __aexit__(self: Volume[Async], *_: object) -> None:
        await self._leave()


class Volumes(Resource[M]):
    """The engine's volumes."""

    @operation
    async def create(
        self,
        name: str = "",
        *,
        driver: str = "local",
        driver_options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        lease: Lease[Any] | None = None,
    ) -> Volume[M]:
        """Make a volume; without a name it gets one. One that is there already is given as it is."""
        body = {
            "Name": name,
            "Driver": driver,
            "DriverOpts": dict(driver_options or {}),
            "Labels": with_lease(dict(labels or {}), lease),
        }
        return Volume(self._session, (await self._session.request("POST", "/volumes/create", body)).json())

    @operation
    async def get(self, name: str) -> Volume[M]:
        """The volume of that name. Raises NotFound."""
        return Volume(self._session, (await self._session.request("GET", path("/volumes", name))).json())

    @operation
    async def prune(self, filters: Mapping[str, str | bool | Sequence[str]] | None = None) -> Pruned:
        """Remove volumes that no container uses: anonymous ones, or with {"all": True} all. `filters`: label, all."""
        place = path("/volumes/prune", filters=filter_lists(filters))
        found = (await self._session.request("POST", place, timeout=PATIENT)).json()
        return Pruned(found["VolumesDeleted"] or [], found["SpaceReclaimed"])

    @operation
    async def list(self, filters: Mapping[str, str | bool | Sequence[str]] | None = None) -> list[Volume[M]]:
        """Volumes. `filters`: dangling, driver, label, name."""
        found = (await self._session.request("GET", path("/volumes", filters=filter_lists(filters)))).json()
        return [Volume(self._session, row) for row in found["Volumes"] or ()]
