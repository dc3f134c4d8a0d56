"""Overlay networks: one network on several hosts, whose frames travel in VXLAN tunnels between them.

Each host keeps for each such network a namespace with a bridge and a tunnel; endpoints are veth pairs on the bridge.
Who is where comes from a cluster store, and goes into the tunnel's forwarding and neighbour tables: nothing is flooded
and nothing learned. What another host is asked for an address's MAC is answered here.
"""

import errno
import logging
import secrets
import threading
from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

from dockyard.errors import Forbidden, InvalidParameter, NotImplementedHere, SystemFailure
from dockyard.linux.netlink import (
    Message,
    NetlinkError,
    RouteSocket,
    delete_link,
    new_address,
    new_bridge,
    new_veth,
    set_alias,
    set_link,
)
from dockyard.linux.virtual_links import (
    VXLAN_PORT,
    delete_forwarding_entry,
    delete_neighbour,
    new_forwarding_entry,
    new_neighbour,
    new_vxlan,
)
from dockyard.linux.xfrm import can_encrypt
from dockyard.networks import sandboxes
from dockyard.networks.cluster import esp
from dockyard.networks.cluster.esp import Esp
from dockyard.networks.cluster.store import ClusterStore, Peer
from dockyard.networks.drivers.base import Plan
from dockyard.networks.drivers.interfaces import configure, vacate
from dockyard.networks.model import EndpointState, Network
from dockyard.networks.options import MTU, number_option
from dockyard.networks.sandboxes import Namespace

log = logging.getLogger("dockyard.networks")

VXLAN_IDS = "com.docker.network.driver.overlay.vxlanid_list"
ENCRYPTED = "encrypted"
# Docker's first; a VXLAN's number has 24 bits
FIRST_ID, LAST_ID = 4097, (1 << 24) - 1
# an IPv4 header, UDP, VXLAN and the frame's own header
OVERHEAD = 50
BRIDGE, TUNNEL = "br0", "vxlan0"

NO_CLUSTER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)


NO_ESP = (
    "an encrypted overlay network needs ESP with AES-GCM, which the kernel of this host has not (its modules are esp4, "
    "esp6, gcm and xfrm_user)"
)


