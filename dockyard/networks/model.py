"""What a network, an endpoint and a sandbox are, as data. Everything here can be stored as JSON."""

import msgspec

# {"80/tcp": [(host address, host port)]}; an empty host port asks for any free one, "8000-8010" for one of a range.
PortBindings = dict[str, list[tuple[str, str]]]


class Pool(msgspec.Struct, frozen=True, omit_defaults=True):
    """One address pool of a network, in CIDR and address notation; empty means: choose, or none.

    `chosen`: we have, and may another time choose another subnet; users can't give addresses of it. `pool_id`: what the
    plugin that has given it calls it.
    """

    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    auxiliary: dict[str, str] = {}
    chosen: bool = False
    pool_id: str = ""


class Network(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A network; `id` is 64 hex digits, `created` RFC 3339 with nanoseconds."""

    id: str
    name: str
    driver: str
    created: str
    scope: str = "local"
    pools: list[Pool] = []
    # as its user has asked for them: shown in place of what has become of them, as Docker does
    asked: list[Pool] = []
    ipam_driver: str = "default"
    ipam_options: dict[str, str] | None = None
    ipv4: bool = True
    ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: str = ""
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    predefined: bool = False
    bridge: str = ""
    pending: bool = False  # being made: a daemon that finds it so at its start takes it away


class EndpointConfig(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """How a container wishes to be attached to one network; empty values leave the choice to us."""

    aliases: list[str] = []
    links: list[str] = []
    ipv4_address: str = ""
    ipv6_address: str = ""
    link_local_ips: list[str] = []
    mac_address: str = ""
    driver_opts: dict[str, str] = {}
    gw_priority: int = 0
    gateway_only: bool = False


class EndpointState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A container's attachment to one network as it is. `interface` is inside, `host_interface` outside."""

    network_id: str
    endpoint_id: str
    ip: str = ""
    prefix_len: int = 0
    gateway: str = ""
    ipv6: str = ""
    ipv6_prefix_len: int = 0
    ipv6_gateway: str = ""
    mac: str = ""
    aliases: list[str] = []
    links: list[str] = []
    dns_names: list[str] = []
    driver_opts: dict[str, str] = {}
    gw_priority: int = 0
    interface: str = ""
    host_interface: str = ""
    # nobody has asked for it: it is the way out of a container whose networks have none
    gateway_only: bool = False
    link_local_ips: list[str] = []


class Sandbox(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A container's network namespace with its endpoints by network name, and its published ports as bound.

    `netns_path` is None when the container uses the host's namespace; in container:<id> mode it is the other's.
    `resolv_conf` is the digest of that file as we last wrote it; another one now has been edited and stays.
    """

    sandbox_id: str = ""
    sandbox_key: str = ""
    netns_path: str | None = None
    endpoints: dict[str, EndpointState] = {}
    ports: PortBindings = {}
    resolv_conf: str = ""


class JoinRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """All that decides a container's networking at its start.

    `mode` is "none", "host", "default", "bridge", "container:<id>" or the name or id of a network. `port_bindings` are
    {"80/tcp": [(host ip or "", host port, range or "")]}. `links` (of the default bridge only) are
    "ID:ALIAS".
    `joined_netns` is, for container:<id>, the path of the other's namespace (/proc/<pid>/ns/net or its netns_path)
    and `joined_files_dir` the directory of its hosts, resolv.conf and hostname, which are then shared. `prepared_netns`
    is the path of the network namespace to use instead of a new one. `preferred` are (IPv4 or "", IPv6 or "") by the
    ids of networks, to be had where they are free. `alone`: its files tell of no network, as those of a build's step.
    """

    container_id: str
    name: str
    hostname: str = ""
    domainname: str = ""
    mode: str = "default"
    endpoints: dict[str, EndpointConfig] = {}
    port_bindings: PortBindings = {}
    exposed_ports: set[str] = set()
    publish_all: bool = False
    links: list[str] = []
    dns: list[str] = []
    dns_search: list[str] = []
    dns_options: list[str] = []
    extra_hosts: list[str] = []
    sysctls: dict[str, str] = {}
    files_dir: str = ""
    joined_netns: str = ""
    joined_files_dir: str = ""
    prepared_netns: str = ""
    preferred: dict[str, tuple[str, str]] = {}
    alone: bool = False


class Settings(msgspec.Struct, kw_only=True, frozen=True):
    """What the daemon's configuration says about containers' networking.

    `accept_mark`: the firewall mark, and its mask, of packets that need nobody's leave to be forwarded.
    """

    instance: str
    firewall: bool = True
    firewall_ipv6: bool = True
    direct_routing: bool = False
    # published ports are served where the host's INPUT rules have let the packet in
    respect_host_firewall: bool = False
    accept_mark: tuple[int, int] | None = None
    ip_forward: bool = True
    userland_proxy: bool = True
    # a process for each published port, by this program ("": our own), rather than the daemon
    proxy_processes: bool = False
    proxy_path: str = ""
    # "nftables" or "iptables"
    firewall_backend: str = "nftables"
    host_binding: str = "0.0.0.0"
    host_gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
