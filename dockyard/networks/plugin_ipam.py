"""Networks whose subnets and addresses a plugin gives out (`--ipam-driver NAME`), by Docker's plugin protocol.

Everything blocks. What the plugin gives is written into the network and the endpoints, so that it can be given back.
"""

import logging
import secrets
from collections.abc import Callable, Iterable
from ipaddress import ip_interface, ip_network
from typing import Any

import msgspec

from dockyard.errors import DockyardError, InvalidParameter, SystemFailure
from dockyard.networks.ipam import Subnet, address
from dockyard.networks.model import EndpointConfig, Network, Pool
from dockyard.networks.plugin import Plugin

log = logging.getLogger("dockyard.networks")

GATEWAY = "com.docker.network.gateway"
MAC_ADDRESS = "com.docker.network.endpoint.macaddress"


def has_plugin(network: Network) -> bool:
    """Whether a plugin gives out the network's addresses."""
    return network.ipam_driver not in ("", "default", "null")


def request_pools(network: Network, taken: Iterable[Subnet], gateways: Callable[[int], bool]) -> list[Pool]:
    """The network's pools as the plugin gives them, with gateways where `gateways` says so of their IP version.

    A subnet that nobody has asked for keeps clear of `taken`. Raises SystemFailure, NotFound; then nothing is held.
    """
    plugin = Plugin(network.ipam_driver)
    plugin.activate("IpamDriver")
    space = plugin.call("IpamDriver.GetDefaultAddressSpaces").get("LocalDefaultAddressSpace") or ""
    asked = [pool for pool in network.pools if pool.subnet]
    versions = {ip_network(pool.subnet, strict=False).version for pool in asked}
    wanted = [(version, Pool()) for version in (4, 6) if version not in versions]
    wanted = [*((ip_network(pool.subnet, strict=False).version, pool) for pool in asked), *wanted]
    wanted = [(version, pool) for version, pool in wanted if (network.ipv4 if version == 4 else network.ipv6)]
    held: list[Pool] = []
    try:
        for version, pool in wanted:
            _request_pool(plugin, network, space, version, pool, list(taken), held)
            held[-1] = _reserve_spoken(plugin, held[-1], pool.gateway, gateways(version))
    except DockyardError:
        _release_pools(plugin, held)
        raise
    return held


def _request_pool(
    plugin: Plugin, network: Network, space: str, version: int, pool: Pool, taken: list[Subnet], held: list[Pool]
) -> None:
    """Ask for one pool, which is added to those that are `held`."""
    refused: list[Pool] = []
    try:
        for _ in range(64):
            said = plugin.call(
                "IpamDriver.RequestPool",
                AddressSpace=space,
                Pool=pool.subnet,
                SubPool=pool.ip_range,
                Options=network.ipam_options or {},
                V6=version == 6,
            )
            subnet = _subnet(plugin, said)
            given = msgspec.structs.replace(
                pool,
                subnet=str(subnet),
                gateway=pool.gateway or _text(said.get("Data"), GATEWAY).partition("/")[0],
                pool_id=str(said.get("PoolID", "")),
                chosen=not pool.subnet,
            )
            if subnet.version != version:
                _release_pools(plugin, [given])
                raise SystemFailure(f'plugin "{plugin.name}" gives {subnet} as a subnet of IPv{version}')
            if pool.subnet or not any(one.version == version and one.overlaps(subnet) for one in taken):
                held.append(given)
                return
            refused.append(given)  # held, so that it is not given again
        raise SystemFailure(f'plugin "{plugin.name}" gives no subnet that is free on this host')
    finally:
        _release_pools(plugin, refused)


def _reserve_spoken(plugin: Plugin, pool: Pool, named: str, wanted: bool) -> Pool:
    """The pool with its gateway, once that and the auxiliary addresses belong to nobody else.

    `named` by the user, or `wanted` by the driver. One that the plugin has named with the pool need not be asked for.
    """
    if named or (wanted and not pool.gateway):
        try:
            found = _request(plugin, pool, named, {"RequestAddressType": GATEWAY})
        except SystemFailure as error:
            raise SystemFailure(f"failed to allocate gateway ({named}): {error.message}") from error
        pool = msgspec.structs.replace(pool, gateway=found)
    for name, text in pool.auxiliary.items():
        try:
            _request(plugin, pool, str(address(text)))
        except SystemFailure as error:
            raise SystemFailure(f"failed to allocate secondary ip address ({name}:{text}): {error.message}") from error
    return pool


def release_pools(network: Network) -> None:
    """Give the network's subnets back; what the plugin says to that is only logged."""
    if has_plugin(network):
        _release_pools(Plugin(network.ipam_driver), network.pools)


def _release_pools(plugin: Plugin, pools: Iterable[Pool]) -> None:
    for pool in pools:
        for text in filter(None, (pool.gateway, *pool.auxiliary.values())):
            _release(plugin, pool, str(address(text)))
        _tell(plugin, "ReleasePool", PoolID=pool.pool_id)


