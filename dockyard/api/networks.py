"""GET /networks, /networks/{id}; POST /networks/create, /networks/{id}/connect, /disconnect, /prune; DELETE."""

import re
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import msgspec

from dockyard import errors, web
from dockyard.api.router import Call, Route, json_response, no_content
from dockyard.api.services import Services
from dockyard.engine.containers.connections import ContainerNetworks
from dockyard.engine.images.filters import matches_labels
from dockyard.engine.networks.service import EndpointConfig, Network, Pool
from dockyard.timestamps import parse_time, parse_until

LIST_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")
PRUNE_FILTERS = ("label", "label!", "until")


class IpamConfigBody(msgspec.Struct, rename="pascal"):
    """One pool of a network to be made."""

    subnet: str | None = None
    ip_range: str | None = msgspec.field(default=None, name="IPRange")
    gateway: str | None = None
    auxiliary_addresses: dict[str, str] | None = None


class IpamBody(msgspec.Struct, rename="pascal"):
    """Where a network's addresses come from."""

    driver: str | None = None
    config: list[IpamConfigBody] | None = None
    options: dict[str, str] | None = None


class ConfigFromBody(msgspec.Struct, rename="pascal"):
    """The configuration network to take settings from."""

    network: str = ""


class CreateBody(msgspec.Struct, rename="pascal"):
    """The body of POST /networks/create."""

    name: str = ""
    driver: str | None = None
    scope: str | None = None
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigFromBody | None = None
    ipam: IpamBody | None = msgspec.field(default=None, name="IPAM")
    enable_ipv4: bool | None = msgspec.field(default=None, name="EnableIPv4")
    enable_ipv6: bool | None = msgspec.field(default=None, name="EnableIPv6")
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class EndpointIpam(msgspec.Struct, rename="pascal"):
    """The addresses that an endpoint wishes for."""

    ipv4_address: str | None = msgspec.field(default=None, name="IPv4Address")
    ipv6_address: str | None = msgspec.field(default=None, name="IPv6Address")
    link_local_ips: list[str] | None = msgspec.field(default=None, name="LinkLocalIPs")


class EndpointBody(msgspec.Struct, rename="pascal"):
    """How a container wishes to be attached to a network, as clients write it."""

    ipam_config: EndpointIpam | None = msgspec.field(default=None, name="IPAMConfig")
    links: list[str] | None = None
    aliases: list[str] | None = None
    mac_address: str | None = None
    driver_opts: dict[str, str] | None = None
    gw_priority: int | None = None

    def config(self) -> EndpointConfig:
        """The same in the engine's terms."""
        addresses = self.ipam_config or EndpointIpam()
        return EndpointConfig(
            aliases=self.aliases or [],
            links=self.links or [],
            ipv4_address=addresses.ipv4_address or "",
            ipv6_address=addresses.ipv6_address or "",
            link_local_ips=addresses.link_local_ips or [],
            mac_address=self.mac_address or "",
            driver_opts=self.driver_opts or {},
            gw_priority=self.gw_priority or 0,
        )


class ConnectBody(msgspec.Struct, rename="pascal"):
    """The body of POST /networks/{id}/connect."""

    container: str = ""
    endpoint_config: EndpointBody | None = None


class DisconnectBody(msgspec.Struct, rename="pascal"):
    """The body of POST /networks/{id}/disconnect."""

    container: str = ""
    force: bool = False


def routes(services: Services) -> list[Route]:
    """Operations on networks."""
    networks = Networks(services)
    return [
        Route("GET", "/networks", networks.list),
        Route("POST", "/networks/create", networks.create),
        Route("POST", "/networks/prune", networks.prune),
        Route("GET", "/networks/{id}", networks.inspect),
        Route("DELETE", "/networks/{id}", networks.remove),
        Route("POST", "/networks/{id}/connect", networks.connect),
        Route("POST", "/networks/{id}/disconnect", networks.disconnect),
    ]


