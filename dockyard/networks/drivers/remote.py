"""Network drivers that are programs of others, spoken to by Docker's plugin protocol: JSON over HTTP on a UNIX socket.

A plugin is found by its socket NAME.sock in Docker's folder, or by a file NAME.spec or NAME.json in others of Docker's
that says where it listens (docs.docker.com, "Docker plugin API"). It makes networks and links; we give out addresses,
move its link into the sandbox and set it up there.
"""

import http.client
import json
import logging
import socket
from collections.abc import Sequence
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from dockyard.errors import NotFound, SystemFailure
from dockyard.linux.netlink import RouteSocket, move_link
from dockyard.networks.drivers.base import Plan
from dockyard.networks.drivers.interfaces import configure, vacate
from dockyard.networks.drivers.plain_link import PlainLinkDriver
from dockyard.networks.model import EndpointState, Network
from dockyard.networks.sandboxes import Namespace

log = logging.getLogger("dockyard.networks")

SOCKETS = ("/run/docker/plugins",)
SPECS = ("/etc/docker/plugins", "/usr/lib/docker/plugins")
PATIENCE = 30.0  # s for one answer
LONGEST = 1 << 20  # bytes of one
GENERIC = "com.docker.network.generic"


class RemoteDriver(PlainLinkDriver):
    """The driver that the plugin called `name` is. Keeps nothing: the plugin is looked for at each call."""

    leads_out = True

    def __init__(self, name: str) -> None:
        self.name = name

    def settle(self, network: Network) -> None:
        return

    def chooses_gateway(self, network: Network, version: int) -> bool:
        return True

    def links(self, network: Network) -> Sequence[str]:
        return []

    def check(self, network: Network) -> None:
        self._find()

    def create(self, network: Network) -> None:
        implemented = self._call("Plugin.Activate").get("Implements") or []
        if "NetworkDriver" not in implemented:
            raise SystemFailure(f'plugin "{self.name}" is no network driver')
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
        self._call(
            "NetworkDriver.CreateNetwork", NetworkID=network.id, Options=options, IPv4Data=data[4], IPv6Data=data[6]
        )

    def remove(self, network: Network) -> None:
        try:
            self._call("NetworkDriver.DeleteNetwork", NetworkID=network.id)
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
        made = self._call("NetworkDriver.CreateEndpoint", **told, Interface=interface, Options=state.driver_opts)
        _take_over(state, made.get("Interface") or {})
        try:
            joined = self._call("NetworkDriver.Join", **told, SandboxKey=namespace.path, Options=state.driver_opts)
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
                self._call(f"NetworkDriver.{method}", NetworkID=state.network_id, EndpointID=state.endpoint_id)
            except (SystemFailure, NotFound) as error:
                log.warning("plugin %s: %s", self.name, error)

    # -- the protocol -------------------------------------------------------------------------------------------------

    def _find(self) -> tuple[int, str | tuple[str, int]]:
        """The family and address of the plugin's socket. Raises NotFound."""
        plain = (
            self.name.isascii() and all(one.isalnum() or one in "-_.:" for one in self.name) and self.name[:1] != "."
        )
        for folder in SOCKETS if plain else ():
            for path in (Path(folder, f"{self.name}.sock"), Path(folder, self.name, f"{self.name}.sock")):
                if path.is_socket():
                    return socket.AF_UNIX, str(path)
        for folder in SPECS if plain else ():
            for suffix in ("spec", "json"):
                for path in (Path(folder, f"{self.name}.{suffix}"), Path(folder, self.name, f"{self.name}.{suffix}")):
                    if path.is_file():
                        return _address(path)
        raise NotFound(f'plugin "{self.name}" not found')

    def _call(self, method: str, **body: Any) -> dict[str, Any]:
        """What the plugin answers. Raises SystemFailure with its own words, NotFound without a plugin."""
        family, address = self._find()
        connection = http.client.HTTPConnection("plugin", timeout=PATIENCE)
        try:
            connection.sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            connection.sock.settimeout(PATIENCE)
            connection.sock.connect(address)
            kind = {"Accept": "application/vnd.docker.plugins.v1.2+json", "Content-Type": "application/json"}
            connection.request("POST", f"/{method}", json.dumps(body), kind)
            answer = connection.getresponse()
            text = answer.read(LONGEST)
            said = json.loads(text) if text.strip() else {}
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SystemFailure(f'plugin "{self.name}" does not answer {method}: {error}') from error
        finally:
            connection.close()
        if not isinstance(said, dict):
            raise SystemFailure(f'plugin "{self.name}" answers {method} with nonsense')
        if answer.status != 200 or said.get("Err"):
            raise SystemFailure(f"{method}: {said.get('Err') or answer.reason}")
        return said


def _address(path: Path) -> tuple[int, str | tuple[str, int]]:
    text = path.read_text(encoding="utf-8").strip()
    url = str(json.loads(text).get("Addr", "")) if path.suffix == ".json" else text
    scheme, _, rest = url.partition("://")
    if scheme == "unix":
        return socket.AF_UNIX, rest
    host, _, port = rest.rstrip("/").rpartition(":")
    if scheme not in ("tcp", "http") or not port.isdigit():
        raise NotFound(f"plugin file {path} names no address: {url!r}")
    return socket.AF_INET6 if ":" in host else socket.AF_INET, (host.strip("[]"), int(port))


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