class OverlayDriver:
    """Bridges with tunnels, in namespaces of their own below `directory`; fed from `store`, if there is one."""

    name = "overlay"
    scope = "global"
    creates = True
    leads_out = False
    publishes = False

    def __init__(self, mark: str, directory: Path, store: ClusterStore | None) -> None:
        self._mark = mark
        self._directory = directory
        self.store = store
        self._namespaces: dict[str, Namespace] = {}
        self._peers: dict[str, set[Peer]] = {}
        self._esp = Esp(store) if store is not None else None
        # the other hosts of the encrypted networks of which this one has a part
        self._secured: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the namespaces; they stay."""
        for namespace in self._namespaces.values():
            namespace.close()
        self._namespaces.clear()

    def settle(self, network: Network) -> None:
        return

    def chooses_gateway(self, network: Network, version: int) -> bool:
        return True

    def links(self, network: Network) -> Sequence[str]:
        return []

    def path(self, network: Network) -> str:
        """Where the network's namespace is."""
        return str(self._directory / _key(network))

    def check(self, network: Network) -> None:
        if self.store is None:
            raise Forbidden(NO_CLUSTER)
        if _encrypted(network) and not can_encrypt():
            raise NotImplementedHere(NO_ESP)
        number_option(network, MTU)
        for text in filter(None, network.options.get(VXLAN_IDS, "").split(",")):
            if not text.isdigit() or not 0 < int(text) <= LAST_ID:
                raise InvalidParameter(f"invalid vxlan id value {text!r} passed")

    def create(self, network: Network) -> None:
        """Nothing yet: a host on which nobody is attached to a network has no part of it."""

    def remove(self, network: Network) -> None:
        with self._lock:
            namespace = self._namespaces.pop(network.id, None)
            self._peers.pop(network.id, None)
            try:
                namespace = namespace or sandboxes.reopen(self.path(network), _key(network))
            except FileNotFoundError:
                return
            # The kernel takes the namespace apart on its own time; until then no other network could have the number.
            tunnel = namespace.route.link(TUNNEL)
            if tunnel is not None:
                namespace.route.do(delete_link(tunnel.index))
            sandboxes.destroy(namespace)
            if _encrypted(network):
                self._secured.pop(network.id, None)
                self._secure()

    def attach(self, namespace: Namespace, plan: Plan) -> None:
        network, state = plan.network, plan.state
        try:
            with self._lock:  # also: one conversation at a time with the kernel
                self._plug(self._have(network).route, namespace, plan)
            configure(namespace, plan)
            if self.store is not None:
                self.store.announce(_peer_of(state, self.store.host))
        except OSError as error:
            self._delete_port(network, state)
            raise SystemFailure(f"failed to attach to network {network.name}: {error.strerror}") from error

    def _plug(self, overlay: RouteSocket, namespace: Namespace, plan: Plan) -> None:
        """Make a veth pair from the network's bridge into the sandbox."""
        network, state = plan.network, plan.state
        bridge = overlay.link(BRIDGE)
        if bridge is None:
            raise SystemFailure(f"the bridge of network {network.name} has been removed; start its containers anew")
        overlay.do(
            new_veth(
                state.host_interface,
                state.interface,
                netns=namespace.fd,
                mac=state.mac,
                master=bridge.index,
                mtu=_mtu(network),
            )
        )

    def take_up(self, namespace: Namespace, plan: Plan) -> bool:
        with self._lock:
            return self._have(plan.network).route.link(plan.state.host_interface) is not None

    def detach(self, namespace: Namespace, plan: Plan) -> None:
        self._withdraw(plan)
        self._delete_port(plan.network, plan.state)

    def vacate(self, namespace: Namespace, plan: Plan) -> None:
        vacate(namespace, plan.state)
        self._withdraw(plan)

    def _withdraw(self, plan: Plan) -> None:
        try:
            if self.store is not None:
                self.store.release(plan.network.id, filter(None, (plan.state.ip, plan.state.ipv6)))
        except OSError as error:
            log.error("address %s of network %s stays taken: %s", plan.state.ip, plan.network.name, error)

    def _delete_port(self, network: Network, state: EndpointState) -> None:
        try:
            with self._lock:
                overlay = self._have(network)
                link = overlay.route.link(state.host_interface)
                if link is not None:
                    overlay.route.do(delete_link(link.index))
        except OSError as error:
            log.debug("link %s: %s", state.host_interface, error)

    # -- the network's part on this host ------------------------------------------------------------------------------

    def _have(self, network: Network) -> Namespace:
        """The network's namespace with its bridge and tunnel, made if need be."""
        namespace = self._namespaces.get(network.id)
        if namespace is None:
            name = _key(network)
            if (self._directory / name).exists():
                namespace = sandboxes.reopen(str(self._directory / name), name)
            else:
                namespace = sandboxes.create(self._directory, name)
            try:
                if _encrypted(network):  # before a first frame can leave
                    if not can_encrypt():
                        raise SystemFailure(NO_ESP)
                    self._secured[network.id] = set()
                    self._secure()
                self._furnish(namespace, network)
            except BaseException:
                self._secured.pop(network.id, None)
                sandboxes.destroy(namespace)
                raise
            self._namespaces[network.id] = namespace
            if self.store is not None:
                self._tell(namespace, network.id, self.store.peers(network.id))
        return namespace

    def _furnish(self, namespace: Namespace, network: Network) -> None:
        route = namespace.route
        if route.link(BRIDGE) is None:
            route.do(new_bridge(BRIDGE, "02:42:" + secrets.token_bytes(4).hex(":"), _mtu(network)))
        if route.link(TUNNEL) is None:
            self._make_tunnel(namespace, network)
        bridge, tunnel = route.link(BRIDGE), route.link(TUNNEL)
        assert bridge is not None
        assert tunnel is not None
        acts = [set_link(tunnel.index, up=True, master=bridge.index), set_link(bridge.index, up=True)]
        for pool in network.pools:
            if pool.gateway:
                length = ip_network(pool.subnet, strict=False).prefixlen
                acts.append(new_address(bridge.index, ip_address(pool.gateway), length))
        if network.ipv6:
            with sandboxes.entered(namespace.fd):
                sandboxes.write_sysctl(f"net/ipv6/conf/{BRIDGE}/disable_ipv6", "0")
        route.do(*acts)

    def _make_tunnel(self, namespace: Namespace, network: Network) -> None:
        """The tunnel, made on the host, whose addresses it sends from, and then moved."""
        assert self.store is not None
        number = vxlan_id(network)
        made = f"vx-{number:06x}-{network.id[:5]}"
        with RouteSocket() as host:
            try:
                host.do(
                    new_vxlan(
                        made,
                        number,
                        ip_address(self.store.host),
                        netns=namespace.fd,
                        port=esp.PORT if _encrypted(network) else VXLAN_PORT,
                        mtu=_mtu(network),
                    ),
                )
            except NetlinkError as error:
                if error.errno == errno.EEXIST:
                    raise SystemFailure(
                        f"VXLAN {number} of network {network.name} is in use on this host by somebody else"
                    ) from error
                raise SystemFailure(f"failed to make a tunnel for network {network.name}: {error.strerror}") from error
        link = namespace.route.link(made)
        if link is None:
            raise SystemFailure(f"the tunnel of network {network.name} vanished while it was made")
        namespace.route.do(set_link(link.index, name=TUNNEL), set_alias(TUNNEL, self._mark))

    def _secure(self) -> None:
        """Bring in line what is encrypted between hosts."""
        assert self._esp is not None
        if self._secured:
            self._esp.secure(host for hosts in self._secured.values() for host in hosts)
        else:
            self._esp.release()

    # -- the others ---------------------------------------------------------------------------------------------------

    def set_peers(self, network: Network, peers: Iterable[Peer]) -> None:
        """Let the tunnel know where the endpoints of the other hosts are, if this host has a part of the network."""
        with self._lock:
            namespace = self._namespaces.get(network.id)
            if namespace is not None:
                self._tell(namespace, network.id, peers)

    def _tell(self, namespace: Namespace, network_id: str, peers: Iterable[Peer]) -> None:
        own = self.store.host if self.store is not None else ""
        wanted = {peer for peer in peers if peer.host != own}
        known = self._peers.get(network_id, set())
        tunnel = namespace.route.link(TUNNEL)
        if tunnel is None:
            log.error("the tunnel of network %s has been removed", network_id[:12])
            return
        if network_id in self._secured:
            self._secured[network_id] = {peer.host for peer in wanted}
            self._secure()
        acts: list[Message] = []
        for peer in known - wanted:
            acts += [delete_forwarding_entry(tunnel.index, peer.mac, peer.host)]
            acts += [delete_neighbour(tunnel.index, where, peer.mac) for where in (peer.ip, peer.ipv6) if where]
        for peer in wanted - known:
            acts += [new_forwarding_entry(tunnel.index, peer.mac, peer.host)]
            acts += [new_neighbour(tunnel.index, where, peer.mac) for where in (peer.ip, peer.ipv6) if where]
        self._peers[network_id] = wanted
        try:
            if acts:
                namespace.route.do(*acts)
        except NetlinkError as error:
            if error.errno != errno.ENOENT:  # of one to be deleted
                log.error("the tunnel of network %s refuses a neighbour: %s", network_id[:12], error.strerror)


def vxlan_id(network: Network) -> int:
    """The number of the network's VXLAN."""
    return int(network.options[VXLAN_IDS].split(",")[0])


def _key(network: Network) -> str:
    """The file of the network's namespace, as Docker calls it."""
    return f"1-{network.id[:10]}"


def _mtu(network: Network) -> int:
    return number_option(network, MTU) or 1500 - OVERHEAD - (esp.OVERHEAD if _encrypted(network) else 0)


def _encrypted(network: Network) -> bool:
    """Whether its tunnels are; as in Docker whatever the option says."""
    return ENCRYPTED in network.options


def _peer_of(state: EndpointState, host: str) -> Peer:
    return Peer(
        network_id=state.network_id,
        endpoint_id=state.endpoint_id,
        host=host,
        mac=state.mac,
        ip=state.ip,
        ipv6=state.ipv6,
        names=tuple(state.dns_names),
    )
