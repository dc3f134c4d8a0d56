"""Which packet filter the daemon has, by its settings, and what of another one goes."""

import logging

from dockyard.errors import SystemFailure
from dockyard.linux.nftables import NftablesError
from dockyard.networks.firewall import Firewall
from dockyard.networks.iptables_firewall import IptablesFirewall
from dockyard.networks.model import Network, Settings

log = logging.getLogger("dockyard.networks")


def firewall_of(settings: Settings) -> Firewall | IptablesFirewall:
    """The packet filter that the settings name."""
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


def remove_other_backend(settings: Settings) -> None:
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


def by_proxy(network: Network) -> bool:
    """That the packet filter leads nothing from 127.0.0.1 into the network."""
    return False
