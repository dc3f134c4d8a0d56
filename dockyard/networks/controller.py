"""Sandboxes and endpoints: joins containers to networks, keeps who is where, and takes all of it down again.

State is changed in the event loop's thread only; what the kernel has to do is done in worker threads, as one job
per container, so that a slow kernel holds up nobody else.
"""

import asyncio
import functools
import logging
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import ParamSpec, TypeVar

import msgspec

from dockyard.errors import Conflict, DockyardError, NotFound, SystemFailure
from dockyard.folders import own_folder
from dockyard.linux.netlink import RouteSocket, delete_link
from dockyard.linux.nftables import NftablesError
from dockyard.networks import advertising, files, identity, legacy_links, sandboxes
from dockyard.networks.addresses import Addresses
from dockyard.networks.advertising import Advertiser
from dockyard.networks.claims import AddressClaims
from dockyard.networks.cluster.reservations import give_back, reserve_addresses
from dockyard.networks.cluster.store import ClusterStore, Peer
from dockyard.networks.dns import DnsServer, DnsSockets, open_sockets
from dockyard.networks.dns_forwarding import Forwarder, Upstream
from dockyard.networks.drivers import (
    BridgeDriver,
    Driver,
    HostDriver,
    IpvlanDriver,
    MacvlanDriver,
    NullDriver,
    OverlayDriver,
    Plan,
)
from dockyard.networks.drivers.bridge import DEFAULT_BRIDGE, ICC, rules_of, veth_name
from dockyard.networks.drivers.interfaces import route
from dockyard.networks.drivers.marks import is_ours, mark_of
from dockyard.networks.endpoint_sysctls import disables_ipv6
from dockyard.networks.explanation import Way, explain, holders
from dockyard.networks.firewall import BridgeRules, Firewall, LinkedPort
from dockyard.networks.ipam import address
from dockyard.networks.iptables_firewall import IptablesFirewall
from dockyard.networks.model import (
    EndpointConfig,
    EndpointState,
    JoinRequest,
    Network,
    PortBindings,
    Sandbox,
    Settings,
)
from dockyard.networks.names import Names
from dockyard.networks.options import INTERFACE_NAME, PREFIX, option_flag
from dockyard.networks.publishing import Publication, Publisher
from dockyard.networks.publishing import rules_of as port_rules

log = logging.getLogger("dockyard.networks")

P = ParamSpec("P")
T = TypeVar("T")

# What is left of a sandbox that something still holds open is removed by hand after this many seconds.
LINGER = 2.0


@dataclass(slots=True)
class Active:
    """A container that has joined. `namespace` is None in the host's or another container's."""

    request: JoinRequest
    sandbox: Sandbox
    namespace: sandboxes.Namespace | None = None
    publications: list[Publication] = field(default_factory=list)
    dns: DnsServer | None = None
    gateway_network: str = ""
    linked_ports: list[LinkedPort] = field(default_factory=list)
    advertisers: list[Advertiser] = field(default_factory=list)


