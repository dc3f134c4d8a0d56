"""Sandboxes and endpoints: joins containers to networks, keeps who is where, and takes all of it down again.

State is changed in the event loop's thread only; what the kernel has to do is done in worker threads, as one job
per container, so that a slow kernel holds up nobody else.
"""

import asyncio
import functools
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import ParamSpec, TypeVar

from dockyard.errors import Conflict, DockyardError, NotFound
from dockyard.folders import own_folder
from dockyard.networks import advertising, identity, plugin_ipam, sandboxes
from dockyard.networks.active import Active
from dockyard.networks.allocation import Allocation
from dockyard.networks.claims import AddressClaims
from dockyard.networks.cluster.store import ClusterStore
from dockyard.networks.dns import DnsSockets
from dockyard.networks.drivers import Drivers, Plan
from dockyard.networks.drivers.bridge import is_default, rules_of
from dockyard.networks.drivers.interfaces import route
from dockyard.networks.drivers.marks import mark_of
from dockyard.networks.explanation import Way, explain, holders
from dockyard.networks.firewall import BridgeRules
from dockyard.networks.firewall_backends import by_proxy, firewall_of, remove_other_backend
from dockyard.networks.linking import Linking
from dockyard.networks.model import (
    EndpointConfig,
    EndpointState,
    JoinRequest,
    Network,
    PortBindings,
    Sandbox,
    Settings,
)
from dockyard.networks.published_ports import PublishedPorts, wanted_ports
from dockyard.networks.publishing import Publisher
from dockyard.networks.publishing import rules_of as port_rules
from dockyard.networks.reservations import Reservations
from dockyard.networks.resolution import Resolution, open_dns
from dockyard.networks.shared_endpoints import SharedEndpoints
from dockyard.networks.sweep import delete_links, sweep

log = logging.getLogger("dockyard.networks")

P = ParamSpec("P")
T = TypeVar("T")

# What is left of a sandbox that something still holds open is removed by hand after this many seconds.
LINGER = 2.0


