"""Legacy links of running containers: what they are told of each other, and what the packet filter lets through."""

import logging
from collections.abc import Callable, Iterator, Mapping

from dockyard.networks import files, legacy_links
from dockyard.networks.active import Active
from dockyard.networks.drivers import BridgeDriver
from dockyard.networks.drivers.bridge import ICC
from dockyard.networks.firewall import Firewall
from dockyard.networks.iptables_firewall import IptablesFirewall
from dockyard.networks.model import Network
from dockyard.networks.options import option_flag

log = logging.getLogger("dockyard.networks")


class Linking:
    """Keeps the links of all containers; on a bridge that keeps them apart a link is more than a name."""

    def __init__(
        self,
        firewall: Firewall | IptablesFirewall,
        bridge: BridgeDriver,
        active: Mapping[str, Active],
        default_network: Callable[[], Network | None],
        filtered: bool,
    ) -> None:
        """`active`: who has joined, by id, as it is at any time; `filtered`: whether there is a packet filter."""
        self._firewall = firewall
        self._bridge = bridge
        self._active = active
        self._default_network = default_network
        self._filtered = filtered

    def _separating(self) -> Network | None:
        """The default bridge, if it keeps containers apart (--icc=false)."""
        network = self._default_network()
        return None if network is None or option_flag(network, ICC, True) else network

    def _everybody(self) -> Iterator[legacy_links.Member]:
        return ((active.request, active.sandbox) for active in self._active.values())

    def note(self, active: Active) -> None:
        """Find out what the container's links are to open."""
        network = self._separating()
        if network is not None and self._filtered:
            member = (active.request, active.sandbox)
            active.linked_ports = legacy_links.linked_ports(member, self._everybody(), network.name)

    def hosts_entries(self, active: Active) -> list[tuple[str, str]]:
        """The lines of a hosts file for those that the container is linked to."""
        return legacy_links.hosts_entries(active.request, self._everybody())

    def tell(self, active: Active) -> None:
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

    def open(self, active: Active) -> None:
        """Let linked containers reach each other on a bridge that keeps them apart. Runs in a worker thread."""
        network = self._separating()
        if network is not None and active.linked_ports:
            self._firewall.link(active.linked_ports)
            self._bridge.route_between(network, True)

    def close(self, active: Active) -> None:
        """Undo `open`, and what others have opened to this container. Runs in a worker thread."""
        network = self._separating()
        state = active.sandbox.endpoints.get(network.name) if network is not None else None
        if network is not None and state is not None and self._firewall.unlink(state.ip):
            self._bridge.route_between(network, False)