class Networks:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._networks = services.networks
        self._attachments = ContainerNetworks(services.containers, services.networks)

    async def list(self, call: Call) -> web.StreamResponse:
        matches = self._list_filter(call.filters())
        members = call.version < (1, 28)
        return json_response([self._describe(network, members=members) for network in self._networks.list(matches)])

    async def inspect(self, call: Call) -> web.StreamResponse:
        network = self._networks.get(call.params["id"])
        scope = call.text("scope")
        if scope and scope != network.scope:
            raise errors.NotFound(f"network {call.params['id']} not found")
        described = self._describe(network, members=True)
        if call.flag("verbose"):
            described["Services"] = {}
        return json_response(described)

    async def create(self, call: Call) -> web.StreamResponse:
        body = await call.body(CreateBody)
        ipam = body.ipam or IpamBody()
        pools = [
            Pool(
                subnet=given.subnet or "",
                gateway=given.gateway or "",
                ip_range=given.ip_range or "",
                auxiliary=given.auxiliary_addresses or {},
            )
            for given in ipam.config or ()
        ]
        network = await self._networks.create(
            Network(
                id="",
                name=body.name,
                driver=body.driver or "bridge",
                created="",
                pools=pools,
                ipam_driver=ipam.driver or "default",
                ipam_options=ipam.options,
                ipv4=body.enable_ipv4 is not False or call.version < (1, 48),
                ipv6=bool(body.enable_ipv6),
                internal=body.internal,
                attachable=body.attachable,
                ingress=body.ingress,
                config_only=body.config_only,
                options=body.options or {},
                labels=body.labels or {},
            ),
            body.config_from.network if body.config_from else "",
            body.scope or "",
        )
        return json_response({"Id": network.id, "Warning": ""}, 201)

    async def remove(self, call: Call) -> web.StreamResponse:
        await self._networks.remove(call.params["id"])
        return no_content()

    async def connect(self, call: Call) -> web.StreamResponse:
        body = await call.body(ConnectBody)
        config = (body.endpoint_config or EndpointBody()).config()
        await self._attachments.connect(body.container, call.params["id"], config)
        return no_content(200)

    async def disconnect(self, call: Call) -> web.StreamResponse:
        body = await call.body(DisconnectBody)
        await self._attachments.disconnect(body.container, call.params["id"], body.force)
        return no_content(200)

    async def prune(self, call: Call) -> web.StreamResponse:
        filters = call.filters()
        _known(filters, PRUNE_FILTERS)
        untils = filters.get("until", [])
        if len(untils) > 1:
            raise errors.InvalidParameter("more than one until filter specified")
        latest = parse_until(untils[0]) if untils else None

        def matches(network: Network) -> bool:
            created = parse_time(network.created)
            return (
                (latest is None or (created is not None and created <= latest))
                and matches_labels(filters.get("label", ()), network.labels)
                and not (filters.get("label!") and matches_labels(filters["label!"], network.labels))
            )

        removed = await self._networks.prune(matches)
        self._services.events.emit("network", "prune", "", {"reclaimed": "0"})
        return json_response({"NetworksDeleted": removed or None})

    def _list_filter(self, filters: dict[str, Any]) -> Callable[[Network], bool]:
        """What a network must be to be listed. Raises InvalidParameter for a filter that does not exist."""
        _known(filters, LIST_FILTERS)
        for kind in filters.get("type", ()):
            if kind not in ("custom", "builtin"):
                raise errors.InvalidParameter(f"invalid filter: 'type'='{kind}'")
        dangling = filters.get("dangling", [])
        if len(dangling) > 1:
            raise errors.InvalidParameter('got more than one value for filter key "dangling"')
        if dangling and dangling[0] not in ("0", "1", "true", "false"):
            raise errors.InvalidParameter(
                'invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")'
            )

        def matches(network: Network) -> bool:
            if dangling:
                unused = not network.predefined and not self._networks.members(network)
                if unused != (dangling[0] in ("1", "true")):
                    return False
            kind = "builtin" if network.predefined else "custom"
            return (
                _exact(filters, "driver", network.driver)
                and _exact(filters, "scope", network.scope)
                and _exact(filters, "type", kind)
                and _pattern(filters, "id", network.id)
                and _pattern(filters, "name", network.name)
                and matches_labels(filters.get("label", ()), network.labels)
            )

        return matches

    def _describe(self, network: Network, members: bool) -> dict[str, Any]:
        containers = {}
        for request, state in self._networks.members(network) if members else ():
            containers[request.container_id] = {
                "Name": request.name,
                "EndpointID": state.endpoint_id,
                "MacAddress": state.mac,
                "IPv4Address": f"{state.ip}/{state.prefix_len}" if state.ip else "",
                "IPv6Address": f"{state.ipv6}/{state.ipv6_prefix_len}" if state.ipv6 else "",
            }
        peers = [{"Name": name, "IP": where} for name, where in self._networks.peers(network)]
        return {
            "Name": network.name,
            "Id": network.id,
            "Created": network.created,
            "Scope": network.scope,
            "Driver": network.driver,
            "EnableIPv4": network.ipv4,
            "EnableIPv6": network.ipv6,
            "IPAM": {
                "Driver": network.ipam_driver,
                "Options": network.ipam_options,
                "Config": [_pool(pool) for pool in _shown(network)] or (None if network.predefined else []),
            },
            "Internal": network.internal,
            "Attachable": network.attachable,
            "Ingress": network.ingress,
            "ConfigFrom": {"Network": network.config_from},
            "ConfigOnly": network.config_only,
            "Containers": containers,
            "Options": network.options,
            "Labels": network.labels,
            **({"Peers": peers} if peers else {}),
        }


def _shown(network: Network) -> list[Pool]:
    """The pools as they were asked for, IPv4 first, and those that were chosen (moby's buildIPAMResources)."""

    def version(pool: Pool) -> int:
        return ip_network(pool.subnet, strict=False).version

    asked = sorted((pool for pool in network.asked if pool.subnet), key=version)
    versions = {version(pool) for pool in asked}
    return [*asked, *(pool for pool in network.pools if not pool.subnet or version(pool) not in versions)]


def _pool(pool: Pool) -> dict[str, Any]:
    described: dict[str, Any] = {"Subnet": pool.subnet}
    if pool.ip_range:
        described["IPRange"] = pool.ip_range
    if pool.gateway:
        described["Gateway"] = pool.gateway
    if pool.auxiliary:
        described["AuxiliaryAddresses"] = pool.auxiliary
    return described


def _known(filters: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in filters:
        if name not in names:
            raise errors.InvalidParameter(f"invalid filter '{name}'")


def _exact(filters: dict[str, Any], name: str, value: str) -> bool:
    return name not in filters or not filters[name] or value in filters[name]


def _pattern(filters: dict[str, Any], name: str, value: str) -> bool:
    """Whether a value matches one of the filter's regular expressions, as Docker takes them to be."""
    wanted = filters.get(name)
    if not wanted:
        return True
    for text in wanted:
        try:
            if re.search(text, value):
                return True
        except re.error:
            if text in value:
                return True
    return False