class Controller:
    """The Container Network Model's controller: networks by driver, sandboxes by container."""

    def __init__(
        self, exec_root: Path, settings: Settings, claims: AddressClaims, cluster: ClusterStore | None = None
    ) -> None:
        self._settings = settings
        self._claims = claims
        self._directory = exec_root / "netns"
        self._executor = ThreadPoolExecutor(4, thread_name_prefix="network")
        # names are asked for while networks are made, however long that takes
        self._askers = ThreadPoolExecutor(1, thread_name_prefix="names")
        self._kept: dict[str, dict[str, EndpointState]] = {}
        self.pool = sandboxes.NamespacePool(self._directory, self._executor)
        self._mark = mark_of(exec_root)
        bridge = BridgeDriver(self._mark, settings.ip_forward)
        self._cluster = cluster
        self._overlay = OverlayDriver(self._mark, self._directory, cluster)
        others = (HostDriver(), NullDriver(), MacvlanDriver(self._mark), IpvlanDriver(self._mark))
        self._drivers: dict[str, Driver] = {driver.name: driver for driver in (bridge, *others, self._overlay)}
        self._bridge = bridge
        self.firewall = _firewall(settings)
        self._firewall_current = False
        # with iptables, what is sent to 127.0.0.1 is the proxy's, as in Docker, unless there is none
        by_rules = settings.firewall_backend == "nftables" or not settings.userland_proxy
        self._publisher = Publisher(settings, bridge.routes_loopback if by_rules else _by_proxy)
        self._networks: dict[str, Network] = {}
        self._by_name: dict[str, Network] = {}
        self._addresses = Addresses()
        self._active: dict[str, Active] = {}
        self._names = Names()
        # endpoints of shared networks on other hosts, by network
        self._remote: dict[str, dict[Peer, EndpointState]] = {}
        # namespaces that were there before us
        self._found: set[str] = set()

    # -- life ---------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Get ready for joins."""
        own_folder(self._directory)
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
        self._overlay.close()
        self._askers.shutdown()
        self.firewall.close()

    def _abandon(self, active: Active) -> None:
        self._publisher.release(active.publications)
        _silence(active)
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
        shared = [network for network in self._networks.values() if network.driver == self._overlay.name]
        known |= {self._overlay.path(network) for network in shared}
        links |= {name for network in self._networks.values() for name in self.driver(network.driver).links(network)}
        await self._do(_sweep, self._found - known, self._mark, links)
        for network in shared:
            await self._release_leftovers(network)
        self.pool.fill()

    async def _release_leftovers(self, network: Network) -> None:
        """Give back what an earlier daemon of this host has claimed for containers that are gone."""
        store = self._cluster
        if store is None:
            return
        try:
            claimed = await self._do(store.own_claims, network.id)
            used = {text for _, state in self.members(network.id) for text in (state.ip, state.ipv6)}
            await self._do(store.release, network.id, claimed - used)
        except OSError as error:
            log.warning("the cluster store cannot be asked for network %s: %s", network.name, error)

    def _do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._executor, functools.partial(work, *args, **kwargs))

    # -- networks -----------------------------------------------------------------------------------------------------

    def driver(self, name: str) -> Driver:
        """The driver of that name. Raises NotFound."""
        try:
            return self._drivers[name]
        except KeyError:
            raise NotFound(f'plugin "{name}" not found') from None

    def adopt(self, network: Network) -> None:
        """Know a network, with its address pools; the kernel is not told."""
        self._addresses.adopt(network)
        self._networks[network.id] = network
        self._by_name[network.name] = network

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
        await self.set_peers(network, ())
        self._remote.pop(network.id, None)
        self._addresses.forget(network)
        if remove:
            await self._do(self.driver(network.driver).remove, network)
        if network.bridge:
            self.firewall.set_bridges(self._rules())
            if self._firewall_current:
                await self._do(self.firewall.rewrite)

    async def abolish(self) -> None:
        """Remove every network from the kernel; nobody is on one any more. `close` does the rest."""
        for network in self._networks.values():
            await self.discard(network)

    async def discard(self, network: Network) -> None:
        """Remove from the kernel what there may be of a network that nobody knows."""
        await self._do(self.driver(network.driver).remove, network)

    async def set_peers(self, network: Network, peers: Iterable[Peer]) -> None:
        """Know who is attached to a shared network on other hosts: by name, and where their frames go."""
        own = self._cluster.host if self._cluster is not None else ""
        wanted = {peer for peer in peers if peer.host != own}
        known = self._remote.setdefault(network.id, {})
        for peer in known.keys() - wanted:
            self._names.remove(known.pop(peer))
        for peer in wanted - known.keys():
            state = known[peer] = EndpointState(
                network_id=network.id,
                endpoint_id=peer.endpoint_id,
                ip=peer.ip,
                ipv6=peer.ipv6,
                mac=peer.mac,
                dns_names=list(peer.names),
            )
            self._names.add(state)
        if self.driver(network.driver) is self._overlay:
            await self._do(self._overlay.set_peers, network, wanted)

    def peers(self, network_id: str) -> list[Peer]:
        """Who is attached to a shared network on other hosts."""
        return list(self._remote.get(network_id, ()))

    def _rules(self) -> list[BridgeRules]:
        return [rules_of(network) for network in self._networks.values() if network.bridge]

    async def repair(self) -> None:
        """Put the packet filter back if others have removed it."""
        await self._do(self.firewall.repair)

    async def _write_firewall(self) -> None:
        """Write the rules for the first time. Until then those of the daemon before us serve who still runs."""
        if not self._firewall_current:
            self._firewall_current = True
            await self._do(_remove_other_backend, self._settings)
            await self._do(self.firewall.rewrite)

    # -- joining ------------------------------------------------------------------------------------------------------

    def sandbox(self, container_id: str) -> Sandbox | None:
        """The container's sandbox, or None when it has not joined."""
        active = self._active.get(container_id)
        return active.sandbox if active else None

    def explain(self, container_id: str, port: tuple[int, str] | None = None) -> list[Way]:
        """The ways of packets to and from a container that has joined; with `port` those to that host port alone."""
        active = self._active[container_id]
        return explain(self._settings, active.request.name, active.sandbox, self._networks, port)

    def publishers(self, port: int, protocol: str) -> list[str]:
        """The ids of the containers that publish something on the host port."""
        found = holders(((active_id, active.sandbox) for active_id, active in self._active.items()), port, protocol)
        return [container_id for container_id, _ in found]

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
            self._names.remove(state)
            state.dns_names = [name if known == old else known for known in state.dns_names]
            self._names.add(state)

    async def join(self, request: JoinRequest, networks: list[tuple[Network, EndpointConfig]]) -> Sandbox:
        """Make a container's sandbox and attach it to `networks`, the first of them as eth0.

        An empty list gives a sandbox with loopback only. Nothing is left when it raises.
        """
        if request.container_id in self._active:
            await self.leave(request.container_id)
        await self._write_firewall()
        if request.prepared_netns:
            namespace = await self._do(sandboxes.create, self._directory, None, request.prepared_netns)
        else:
            namespace = await self.pool.take()
        sandbox = Sandbox(sandbox_id=namespace.sandbox_id, sandbox_key=namespace.path, netns_path=namespace.path)
        active = Active(request, sandbox, namespace)
        async with AsyncExitStack() as undo:
            undo.callback(self._destroy_later, namespace)
            for network, config in networks:
                held = await self._reserve(request, network, config)
                undo.push_async_callback(self._unreserve, network, held)
                state = self._allocate(active, network, held)
                sandbox.endpoints[network.name] = state
                undo.callback(self._addresses.free, state)
            active.gateway_network = self._choose_gateway(active)
            # from here on its networks cannot be removed
            self._active[request.container_id] = active
            undo.callback(self._active.pop, request.container_id, None)
            self._note_links(active)
            self._hold_ports(active, _wanted_ports(request))
            undo.callback(self._publisher.release, active.publications)
            building = self._do(self._build, active)
            undo.push_async_callback(self._unbuild, active, building)
            self._write_files(active)  # meanwhile
            self._start(active, await asyncio.shield(building))
            await self._advertise(active, sandbox.endpoints)
            self._tell_linking(active)
            undo.pop_all()
        return sandbox

    async def _advertise(self, active: Active, names: Iterable[str]) -> None:
        """Let the neighbours on these networks know the container's addresses."""
        for name in names:
            state = active.sandbox.endpoints[name]
            network = self._networks[state.network_id]
            if active.namespace is None or not advertising.wanted(network, state):
                continue
            try:
                sender = await self._do(advertising.prepare, active.namespace, state)
            except OSError as error:
                log.warning("addresses of %s on %s are not advertised: %s", active.request.name, name, error)
                continue
            active.advertisers.append(advertising.advertise(sender, network, state))

    async def _unbuild(self, active: Active, building: asyncio.Future[DnsSockets | None]) -> None:
        """Undo `_build`, which may still be at work; the links go with the namespace."""
        await asyncio.wait({building})
        if building.exception() is not None:
            return
        sockets = building.result()
        if sockets is not None:
            sockets.close()
        rules = port_rules(active.publications)
        if rules:
            await self._do(self.firewall.unpublish, rules)
        if self._separating_bridge() is not None:
            await self._do(self._close_links, active)

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
            self._names.add(state)
        if sockets is not None:
            self._serve_names(active, sockets)
        self._publisher.serve(active.publications)

    def _serve_names(self, active: Active, sockets: DnsSockets) -> None:
        container_id, namespace = active.request.container_id, active.namespace
        assert namespace is not None

        def inside(work: Callable[[], socket.socket]) -> asyncio.Future[socket.socket]:
            return asyncio.get_running_loop().run_in_executor(self._askers, _inside, namespace, work)

        active.dns = DnsServer(
            sockets,
            functools.partial(self._lookup, container_id),
            functools.partial(self._reverse, container_id),
            Forwarder(inside),
            functools.partial(self._servers, container_id),
        )

    # -- one endpoint -------------------------------------------------------------------------------------------------

    async def _reserve(self, request: JoinRequest, network: Network, config: EndpointConfig) -> EndpointConfig:
        """With addresses that no other host gives away, where several hosts share the network."""
        store = self._cluster
        if store is None or self.driver(network.driver).scope == "local":
            return config
        kept = self._kept.get(request.container_id, {}).get(network.id)
        liked = (kept.ip, kept.ipv6) if kept is not None else request.preferred.get(network.id, ("", ""))
        return await self._do(reserve_addresses, store, network, config, liked)

    async def _unreserve(self, network: Network, held: EndpointConfig) -> None:
        if self._cluster is not None and self.driver(network.driver).scope != "local":
            await self._do(give_back, self._cluster, network, (held.ipv4_address, held.ipv6_address))

    def _allocate(self, active: Active, network: Network, config: EndpointConfig) -> EndpointState:
        """An endpoint with its addresses. Raises NotFound when its network has just been removed."""
        if network.id not in self._networks:
            raise NotFound(f"network {network.name} not found")
        request = active.request
        state = EndpointState(
            network_id=network.id,
            endpoint_id=secrets.token_hex(32),
            aliases=list(config.aliases),
            links=list(config.links),
            link_local_ips=[str(address(text)) for text in config.link_local_ips],
            driver_opts=dict(config.driver_opts),
            gw_priority=config.gw_priority,
        )
        driver = self.driver(network.driver)
        if not driver.creates:
            return state
        if not _is_default(network):
            short = request.container_id[:12]
            state.dns_names = list(dict.fromkeys([request.name, *config.aliases, short, *_given(request.hostname)]))
        state.interface = config.driver_opts.get(INTERFACE_NAME) or _free_interface(
            active.sandbox, network.options.get(PREFIX, "eth")
        )
        state.host_interface = veth_name()
        kept = self._kept.get(request.container_id, {}).pop(network.id, None)
        if kept is not None:
            # given back and taken again in one go
            self._addresses.free(kept)
            wanted4, wanted6 = config.ipv4_address or kept.ip, config.ipv6_address or kept.ipv6
            config = msgspec.structs.replace(config, ipv4_address=wanted4, ipv6_address=wanted6)
        claimed = self._claims.on(network)
        ipv6 = not disables_ipv6(config.driver_opts, request.sysctls)
        try:
            preferring = _preferring(config, *request.preferred.get(network.id, ("", "")))
            self._addresses.take(network, preferring, state, claimed, ipv6)
        except DockyardError:
            if network.id not in request.preferred:
                raise
            self._addresses.take(network, config, state, claimed, ipv6)
        if not driver.leads_out:
            state.gateway = state.ipv6_gateway = ""
        state.mac = config.mac_address.replace("-", ":").lower() or _mac_of(state.ip)
        return state

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
            rules = port_rules(active.publications)
            if rules:
                self.firewall.publish(rules)
                undo.callback(self.firewall.unpublish, rules)
            if active.linked_ports:
                undo.callback(self._close_links, active)
                self._open_links(active)
            sockets = _open_dns(active.namespace) if self._names_wanted(active) else None
            undo.pop_all()
        return sockets

    def _open_links(self, active: Active) -> None:
        """Let linked containers reach each other on a bridge that keeps them apart. Runs in a worker thread."""
        network = self._separating_bridge()
        if network is not None and active.linked_ports:
            self.firewall.link(active.linked_ports)
            self._bridge.route_between(network, True)

    def _close_links(self, active: Active) -> None:
        """Undo `_open_links`, and what others have opened to this container. Runs in a worker thread."""
        network = self._separating_bridge()
        state = active.sandbox.endpoints.get(network.name) if network is not None else None
        if network is not None and state is not None and self.firewall.unlink(state.ip):
            self._bridge.route_between(network, False)

    def _mend(self, active: Active) -> None:
        """Make links again that are gone: an earlier daemon died while it took one away. Runs in a worker thread."""
        assert active.namespace is not None
        for name in active.sandbox.endpoints:
            plan = self._plan(active, name)
            driver = self._drivers[plan.network.driver]
            if driver.take_up(active.namespace, plan):
                continue
            log.warning("the link of %s to network %s is gone; it is made anew", active.request.name, name)
            try:
                driver.attach(active.namespace, plan)
            except (OSError, DockyardError) as error:
                log.error("container %s stays without network %s: %s", active.request.name, name, error)

    def _names_wanted(self, active: Active) -> bool:
        return any(
            not _is_default(network) and self.driver(network.driver).creates
            for network in (self._networks[state.network_id] for state in active.sandbox.endpoints.values())
        )

    def _dismantle(self, namespace: sandboxes.Namespace, active: Active, plans: list[Plan]) -> None:
        """Take down what `_build` made. Runs in a worker thread."""
        rules = port_rules(active.publications)
        if rules:
            self.firewall.unpublish(rules)
        self._close_links(active)
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
            self._names.remove(state)
        _silence(active)
        if active.dns is not None:
            active.dns.close()
        if active.namespace is None:
            return
        self._publisher.silence(active.publications)
        try:
            # planned here: once the container is no member any more, its networks may go
            plans = [self._plan(active, name) for name in active.sandbox.endpoints]
            await self._do(self._dismantle, active.namespace, active, plans)
        finally:
            self._publisher.release(active.publications)
            kept = self._kept.get(container_id, {})
            for state in active.sandbox.endpoints.values():
                if state.network_id not in kept:
                    self._addresses.free(state)
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
            raise Conflict(
                "container sharing network namespace with another container or host cannot be connected "
                "to any other network"
            )
        async with AsyncExitStack() as undo:
            held = await self._reserve(active.request, network, config)
            undo.push_async_callback(self._unreserve, network, held)
            state = self._allocate(active, network, held)
            active.sandbox.endpoints[network.name] = state
            undo.callback(self._addresses.free, state)
            undo.callback(active.sandbox.endpoints.pop, network.name)
            before = active.gateway_network
            active.gateway_network = self._choose_gateway(active)
            undo.callback(setattr, active, "gateway_network", before)
            driver, plan = self._drivers[network.driver], self._plan(active, network.name)
            await self._do(driver.attach, namespace, plan)
            undo.push_async_callback(self._do, driver.detach, namespace, plan)
            if before != active.gateway_network:
                # the new default route has replaced the old one
                await self._move_ports(active)
            if active.dns is None and self._names_wanted(active):
                self._serve_names(active, await self._do(_open_dns, namespace, True))
            self._note_links(active)
            if active.linked_ports:
                await self._do(self._open_links, active)
            identity.connected(active.request, state)
            self._update_resolvers(active)
            self._names.add(state)
            undo.pop_all()
        await self._advertise(active, [network.name])
        return state

    async def disconnect(self, container_id: str, network: Network) -> None:
        """Detach a running container from a network."""
        active = self._active[container_id]
        namespace = active.namespace
        state = active.sandbox.endpoints[network.name]
        if namespace is None:
            raise Conflict(
                "container sharing network namespace with another container or host cannot be connected "
                "to any other network"
            )
        plan = self._plan(active, network.name)
        if network is self._separating_bridge():
            await self._do(self._close_links, active)
        self._names.remove(state)
        del active.sandbox.endpoints[network.name]
        await self._do(self._drivers[network.driver].detach, namespace, plan)
        self._addresses.free(state)
        if active.gateway_network == network.name:
            active.gateway_network = self._choose_gateway(active)
            if active.gateway_network:
                await self._do(route, namespace, self._plan(active, active.gateway_network), True)
            await self._move_ports(active)
        identity.disconnected(active.request, state)
        still_asked = not self._update_resolvers(active)
        if active.dns is not None and not self._names_wanted(active) and not still_asked:
            active.dns.close()
            active.dns = None

    async def republish(self, container_id: str, wanted: PortBindings) -> PortBindings:
        """Let a running container's published ports be `wanted`; those it has already stay as they are bound.

        Returns how they are bound. Raises SystemFailure when a port is taken, Conflict when the container has no way
        out to publish them on; then nothing has changed.
        """
        active = self._active[container_id]
        sandbox, request = active.sandbox, active.request
        if active.namespace is None or not active.gateway_network:
            raise Conflict("a container without a network of its own has nothing to publish ports of")
        state = sandbox.endpoints[active.gateway_network]
        network = self._networks[state.network_id]
        before, asked = dict(sandbox.ports), _wanted_ports(request)
        present = list(active.publications)
        stay = {key: values for key, values in wanted.items() if asked.get(key) == values}
        kept = [one for one in present if _key_of(one) in stay]
        gone = [one for one in present if _key_of(one) not in stay]
        fresh = {key: values for key, values in wanted.items() if key not in stay}
        rules = port_rules(gone)
        if rules:
            await self._do(self.firewall.unpublish, rules)
        self._publisher.release(gone)
        try:
            added, bound = self._publisher.hold(request, network, state, fresh)
        except DockyardError:
            # as it was, on the very same host ports
            back = self._publisher.retake(
                network, state, {key: values for key, values in before.items() if key not in stay}, request.name
            )
            active.publications = kept + back
            await self._serve_ports(back)
            raise
        active.publications = kept + added
        exposed: PortBindings = {port: [] for port in request.exposed_ports}
        sandbox.ports = exposed | {key: before[key] for key in before if key in stay} | bound
        request.port_bindings = wanted
        request.publish_all = False  # what it asked for is among those named now
        await self._serve_ports(added)
        return sandbox.ports

    async def _serve_ports(self, publications: list[Publication]) -> None:
        rules = port_rules(publications)
        if rules:
            await self._do(self.firewall.publish, rules)
        self._publisher.serve(publications)

    def keep_addresses(self, container_id: str) -> None:
        """Let the container have the addresses that it has now at its next `join`, too; until `drop_addresses`."""
        active = self._active.get(container_id)
        if active is not None:
            self._kept[container_id] = {
                state.network_id: msgspec.structs.replace(state) for state in active.sandbox.endpoints.values()
            }

    def drop_addresses(self, container_id: str) -> None:
        """Undo `keep_addresses`: what has not been joined with is free again."""
        for state in self._kept.pop(container_id, {}).values():
            self._addresses.free(state)

    async def _move_ports(self, active: Active) -> None:
        """Let the published ports lead to the endpoint that is the gateway now; none, when there is none."""
        rules = port_rules(active.publications)
        if rules:
            await self._do(self.firewall.unpublish, rules)
        # the same host ports as before, if it had any
        bound = {key: values for key, values in active.sandbox.ports.items() if values}
        self._publisher.release(active.publications)
        self._hold_ports(active, bound or _wanted_ports(active.request))
        rules = port_rules(active.publications)
        if rules:
            await self._do(self.firewall.publish, rules)
        self._publisher.serve(active.publications)

    # -- names, ports, files ------------------------------------------------------------------------------------------

    def _lookup(self, container_id: str, name: str) -> list[str] | None:
        active = self._active.get(container_id)
        return self._names.lookup(active.sandbox, name) if active else None

    def _reverse(self, container_id: str, text: str) -> str | None:
        active = self._active.get(container_id)
        return self._names.reverse(active.sandbox, text) if active else None

    def _servers(self, container_id: str) -> list[Upstream]:
        """The resolvers for what is not one of our names.

        They are asked from inside the container, by its routes and through its firewall. From the host only those of
        the host's are asked that nobody else can reach, and not for a container that has no way out.
        """
        active = self._active.get(container_id)
        if active is None:
            return []
        given = tuple(active.request.dns) or self._settings.dns
        if given:
            # the container's own resolver would ask itself for ever
            return [Upstream(server) for server in given if server != files.EMBEDDED_SERVER]
        ipv6 = _has_ipv6(active)
        servers = [Upstream(name, files.only_from_host(name, ipv6)) for name in files.host_resolvers().servers]
        return [server for server in servers if active.gateway_network or not server.from_host]

    def _hold_ports(self, active: Active, wanted: PortBindings) -> None:
        """Take host ports for the container's way out; none when it has no such."""
        request, sandbox = active.request, active.sandbox
        sandbox.ports = {exposed: [] for exposed in request.exposed_ports}
        if active.gateway_network and wanted:
            state = sandbox.endpoints[active.gateway_network]
            network = self._networks[state.network_id]
            if not self.driver(network.driver).publishes:
                return
            active.publications, bound = self._publisher.hold(request, network, state, wanted)
            sandbox.ports.update(bound)

    def _write_files(self, active: Active) -> None:
        identity.write(
            active.request,
            active.sandbox,
            self._settings,
            embedded_dns=self._names_wanted(active),
            gateways=self._settings.host_gateways or self._default_gateways(),
            linked=legacy_links.hosts_entries(active.request, self._everybody()),
        )

    def _update_resolvers(self, active: Active) -> bool:
        wanted = self._names_wanted(active)
        return identity.update_resolvers(active.request, active.sandbox, self._settings, embedded_dns=wanted)

    def _everybody(self) -> Iterator[legacy_links.Member]:
        return ((active.request, active.sandbox) for active in self._active.values())

    def _tell_linking(self, active: Active) -> None:
        """A container may have come back under another address; those that are linked to it go on finding it."""
        for parent in self._active.values():
            if not parent.request.links or not parent.request.files_dir:
                continue
            for _, alias in legacy_links.linked(parent.request, [(active.request, active.sandbox)]):
                for state in active.sandbox.endpoints.values():
                    for where in filter(None, (state.ip, state.ipv6)):
                        try:
                            files.move_host(parent.request.files_dir, alias, where)
                        except OSError as error:
                            log.warning("the hosts file of container %s stays: %s", parent.request.name, error)

    def _separating_bridge(self) -> Network | None:
        """The default bridge, if it keeps containers apart (--icc=false): there alone links are more than names."""
        network = self._default_network()
        return None if network is None or option_flag(network, ICC, True) else network

    def _note_links(self, active: Active) -> None:
        network = self._separating_bridge()
        if network is not None and self._settings.firewall:
            member = (active.request, active.sandbox)
            active.linked_ports = legacy_links.linked_ports(member, self._everybody(), network.name)

    def _default_gateways(self) -> list[str]:
        network = self._default_network()
        return [pool.gateway for pool in network.pools if pool.gateway] if network is not None else []

    def _default_network(self) -> Network | None:
        """The default bridge, or None without one. Asked by worker threads too, while networks come and go."""
        network = self._by_name.get("bridge")
        return network if network is not None and _is_default(network) else None

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
            self._addresses.retake(state)
        active.namespace = await self._do(sandboxes.reopen, sandbox.netns_path, sandbox.sandbox_id)
        active.gateway_network = self._choose_gateway(active)
        await self._do(self._mend, active)
        if active.gateway_network:
            state = sandbox.endpoints[active.gateway_network]
            network = self._networks[state.network_id]
            active.publications = self._publisher.retake(network, state, sandbox.ports, request.name)
        self.firewall.adopt(port_rules(active.publications))
        self._note_links(active)
        self.firewall.adopt_links(active.linked_ports)
        if self._firewall_current:
            await self._do(self.firewall.rewrite)
        asked = self._names_wanted(active) or identity.asks_embedded_server(request)
        self._start(active, await self._do(_open_dns, active.namespace, True) if asked else None)


