"""Network drivers that are programs of others, spoken to by Docker's plugin protocol.

The plugin makes networks and links; we give out addresses, move its link into the sandbox and set it up there.
"""

import logging
from collections.abc import Sequence
from ipaddress import ip_interface
from typing import Any

from dockyard.errors import NotFound, SystemFailure
from dockyard.linux.netlink import RouteSocket, move_link
from dockyard.networks.drivers.base import Plan
from dockyard.networks.drivers.interfaces import configure, vacate
from dockyard.networks.drivers.plain_link import PlainLinkDriver
from dockyard.networks.model import EndpointState, Network
from dockyard.networks.plugin import Plugin
from dockyard.networks.sandboxes import Namespace

log = logging.getLogger("dockyard.networks")

GENERIC = "com.docker.network.generic"


class RemoteDriver(PlainLinkDriver):
    """The driver that the plugin called `name` is. Keeps nothing: the plugin is looked for at each call."""

    leads_out = True

    def __init__(self, name: str) -> None:
        self.name = name
        self._plugin = Plugin(name)

    def settle(self, network: Network) -> None:
        return

    def chooses_gateway(self, network: Network, version: int) -> bool:
        return True

    def links(self, network: Network) -> Sequence[str]:
        return []

    def check(self, network: Network) -> None:
        self._plugin.find()

    def create(self, network: Network) -> None:
        self._plugin.activate("NetworkDriver")
        data = {4: [], 6: []}  # type: dict[int, list[dict[str, Any]]]
        for pool in network.pools:
            subnet = ip_interface(pool.subnet).network
            gateway = f"{pool.gateway}/{subnet.prefixlen}" if pool.gateway else ""
            data[subnet.version].append(
                {
                    "AddressSpace": "LocalDefault",
                    "Pool": str(subnet),
                    "Gateway": gateway,
                    "AuxAddresses": pool.auxiliary,
                }
            )
        options: dict[str, Any] = {GENERIC: network.options}
        options |= {"com.docker.network.enable_ipv4": network.ipv4, "com.docker.network.enable_ipv6": network.ipv6}
        if network.internal:
            options["com.docker.network.internal"] = True
        self._plugin.call(
            "NetworkDriver.CreateNetwork", NetworkID=network.id, Options=options, IPv4Data=data[4], IPv6Data=data[6]
        )

    def remove(self, network: Network) -> None:
        try:
            self._plugin.call("NetworkDriver.DeleteNetwork", NetworkID=network.id)
        except (SystemFailure, NotFound) as error:
            log.warning("network %s is forgotten, whatever its plugin says: %s", network.name, error)

    def attach(self, namespace: Namespace, plan: Plan) -> None:
        state = plan.state
        told = {"NetworkID": state.network_id, "EndpointID": state.endpoint_id}
        interface = {
            "Address": f"{state.ip}/{state.prefix_len}" if state.ip else "",
            "AddressIPv6": f"{state.ipv6}/{state.ipv6_prefix_len}" if state.ipv6 else "",
            "MacAddress": state.mac,
        }
        made = self._plugin.call("NetworkDriver.CreateEndpoint", **told, Interface=interface, Options=state.driver_opts)
        _take_over(state, made.get("Interface") or {})
        try:
            joined = self._plugin.call(
                "NetworkDriver.Join", **told, SandboxKey=namespace.path, Options=state.driver_opts
            )
            state.gateway = joined.get("Gateway") or ""
            state.ipv6_gateway = joined.get("GatewayIPv6") or ""
            source = (joined.get("InterfaceName") or {}).get("SrcName") or ""
            if source:
                _move(source, namespace, state)
                configure(namespace, plan)
        except OSError as error:
            self._leave(state)
            raise SystemFailure(f"failed to set up {state.interface} in the sandbox: {error.strerror}") from error
        except SystemFailure:
            self._leave(state)
            raise

    def detach(self, namespace: Namespace, plan: Plan) -> None:
        super().detach(namespace, plan)
        self._leave(plan.state)

    def vacate(self, namespace: Namespace, plan: Plan) -> None:
        vacate(namespace, plan.state)
        self._leave(plan.state)

    def _leave(self, state: EndpointState) -> None:
        for method in ("Leave", "DeleteEndpoint"):
            try:
                self._plugin.call(f"NetworkDriver.{method}", NetworkID=state.network_id, EndpointID=state.endpoint_id)
            except (SystemFailure, NotFound) as error:
                log.warning("plugin %s: %s", self.name, error)


def _take_over(state: EndpointState, chosen: dict[str, Any]) -> None:
    """What the plugin has chosen where nothing was asked of it."""
    if chosen.get("MacAddress"):
        state.mac = str(chosen["MacAddress"])
    if chosen.get("Address"):
        given = ip_interface(chosen["Address"])
        state.ip, state.prefix_len = str(given.ip), given.network.prefixlen
    if chosen.get("AddressIPv6"):
        given = ip_interface(chosen["AddressIPv6"])
        state.ipv6, state.ipv6_prefix_len = str(given.ip), given.network.prefixlen


def _move(source: str, namespace: Namespace, state: EndpointState) -> None:
    """Take the plugin's link into the sandbox, under the name that it has there."""
    with RouteSocket() as host:
        link = host.link(source)
        if link is None:
            raise SystemFailure(f"the plugin's link {source} is not there")
        host.do(move_link(link.index, namespace.fd, state.interface))
