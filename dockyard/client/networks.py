"""Networks: `client.networks`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from dockyard.client.calls import finish
from dockyard.client.container import Container
from dockyard.client.container_options import endpoint
from dockyard.client.errors import NotFound
from dockyard.client.filters import filter_lists
from dockyard.client.leases import with_lease
from dockyard.client.modes import Async, M, Resource, Sync, operation
from dockyard.client.urls import path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Unpack

    from dockyard.client.container_options import EndpointOptions
    from dockyard.client.leases import Lease
    from dockyard.client.session import Session


class Subnet(NamedTuple):
    """A range of addresses for a network: "10.1.0.0/24"; `ip_range` is the part of it that containers get."""

    subnet: str
    gateway: str = ""
    ip_range: str = ""
    reserved: Mapping[str, str] = {}  # {"router": "10.1.0.9"}: addresses that nobody gets


class Network(Resource[M]):
    """A network. Leaving its `with` block disconnects its containers and removes it.

    `attrs` is what the engine says about it (NetworkInspect); a list's has no containers.
    """

    def __init__(self, session: Session, attrs: dict[str, Any]) -> None:
        super().__init__(session)
        self.attrs = attrs

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @property
    def id(self) -> str:
        """Its ID."""
        return str(self.attrs["Id"])

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.attrs["Name"])

    @property
    def driver(self) -> str:
        """bridge, host, null…"""
        return str(self.attrs["Driver"])

    @property
    def subnets(self) -> list[Subnet]:
        """Its ranges of addresses."""
        rows = (self.attrs.get("IPAM") or {}).get("Config") or ()
        return [Subnet(row.get("Subnet", ""), row.get("Gateway", ""), row.get("IPRange", "")) for row in rows]

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return dict(self.attrs.get("Labels") or {})

    @property
    def containers(self) -> list[Container[M]]:
        """The running containers that are connected to it, as of the last `reload`."""
        return [Container(self._session, key) for key in self.attrs.get("Containers") or ()]

    @operation
    async def reload(self) -> None:
        """Ask the engine again. Raises NotFound."""
        await self._reload()

    async def _reload(self) -> None:
        self.attrs = (await self._session.request("GET", path("/networks", self.id))).json()

    @operation
    async def connect(self, container: Container[M] | str, **options: Unpack[EndpointOptions]) -> None:
        """Connect a container, running or not. Raises NotFound, Forbidden when it is connected already."""
        body = {"Container": _name(container), "EndpointConfig": endpoint(options)}
        await self._session.request("POST", path("/networks", self.id, "/connect"), body)

    @operation
    async def disconnect(self, container: Container[M] | str, *, force: bool = False) -> None:
        """Disconnect a container. Raises NotFound."""
        await self._disconnect(_name(container), force=force)

    async def _disconnect(self, container: str, *, force: bool) -> None:
        body = {"Container": container, "Force": force}
        await self._session.request("POST", path("/networks", self.id, "/disconnect"), body)

    @operation
    async def remove(self) -> None:
        """Remove it. Raises Forbidden when containers are connected to it."""
        await self._remove()

    async def _remove(self) -> None:
        await self._session.request("DELETE", path("/networks", self.id))

    async def _leave(self) -> None:
        try:
            await self._reload()
            for container in self.attrs.get("Containers") or ():
                try:
                    await self._disconnect(container, force=True)
                except NotFound:
                    pass  # it ended meanwhile
            await self._remove()
        except NotFound:
            pass  # it was removed already

    def __enter__(self: Network[Sync]) -> Network[Sync]:
        return self

    def __exit__(self: Network[Sync], *_: object) -> None:
        finish(self._leave())

    async def __aenter__(self: Network[Async]) -> Network[Async]:
        return self

    async def __aexit__(self: Network[Async], *_: object) -> None:
        await self._leave()


class Networks(Resource[M]):
    """The engine's networks."""

    @operation
    async def create(
        self,
        name: str,
        *,
        driver: str = "bridge",
        subnets: Sequence[Subnet | str] = (),
        options: Mapping[str, str] | None = None,
        internal: bool = False,
        ipv6: bool = False,
        attachable: bool = False,
        labels: Mapping[str, str] | None = None,
        lease: Lease[Any] | None = None,
        ipam_driver: str = "default",
        ipam_options: Mapping[str, str] | None = None,
    ) -> Network[M]:
        """Make a network. `internal` ones lead nowhere else. Raises Conflict when the name is taken, Forbidden when
        a subnet is."""
        body: dict[str, Any] = {
            "Name": name,
            "CheckDuplicate": True,
            "Driver": driver,
            "Options": dict(options or {}),
            "Internal": internal,
            "EnableIPv6": ipv6,
            "Attachable": attachable,
            "Labels": with_lease(dict(labels or {}), lease),
        }
        if subnets or ipam_driver != "default" or ipam_options:
            ranges = [Subnet(item) if isinstance(item, str) else item for item in subnets]
            body["IPAM"] = {
                "Driver": ipam_driver,
                "Options": dict(ipam_options or {}),
                "Config": [_pool(item) for item in ranges],
            }
        made = (await self._session.request("POST", "/networks/create", body)).json()
        return await self._get(made["Id"])

    async def _get(self, name: str) -> Network[M]:
        return Network(self._session, (await self._session.request("GET", path("/networks", name))).json())

    @operation
    async def get(self, name: str) -> Network[M]:
        """The network of that name, ID or beginning of an ID. Raises NotFound."""
        return await self._get(name)

    @operation
    async def prune(self, filters: Mapping[str, str | bool | Sequence[str]] | None = None) -> list[str]:
        """Remove networks that no container uses; their names. `filters`: until, label."""
        found = (await self._session.request("POST", path("/networks/prune", filters=filter_lists(filters)))).json()
        return list(found["NetworksDeleted"] or ())

    @operation
    async def list(self, filters: Mapping[str, str | bool | Sequence[str]] | None = None) -> list[Network[M]]:
        """Networks. `filters`: dangling, driver, id, label, name, scope, type."""
        found = (await self._session.request("GET", path("/networks", filters=filter_lists(filters)))).json()
        return [Network(self._session, row) for row in found]


def _pool(subnet: Subnet) -> dict[str, Any]:
    """The API's IPAMConfig."""
    found: dict[str, Any] = {"Subnet": subnet.subnet}
    if subnet.gateway:
        found["Gateway"] = subnet.gateway
    if subnet.ip_range:
        found["IPRange"] = subnet.ip_range
    if subnet.reserved:
        found["AuxiliaryAddresses"] = dict(subnet.reserved)
    return found


def _name(container: Container[Any] | str) -> str:
    return container if isinstance(container, str) else container.id
