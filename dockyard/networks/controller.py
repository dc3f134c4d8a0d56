"""Sandboxes and endpoints: joins containers to networks, keeps who is where, and takes all of it down again.

State is changed in the event loop's thread only; what the kernel has to do is done in worker threads, as one job
per container, so that a slow kernel holds up nobody else.
"""

import asyncio
import functools
import logging
import secrets
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import ParamSpec, TypeVar

from dockyard.errors import Conflict, DockyardError, InvalidParameter, NotFound, SystemFailure
from dockyard.linux.netlink import RouteSocket, delete_link
from dockyard.networks import files, sandboxes
from dockyard.networks.dns import DnsServer, DnsSockets, Upstreams, open_sockets
from dockyard.networks.drivers import BridgeDriver, Driver, HostDriver, NullDriver, Plan
from dockyard.networks.drivers.bridge import (
    DEFAULT_BRIDGE,
    HOST_BINDING,
    INTERFACE_NAME,
    PREFIX,
    rules_of,
    veth_name,
)
from dockyard.networks.firewall import BridgeRules, Firewall, PublishedPort
from dockyard.networks.ipam import AddressPool, address
from dockyard.networks.model import (
    EndpointConfig,
    EndpointState,
    JoinRequest,
    Network,
    PortBindings,
    Sandbox,
)
from dockyard.networks.ports import HeldPort, HostPorts, split_port
from dockyard.networks.proxy import TcpProxy, UdpProxy

log = logging.getLogger("dockyard.networks")

P = ParamSpec("P")
T = TypeVar("T")

