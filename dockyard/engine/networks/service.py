"""The use cases of networks: create, remove, list and inspect them, and attach containers to them."""

import asyncio
import builtins
import functools
import logging
import re
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from pathlib import Path

from dockyard.engine.events.service import Events
from dockyard.engine.networks.default_bridge import default_bridge_options, default_bridge_pools, free_bridge
from dockyard.engine.networks.definition import (
    apply_configuration,
    check_configuration,
    check_ipam_driver,
    check_scope,
    new_identity,
)
from dockyard.engine.networks.endpoints import check_endpoint
from dockyard.engine.networks.gateway_bridge import GATEWAY_BRIDGE, gateway_bridge, needs_gateway
from dockyard.engine.networks.host_forwarding import HostForwarding
from dockyard.engine.networks.options import NetworkOptions
from dockyard.engine.networks.pools import settle_pools
from dockyard.engine.networks.shared import SharedNetworks, cluster_store
from dockyard.engine.networks.taken_subnets import check_bridges_of_others, subnets_of, taken_subnets
from dockyard.engine.state.database import Database
from dockyard.engine.state.documents import Documents
from dockyard.errors import Conflict, DockyardError, Forbidden, InvalidParameter, NotFound, NotImplementedHere
from dockyard.folders import own_folder
from dockyard.linux.nftables import NftablesMissing
from dockyard.networks import plugin_ipam
from dockyard.networks.advertising import check_advertising
from dockyard.networks.claims import AddressClaims
from dockyard.networks.controller import Controller
from dockyard.networks.drivers.marks import mark_of
from dockyard.networks.explanation import Way
from dockyard.networks.ipam import Subnet, Subnets, check_pools
from dockyard.networks.model import (
    EndpointConfig,
    EndpointState,
    JoinRequest,
    Network,
    Pool,
    PortBindings,
    Sandbox,
    Settings,
)
from dockyard.watchdog import Step, unwatched

__all__ = [
    "EndpointConfig",
    "EndpointState",
    "JoinRequest",
    "Network",
    "NetworkOptions",
    "NetworkService",
    "Pool",
    "PortBindings",
    "Sandbox",
]

log = logging.getLogger("dockyard.networks")

PRIVATE = "container cannot be connected to multiple networks with one of the networks in private ({}) mode"
PREDEFINED = ("bridge", "host", "none")


