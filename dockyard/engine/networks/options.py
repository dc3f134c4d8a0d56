"""The daemon's settings that concern networks."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class NetworkOptions:
    """Named as dockerd's flags."""

    bridge: str = ""
    bip: str = ""
    default_gateway: str = ""
    fixed_cidr: str = ""
    ipv6: bool = False
    bip6: str = ""
    default_gateway_v6: str = ""
    fixed_cidr_v6: str = ""
    mtu: int = 0
    icc: bool = True
    ip: str = "0.0.0.0"
    iptables: bool = True
    ip6tables: bool = True
    allow_direct_routing: bool = False
    respect_host_firewall: bool = False
    accept_mark: tuple[int, int] | None = None
    ip_forward: bool = True
    ip_forward_no_drop: bool = False
    ip_masq: bool = True
    # None: whatever the packet filter cannot do, by the daemon; True: a process for each published port, as Docker
    userland_proxy: bool | None = None
    userland_proxy_path: str = ""
    firewall_backend: str = "nftables"
    dns: list[str] = field(default_factory=list)
    dns_search: list[str] = field(default_factory=list)
    dns_options: list[str] = field(default_factory=list)
    default_address_pools: list[tuple[str, int]] = field(default_factory=list)
    host_gateway_ips: list[str] = field(default_factory=list)
    # by driver: the options that its networks have where their users name no others
    default_network_opts: dict[str, dict[str, str]] = field(default_factory=dict)
    cluster_store: str = ""
    cluster_advertise: str = ""
