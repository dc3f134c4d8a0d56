"""The way of a packet to and from a container, step by step, with the commands that make and show each step by hand."""

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address, ip_network

import msgspec

from dockyard.networks.gateway_modes import ROUTED, gateway_mode
from dockyard.networks.model import EndpointState, Network, Sandbox, Settings
from dockyard.networks.ports import display


class Step(msgspec.Struct, frozen=True, rename="pascal"):
    """One step: what happens, by which rule of ours, which commands would make it, and which show that it is there."""

    what: str
    rule: str = ""
    make: Sequence[str] = ()
    show: Sequence[str] = ()


class Way(msgspec.Struct, frozen=True, rename="pascal"):
    """A way that packets take."""

    title: str
    steps: Sequence[Step]


def explain(
    settings: Settings, name: str, sandbox: Sandbox, networks: dict[str, Network], port: tuple[int, str] | None = None
) -> list[Way]:
    """The ways to and from the container `name`; with `port` (host port, protocol) those of that port alone.

    `networks` are by id.
    """
    known = [(network, state) for state in sandbox.endpoints.values() if (network := networks.get(state.network_id))]
    known = [(network, state) for network, state in known if state.interface]
    bridged = [(network, state) for network, state in known if network.driver == "bridge"]
    gateway = _way_out(bridged)
    paths = []
    if gateway is not None:
        network, state = gateway
        for number, protocol, host_ip, host_port in _published(sandbox, port):
            paths.append(_inwards(settings, network, state, sandbox, number, protocol, host_ip, host_port))
    if port is None:
        for network, state in known:
            paths.append(
                Way(f"How {name} is attached to network {network.name}", list(_attached(network, state, sandbox)))
            )
        if gateway is not None:
            paths.append(Way(f"From {name} to the outside", list(_outwards(settings, *gateway, sandbox))))
    return paths


def _way_out(bridged: Sequence[tuple[Network, EndpointState]]) -> tuple[Network, EndpointState] | None:
    leading = [pair for pair in bridged if pair[1].gateway or pair[1].ipv6_gateway]
    return min(
        leading,
        key=lambda pair: (
            -pair[1].gw_priority,
            pair[1].gateway_only,
            -bool(pair[1].gateway) - bool(pair[1].ipv6_gateway),
            pair[0].name,
        ),
        default=None,
    )


def _published(sandbox: Sandbox, port: tuple[int, str] | None) -> Iterator[tuple[int, str, str, str]]:
    for key, bindings in sorted(sandbox.ports.items()):
        number, _, protocol = key.partition("/")
        for host_ip, host_port in bindings:
            if port is None or (host_port, protocol) == (str(port[0]), port[1]):
                yield int(number), protocol, host_ip, host_port


def _inwards(
    settings: Settings,
    network: Network,
    state: EndpointState,
    sandbox: Sandbox,
    number: int,
    protocol: str,
    host_ip: str,
    host_port: str,
) -> Way:
    version = 6 if ":" in host_ip and state.ipv6 else 4
    target = state.ipv6 if version == 6 else state.ip or state.ipv6
    place = display(host_ip, int(host_port)) if host_port else display(target, number)
    family = "ip6" if version == 6 else "ip"
    steps = [Step(f"A {protocol} packet for {place} comes to this host.")]
    routed = not host_port or gateway_mode(network, version) == ROUTED
    proxied = settings.respect_host_firewall or not settings.firewall or (version == 4 and ":" in host_ip)
    if settings.respect_host_firewall and not routed:
        steps.append(
            Step("The host's own INPUT rules decide, as about any local port.", show=_tables("INPUT", version))
        )
    if routed:
        steps.append(
            Step("Nothing is translated: the network is routed, the container's own address is what is asked for.")
        )
    elif proxied:
        steps.append(
            Step(
                f"The proxy accepts it and asks {display(target, number)} itself.",
                "respect-host-firewall" if settings.respect_host_firewall else "no rule of the packet filter",
                show=[f"ss -lnp 'sport = :{host_port}'"],
            )
        )
    else:
        steps.append(_translated(settings, network, family, protocol, host_ip, host_port, target, number))
    steps.append(
        Step(
            f"The host routes it to {network.bridge}.",
            f"{_subnet(network, version)} is on that bridge; the host forwards",
            ["sysctl -w net.ipv4.ip_forward=1"],
            [f"ip route get {target}"],
        )
    )
    if not proxied or routed:
        steps += _allowed(settings, network, version, target, protocol, number, routed=routed)
    steps += _into(network, state, sandbox)
    return Way(f"From outside to {place}/{protocol}", steps)


