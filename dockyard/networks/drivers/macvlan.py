"""Networks on a link of the host's: macvlan, whose endpoints have MAC addresses of their own, and ipvlan.

Endpoints are neighbours of the link's other neighbours: nothing is translated, and no host port leads to one. Without
`-o parent` the network stands on a link that leads nowhere.
"""

import errno
import socket
from collections.abc import Sequence

from dockyard.errors import InvalidParameter, SystemFailure
from dockyard.linux.netlink import (
    Message,
    NetlinkError,
    RouteSocket,
    delete_link,
    new_link,
    set_alias,
    set_link,
)
from dockyard.linux.virtual_links import (
    IPVLAN_FLAGS,
    IPVLAN_MODES,
    MACVLAN_MODES,
    new_ipvlan,
    new_macvlan,
    new_vlan,
)
from dockyard.networks.drivers.base import Plan
from dockyard.networks.drivers.interfaces import configure
from dockyard.networks.drivers.marks import is_ours
from dockyard.networks.drivers.plain_link import PlainLinkDriver
from dockyard.networks.model import Network
from dockyard.networks.options import MTU, number_option
from dockyard.networks.sandboxes import Namespace

PARENT = "parent"


class MacvlanDriver(PlainLinkDriver):
    """Endpoints are macvlan links on the network's parent link."""

    name = "macvlan"
    leads_out = True

    def __init__(self, mark: str) -> None:
        self._mark = mark
        # the networks on each parent: the last of them takes away what we have made
        self._users: dict[str, set[str]] = {}

    def settle(self, network: Network) -> None:
        if not network.options.get(PARENT):
            network.internal = True

    def chooses_gateway(self, network: Network, version: int) -> bool:
        return False

    def links(self, network: Network) -> Sequence[str]:
        return [_parent(network)]

    def check(self, network: Network) -> None:
        self._check_options(network)
        parent = network.options.get(PARENT, "")
        if parent == "lo":
            raise InvalidParameter(f"loopback interface is not a valid {self.name} parent link")
        if len(parent) > 15 or "/" in parent or not parent.isprintable():
            raise InvalidParameter(
                f"invalid parent link {parent!r}: a link's name has 15 characters at most, none of them /"
            )
        number_option(network, MTU)

    def _check_options(self, network: Network) -> None:
        mode = network.options.get("macvlan_mode", "")
        if mode and mode not in MACVLAN_MODES:
            raise InvalidParameter(
                f"requested macvlan mode '{mode}' is not valid, 'bridge' mode is the macvlan driver default"
            )

    def create(self, network: Network) -> None:
        name = _parent(network)
        self._users.setdefault(name, set()).add(network.id)
        with RouteSocket() as host:
            link = host.link(name)
            if link is None:
                if network.options.get(PARENT):
                    self._make_vlan(host, name)
                else:
                    self._make_dead_end(host, name)
                host.do(set_alias(name, self._mark))
                link = host.link(name)
                if link is None:
                    raise SystemFailure(f"link {name} vanished while it was made")
                host.do(set_link(link.index, up=True))

    def _make_vlan(self, host: RouteSocket, name: str) -> None:
        """The sub-interface "eth0.10": VLAN 10 on eth0."""
        parent, dot, digits = name.rpartition(".")
        if not dot:
            raise InvalidParameter(f"invalid subinterface vlan name {name}, example formatting is eth0.10")
        if not digits.isdigit() or not 1 <= int(digits) <= 4094:
            raise InvalidParameter(f"vlan id must be between 1-4094, received: {digits}")
        below = host.link(parent)
        if below is None:
            raise InvalidParameter(f"failed to find master interface {parent} on the Docker host: Link not found")
        try:
            host.do(new_vlan(name, below.index, int(digits)))
        except NetlinkError as error:
            raise SystemFailure(f"failed to create {name} vlan link: {error.strerror}") from error

    def _make_dead_end(self, host: RouteSocket, name: str) -> None:
        try:
            host.do(new_link(name, "dummy"))
        except NetlinkError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            # a kernel without dummy links: a bridge without ports leads nowhere either
            host.do(new_link(name, "bridge"))

    def remove(self, network: Network) -> None:
        name = _parent(network)
        users = self._users.get(name, set())
        users.discard(network.id)
        if users:
            return
        self._users.pop(name, None)
        with RouteSocket() as host:
            link = host.link(name)
            if link is not None and is_ours(link, self._mark):
                host.do(delete_link(link.index))

    def attach(self, namespace: Namespace, plan: Plan) -> None:
        parent = _parent(plan.network)
        try:
            index = socket.if_nametoindex(parent)
        except OSError:
            raise SystemFailure(
                f"link {parent}, on which network {plan.network.name} stands, has gone from the host"
            ) from None
        try:
            with RouteSocket() as host:
                host.do(self._new(plan, index, namespace.fd))
        except NetlinkError as error:
            raise SystemFailure(f"failed to create the {self.name} port on {parent}: {error.strerror}") from error
        try:
            configure(namespace, plan)
            plan.state.mac = plan.state.mac or self._mac(namespace, plan)
        except OSError as error:
            self.detach(namespace, plan)
            raise SystemFailure(f"failed to set up {plan.state.interface} in the sandbox: {error.strerror}") from error

    def _new(self, plan: Plan, parent: int, netns: int) -> Message:
        mode = plan.network.options.get("macvlan_mode") or "bridge"
        mac = "" if mode == "passthru" else plan.state.mac
        mtu = number_option(plan.network, MTU)
        return new_macvlan(plan.state.interface, parent, mode, netns=netns, mac=mac, mtu=mtu)

    def _mac(self, namespace: Namespace, plan: Plan) -> str:
        link = namespace.route.link(plan.state.interface)
        return link.mac if link is not None else ""

    def vacate(self, namespace: Namespace, plan: Plan) -> None:
        # The link itself: as long as it is there, no other on the same parent can have its MAC address.
        self.detach(namespace, plan)


class IpvlanDriver(MacvlanDriver):
    """Endpoints are ipvlan links on the network's parent link, whose MAC address they share."""

    name = "ipvlan"

    def _check_options(self, network: Network) -> None:
        mode, flag = network.options.get("ipvlan_mode", ""), network.options.get("ipvlan_flag", "")
        if mode and mode not in IPVLAN_MODES:
            raise InvalidParameter(
                f"requested ipvlan mode '{mode}' is not valid, 'l2' mode is the ipvlan driver default"
            )
        if flag and flag not in IPVLAN_FLAGS:
            raise InvalidParameter(
                f"requested ipvlan flag '{flag}' is not valid, 'bridge' is the ipvlan driver default"
            )

    def _new(self, plan: Plan, parent: int, netns: int) -> Message:
        options = plan.network.options
        plan.state.mac = ""  # the parent's, as it turns out
        return new_ipvlan(
            plan.state.interface,
            parent,
            options.get("ipvlan_mode") or "l2",
            options.get("ipvlan_flag") or "bridge",
            netns=netns,
            mtu=number_option(plan.network, MTU),
        )


def _parent(network: Network) -> str:
    """The link on which the network stands."""
    prefix = "dm" if network.driver == "macvlan" else "di"
    return network.options.get(PARENT) or f"{prefix}-{network.id[:12]}"