def _firewall(settings: Settings) -> Firewall | IptablesFirewall:
    if settings.firewall and settings.firewall_backend == "iptables":
        return IptablesFirewall(
            settings.instance,
            settings.accept_mark,
            ipv6=settings.firewall_ipv6,
            direct=settings.direct_routing,
            hairpin=not settings.userland_proxy,
            inside_only=settings.respect_host_firewall,
        )
    return Firewall(
        settings.instance,
        settings.firewall,
        settings.accept_mark,
        ipv6=settings.firewall_ipv6,
        direct=settings.direct_routing,
        inside_only=settings.respect_host_firewall,
    )


def _remove_other_backend(settings: Settings) -> None:
    """Take away the rules of an earlier daemon that had another back end: they would decide together."""
    if settings.firewall and settings.firewall_backend == "iptables":
        try:
            other = Firewall(settings.instance)
            other.remove()
            other.close()
        except (NftablesError, SystemFailure) as error:
            log.debug("there are no rules of nftables: %s", error)
        return
    chains = IptablesFirewall(settings.instance)
    if chains.has_own_chains():
        chains.remove()


def _by_proxy(network: Network) -> bool:
    """That the packet filter leads nothing from 127.0.0.1 into the network."""
    return False


def _wanted_ports(request: JoinRequest) -> PortBindings:
    """The ports that a container publishes: those it names, and with publish_all those it exposes."""
    wanted = dict(request.port_bindings)
    if request.publish_all:
        for exposed in request.exposed_ports:
            wanted.setdefault(exposed, [("", "")])
    return wanted