def _translated(
    settings: Settings,
    network: Network,
    family: str,
    protocol: str,
    host_ip: str,
    host_port: str,
    target: str,
    number: int,
) -> Step:
    at = "" if ip_address(host_ip).is_unspecified else host_ip
    if settings.firewall_backend == "iptables":
        where = f"-d {at} " if at else ""
        to = display(target, number)
        rule = f"-A DOCKER {where}! -i {network.bridge} -p {protocol} --dport {host_port} -j DNAT --to-destination {to}"
        program = "ip6tables" if family == "ip6" else "iptables"
        show = [f"{program} -t nat -S DOCKER"]
        return Step(f"Its destination becomes {to}.", f"nat DOCKER: {rule}", [f"{program} -t nat {rule}"], show)
    key = f"{at} . {protocol} . {host_port}" if at else f"{protocol} . {host_port}"
    name = "published_at" if at else "published"
    table = f"{family} {settings.instance}"
    return Step(
        f"Its destination becomes {display(target, number)}.",
        f"chain prerouting: fib daddr type local jump publish; map {name} {{ {key} : {target} . {number} }}",
        [f"nft add element {table} {name} '{{ {key} : {target} . {number} }}'"],
        [f"nft list map {table} {name}", f"conntrack -L -p {protocol} --orig-port-dst {host_port}"],
    )


def _allowed(
    settings: Settings, network: Network, version: int, target: str, protocol: str, number: int, *, routed: bool
) -> list[Step]:
    program = "ip6tables" if version == 6 else "iptables"
    family = "ip6" if version == 6 else "ip"
    steps = [
        Step(
            "The administrator's rules for what is forwarded may drop it.",
            "filter FORWARD: -j DOCKER-USER",
            show=[f"{program} -S DOCKER-USER"],
        )
    ]
    if settings.firewall_backend == "iptables":
        only = "" if routed else " -m conntrack --ctstate DNAT"
        rule = f"-d {target} ! -i {network.bridge} -o {network.bridge} -p {protocol} --dport {number}{only} -j ACCEPT"
        make, show = [f"{program} -A DOCKER {rule}"], [f"{program} -S DOCKER-FORWARD", f"{program} -S DOCKER"]
        return [*steps, Step("Ours let it through.", f"filter DOCKER: {rule}", make, show)]
    chain = f"to-{network.bridge}"
    rule = f"{family} daddr . meta l4proto . th dport @targets accept" if routed else "ct status dnat accept"
    table = f"{family} {settings.instance}"
    make = [f"nft add rule {table} {chain} {rule}"]
    return [*steps, Step("Ours let it through.", f"chain {chain}: {rule}", make, [f"nft list chain {table} {chain}"])]


def _into(network: Network, state: EndpointState, sandbox: Sandbox) -> list[Step]:
    return [
        Step(
            f"The bridge {network.bridge} hands it to {state.host_interface}, "
            f"whose other end is {state.interface} in the container ({state.mac}).",
            show=[
                f"bridge fdb show br {network.bridge} | grep {state.mac}",
                f"nsenter --net={sandbox.netns_path} ip addr show {state.interface}",
            ],
        )
    ]


