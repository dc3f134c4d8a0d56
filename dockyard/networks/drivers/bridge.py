"""Bridge networks: a Linux bridge that is the containers' switch and gateway, and a veth pair for each of them."""

import dataclasses
import errno
import logging
import re
import secrets
import socket
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

from dockyard.errors import Conflict, Forbidden, InvalidParameter, SystemFailure
from dockyard.linux.loopback_guard import LoopbackGuard
from dockyard.linux.netlink import (
    Link,
    Message,
    NetlinkError,
    RouteSocket,
    delete_address,
    delete_link,
    new_address,
    new_bridge,
    new_veth,
    set_alias,
    set_bridge_port,
    set_link,
)
from dockyard.networks.drivers.base import Plan
from dockyard.networks.drivers.interfaces import configure, protect, vacate
from dockyard.networks.drivers.marks import MARK, is_ours
from dockyard.networks.firewall import BridgeRules
from dockyard.networks.gateway_modes import ISOLATED, check_gateway_modes, gateway_mode
from dockyard.networks.ipam import check_ipv6_subnet
from dockyard.networks.model import Network
from dockyard.networks.options import MTU, address_option, number_option, option_flag
from dockyard.networks.sandboxes import Namespace, write_sysctl

log = logging.getLogger("dockyard.networks")

NAME = "com.docker.network.bridge.name"
MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
ICC = "com.docker.network.bridge.enable_icc"
TRUSTED = "com.docker.network.bridge.trusted_host_interfaces"
HOST_ADDRESSES = {4: "com.docker.network.host_ipv4", 6: "com.docker.network.host_ipv6"}
HOST_BINDING = "com.docker.network.bridge.host_binding_ipv4"
DEFAULT_BRIDGE = "com.docker.network.bridge.default_bridge"
INHIBIT_IPV4 = "com.docker.network.bridge.inhibit_ipv4"
# How the name of a bridge begins that is being made.
UNFINISHED = "dynew"
_BRIDGE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")


def rules_of(network: Network) -> BridgeRules:
    """What the packet filter has to know of a bridge network."""
    return BridgeRules(
        bridge=network.bridge,
        subnets=tuple(ip_network(pool.subnet, strict=False) for pool in network.pools if pool.subnet),
        internal=network.internal,
        icc=option_flag(network, ICC, True),
        masquerade=option_flag(network, MASQUERADE, True),
        modes=(gateway_mode(network, 4), gateway_mode(network, 6)),
        sources=(network.options.get(HOST_ADDRESSES[4], ""), network.options.get(HOST_ADDRESSES[6], "")),
        trusted=tuple(_trusted(network)),
    )


def is_default(network: Network) -> bool:
    """Whether it is the network of containers that ask for none."""
    return network.options.get(DEFAULT_BRIDGE) == "true"


def _trusted(network: Network) -> list[str]:
    return [name for name in network.options.get(TRUSTED, "").split(":") if name]