class NetworkService:
    """Networks and the containers attached to them.

    Life: `open()`, then `restore()` for every container that still runs, then `sweep()`, which removes what no
    container uses any more; at the end `close()`, which leaves running containers' networking in the kernel.
    """

    def __init__(
        self,
        exec_root: Path,
        database: Database,
        events: Events,
        options: NetworkOptions,
        claims: AddressClaims | None = None,
    ) -> None:
        """`claims`: addresses that are kept for containers."""
        self._options = options
        self._events = events
        self._database = database
        self._store = database.collection("networks", Network)
        folder = own_folder(Path(database.path).with_name("networks"))
        self._documents = Documents(lambda network_id: folder / f"{network_id}.json", Network)
        self._subnets = Subnets(options.default_address_pools)
        self._by_id: dict[str, Network] = {}
        self._by_name: dict[str, Network] = {}
        # names being removed at this moment
        self._busy: set[str] = set()
        # one network is made after the other, for each must see the subnets of those before it
        self._creating = asyncio.Lock()
        self._mark = mark_of(exec_root)
        self._default_bridge = options.bridge or free_bridge(self._mark)
        named = exec_root.name if self._default_bridge == "none" else self._default_bridge
        self._instance = "dockyard-" + re.sub(r"[^A-Za-z0-9_.-]", "_", named)
        # networks that could not be made, as somebody else has their subnet: why, by id
        self._unmade: dict[str, str] = {}
        settings = Settings(
            instance=self._instance,
            firewall=options.iptables,
            firewall_ipv6=options.ip6tables,
            direct_routing=options.allow_direct_routing,
            respect_host_firewall=options.respect_host_firewall,
            accept_mark=options.accept_mark,
            ip_forward=options.ip_forward,
            userland_proxy=options.userland_proxy is not False,
            proxy_processes=options.userland_proxy is True,
            proxy_path=options.userland_proxy_path,
            firewall_backend=options.firewall_backend,
            host_binding=options.ip,
            host_gateways=tuple(options.host_gateway_ips),
            dns=tuple(options.dns),
            dns_search=tuple(options.dns_search),
            dns_options=tuple(options.dns_options),
        )
        store = cluster_store(options.cluster_store, options.cluster_advertise)
        try:
            self._controller = Controller(exec_root, settings, claims or AddressClaims(), store)
        except NftablesMissing as error:
            raise NotImplementedHere(f"{error.args[0]}; or start the daemon with --iptables=false") from error
        self._forwarding = HostForwarding(options, self._instance, self._staying, self._controller.repair)
        self._cluster = SharedNetworks(store, self._controller, self) if store is not None else None

    # -- life ---------------------------------------------------------------------------------------------------------

    def _staying(self) -> Sequence[Network]:
        """The networks that are not being removed."""
        return [network for network in self._by_id.values() if network.name not in self._busy]

    def host_gateways(self) -> Sequence[str]:
        """The addresses that host-gateway stands for."""
        return self._controller.host_gateways()

    async def open(self, step: Step = unwatched) -> None:
        """Know and make every network; containers that run go on undisturbed. `step` is told of each."""
        await self._controller.open()
        await self._forwarding.turn_on()
        for _, network in list(self._store.all()):
            if network.pending:
                await self._discard(network)
                continue
            self._by_id[network.id] = network
            self._by_name[network.name] = network
        for name, driver in (("none", "null"), ("host", "host")):
            if name not in self._by_name:
                identity, created = new_identity()
                self._remember(Network(id=identity, name=name, driver=driver, created=created, predefined=True))
        self._prepare_default_bridge()
        for network in [one for one in self._by_id.values() if not one.config_only]:
            step(f"network {network.name}")
            self._controller.adopt(network)
            await self._forwarding.before_ipv6(network)
            try:
                if plugin_ipam.has_plugin(network):
                    await asyncio.to_thread(plugin_ipam.replay, network)
                check_bridges_of_others(network)
                await self._controller.create(network)
            except (OSError, DockyardError) as error:
                if network.predefined:
                    raise
                self._unmade[network.id] = str(error)
                log.error("cannot make network %s: %s", network.name, error)
        if self._cluster is not None:
            await self._cluster.open()
        self._documents.put_all(self._by_id.items())
        await self._forwarding.open()

    async def close(self) -> None:
        """Let go of everything; what containers need stays in the kernel."""
        if self._cluster is not None:
            await self._cluster.close()
        await self._forwarding.close()
        if not any(self.members(network) for network in self._by_id.values()):
            await self._forwarding.forget()
        await self._controller.close()

    async def abolish(self) -> None:
        """Remove every network from the host, the default bridge too; `close` comes next."""
        await self._controller.abolish()

    async def sweep(self) -> None:
        """Remove what earlier daemons left behind and no container uses."""
        await self._controller.sweep()

    async def _discard(self, network: Network) -> None:
        """Take away what an earlier daemon was making when it died."""
        log.info("removing network %s, which was never finished", network.name)
        await self._controller.discard(network)
        self._store.delete(network.id)

    def _remember(self, network: Network) -> None:
        self._store.put(network.id, network)
        self._documents.put(network.id, network)
        self._by_id[network.id] = network
        self._by_name[network.name] = network

    def _forget(self, network: Network) -> None:
        self._documents.delete(network.id)
        self._store.delete(network.id)
        self._unmade.pop(network.id, None)
        self._by_id.pop(network.id, None)
        self._by_name.pop(network.name, None)

    def _prepare_default_bridge(self) -> None:
        """Bring the network "bridge" in line with the daemon's options."""
        known = self._by_name.get("bridge")
        if self._default_bridge == "none":
            if known is not None:
                self._forget(known)
            return
        identity = (known.id, known.created) if known else new_identity()
        network = Network(id=identity[0], name="bridge", driver="bridge", created=identity[1], predefined=True)
        network.bridge = self._default_bridge
        network.ipv6 = self._options.ipv6
        network.options = default_bridge_options(self._options, network.bridge)
        same = known is not None and known.bridge == network.bridge
        network.pools = default_bridge_pools(
            self._options,
            network,
            {ip_network(pool.subnet).version: pool for pool in known.pools} if known is not None and same else {},
            lambda version: self._subnets.choose(taken_subnets(self._by_id.values()), version, network.id),
            lambda subnet: self._is_free(subnet, known or network),
        )
        self._remember(network)

    def _is_free(self, subnet: Subnet, owner: Network) -> bool:
        taken = taken_subnets(network for network in self._by_id.values() if network is not owner)
        return not any(other.version == subnet.version and other.overlaps(subnet) for other in taken)

    # -- networks -----------------------------------------------------------------------------------------------------

    def get(self, reference: str) -> Network:
        """The network of that name, id or unambiguous id prefix. Raises NotFound, InvalidParameter when ambiguous."""
        found = self._by_id.get(reference) or self._by_name.get("bridge" if reference == "default" else reference)
        if found is not None:
            return found
        matches = [network for network in self._by_id.values() if reference and network.id.startswith(reference)]
        if len(matches) > 1:
            raise InvalidParameter(
                f"network {reference} is ambiguous ({len(matches)} matches found based on ID prefix)"
            )
        if not matches:
            raise NotFound(f"network {reference} not found")
        return matches[0]

    def list(self, matches: Callable[[Network], bool] = lambda network: True) -> Sequence[Network]:
        """Every network that `matches`."""
        return [network for network in self._by_id.values() if matches(network)]

    def members(self, network: Network) -> Sequence[tuple[JoinRequest, EndpointState]]:
        """Who is attached to `network` now, with their endpoints."""
        return self._controller.members(network.id)

    def peers(self, network: Network) -> Sequence[tuple[str, str]]:
        """The hosts that have a part of a shared network: a name for each, and its address."""
        return self._controller.shared.hosts(network.id, bool(self.members(network)))

    async def create(self, network: Network, config_from: str = "", scope: str = "") -> Network:
        """Make a network as described; id, date, scope, bridge and what its pools leave open are filled in.

        `config_from`: the configuration network that describes it; `scope`: what is asked for, if anything.

        Raises Conflict when the name is taken, InvalidParameter, Forbidden, NotFound for an unknown driver.
        """
        async with self._creating:
            await self._create(network, config_from, scope)
        await asyncio.gather(self._forwarding.let_through(), self._database.on_disk())
        if network.scope == "local":
            self._emit("create", network)
        return network

    async def _create(self, network: Network, config_from: str, scope: str) -> None:
        name = network.name
        if name in (*PREDEFINED, "default"):
            raise Forbidden(f"operation is not permitted on predefined {name} network ")
        if not name.strip():
            raise InvalidParameter("invalid name: name is empty")
        if name in self._by_name or name in self._busy:
            raise Conflict(f"network with name {name} already exists")
        network.id, network.created = new_identity()
        check_pools(network.pools, network.ipv6)
        network.asked = network.pools
        check_configuration(network, config_from, scope)
        if network.config_only:
            # null: no driver is to take it for a network
            network.driver = "null"
            self._remember(network)
            return
        driver = self._controller.driver(network.driver)
        check_scope(network, driver, scope)
        if config_from:
            base = self._by_name.get(config_from) or self._by_id.get(config_from)
            if base is None or not base.config_only:
                raise NotFound(f'configuration network "{config_from}" does not exist')
            apply_configuration(base, network)
        else:
            network.options = {**self._options.default_network_opts.get(network.driver, {}), **network.options}
        check_ipam_driver(network)
        network.scope = driver.scope
        driver.settle(network)
        driver.check(network)
        check_advertising(network)
        taken, ours = taken_subnets(self._by_id.values()), subnets_of(self._by_id.values())
        gateways = functools.partial(driver.chooses_gateway, network)
        if self._cluster is not None and driver.scope != "local":
            await self._cluster.add(network, taken, ours, gateways)
            return
        for other in self._by_id.values():
            if network.bridge and other.bridge == network.bridge:
                raise Forbidden(
                    f"cannot create network {network.id} ({network.bridge}): "
                    f"conflicts with network {other.id} ({other.bridge}): networks have same bridge name"
                )
        if plugin_ipam.has_plugin(network):
            network.pools = await asyncio.to_thread(plugin_ipam.request_pools, network, taken, gateways)
        elif network.ipam_driver != "null":
            network.pools = settle_pools(network, self._subnets, taken, ours, gateways)
        try:
            check_bridges_of_others(network)
            await self._forwarding.before_ipv6(network)
        except BaseException:
            await asyncio.to_thread(plugin_ipam.release_pools, network)
            raise
        # known before it is made, so that a daemon that dies in between leaves no bridge that nobody knows
        network.pending = True
        self._store.put(network.id, network)
        self._controller.adopt(network)
        try:
            await self._controller.create(network)
            network.pending = False
            self._remember(network)
        except BaseException:
            await self._controller.forget(network)
            self._store.delete(network.id)
            raise

    async def remove(self, reference: str) -> Network:
        """Remove a network. Raises Forbidden while it is in use or when it is predefined."""
        network = self.get(reference)
        if network.predefined:
            raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        if network.name in self._busy:
            raise Conflict(f"network {network.name} is being removed")
        members = self.members(network)
        if members:
            users = ", ".join(f'name:"{request.name}" id:"{state.endpoint_id[:12]}"' for request, state in members)
            raise Forbidden(f"error while removing network: network {network.name} has active endpoints ({users})")
        if network.config_only and any(other.config_from == network.name for other in self._by_id.values()):
            raise Forbidden(f'error while removing network: configuration network "{network.name}" is in use')
        self._busy.add(network.name)
        try:
            if self._cluster is not None and network.scope != "local":
                await self._cluster.remove(network)
                return network
            if not network.config_only:
                self._controller.withdraw(network)  # at once: who would join it now is not among its members
                # nobody is on it: in which order its bridge and what is said of that go makes no difference
                await asyncio.gather(self._controller.forget(network), self._forwarding.let_through())
            self._forget(network)
        except BaseException:
            self._busy.discard(network.name)
            await self._forwarding.let_through()
            raise
        finally:
            self._busy.discard(network.name)
        await self._database.on_disk()
        self._emit("destroy", network)
        return network

    async def prune(self, matches: Callable[[Network], bool] = lambda network: True) -> "builtins.list[str]":
        """Remove every network of users that nobody is attached to and that `matches`; returns their names."""
        removed = []
        for network in self.list(matches):
            if network.predefined or self.members(network) or network.name in self._busy:
                continue
            try:
                await self.remove(network.id)
            except (Forbidden, Conflict, NotFound) as error:
                log.debug("not pruned: %s", error)
            else:
                removed.append(network.name)
        return removed

    async def adopt_shared(self, network: Network) -> None:
        """Know a network that another host has made."""
        self._remember(network)
        self._controller.adopt(network)
        await self._database.on_disk()
        self._emit("create", network)

    async def drop_shared(self, network: Network) -> None:
        """Know a network no more that another host has removed."""
        await self._controller.forget(network)
        self._forget(network)
        self._emit("destroy", network)

    # -- containers ---------------------------------------------------------------------------------------------------

    async def join(self, request: JoinRequest) -> Sandbox:
        """Give a container that is about to start its sandbox, endpoints, ports and files; undone when it raises.

        Raises NotFound for an unknown network, Conflict for an address in use, SystemFailure for a port in use.
        """
        if request.mode.startswith("container:"):
            return self._controller.join_container(request)
        mode = "bridge" if request.mode in ("", "default") else request.mode
        if mode == "host":
            if request.endpoints.keys() - {"host"}:
                raise Conflict(
                    "container sharing network namespace with another container or host cannot be connected to any "
                    "other network"
                )
            sandbox = self._controller.join_host(request)
        else:
            wanted = self._wanted(mode, request)
            if needs_gateway([network for network, _ in wanted]):
                wanted.append((await self._gateway_bridge(), EndpointConfig(gateway_only=True)))
            for network, _ in wanted:
                await self._make_again(network)
            sandbox = await self._controller.join(request, wanted)
        for state in sandbox.endpoints.values():
            if not state.gateway_only:
                self._emit("connect", self._by_id[state.network_id], request.container_id)
        return sandbox

    async def _gateway_bridge(self) -> Network:
        """The bridge of containers whose networks lead nowhere else, made when the first one needs it."""
        found = self._by_name.get(GATEWAY_BRIDGE)
        return found if found is not None else await self.create(gateway_bridge())

    async def _make_again(self, network: Network) -> None:
        """Make a network that could not be made at the start. Raises Conflict when it still cannot."""
        if network.id not in self._unmade:
            return
        try:
            check_bridges_of_others(network)
            await self._controller.create(network)
        except (OSError, DockyardError) as error:
            raise Conflict(f"network {network.name} could not be made: {error}") from error
        self._unmade.pop(network.id, None)
        await self._forwarding.let_through()

    @property
    def has_default_bridge(self) -> bool:
        """Whether there is the network of containers that ask for none: not with `--bridge=none`."""
        return "bridge" in self._by_name

    def _wanted(self, mode: str, request: JoinRequest) -> "builtins.list[tuple[Network, EndpointConfig]]":
        """The networks a container is to join, the one of its mode first."""
        if mode == "bridge" and not self.has_default_bridge and request.endpoints.keys() <= {"bridge", "default"}:
            return []
        try:
            first = self.get(mode)
        except NotFound as error:
            if request.endpoints.keys() <= {mode}:
                raise
            raise NotFound(f"could not find a network matching network mode {mode}: {error.message}") from None
        wanted: dict[str, tuple[Network, EndpointConfig]] = {}
        for reference in sorted(request.endpoints):
            network = self.get(mode if reference == "default" else reference)
            if network.config_only:
                raise Forbidden(f"configuration network {network.name} cannot be joined")
            wanted[network.id] = (network, request.endpoints[reference])
        if not wanted:
            wanted[first.id] = (first, EndpointConfig())
        elif first.id in wanted:  # it may have been disconnected since the container was made
            wanted = {first.id: wanted.pop(first.id), **wanted}
        private = [network.name for network, _ in wanted.values() if network.driver in ("host", "null")]
        if len(wanted) > 1 and private:
            raise Conflict(PRIVATE.format(private[0]))
        for network, config in wanted.values():
            check_endpoint(network.name, network, config)
        return list(wanted.values())

    async def leave(self, container_id: str) -> None:
        """Take down what `join` made; no error when there is nothing."""
        sandbox = self._controller.sandbox(container_id)
        await self._controller.leave(container_id)
        for state in sandbox.endpoints.values() if sandbox else ():
            network = self._by_id.get(state.network_id)
            if network is not None and not state.gateway_only:
                self._emit("disconnect", network, container_id)

    async def restore(self, container_id: str, sandbox: Sandbox, request: JoinRequest) -> None:
        """Take up a running container's networking again after a restart of the daemon."""
        await self._controller.restore(sandbox, request)

    async def connect(self, network: str, container_id: str, config: EndpointConfig) -> EndpointState:
        """Attach a running container to one more network, live. Raises Forbidden when it is attached already.

        engine/containers/connections.py calls this, and keeps the container's record in step.
        """
        found = self.get(network)
        sandbox = self._running(container_id)
        if found.name in sandbox.endpoints:
            name = self._name_of(found, container_id)
            raise Forbidden(f"endpoint with name {name} already exists in network {found.name}")
        if found.driver == "host":
            raise Conflict("cannot connect container to host network - container must be created in host network mode")
        if found.driver == "null":
            raise Conflict(PRIVATE.format("none"))
        if any(self._by_id[state.network_id].driver in ("host", "null") for state in sandbox.endpoints.values()):
            raise Conflict(PRIVATE.format("none"))
        check_endpoint(found.name, found, config)
        await self._make_again(found)
        state = await self._controller.connect(container_id, found, config)
        try:
            await self._settle_way_out(container_id)
        except (OSError, DockyardError):
            await self._controller.disconnect(container_id, found)
            raise
        self._emit("connect", found, container_id)
        return state

    async def _settle_way_out(self, container_id: str) -> None:
        """Give a running container the bridge to the outside that its networks have not, or take it away again."""
        endpoints = self._running(container_id).endpoints.values()
        present = [state.network_id for state in endpoints if state.gateway_only]
        needed = needs_gateway([self._by_id[state.network_id] for state in endpoints if not state.gateway_only])
        if needed and not present:
            bridge = await self._gateway_bridge()
            await self._make_again(bridge)
            await self._controller.connect(container_id, bridge, EndpointConfig(gateway_only=True))
        elif present and not needed:
            await self._controller.disconnect(container_id, self._by_id[present[0]])

    async def disconnect(self, network: str, container_id: str, force: bool = False) -> None:
        """Detach a running container from a network, live. Raises Forbidden when it is not attached."""
        found = self.get(network)
        sandbox = self._running(container_id)
        if found.driver == "host":
            raise Conflict("container cannot be disconnected from host network")
        if found.name not in sandbox.endpoints:
            raise Forbidden(f"container {container_id} is not connected to network {found.name}")
        await self._controller.disconnect(container_id, found)
        await self._settle_way_out(container_id)
        self._emit("disconnect", found, container_id)

    async def republish(self, container_id: str, wanted: PortBindings) -> None:
        """Let a running container's published ports be `wanted`, live; on failure they are what they were.

        Raises SystemFailure for a port in use, Conflict for a container without a network of its own.
        """
        self._running(container_id)
        await self._controller.republish(container_id, wanted)

    def explain(self, container_id: str) -> Sequence[Way]:
        """The ways of packets to and from a running container. Raises Conflict when it has no network of its own."""
        sandbox = self._running(container_id)
        if not sandbox.netns_path:
            raise Conflict("the container shares the host's network: there is no way of its own to explain")
        return self._controller.explain(container_id)

    def explain_port(self, port: int, protocol: str) -> Sequence[Way]:
        """The ways of packets for a host port. Raises NotFound when no container publishes anything there."""
        found = self._controller.publishers(port, protocol)
        if not found:
            raise NotFound(f"no container publishes anything on port {port}/{protocol}")
        return [path for one in found for path in self._controller.explain(one, (port, protocol))]

    def keep_addresses(self, container_id: str) -> None:
        """Keep a running container's addresses for it while it is restarted; until `drop_addresses`."""
        self._controller.keep_addresses(container_id)

    def drop_addresses(self, container_id: str) -> None:
        """Keep them no more."""
        self._controller.drop_addresses(container_id)

    def _running(self, container_id: str) -> Sandbox:
        sandbox = self._controller.sandbox(container_id)
        if sandbox is None:
            raise Conflict(f"container {container_id} is not running")
        return sandbox

    def _name_of(self, network: Network, container_id: str) -> str:
        for request, _ in self.members(network):
            if request.container_id == container_id:
                return request.name
        return container_id

    def rename(self, container_id: str, name: str) -> None:
        """Tell the networks that a container has a new name."""
        self._controller.rename(container_id, name)

    def sandbox(self, container_id: str) -> Sandbox | None:
        """A running container's sandbox as it is now (live connects and disconnects included)."""
        return self._controller.sandbox(container_id)

    def _emit(self, action: str, network: Network, container_id: str = "") -> None:
        attributes = {"name": network.name, "type": network.driver}
        if container_id:
            attributes["container"] = container_id
        self._events.emit("network", action, network.id, attributes)