# What is left of a sandbox that something still holds open is removed by hand after this many seconds.
LINGER = 2.0
HOST_GATEWAY = "host-gateway"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the daemon's configuration says about containers' networking."""

    instance: str
    firewall: bool = True
    ip_forward: bool = True
    userland_proxy: bool = True
    host_binding: str = "0.0.0.0"
    host_gateway: str = ""
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()


@dataclass(slots=True)
class Publication:
    """One published port: the host port held, where it leads, and the proxy if the packet filter cannot lead it."""

    container_port: str
    held: HeldPort
    rule: PublishedPort | None
    target: tuple[str, int]
    proxy: TcpProxy | UdpProxy | None = None


@dataclass(slots=True)
class Active:
    """A container that has joined. `namespace` is None in the host's or another container's."""

    request: JoinRequest
    sandbox: Sandbox
    namespace: sandboxes.Namespace | None = None
    publications: list[Publication] = field(default_factory=list)
    dns: DnsServer | None = None
    gateway_network: str = ""


class Controller:
    """The Container Network Model's controller: networks by driver, sandboxes by container."""

    def __init__(self, exec_root: Path, settings: Settings) -> None:
        self._settings = settings
        self._directory = exec_root / "netns"
        self._executor = ThreadPoolExecutor(4, thread_name_prefix="network")
        self.pool = sandboxes.NamespacePool(self._directory, self._executor)
        bridge = BridgeDriver(settings.ip_forward)
        self._drivers: dict[str, Driver] = {driver.name: driver for driver in (bridge, HostDriver(), NullDriver())}
        self._bridge = bridge
        self.firewall = Firewall(settings.instance, settings.firewall)
        self._firewall_current = False
        self._ports = HostPorts()
        self._upstreams = Upstreams()
        self._networks: dict[str, Network] = {}
        self._by_name: dict[str, Network] = {}
        self._pools: dict[str, list[AddressPool]] = {}
        self._active: dict[str, Active] = {}
        # network id -> lower-case name -> endpoints
        self._names: dict[str, dict[str, list[EndpointState]]] = {}
        self._host_has_ipv6 = _host_has_ipv6()
        # namespaces that were there before us
        self._found: set[str] = set()

    # -- life ---------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Get ready for joins."""
        self._directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._found = {str(path) for path in self._directory.iterdir()}

    async def close(self) -> None:
        """Let go of everything that needs us; running containers keep links, addresses and published ports.

        When there are none, the packet filter is taken down too.
        """
        unused = not any(active.sandbox.endpoints for active in self._active.values())
        for active in self._active.values():
            self._abandon(active)
        self._active.clear()
        await self.pool.close()
        if unused and self._firewall_current:
            await self._do(self.firewall.remove)
        self._executor.shutdown()
        self.firewall.close()

    def _abandon(self, active: Active) -> None:
        for publication in active.publications:
            if publication.proxy is not None:
                publication.proxy.close()
            self._ports.release(publication.held)
        if active.dns is not None:
            active.dns.close()
        if active.namespace is not None:
            active.namespace.close()

    async def sweep(self) -> None:
        """Remove what earlier daemons left and nobody uses: namespaces, links of our bridges, packet filter rules."""
        await self._write_firewall()
        known = {active.namespace.path for active in self._active.values() if active.namespace}
        links = {
            state.host_interface for active in self._active.values() for state in active.sandbox.endpoints.values()
        }
        bridges = {network.bridge for network in self._networks.values() if network.bridge}
        await self._do(_sweep, self._found - known, bridges, links)
        self.pool.fill()

    def _do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._executor, functools.partial(work, *args, **kwargs))

    # -- networks -----------------------------------------------------------------------------------------------------

    def driver(self, name: str) -> Driver:
        """The driver of that name. Raises NotFound."""
        try:
            return self._drivers[name]
        except KeyError:
            raise NotFound(f"could not find plugin {name} in v2 plugin registry: plugin not found") from None

    def adopt(self, network: Network) -> None:
        """Know a network, with its address pools; the kernel is not told."""
        pools = []
        for given in network.pools:
            if not given.subnet:
                continue
            scope = ip_network(given.ip_range, strict=False) if given.ip_range else None
            pool = AddressPool(ip_network(given.subnet, strict=False), scope)
            for taken in (given.gateway, *given.auxiliary.values()):
                if taken:
                    try:
                        pool.take(address(taken))
                    except Conflict:
                        pass  # a gateway may be named among the auxiliary addresses, or be the network's own
            pools.append(pool)
        self._networks[network.id] = network
        self._by_name[network.name] = network
        self._pools[network.id] = pools
        self._names[network.id] = {}

    async def create(self, network: Network) -> None:
        """Make an adopted network in the kernel."""
        await self._do(self.driver(network.driver).create, network)
        if network.bridge:
            self.firewall.set_bridges(self._rules())
            if self._firewall_current:
                await self._do(self.firewall.rewrite)

    async def forget(self, network: Network, remove: bool = True) -> None:
        """Remove a network from the kernel and from memory."""
        del self._networks[network.id]
        del self._by_name[network.name]
        del self._pools[network.id]
        del self._names[network.id]
        if remove:
            await self._do(self.driver(network.driver).remove, network)
        if network.bridge:
            self.firewall.set_bridges(self._rules())
            if self._firewall_current:
                await self._do(self.firewall.rewrite)

    def _rules(self) -> list[BridgeRules]:
        return [rules_of(network) for network in self._networks.values() if network.bridge]

    async def repair(self) -> None:
        """Put the packet filter back if others have removed it."""
        await self._do(self.firewall.repair)

    async def _write_firewall(self) -> None:
        """Write the rules for the first time. Until then those of the daemon before us serve who still runs."""
        if not self._firewall_current:
            self._firewall_current = True
            await self._do(self.firewall.rewrite)

    # -- joining ------------------------------------------------------------------------------------------------------

    def sandbox(self, container_id: str) -> Sandbox | None:
        """The container's sandbox, or None when it has not joined."""
        active = self._active.get(container_id)
        return active.sandbox if active else None

    def members(self, network_id: str) -> list[tuple[JoinRequest, EndpointState]]:
        """Who is attached to a network."""
        return [
            (active.request, state)
            for active in self._active.values()
            for state in active.sandbox.endpoints.values()
            if state.network_id == network_id
        ]

    def rename(self, container_id: str, name: str) -> None:
        """Serve a container's new name in place of its old one."""
        active = self._active.get(container_id)
        if active is None:
            return
        old, active.request.name = active.request.name, name
        for state in active.sandbox.endpoints.values():
            self._remove_names(state)
            state.dns_names = [name if known == old else known for known in state.dns_names]
            self._add_names(state)

    async def join(self, request: JoinRequest, networks: list[tuple[Network, EndpointConfig]]) -> Sandbox:
        """Make a container's sandbox and attach it to `networks`, the first of them as eth0.

        An empty list gives a sandbox with loopback only. Nothing is left when it raises.
        """
        if request.container_id in self._active:
            await self.leave(request.container_id)
        await self._write_firewall()
        namespace = await self.pool.take()
        sandbox = Sandbox(sandbox_id=namespace.sandbox_id, sandbox_key=namespace.path, netns_path=namespace.path)
        active = Active(request, sandbox, namespace)
        async with AsyncExitStack() as undo:
            undo.callback(self._destroy_later, namespace)
            for network, config in networks:
                state = self._allocate(active, network, config)
                sandbox.endpoints[network.name] = state
                undo.callback(self._free, state)
            active.gateway_network = self._choose_gateway(active)
            # from here on its networks cannot be removed
            self._active[request.container_id] = active
            undo.callback(self._active.pop, request.container_id, None)
            self._hold_ports(active)
            undo.callback(self._release_ports, active)
            building = self._do(self._build, active)
            undo.push_async_callback(self._unbuild, active, building)
            self._write_files(active)  # meanwhile
            self._start(active, await asyncio.shield(building))
            undo.pop_all()
        return sandbox

    async def _unbuild(self, active: Active, building: asyncio.Future[DnsSockets | None]) -> None:
        """Undo `_build`, which may still be at work; the links go with the namespace."""
        await asyncio.wait({building})
        if building.exception() is not None:
            return
        sockets = building.result()
        if sockets is not None:
            sockets.close()
        rules = [publication.rule for publication in active.publications if publication.rule]
        if rules:
            await self._do(self.firewall.unpublish, rules)

    def join_host(self, request: JoinRequest) -> Sandbox:
        """Let a container share the host's network."""
        sandbox = Sandbox(sandbox_id=secrets.token_hex(32), sandbox_key=str(self._directory / "default"))
        host = self._by_name.get("host")
        if host is not None:
            sandbox.endpoints["host"] = EndpointState(network_id=host.id, endpoint_id=secrets.token_hex(32))
        active = Active(request, sandbox)
        self._write_files(active)
        self._active[request.container_id] = active
        return sandbox

    def join_container(self, request: JoinRequest) -> Sandbox:
        """Let a container share another's sandbox and its files."""
        if not request.joined_netns:
            raise Conflict(f"cannot join network of a non running container: {request.mode.partition(':')[2]}")
        if request.joined_files_dir and request.files_dir:
            for name in ("hosts", "resolv.conf", "hostname"):
                try:
                    text = Path(request.joined_files_dir, name).read_text(encoding="utf-8", errors="replace")
                except OSError:
                    continue
                files.write(request.files_dir, name, text)
        return Sandbox(netns_path=request.joined_netns)

    def _start(self, active: Active, sockets: DnsSockets | None) -> None:
        """Begin to serve a sandbox that is built."""
        self._active[active.request.container_id] = active
        for state in active.sandbox.endpoints.values():
            self._add_names(state)
        if sockets is not None:
            self._serve_names(active, sockets)
        self._start_proxies(active)

    def _serve_names(self, active: Active, sockets: DnsSockets) -> None:
        container_id = active.request.container_id
        active.dns = DnsServer(
            sockets,
            functools.partial(self._lookup, container_id),
            functools.partial(self._reverse, container_id),
            self._upstreams,
            functools.partial(self._servers, container_id),
        )

    # -- one endpoint -------------------------------------------------------------------------------------------------

    def _allocate(self, active: Active, network: Network, config: EndpointConfig) -> EndpointState:
        request = active.request
        state = EndpointState(
            network_id=network.id,
            endpoint_id=secrets.token_hex(32),
            aliases=list(config.aliases),
            links=list(config.links),
            driver_opts=dict(config.driver_opts),
            gw_priority=config.gw_priority,
        )
        if not self.driver(network.driver).creates:
            return state
        if not _is_default(network):
            short = request.container_id[:12]
            state.dns_names = list(dict.fromkeys([request.name, *config.aliases, short, *_given(request.hostname)]))
        state.interface = config.driver_opts.get(INTERFACE_NAME) or _free_interface(
            active.sandbox, network.options.get(PREFIX, "eth")
        )
        state.host_interface = veth_name()
        try:
            self._take_addresses(network, config, state)
        except DockyardError:
            self._free(state)
            raise
        state.mac = config.mac_address.replace("-", ":").lower() or _mac_of(state.ip)
        return state

    def _take_addresses(self, network: Network, config: EndpointConfig, state: EndpointState) -> None:
        for version, wanted in ((4, config.ipv4_address), (6, config.ipv6_address)):
            pools = [pool for pool in self._pools[network.id] if pool.subnet.version == version]
            if not pools:
                if wanted:
                    raise InvalidParameter(
                        "user specified IP address is supported only when connecting to networks with user "
                        "configured subnets"
                    )
                continue
            pool, taken = _take(pools, wanted)
            gateway = self._gateway(network, pool)
            if version == 4:
                state.ip, state.prefix_len, state.gateway = str(taken), pool.subnet.prefixlen, gateway
            else:
                state.ipv6, state.ipv6_prefix_len, state.ipv6_gateway = str(taken), pool.subnet.prefixlen, gateway

    def _gateway(self, network: Network, pool: AddressPool) -> str:
        if network.internal:
            return ""
        for given in network.pools:
            if given.subnet and ip_network(given.subnet, strict=False) == pool.subnet:
                return given.gateway
        return ""

    def _free(self, state: EndpointState) -> None:
        for text in (state.ip, state.ipv6):
            if text:
                taken = ip_address(text)
                for pool in self._pools.get(state.network_id, ()):
                    if taken in pool.subnet:
                        pool.free(taken)

    def _plan(self, active: Active, name: str) -> Plan:
        state = active.sandbox.endpoints[name]
        return Plan(
            self._networks[state.network_id],
            state,
            default_route=name == active.gateway_network,
            publishes=bool(active.request.port_bindings or active.request.publish_all),
        )

    def _choose_gateway(self, active: Active) -> str:
        """The network through which the container reaches the world: highest priority, then first by name."""
        candidates = [name for name, state in active.sandbox.endpoints.items() if state.gateway or state.ipv6_gateway]
        if not candidates:
            return ""
        return min(candidates, key=lambda name: (-active.sandbox.endpoints[name].gw_priority, name))

    # -- worker threads -----------------------------------------------------------------------------------------------

    def _build(self, active: Active) -> DnsSockets | None:
        """All that the kernel has to do for a join. Runs in a worker thread."""
        assert active.namespace is not None
        with ExitStack() as undo:
            for name in active.sandbox.endpoints:
                plan = self._plan(active, name)
                driver = self._drivers[plan.network.driver]
                driver.attach(active.namespace, plan)
                undo.callback(driver.detach, active.namespace, plan)
            if active.request.sysctls:
                with sandboxes.entered(active.namespace.fd):
                    for name, value in active.request.sysctls.items():
                        sandboxes.write_sysctl(name.replace(".", "/"), value)
            rules = [publication.rule for publication in active.publications if publication.rule]
            if rules:
                self.firewall.publish(rules)
                undo.callback(self.firewall.unpublish, rules)
            sockets = _open_dns(active.namespace) if self._names_wanted(active) else None
            undo.pop_all()
        return sockets

    def _names_wanted(self, active: Active) -> bool:
        return any(
            not _is_default(self._networks[state.network_id]) and self._networks[state.network_id].bridge
            for state in active.sandbox.endpoints.values()
        )

    def _dismantle(self, namespace: sandboxes.Namespace, active: Active, plans: list[Plan]) -> None:
        """Take down what `_build` made. Runs in a worker thread."""
        rules = [publication.rule for publication in active.publications if publication.rule]
        if rules:
            self.firewall.unpublish(rules)
        for plan in plans:
            self._drivers[plan.network.driver].vacate(namespace, plan)
        sandboxes.destroy(namespace)

    def _destroy_later(self, namespace: sandboxes.Namespace) -> None:
        self._executor.submit(sandboxes.destroy, namespace)

    # -- leaving ------------------------------------------------------------------------------------------------------

    async def leave(self, container_id: str) -> None:
        """Undo `join`; no error when the container has not joined."""
        active = self._active.pop(container_id, None)
        if active is None:
            return
        for state in active.sandbox.endpoints.values():
            self._remove_names(state)
        if active.dns is not None:
            active.dns.close()
        if active.namespace is None:
            return
        for publication in active.publications:
            if publication.proxy is not None:
                publication.proxy.close()
                publication.proxy = None
        try:
            # planned here: once the container is no member any more, its networks may go
            plans = [self._plan(active, name) for name in active.sandbox.endpoints]
            await self._do(self._dismantle, active.namespace, active, plans)
        finally:
            self._release_ports(active)
            for state in active.sandbox.endpoints.values():
                self._free(state)
        links = [state.host_interface for state in active.sandbox.endpoints.values() if state.host_interface]
        if links:
            asyncio.get_running_loop().call_later(LINGER, self._remove_links, links)

    def _remove_links(self, names: list[str]) -> None:
        try:
            self._executor.submit(_delete_links, names)
        except RuntimeError:
            log.debug("closed; links %s are left to the next start", names)

    # -- live changes -------------------------------------------------------------------------------------------------

    async def connect(self, container_id: str, network: Network, config: EndpointConfig) -> EndpointState:
        """Attach a running container to one more network."""
        active = self._active[container_id]
        namespace = active.namespace
        if namespace is None:
            raise Conflict("container sharing network namespace with another container or host cannot be connected "
                           "to any other network")
        state = self._allocate(active, network, config)
        active.sandbox.endpoints[network.name] = state
        with ExitStack() as undo:
            undo.callback(self._free, state)
            undo.callback(active.sandbox.endpoints.pop, network.name)
            before = active.gateway_network
            active.gateway_network = self._choose_gateway(active)
            undo.callback(setattr, active, "gateway_network", before)
            await self._do(self._drivers[network.driver].attach, namespace, self._plan(active, network.name))
            undo.callback(self._destroy_link, state.host_interface)
            if before != active.gateway_network:
                # the new default route has replaced the old one
                await self._move_ports(active)
            if active.dns is None and self._names_wanted(active):
                self._serve_names(active, await self._do(_open_dns, namespace, True))
            self._write_files(active)
            self._add_names(state)
            undo.pop_all()
        return state

    async def disconnect(self, container_id: str, network: Network) -> None:
        """Detach a running container from a network."""
        active = self._active[container_id]
        namespace = active.namespace
        state = active.sandbox.endpoints[network.name]
        if namespace is None:
            raise Conflict("container sharing network namespace with another container or host cannot be connected "
                           "to any other network")
        plan = self._plan(active, network.name)
        self._remove_names(state)
        del active.sandbox.endpoints[network.name]
        await self._do(self._drivers[network.driver].detach, namespace, plan)
        self._free(state)
        if active.gateway_network == network.name:
            active.gateway_network = self._choose_gateway(active)
            if active.gateway_network:
                await self._do(self._bridge.route, namespace, self._plan(active, active.gateway_network), True)
            await self._move_ports(active)
        if active.dns is not None and not self._names_wanted(active):
            active.dns.close()
            active.dns = None
        self._write_files(active)

    def _destroy_link(self, name: str) -> None:
        self._remove_links([name])

    async def _move_ports(self, active: Active) -> None:
        """Let the published ports lead to the endpoint that is the gateway now; none, when there is none."""
        rules = [publication.rule for publication in active.publications if publication.rule]
        if rules:
            await self._do(self.firewall.unpublish, rules)
        wanted = dict(active.sandbox.ports)
        self._release_ports(active)
        if not active.gateway_network:
            return
        request = active.request
        self._hold_ports(active, wanted if any(wanted.values()) else request.port_bindings)
        rules = [publication.rule for publication in active.publications if publication.rule]
        if rules:
            await self._do(self.firewall.publish, rules)
        self._start_proxies(active)

    # -- ports --------------------------------------------------------------------------------------------------------

    def _hold_ports(self, active: Active, bindings: PortBindings | None = None) -> None:
        """Take the host ports that the container publishes. Raises SystemFailure in Docker's words."""
        request = active.request
        ports = active.sandbox.ports
        ports.clear()
        for exposed in request.exposed_ports:
            ports[exposed] = []
        wanted = {key: list(values) for key, values in (bindings or request.port_bindings).items()}
        if request.publish_all and bindings is None:
            for exposed in request.exposed_ports:
                wanted.setdefault(exposed, [("", "")])
        if not active.gateway_network or not wanted:
            return
        network = self._by_name[active.gateway_network]
        state = active.sandbox.endpoints[active.gateway_network]
        try:
            # fixed ports first, so that no range or "any" takes one of them
            fixed = {key: all(port.isdigit() for _, port in values) for key, values in wanted.items()}
            for key in sorted(wanted, key=lambda key: (not fixed[key], *_by_number(key))):
                number, protocol = split_port(key)
                bound = ports[f"{number}/{protocol}"] = []
                for host_ip, host_port in wanted[key] or [("", "")]:
                    for held in self._hold(protocol, host_ip, host_port, network):
                        active.publications.append(self._publication(key, held, state, number))
                        bound.append((held.host_ip, str(held.host_port)))
        except DockyardError as error:
            self._release_ports(active)
            if isinstance(error, InvalidParameter):
                raise
            raise SystemFailure(
                f"driver failed programming external connectivity on endpoint {request.name} ({state.endpoint_id}): "
                f"{error}"
            ) from error

    def _hold(self, protocol: str, host_ip: str, host_port: str, network: Network) -> list[HeldPort]:
        if host_ip:
            return self._ports.take(protocol, [str(address(host_ip))], host_port)
        default = network.options.get(HOST_BINDING) or self._settings.host_binding
        both = [default]
        if default == "0.0.0.0" and self._host_has_ipv6 and (network.ipv6 or self._settings.userland_proxy):
            both.append("::")
        return self._ports.take(protocol, both, host_port)

    def _publication(self, key: str, held: HeldPort, state: EndpointState, number: int) -> Publication:
        target = state.ip
        if (":" in held.host_ip and state.ipv6) or not target:
            target = state.ipv6
        rule = None
        if (":" in held.host_ip) == (":" in target) and self._settings.firewall:
            rule = PublishedPort(held.protocol, held.host_ip, held.host_port, target, number)
        return Publication(key, held, rule, (target, number))

    def _start_proxies(self, active: Active) -> None:
        if not self._settings.userland_proxy:
            return
        for publication in active.publications:
            if publication.rule is None and publication.held.socket is not None and publication.proxy is None:
                if publication.held.protocol == "tcp":
                    publication.proxy = TcpProxy(publication.held.socket, publication.target)
                elif publication.held.protocol == "udp":
                    publication.proxy = UdpProxy(publication.held.socket, publication.target)

    def _release_ports(self, active: Active) -> None:
        for publication in active.publications:
            if publication.proxy is not None:
                publication.proxy.close()
            self._ports.release(publication.held)
        active.publications.clear()

    # -- names --------------------------------------------------------------------------------------------------------

    def _add_names(self, state: EndpointState) -> None:
        names = self._names.get(state.network_id)
        if names is not None:
            for name in state.dns_names:
                names.setdefault(name.lower(), []).append(state)

    def _remove_names(self, state: EndpointState) -> None:
        names = self._names.get(state.network_id)
        if names is None:
            return
        for name in state.dns_names:
            left = [other for other in names.get(name.lower(), ()) if other is not state]
            if left:
                names[name.lower()] = left
            else:
                names.pop(name.lower(), None)

    def _lookup(self, container_id: str, name: str) -> list[str] | None:
        """The addresses of a name as one container may see it; None when it is none of ours."""
        active = self._active.get(container_id)
        if active is None:
            return None
        for network_name, own in active.sandbox.endpoints.items():
            names = self._names.get(own.network_id, {})
            asked = _without_network(name, network_name.lower())
            for wanted in dict.fromkeys((name, asked)):
                for link in own.links:
                    target, _, alias = link.partition(":")
                    if (alias or target).lower() == wanted:
                        wanted = target.lower()
                        break
                found = names.get(wanted)
                if found:
                    return [text for state in found for text in (state.ip, state.ipv6) if text]
        return None

    def _reverse(self, container_id: str, text: str) -> str | None:
        active = self._active.get(container_id)
        if active is None:
            return None
        for network_name, own in active.sandbox.endpoints.items():
            for states in self._names.get(own.network_id, {}).values():
                for state in states:
                    if text in (state.ip, state.ipv6) and state.dns_names:
                        return f"{state.dns_names[0]}.{network_name}"
        return None

    def _servers(self, container_id: str) -> tuple[str, ...]:
        """The resolvers for what is not one of our names; none for a container that has no way out."""
        active = self._active.get(container_id)
        if active is None or not active.gateway_network:
            return ()
        return tuple(active.request.dns) or self._settings.dns or files.host_resolvers().servers

    # -- files --------------------------------------------------------------------------------------------------------

    def _write_files(self, active: Active) -> None:
        request = active.request
        if not request.files_dir:
            return
        own_name = f"{request.hostname}.{request.domainname}" if request.domainname else request.hostname
        files.write(request.files_dir, "hostname", own_name + "\n")
        files.write(request.files_dir, "resolv.conf", self._resolv_conf(active))
        files.write(request.files_dir, "hosts", self._hosts(active, own_name))

    def _resolv_conf(self, active: Active) -> str:
        request, settings = active.request, self._settings
        servers = request.dns or settings.dns
        search = request.dns_search or settings.dns_search
        options = request.dns_options or settings.dns_options
        if active.namespace is None:
            return files.host_resolvers().override(servers, search, options).text()
        if not self._names_wanted(active):
            return files.resolvers_for_containers().override(servers, search, options).text()
        resolvers = files.host_resolvers().override((files.EMBEDDED_SERVER,), search, options)
        if not any(option.startswith("ndots:") for option in resolvers.options):
            resolvers = resolvers.override((), (), (*resolvers.options, "ndots:0"))
        return resolvers.text()

    def _hosts(self, active: Active, own_name: str) -> str:
        request = active.request
        extra = [self._extra_host(text) for text in request.extra_hosts]
        if active.namespace is None:
            return files.host_own_hosts() + "".join(f"{where}\t{name}\n" for where, name in extra)
        names = own_name if own_name == request.hostname else f"{own_name} {request.hostname}"
        own = [
            (where, names)
            for state in active.sandbox.endpoints.values()
            for where in (state.ip, state.ipv6)
            if where and names
        ]
        return files.hosts_text([*extra, *self._linked(active), *own])

    def _linked(self, active: Active) -> list[tuple[str, str]]:
        """Containers that this one is linked to on the default bridge, by name and alias (Docker's --link)."""
        entries = []
        for link in active.request.links:
            name, _, alias = link.partition(":")
            for other in self._active.values():
                if name.lstrip("/") in (other.request.name, other.request.container_id):
                    for state in other.sandbox.endpoints.values():
                        if state.ip:
                            words = dict.fromkeys([alias or name, other.request.container_id[:12], other.request.name])
                            entries.append((state.ip, " ".join(words)))
        return entries

    def _extra_host(self, text: str) -> tuple[str, str]:
        name, separator, where = text.partition("=" if "=" in text else ":")
        if not separator or not name:
            raise InvalidParameter(f"bad format for add-host: {text!r}")
        if where == HOST_GATEWAY:
            where = self._settings.host_gateway or self._default_gateway()
        return where.strip("[]"), name

    def _default_gateway(self) -> str:
        for network in self._networks.values():
            if _is_default(network):
                return next((pool.gateway for pool in network.pools if pool.gateway), "")
        raise InvalidParameter("unable to derive the IP value for host-gateway")

    # -- restart of the daemon ----------------------------------------------------------------------------------------

    async def restore(self, sandbox: Sandbox, request: JoinRequest) -> None:
        """Take up a running container's sandbox, which an earlier daemon made."""
        if not sandbox.sandbox_id:
            return
        active = Active(request, sandbox)
        for name in [name for name, state in sandbox.endpoints.items() if state.network_id not in self._networks]:
            log.warning("container %s is attached to network %s, which is gone", request.name, name)
            del sandbox.endpoints[name]
        if sandbox.netns_path is None:
            self._active[request.container_id] = active
            return
        for state in sandbox.endpoints.values():
            for text in (state.ip, state.ipv6):
                if text:
                    self._retake(state.network_id, text)
        active.namespace = await self._do(sandboxes.reopen, sandbox.netns_path, sandbox.sandbox_id)
        active.gateway_network = self._choose_gateway(active)
        self._retake_ports(active)
        self.firewall.adopt(publication.rule for publication in active.publications if publication.rule)
        if self._firewall_current:
            await self._do(self.firewall.rewrite)
        sockets = await self._do(_open_dns, active.namespace, True) if self._names_wanted(active) else None
        self._start(active, sockets)

    def _retake(self, network_id: str, text: str) -> None:
        for pool in self._pools[network_id]:
            taken = ip_address(text)
            if taken in pool.subnet:
                try:
                    pool.take(taken)
                except Conflict:
                    log.warning("address %s is in use by two containers", text)

    def _retake_ports(self, active: Active) -> None:
        if not active.gateway_network:
            return
        state = active.sandbox.endpoints[active.gateway_network]
        for key, bound in active.sandbox.ports.items():
            number, protocol = split_port(key)
            for host_ip, host_port in bound:
                try:
                    held = self._ports.take(protocol, [host_ip], host_port)[0]
                except DockyardError as error:
                    # its traffic is led to the container by the packet filter all the same
                    log.warning("cannot hold published port %s of %s: %s", host_port, active.request.name, error)
                    held = HeldPort(protocol, host_ip, int(host_port), None)
                active.publications.append(self._publication(key, held, state, number))