class BridgeDriver:
    """Bridges and veth pairs by rtnetlink; one request makes a pair, places it and raises it.

    Every link that is made carries `mark` as its alias. A bridge without it is somebody else's: containers are attached
    to it where a user says so, but it is neither set up nor removed.
    """

    name = "bridge"
    scope = "local"
    creates = True
    leads_out = True
    publishes = True

    def __init__(self, mark: str, ip_forward: bool = True) -> None:
        self._mark = mark
        self._ip_forward = ip_forward
        # the bridges to which 127.0.0.1 leads, and whose ports are guarded for that
        self._routing: set[str] = set()
        self._guard: LoopbackGuard | None = None

    def settle(self, network: Network) -> None:
        network.bridge = network.options.get(NAME) or f"br-{network.id[:12]}"

    def chooses_gateway(self, network: Network, version: int) -> bool:
        inhibited = version == 4 and network.internal and option_flag(network, INHIBIT_IPV4, False)
        return gateway_mode(network, version) != ISOLATED and not inhibited

    def links(self, network: Network) -> Sequence[str]:
        return [network.bridge]

    def check(self, network: Network) -> None:
        for name in (MASQUERADE, ICC, INHIBIT_IPV4):
            option_flag(network, name, True)
        check_gateway_modes(network)
        for version in (4, 6):
            if len([pool for pool in network.pools if ip_network(pool.subnet, strict=False).version == version]) > 1:
                raise Forbidden("bridge driver doesn't support multiple subnets")
        for pool in network.pools:
            check_ipv6_subnet(ip_network(pool.subnet, strict=False))
        address_option(network, HOST_BINDING)
        for version, name in HOST_ADDRESSES.items():
            address_option(network, name, version)
        for name in _trusted(network):
            if not _BRIDGE_NAME.fullmatch(name):
                raise InvalidParameter(f"invalid interface name {name!r} in {TRUSTED}")
        number_option(network, MTU)
        # The name also becomes part of names in the packet filter, whose language it must not be able to speak.
        if not _BRIDGE_NAME.fullmatch(network.bridge):
            raise InvalidParameter(
                f"invalid bridge name {network.bridge!r}: 1 to 15 letters, digits, dots, underscores and hyphens, "
                "starting with a letter"
            )

    def create(self, network: Network) -> None:
        name = network.bridge
        self._routing.discard(name)
        with RouteSocket() as host:
            link = host.link(name)
            if link is None:
                link = self._make(host, network)
            elif link.kind != "bridge":
                raise InvalidParameter(f"existing interface {name} is not a bridge")
            elif not link.alias and name == f"br-{network.id[:12]}":
                # made by a daemon that did not mark its links yet
                host.do(set_alias(name, self._mark))
                link = dataclasses.replace(link, alias=self._mark)
            elif link.alias.startswith(MARK) and not is_ours(link, self._mark):
                raise Conflict(f"bridge {name} belongs to another engine ({link.alias})")
            if is_ours(link, self._mark):
                protect(name)
                self._mend_loopback(network)
            self._address(host, link, network)
            if not link.up:
                host.do(set_link(link.index, up=True))

    def _mend_loopback(self, network: Network) -> None:
        """An earlier daemon may have let loopback addresses be routed, and guarded nothing."""
        setting = Path(f"/proc/sys/net/ipv4/conf/{network.bridge}/route_localnet")
        if setting.read_text(encoding="ascii").strip() == "1" and not self.routes_loopback(network):
            setting.write_text("0", encoding="ascii")

    def routes_loopback(self, network: Network) -> bool:
        """Whether the packet filter may lead what is sent to 127.0.0.1 to containers of the network.

        It may if the kernel routes such packets to the bridge, which it does from now on, and if it takes none from
        containers, whatever becomes of the packet filter's rules.
        """
        name = network.bridge
        if name not in self._routing:
            try:
                self._route_loopback(name)
            except OSError as error:
                self._routing.discard(name)
                log.warning("ports of network %s are reached from 127.0.0.1 by the proxy: %s", network.name, error)
                return False
        return True

    def _route_loopback(self, bridge: str) -> None:
        with RouteSocket() as host:
            link = host.link(bridge)
            if link is None or not is_ours(link, self._mark):
                raise OSError(errno.EPERM, f"bridge {bridge} is not ours to set up")
            if self._guard is None:
                self._guard = LoopbackGuard()
            # Known first: a port that `attach` makes meanwhile is either among those seen here, or guarded there.
            self._routing.add(bridge)
            for port in host.links():
                if port.master == link.index and is_ours(port, self._mark):
                    self._guard.guard(host, port.index)
        write_sysctl(f"net/ipv4/conf/{bridge}/route_localnet", "1")

    def _make(self, host: RouteSocket, network: Network) -> Link:
        """Make the network's bridge, still down. Its own name comes last: by then the mark is there."""
        name, unfinished = network.bridge, UNFINISHED + secrets.token_hex(5)
        mac = "02:42:" + secrets.token_bytes(4).hex(":")
        host.do(new_bridge(unfinished, mac, number_option(network, MTU)), set_alias(unfinished, self._mark))
        link = host.link(unfinished)
        if link is None:
            raise SystemFailure(f"bridge {name} vanished while it was made")
        try:
            host.do(set_link(link.index, name=name))
        except OSError:
            host.do(delete_link(link.index))
            raise
        return dataclasses.replace(link, name=name)

    def _address(self, host: RouteSocket, link: Link, network: Network) -> None:
        """Give the bridge the gateways' addresses, and no others if it is ours."""
        index = link.index
        inhibited = option_flag(network, INHIBIT_IPV4, False)
        present = [(address, prefix_len) for _, address, prefix_len in host.addresses(index)]
        wanted = []
        for pool in network.pools:
            subnet = ip_network(pool.subnet, strict=False)
            spared = gateway_mode(network, subnet.version) == ISOLATED or (inhibited and subnet.version == 4)
            if pool.gateway and not spared:
                wanted.append((ip_address(pool.gateway), subnet.prefixlen))
        if any(address.version == 6 for address, _ in wanted):
            write_sysctl(f"net/ipv6/conf/{network.bridge}/disable_ipv6", "0")
            if self._ip_forward:
                forward_ipv6()
        for address, prefix_len in present if is_ours(link, self._mark) else ():
            if inhibited and address.version == 4:
                continue
            if (address, prefix_len) not in wanted and not (address.version == 6 and address.is_link_local):
                host.do(delete_address(index, address, prefix_len))
        for address, prefix_len in wanted:
            if (address, prefix_len) not in present:
                host.do(new_address(index, address, prefix_len))

    def remove(self, network: Network) -> None:
        with RouteSocket() as host:
            link = host.link(network.bridge)
            if link is not None and is_ours(link, self._mark):
                host.do(delete_link(link.index))

    def attach(self, namespace: Namespace, plan: Plan) -> None:
        state = plan.state
        mtu = number_option(plan.network, MTU)
        try:
            master = socket.if_nametoindex(plan.network.bridge)
        except OSError:
            raise SystemFailure(
                f"bridge {plan.network.bridge} of network {plan.network.name} has been removed from the host; "
                "remove the network and create it anew"
            ) from None
        with RouteSocket() as host:
            for attempt in range(8):
                pair = new_veth(
                    state.host_interface, state.interface, netns=namespace.fd, mac=state.mac, master=master, mtu=mtu
                )
                try:
                    host.do(pair)
                    break
                except NetlinkError as error:
                    if error.errno != errno.EEXIST or attempt == 7:
                        raise SystemFailure(f"failed to create a veth pair: {error.strerror}") from error
                    state.host_interface = veth_name()
            try:
                # Only now is it certain whose link the name means. One that a crash leaves without the mark goes with
                # the namespace that has its other end.
                host.do(set_alias(state.host_interface, self._mark), *self._port(plan))
                self._keep_in(host, plan)
                configure(namespace, plan)
            except OSError as error:
                self.detach(namespace, plan)
                raise SystemFailure(f"failed to set up {state.interface} in the sandbox: {error.strerror}") from error

    def take_up(self, namespace: Namespace, plan: Plan) -> bool:
        with RouteSocket() as host:
            link = host.link(plan.state.host_interface)
            if link is None:
                return False
            if not link.alias:
                host.do(set_alias(link.name, self._mark))
            self._keep_in(host, plan)
        return True

    def _keep_in(self, host: RouteSocket, plan: Plan) -> None:
        """Let nothing that a container sends by its link change the host's routes or reach its loopback addresses."""
        protect(plan.state.host_interface)
        if plan.network.bridge in self._routing and self._guard is not None:
            self._guard.guard(host, socket.if_nametoindex(plan.state.host_interface))

    def _port(self, plan: Plan) -> list[Message]:
        """What the bridge has to know of the endpoint's port, besides that it is there."""
        # Where br_netfilter is on, a bridged packet to a published port is sent on to its container without leaving
        # the bridge; a container that asks for its own port must get its packet back through the port it came from.
        hairpin = plan.publishes
        isolated = not option_flag(plan.network, ICC, True)
        if hairpin or isolated:
            return [set_bridge_port(plan.state.host_interface, hairpin=hairpin, isolated=isolated)]
        return []

    @staticmethod
    def route_between(network: Network, wanted: bool) -> None:
        """Let containers on isolated ports reach each other by way of the host, whose packet filter decides.

        The host answers who asks for a neighbour's address (RFC 3069), and does not tell them of a shorter way.
        """
        write_sysctl(f"net/ipv4/conf/{network.bridge}/send_redirects", "0" if wanted else "1")
        write_sysctl(f"net/ipv4/conf/{network.bridge}/proxy_arp_pvlan", "1" if wanted else "0")

    def detach(self, namespace: Namespace, plan: Plan) -> None:
        try:
            with RouteSocket() as host:
                host.do(delete_link(socket.if_nametoindex(plan.state.host_interface)))
        except OSError as error:
            log.debug("link %s: %s", plan.state.host_interface, error)

    def vacate(self, namespace: Namespace, plan: Plan) -> None:
        vacate(namespace, plan.state)