def _attached(network: Network, state: EndpointState, sandbox: Sandbox) -> Iterator[Step]:
    inside = f"nsenter --net={sandbox.netns_path}"
    if network.driver == "bridge":
        addresses = [
            f"ip addr add {pool.gateway}/{_length(pool.subnet)} dev {network.bridge}"
            for pool in network.pools
            if pool.gateway
        ]
        yield Step(
            f"The network is the bridge {network.bridge}.",
            make=[f"ip link add {network.bridge} type bridge", *addresses, f"ip link set {network.bridge} up"],
            show=[f"ip addr show {network.bridge}", f"ip link show master {network.bridge}"],
        )
        peer = f"peer name {state.interface} address {state.mac} netns {sandbox.netns_path}"
        yield Step(
            f"A veth pair joins it to the container: {state.host_interface} here, {state.interface} there.",
            make=[f"ip link add {state.host_interface} master {network.bridge} up type veth {peer}"],
            show=[f"ip -d link show {state.host_interface}", f"{inside} ip -d link show {state.interface}"],
        )
    else:
        yield Step(
            f"The network's driver is {network.driver}; the container's end is {state.interface}.",
            show=[f"{inside} ip -d link show {state.interface}"],
        )
    make = []
    for where, length in ((state.ip, state.prefix_len), (state.ipv6, state.ipv6_prefix_len)):
        if where:
            make.append(f"{inside} ip addr add {where}/{length} dev {state.interface}")
    yield Step(
        "It has these addresses.",
        make=[*make, f"{inside} ip link set {state.interface} up"],
        show=[f"{inside} ip addr show {state.interface}"],
    )
    if state.dns_names:
        names = ", ".join(state.dns_names)
        yield Step(
            f"Neighbours find it as {names}: the resolver at 127.0.0.11 in their sandboxes answers.",
            show=["nslookup NAME 127.0.0.11"],
        )


def _outwards(settings: Settings, network: Network, state: EndpointState, sandbox: Sandbox) -> Iterator[Step]:
    inside = f"nsenter --net={sandbox.netns_path}"
    gateways = [one for one in (state.gateway, state.ipv6_gateway) if one]
    yield Step(
        f"The container's default route leads to {' and '.join(gateways)}.",
        make=[f"{inside} ip route add default via {one} dev {state.interface}" for one in gateways],
        show=[f"{inside} ip route", f"{inside} ip -6 route"],
    )
    if not settings.firewall:
        yield Step("The daemon leaves the packet filter alone: what is forwarded and hidden is the host's own matter.")
        return
    for pool in network.pools:
        net = ip_network(pool.subnet)
        if gateway_mode(network, net.version) == ROUTED:
            yield Step(f"What comes from {net} keeps its address: the network is routed.")
            continue
        family = "ip6" if net.version == 6 else "ip"
        if settings.firewall_backend == "iptables":
            program = "ip6tables" if net.version == 6 else "iptables"
            rule = f"-A POSTROUTING -s {net} ! -o {network.bridge} -j MASQUERADE"
            make, show = [f"{program} -t nat {rule}"], [f"{program} -t nat -S POSTROUTING"]
        else:
            rule = f"oifname != {network.bridge} {family} saddr {net} masquerade"
            table = f"{family} {settings.instance}"
            make, show = [f"nft add rule {table} postrouting {rule}"], [f"nft list chain {table} postrouting"]
        yield Step(f"What comes from {net} leaves under the host's address.", rule, make, show)


def _tables(chain: str, version: int) -> list[str]:
    return [f"{'ip6tables' if version == 6 else 'iptables'} -S {chain}", "nft list ruleset"]


def _subnet(network: Network, version: int) -> str:
    return next((pool.subnet for pool in network.pools if ip_network(pool.subnet).version == version), "its subnet")


def _length(subnet: str) -> int:
    return ip_network(subnet).prefixlen


def holders(sandboxes: Iterable[tuple[str, Sandbox]], port: int, protocol: str) -> list[tuple[str, Sandbox]]:
    """Of (name, sandbox) those that publish something on the host port."""
    wanted = str(port)
    return [
        (name, sandbox)
        for name, sandbox in sandboxes
        if any(
            key.endswith(f"/{protocol}") and any(host_port == wanted for _, host_port in bindings)
            for key, bindings in sandbox.ports.items()
        )
    ]