def _key_of(publication: Publication) -> str:
    return f"{publication.target[1]}/{publication.held.protocol}"


def _silence(active: Active) -> None:
    for advertiser in active.advertisers:
        advertiser.close()
    active.advertisers.clear()


def _given(text: str) -> list[str]:
    return [text] if text else []


def _preferring(config: EndpointConfig, ip: str, ipv6: str) -> EndpointConfig:
    return msgspec.structs.replace(
        config, ipv4_address=config.ipv4_address or ip, ipv6_address=config.ipv6_address or ipv6
    )


def _is_default(network: Network) -> bool:
    return network.options.get(DEFAULT_BRIDGE) == "true"


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


def _has_ipv6(active: Active) -> bool:
    return any(state.ipv6 for state in active.sandbox.endpoints.values())


def _inside(namespace: sandboxes.Namespace, work: Callable[[], T]) -> T:
    with sandboxes.entered(namespace.fd):
        return work()


def _open_dns(namespace: sandboxes.Namespace, again: bool = False) -> DnsSockets:
    return _inside(namespace, functools.partial(open_sockets, again))


def _delete_links(names: Iterable[str]) -> None:
    with RouteSocket() as host:
        for name in names:
            try:
                host.do(delete_link(socket.if_nametoindex(name)))
            except OSError:
                continue  # gone with its namespace, as it should be


def _sweep(paths: set[str], mark: str, known: set[str]) -> None:
    """Remove the namespaces `paths`, and the links that carry our mark and are none of `known`.

    A bridge is only removed when nothing is attached to it.
    """
    for path in paths:
        log.info("removing stale network namespace %s", path)
        sandboxes.delete_file(path)
    with RouteSocket() as host:
        present = host.links()
        bridges = {link.index: link.name for link in present if link.kind == "bridge" and is_ours(link, mark)}
        masters = {link.master for link in present}
        for link in present:
            if is_ours(link, mark):
                if link.name not in known and link.index not in masters:
                    log.info("removing stale link %s", link.name)
                    _delete_links([link.name])
            elif link.master in bridges and link.name not in known:
                # an engine that came later has taken docker0 for its own, or an administrator knows what they do
                log.warning(
                    "link %s on our bridge %s is somebody else's; containers and it may want the same addresses",
                    link.name,
                    bridges[link.master],
                )
