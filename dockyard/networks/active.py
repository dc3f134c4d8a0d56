"""A container that has joined: its sandbox, and what the daemon holds open for it."""

from dataclasses import dataclass, field

from dockyard.networks import sandboxes
from dockyard.networks.advertising import Advertiser
from dockyard.networks.dns import DnsServer
from dockyard.networks.firewall import LinkedPort
from dockyard.networks.model import JoinRequest, Sandbox
from dockyard.networks.publishing import Publication


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

    @property
    def has_ipv6(self) -> bool:
        """Whether one of its endpoints has an IPv6 address."""
        return any(state.ipv6 for state in self.sandbox.endpoints.values())

    @property
    def addresses(self) -> list[tuple[str, str]]:
        """(IPv4 or "", IPv6 or "") of each endpoint."""
        return [(state.ip, state.ipv6) for state in self.sandbox.endpoints.values()]

    def stop_advertising(self) -> None:
        """Let no more neighbours be told of its addresses."""
        for advertiser in self.advertisers:
            advertiser.close()
        self.advertisers.clear()