def _given(text: str) -> list[str]:
    return [text] if text else []


def _is_default(network: Network) -> bool:
    return network.options.get(DEFAULT_BRIDGE) == "true"


def _by_number(key: str) -> tuple[int, str]:
    number, protocol = split_port(key)
    return number, protocol


def _without_network(name: str, network: str) -> str:
    suffix = f".{network}"
    return name[: -len(suffix)] if name.endswith(suffix) else name


def _free_interface(sandbox: Sandbox, prefix: str) -> str:
    taken = {state.interface for state in sandbox.endpoints.values()}
    number = 0
    while f"{prefix}{number}" in taken:
        number += 1
    return f"{prefix}{number}"


def _mac_of(ip: str) -> str:
    """02:42 and the address, as Docker made them; random when there is no IPv4 address."""
    packed = ip_address(ip).packed if ip else secrets.token_bytes(4)
    return "02:42:" + packed.hex(":")


def _take(pools: list[AddressPool], wanted: str) -> tuple[AddressPool, object]:
    if wanted:
        taken = address(wanted)
        for pool in pools:
            if taken in pool.subnet:
                return pool, pool.take(taken)
        raise InvalidParameter(
            f"invalid config for network: no configured subnet or ip-range contain the IP address {wanted}"
        )
    failure: DockyardError | None = None
    for pool in pools:
        try:
            return pool, pool.take()
        except DockyardError as error:
            failure = error
    assert failure is not None
    raise failure


def _open_dns(namespace: sandboxes.Namespace, again: bool = False) -> DnsSockets:
    with sandboxes.entered(namespace.fd):
        return open_sockets(again)


def _delete_links(names: Iterable[str]) -> None:
    with RouteSocket() as host:
        for name in names:
            try:
                host.do(delete_link(socket.if_nametoindex(name)))
            except OSError:
                continue  # gone with its namespace, as it should be


def _sweep(paths: set[str], bridges: set[str], links: set[str]) -> None:
    for path in paths:
        log.info("removing stale network namespace %s", path)
        sandboxes.delete_file(path)
    with RouteSocket() as host:
        present = host.links()
        masters = {link.index for link in present if link.name in bridges}
        for link in present:
            if link.kind == "veth" and link.master in masters and link.name not in links:
                log.info("removing stale link %s", link.name)
                _delete_links([link.name])


def _host_has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