def isolated_bridges(links: Sequence[Link]) -> list[Link]:
    """The bridges that lead to containers and virtual machines only, and to nothing outside."""
    outside = {link.master for link in links if link.kind not in ("veth", "tun")}
    return [link for link in links if link.kind == "bridge" and link.index not in outside]


def forward_ipv6() -> None:
    """Let the host route IPv6. Links that lead outside and take their routes from advertisements go on doing so."""
    conf = Path("/proc/sys/net/ipv6/conf")
    if (conf / "all/forwarding").read_text(encoding="ascii").strip() == "1":
        return
    with RouteSocket() as host:
        links = host.links()
    inside = {link.name for link in isolated_bridges(links)}
    for link in links:
        setting = conf / link.name / "accept_ra"
        if link.kind in ("veth", "tun") or link.name in inside or not setting.exists():
            continue
        if setting.read_text(encoding="ascii").strip() == "1":
            write_sysctl(f"net/ipv6/conf/{link.name}/accept_ra", "2")
    write_sysctl("net/ipv6/conf/default/forwarding", "1")
    write_sysctl("net/ipv6/conf/all/forwarding", "1")


def veth_name() -> str:
    """A name for the host's end of a veth pair, as Docker's: veth and seven hex digits."""
    return "veth" + secrets.token_hex(4)[:7]