class Controller:
    """The Container Network Model's controller: networks by driver, sandboxes by container."""

    def __init__(
        self, exec_root: Path, settings: Settings, claims: AddressClaims, cluster: ClusterStore | None = None
    ) -> None:
        self._settings = settings
        self._directory = exec_root / "netns"
        self._executor = ThreadPoolExecutor(4, thread_name_prefix="network")
        self.pool = sandboxes.NamespacePool(self._directory, self._executor)
        self._mark = mark_of(exec_root)
        drivers = Drivers(self._mark, self._directory, settings.ip_forward, cluster)
        self.driver = drivers.named
        self._overlay = drivers.overlay
        self.firewall = firewall_of(settings)
        self._firewall_current = False
        # with iptables, what is sent to 127.0.0.1 is the proxy's, as in Docker, unless there is none
        by_rules = settings.firewall_backend == "nftables" or not settings.userland_proxy
        self._publisher = Publisher(settings, drivers.bridge.routes_loopback if by_rules else by_proxy)
        self._networks: dict[str, Network] = {}
        self._by_name: dict[str, Network] = {}
        self.allocation = Allocation(claims)
        self.ports = PublishedPorts(
            self._publisher,
            self.firewall,
            self._networks,
            lambda network: self.driver(network.driver).publishes,
            self._executor,
        )
        self._active: dict[str, Active] = {}
        self._linking = Linking(self.firewall, drivers.bridge, self._active, self._default_network, settings.firewall)
        self._resolution = Resolution(settings, self._active)
        self.shared = SharedEndpoints(cluster, self._overlay, self._resolution.names, self._executor)
        self._reservations = Reservations(self.shared, self._executor)
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
        self._resolution.close()
        self.firewall.close()

    def _abandon(self, active: Active) -> None:
        self._publisher.release(active.publications)
        active.stop_advertising()
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
        await self._do(sweep, self._found - known, self._mark, links)
        for network in shared:
            used = {text for _, state in self.members(network.id) for text in (state.ip, state.ipv6)}
            await self.shared.release_leftovers(network, used)
        self.pool.fill()

    def _do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._executor, functools.partial(work, *args, **kwargs))

    # -- networks -----------------------------------------------------------------------------------------------------

    def adopt(self, network: Network) -> None:
        """Know a network, with its address pools; the kernel is not told."""
        self.allocation.addresses.adopt(network)
        self._networks[network.id] = network
        self._by_name[network.name] = network

    async def create(self, network: Network) -> None:
        """Make an adopted network in the kernel."""
        await self._do(self.driver(network.driver).create, network)
        if network.bridge:
            self.firewall.set_bridges(self._rules())
            if self._firewall_current:
                await self._do(self.firewall.rewrite)

    def withdraw(self, network: Network) -> None:
        """Let nobody join a network any more, not even who is about to; `forget` does the rest."""
        self._networks.pop(network.id, None)
        self._by_name.pop(network.name, None)

    def _check_there(self, network: Network) -> None:
        """Raise NotFound when the network has been removed since it was looked up."""
        if network.id not in self._networks:
            raise NotFound(f"network {network.name} not found")

    async def forget(self, network: Network, remove: bool = True) -> None:
        """Remove a network from the kernel and from memory."""
        self.withdraw(network)
        await self.shared.forget(network)
        self.allocation.addresses.forget(network)
        work: list[Awaitable[None]] = [self.discard(network)] if remove else []
        if network.bridge:
            self.firewall.set_bridges(self._rules())
            if self._firewall_current:
                work.append(self._do(self.firewall.rewrite))
        await asyncio.gather(*work)

    async def abolish(self) -> None:
        """Remove every network from the kernel; nobody is on one any more. `close` does the rest."""
        for network in self._networks.values():
            await self.discard(network)

    async def discard(self, network: Network) -> None:
        """Remove from the kernel what there may be of a network that nobody knows."""
        await self._do(self.driver(network.driver).remove, network)
        await self._do(plugin_ipam.release_pools, network)

    def _rules(self) -> list[BridgeRules]:
        return [rules_of(network) for network in self._networks.values() if network.bridge]

    async def repair(self) -> None:
        """Put the packet filter back if others have removed it."""
        await self._do(self.firewall.repair)

    async def _write_firewall(self) -> None:
        """Write the rules for the first time. Until then those of the daemon before us serve who still runs."""
        if not self._firewall_current:
            self._firewall_current = True
            await self._do(remove_other_backend, self._settings)
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
            self._resolution.names.remove(state)
            state.dns_names = [name if known == old else known for known in state.dns_names]
            self._resolution.names.add(state)

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
                held = await self._reservations.reserve(network, config, self.allocation.liked(request, network))
                undo.push_async_callback(self._reservations.give_back, network, held)
                state = self._endpoint(active, network, held)
                sandbox.endpoints[network.name] = state
                undo.callback(self.allocation.addresses.free, state)
            for network, _ in networks:
                self._check_there(network)
            active.gateway_network = self._choose_gateway(active)
            # from here on its networks cannot be removed
            self._active[request.container_id] = active
            undo.callback(self._active.pop, request.container_id, None)
            self._linking.note(active)
            self.ports.hold(active, wanted_ports(request))
            undo.callback(self._publisher.release, active.publications)
            building = self._do(self._build, active)
            undo.push_async_callback(self._unbuild, active, building)
            before = active.addresses
            self._write_files(active)  # meanwhile
            sockets = await asyncio.shield(building)
            if active.addresses != before:  # a plugin has given others
                self._write_files(active)
            self._start(active, sockets)
            await self._advertise(active, sandbox.endpoints)
            self._linking.tell(active)
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
        await self._do(self._linking.close, active)

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
        identity.copy(request)
        return Sandbox(netns_path=request.joined_netns)

    def _start(self, active: Active, sockets: DnsSockets | None) -> None:
        """Begin to serve a sandbox that is built."""
        self._active[active.request.container_id] = active
        for state in active.sandbox.endpoints.values():
            self._resolution.names.add(state)
        if sockets is not None:
            self._resolution.serve(active, sockets)
        self._publisher.serve(active.publications)

    # -- one endpoint -------------------------------------------------------------------------------------------------

    def _endpoint(self, active: Active, network: Network, config: EndpointConfig) -> EndpointState:
        """An endpoint with its addresses. Raises NotFound when its network has just been removed."""
        self._check_there(network)
        driver = self.driver(network.driver)
        return self.allocation.endpoint(active.request, active.sandbox, network, driver, config)

    def _plan(self, active: Active, name: str) -> Plan:
        state = active.sandbox.endpoints[name]
        return Plan(
            self._networks[state.network_id],
            state,
            default_route=name == active.gateway_network,
            publishes=bool(active.request.port_bindings or active.request.publish_all),
        )

    def _choose_gateway(self, active: Active) -> str:
        """The network through which the container reaches the world, "" for none.

        Of the highest priority, best by both IP versions, then first by name; as in Docker (libnetwork, Endpoint.Less).
        """

        def order(name: str) -> tuple[int, bool, int, str]:
            state = active.sandbox.endpoints[name]
            gateways = bool(state.gateway) + bool(state.ipv6_gateway)
            return -state.gw_priority, state.gateway_only, -gateways, name

        endpoints = active.sandbox.endpoints.items()
        return min((name for name, state in endpoints if state.gateway or state.ipv6_gateway), key=order, default="")

    # -- worker threads -----------------------------------------------------------------------------------------------

    def _build(self, active: Active) -> DnsSockets | None:
        """All that the kernel has to do for a join. Runs in a worker thread."""
        assert active.namespace is not None
        with ExitStack() as undo:
            for name in active.sandbox.endpoints:
                plan = self._plan(active, name)
                driver = self.driver(plan.network.driver)
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
                undo.callback(self._linking.close, active)
                self._linking.open(active)
            sockets = open_dns(active.namespace) if self._names_wanted(active) else None
            undo.pop_all()
        return sockets

    def _mend(self, active: Active) -> None:
        """Make links again that are gone: an earlier daemon died while it took one away. Runs in a worker thread."""
        assert active.namespace is not None
        for name in active.sandbox.endpoints:
            plan = self._plan(active, name)
            driver = self.driver(plan.network.driver)
            if driver.take_up(active.namespace, plan):
                continue
            log.warning("the link of %s to network %s is gone; it is made anew", active.request.name, name)
            try:
                driver.attach(active.namespace, plan)
            except (OSError, DockyardError) as error:
                log.error("container %s stays without network %s: %s", active.request.name, name, error)

    def _names_wanted(self, active: Active) -> bool:
        return any(
            not is_default(network) and self.driver(network.driver).creates
            for network in (self._networks[state.network_id] for state in active.sandbox.endpoints.values())
        )

    def _dismantle(self, namespace: sandboxes.Namespace, active: Active, plans: list[Plan]) -> None:
        """Take down what `_build` made. Runs in a worker thread."""
        rules = port_rules(active.publications)
        if rules:
            self.firewall.unpublish(rules)
        self._linking.close(active)
        for plan in plans:
            self.driver(plan.network.driver).vacate(namespace, plan)
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
            self._resolution.names.remove(state)
        active.stop_advertising()
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
            self.allocation.free(container_id, iter(active.sandbox.endpoints.values()))
        for plan in plans:
            await self._reservations.left(plan.network, plan.state)
        links = [state.host_interface for state in active.sandbox.endpoints.values() if state.host_interface]
        if links:
            asyncio.get_running_loop().call_later(LINGER, self._remove_links, links)

    def _remove_links(self, names: list[str]) -> None:
        try:
            self._executor.submit(delete_links, names)
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
            held = await self._reservations.reserve(network, config, self.allocation.liked(active.request, network))
            undo.push_async_callback(self._reservations.give_back, network, held)
            state = self._endpoint(active, network, held)
            active.sandbox.endpoints[network.name] = state
            undo.callback(self.allocation.addresses.free, state)
            undo.callback(active.sandbox.endpoints.pop, network.name)
            before = active.gateway_network
            active.gateway_network = self._choose_gateway(active)
            undo.callback(setattr, active, "gateway_network", before)
            driver, plan = self.driver(network.driver), self._plan(active, network.name)
            await self._do(driver.attach, namespace, plan)
            undo.push_async_callback(self._do, driver.detach, namespace, plan)
            if before != active.gateway_network:
                # the new default route has replaced the old one
                await self.ports.move(active)
            if active.dns is None and self._names_wanted(active):
                self._resolution.serve(active, await self._do(open_dns, namespace, True))
            self._linking.note(active)
            if active.linked_ports:
                await self._do(self._linking.open, active)
            identity.connected(active.request, state)
            self._update_resolvers(active)
            self._resolution.names.add(state)
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
        if is_default(network):
            await self._do(self._linking.close, active)
        self._resolution.names.remove(state)
        del active.sandbox.endpoints[network.name]
        await self._do(self.driver(network.driver).detach, namespace, plan)
        self.allocation.addresses.free(state)
        await self._reservations.left(network, state)
        if active.gateway_network == network.name:
            active.gateway_network = self._choose_gateway(active)
            if active.gateway_network:
                await self._do(route, namespace, self._plan(active, active.gateway_network), True)
            await self.ports.move(active)
        identity.disconnected(active.request, state)
        still_asked = not self._update_resolvers(active)
        if active.dns is not None and not self._names_wanted(active) and not still_asked:
            active.dns.close()
            active.dns = None

    async def republish(self, container_id: str, wanted: PortBindings) -> PortBindings:
        """Let a running container's published ports be `wanted`; see PublishedPorts.change."""
        return await self.ports.change(self._active[container_id], wanted)

    def keep_addresses(self, container_id: str) -> None:
        """Let the container have the addresses that it has now at its next `join`, too; until `drop_addresses`."""
        active = self._active.get(container_id)
        if active is not None:
            self.allocation.keep(container_id, active.sandbox)

    def drop_addresses(self, container_id: str) -> None:
        """Undo `keep_addresses`: what has not been joined with is free again."""
        self.allocation.drop(container_id)

    # -- names, files ------------------------------------------------------------------------------------------

    def _write_files(self, active: Active) -> None:
        identity.write(
            active.request,
            active.sandbox,
            self._settings,
            embedded_dns=self._names_wanted(active),
            gateways=self.host_gateways(),
            linked=self._linking.hosts_entries(active),
        )

    def _update_resolvers(self, active: Active) -> bool:
        if active.dns is not None:
            active.dns.forget()
        wanted = self._names_wanted(active)
        return identity.update_resolvers(active.request, active.sandbox, self._settings, embedded_dns=wanted)

    def host_gateways(self) -> Sequence[str]:
        """The addresses that host-gateway stands for."""
        return self._settings.host_gateways or self._default_gateways()

    def _default_gateways(self) -> list[str]:
        network = self._default_network()
        return [pool.gateway for pool in network.pools if pool.gateway] if network is not None else []

    def _default_network(self) -> Network | None:
        """The default bridge, or None without one. Asked by worker threads too, while networks come and go."""
        network = self._by_name.get("bridge")
        return network if network is not None and is_default(network) else None

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
            self.allocation.addresses.retake(state)
            await self._reservations.found(self._networks[state.network_id], state)
        active.namespace = await self._do(sandboxes.reopen, sandbox.netns_path, sandbox.sandbox_id)
        active.gateway_network = self._choose_gateway(active)
        await self._do(self._mend, active)
        if active.gateway_network:
            state = sandbox.endpoints[active.gateway_network]
            network = self._networks[state.network_id]
            active.publications = self._publisher.retake(network, state, sandbox.ports, request.name)
        self.firewall.adopt(port_rules(active.publications))
        self._linking.note(active)
        self.firewall.adopt_links(active.linked_ports)
        if self._firewall_current:
            await self._do(self.firewall.rewrite)
        asked = self._names_wanted(active) or identity.asks_embedded_server(request)
        self._start(active, await self._do(open_dns, active.namespace, True) if asked else None)
