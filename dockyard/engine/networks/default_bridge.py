"""What the network "bridge" is like, by the daemon's options and by what the bridge itself has been given.

moby daemon/daemon_unix.go, getDefaultBridgeIPAMConf.
"""

import logging
from collections.abc import Callable, Mapping
from ipaddress import IPv4Interface, IPv6Interface, ip_interface, ip_network

from dockyard.engine.networks.options import NetworkOptions
from dockyard.errors import Conflict, InvalidParameter, SystemFailure
from dockyard.linux.netlink import RouteSocket, set_alias
from dockyard.network_settings import not_a_prefix
from dockyard.networks.addresses import DEFAULT_GATEWAYS
from dockyard.networks.drivers.bridge import DEFAULT_BRIDGE, HOST_BINDING, ICC, MASQUERADE, NAME
from dockyard.networks.drivers.marks import is_ours
from dockyard.networks.firewall import has_table
from dockyard.networks.ipam import Subnet, address, check_ipv6_subnet
from dockyard.networks.model import Network, Pool
from dockyard.networks.options import MTU

log = logging.getLogger("dockyard.networks")

Interface = IPv4Interface | IPv6Interface

# What the bridge may be called, best first.
NAMES = ("docker0", *(f"dockyard{number}" for number in range(10)))


def free_bridge(mark: str) -> str:
    """What the bridge is called where the user names none: docker0, unless that is another engine's.

    Ours carry `mark`. Raises Conflict when no name is free.
    """
    with RouteSocket() as host:
        for name in NAMES:
            link = host.link(name)
            if link is not None and not link.alias and has_table(f"dockyard-{name}"):
                # made by a daemon that did not mark its links yet
                host.do(set_alias(name, mark))
                return name
            if link is None or is_ours(link, mark):
                return name
            log.warning("bridge %s is somebody else's; the default network keeps away from it", name)
    raise Conflict(f"the bridges {', '.join(NAMES)} are all somebody else's; name another by --bridge")


def default_bridge_options(options: NetworkOptions, bridge: str) -> dict[str, str]:
    """The driver options of the network, whose bridge is called `bridge`."""
    return {
        DEFAULT_BRIDGE: "true",
        ICC: "true" if options.icc else "false",
        MASQUERADE: "true" if options.ip_masq else "false",
        HOST_BINDING: options.ip,
        NAME: bridge,
        MTU: str(options.mtu or 1500),
    }


def default_bridge_pools(
    options: NetworkOptions,
    network: Network,
    known: Mapping[int, Pool],
    choose: Callable[[int], Subnet],
    is_free: Callable[[Subnet], bool],
) -> list[Pool]:
    """The network's pools, `known` ones (by IP version) as they were where nothing says otherwise and they can be."""
    if options.fixed_cidr_v6:  # nonsense is refused without IPv6, too
        _network("--fixed-cidr-v6", options.fixed_cidr_v6, 6)
    pools = [_pool(options, network, known.get(4), 4, choose, is_free)]
    if network.ipv6:
        pools.append(_pool(options, network, known.get(6), 6, choose, is_free))
    return pools


def _pool(
    options: NetworkOptions,
    network: Network,
    known: Pool | None,
    version: int,
    choose: Callable[[int], Subnet],
    is_free: Callable[[Subnet], bool],
) -> Pool:
    flags = ("--bip", "--fixed-cidr") if version == 4 else ("--bip6", "--fixed-cidr-v6")
    own = options.bip if version == 4 else options.bip6
    fixed = options.fixed_cidr if version == 4 else options.fixed_cidr_v6
    gateway = options.default_gateway if version == 4 else options.default_gateway_v6
    inner = _network(flags[1], fixed, version) if fixed else None
    interface = _interface(flags[0], own, version) if own else _present(network.bridge, version, inner)
    if interface is None and known is not None and inner is None and is_free(ip_network(known.subnet)):
        interface = ip_interface(f"{known.gateway}/{ip_network(known.subnet).prefixlen}")
    if interface is None:
        subnet = inner or choose(version)
        interface = ip_interface(f"{subnet[1]}/{subnet.prefixlen}")
    if inner is not None and (inner.prefixlen < interface.network.prefixlen or inner[0] not in interface.network):
        raise InvalidParameter(f"{flags[1]}={fixed} is outside the default bridge's subnet {interface.network}")
    if gateway and address(gateway) not in interface.network:
        raise InvalidParameter(
            f"auxiliary address: ({DEFAULT_GATEWAYS[version]}:{gateway}) must belong to the master pool: "
            f"{interface.network}"
        )
    _check_free(interface)
    return Pool(
        subnet=str(interface.network),
        gateway=str(interface.ip),
        ip_range=str(inner) if inner is not None and inner != interface.network else "",
        auxiliary={DEFAULT_GATEWAYS[version]: gateway} if gateway else {},
    )


def _present(bridge: str, version: int, inner: Subnet | None) -> Interface | None:
    """The address that the bridge has, best one of the subnet `inner`."""
    with RouteSocket() as host:
        link = host.link(bridge)
        addresses = host.addresses(link.index) if link else []
    found = [
        ip_interface(f"{where}/{length}")
        for _, where, length in addresses
        if where.version == version and not (version == 6 and where.is_link_local)
    ]
    fitting = [one for one in found if inner is not None and inner[0] in one.network]
    return next(iter(fitting or found), None)


def _interface(flag: str, text: str, version: int) -> Interface:
    try:
        found = ip_interface(text)
    except ValueError:
        found = None
    if found is None or found.version != version or "/" not in text:
        raise InvalidParameter(f"parse {flag.removeprefix('--')} failed: invalid CIDR address: {text}")
    return found


def _network(flag: str, text: str, version: int) -> Subnet:
    try:
        found = ip_network(text, strict=False)
    except ValueError:
        found = None
    name = flag.removeprefix("--")
    if found is None or "/" not in text:
        if version == 6:
            raise InvalidParameter(f"invalid {name}: {not_a_prefix(text)}")
        raise InvalidParameter(f"parse {name} failed: invalid CIDR address: {text}")
    if found.version != version:
        raise InvalidParameter(f"invalid {name}: '{text}' is not a valid IPv{version} subnet")
    try:
        check_ipv6_subnet(found)
    except InvalidParameter as error:
        raise InvalidParameter(f"invalid {name}: {error.message}") from None
    return found


def _check_free(interface: Interface) -> None:
    """Raise SystemFailure for an address that is the subnet's own."""
    subnet = interface.network
    own = {subnet.network_address, *([subnet.broadcast_address] if subnet.version == 4 else [])}
    if subnet.num_addresses > 2 and interface.ip in own:
        raise SystemFailure(f"failed to allocate gateway ({interface.ip}): Address already in use")