def replay(network: Network) -> None:
    """Remind a plugin that wants it of what it has given the network: it has forgotten when the host was down."""
    plugin = Plugin(network.ipam_driver)
    if not _capabilities(plugin).get("RequiresRequestReplay"):
        return
    space = plugin.call("IpamDriver.GetDefaultAddressSpaces").get("LocalDefaultAddressSpace") or ""
    again = msgspec.structs.replace(network, pools=[])
    for pool in network.pools:
        held: list[Pool] = []
        _request_pool(plugin, again, space, ip_network(pool.subnet).version, pool, [], held)
        network.pools[network.pools.index(pool)] = msgspec.structs.replace(pool, pool_id=held[0].pool_id)
        try:
            _reserve_spoken(plugin, held[0], pool.gateway, False)
        except SystemFailure as error:
            log.warning("plugin %s: %s", plugin.name, error)


def replay_addresses(network: Network, addresses: Iterable[str], mac: str) -> None:
    """The same for the addresses of an endpoint; what the plugin says to that is only logged."""
    plugin = Plugin(network.ipam_driver)
    if not _capabilities(plugin).get("RequiresRequestReplay"):
        return
    for text in filter(None, addresses):
        try:
            _first(plugin, network.pools, text, "", {MAC_ADDRESS: mac})
        except DockyardError as error:
            log.error("plugin %s does not know address %s any more: %s", plugin.name, text, error)


def request_addresses(network: Network, config: EndpointConfig, liked: tuple[str, str] = ("", "")) -> EndpointConfig:
    """`config` with an address of each of the network's IP versions: those named there, or what the plugin gives.

    `liked`: (IPv4 or "", IPv6 or "") to be had where the plugin lets us. Raises SystemFailure, NotFound.
    """
    plugin = Plugin(network.ipam_driver)
    mac, options = config.mac_address, {}
    if _capabilities(plugin).get("RequiresMACAddress"):
        mac = mac or "02:42:" + secrets.token_bytes(4).hex(":")
        options = {MAC_ADDRESS: mac}
    found = {4: "", 6: ""}
    wishes = {4: (config.ipv4_address, liked[0]), 6: (config.ipv6_address, liked[1])}
    try:
        for version, (wanted, preferred) in wishes.items():
            pools = [pool for pool in network.pools if ip_network(pool.subnet).version == version]
            if pools:
                found[version] = _first(plugin, pools, wanted, preferred, options)
    except DockyardError:
        release_addresses(network, found.values())
        raise
    return msgspec.structs.replace(config, ipv4_address=found[4], ipv6_address=found[6], mac_address=mac)


def release_addresses(network: Network, addresses: Iterable[str]) -> None:
    """Give an endpoint's addresses back; empty texts are passed over, and what the plugin says is only logged."""
    plugin = Plugin(network.ipam_driver)
    for text in filter(None, addresses):
        for pool in network.pools:
            if address(text) in ip_network(pool.subnet):
                _release(plugin, pool, text)


def _first(plugin: Plugin, pools: list[Pool], wanted: str, liked: str, options: dict[str, str]) -> str:
    failure: DockyardError | None = None
    for text in [wanted] if wanted else dict.fromkeys((liked, "")):
        for pool in pools:
            if text and address(text) not in ip_network(pool.subnet):
                continue
            try:
                return _request(plugin, pool, text, options)
            except SystemFailure as error:
                failure = error
    if failure is None:
        raise InvalidParameter(f"no configured subnet contains the IP address {wanted}")
    raise failure


def _request(plugin: Plugin, pool: Pool, wanted: str, options: dict[str, str] | None = None) -> str:
    """An address of the pool. Raises SystemFailure."""
    said = plugin.call("IpamDriver.RequestAddress", PoolID=pool.pool_id, Address=wanted, Options=options or {})
    try:
        found = ip_interface(str(said.get("Address"))).ip
    except ValueError:
        raise SystemFailure(f'plugin "{plugin.name}" gives {said.get("Address")!r} as an address') from None
    if found not in ip_network(pool.subnet) or (wanted and found != address(wanted)):
        _release(plugin, pool, str(found))
        raise SystemFailure(f'plugin "{plugin.name}" gives {found}, and {wanted or pool.subnet} was asked for')
    return str(found)


def _release(plugin: Plugin, pool: Pool, text: str) -> None:
    _tell(plugin, "ReleaseAddress", PoolID=pool.pool_id, Address=text)


def _tell(plugin: Plugin, method: str, **body: Any) -> None:
    try:
        plugin.call(f"IpamDriver.{method}", **body)
    except DockyardError as error:
        log.warning("plugin %s: %s", plugin.name, error)


def _capabilities(plugin: Plugin) -> dict[str, Any]:
    """What the plugin wants; one that does not know the question wants nothing."""
    try:
        return plugin.call("IpamDriver.GetCapabilities")
    except SystemFailure:
        return {}


def _subnet(plugin: Plugin, said: dict[str, Any]) -> Subnet:
    try:
        return ip_network(str(said.get("Pool")))
    except ValueError:
        raise SystemFailure(f'plugin "{plugin.name}" gives {said.get("Pool")!r} as a subnet') from None


def _text(data: object, key: str) -> str:
    return str(data.get(key) or "") if isinstance(data, dict) else ""
