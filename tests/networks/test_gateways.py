"""What of a bridge network can be reached from outside, by gateway mode; the default bridge's own settings."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from dockyard.engine.networks.service import EndpointConfig
from dockyard.errors import InvalidParameter
from dockyard.linux import netlink
from dockyard.linux.nftables import Nftables, NftablesError
from dockyard.networks import sandboxes
from tests.networks.conftest import Host, Neighbour, in_thread, inside, ip
from tests.networks.test_bridge import ask, ask_in_vain, serving
from tests.networks.test_bridge import in_thread as off_loop

MODE4, MODE6 = (f"com.docker.network.bridge.gateway_mode_ipv{version}" for version in (4, 6))
pytestmark = pytest.mark.usefixtures("ipv6_forwarding")


@pytest.fixture
def neighbour6(neighbour: Neighbour) -> Iterator[Neighbour]:
    """The neighbour with IPv6 too, which is at fd00:d0c:1::2 and sends everything to this host."""

    def furnish() -> None:
        namespace = sandboxes.reopen(neighbour.path, "")
        with closing(namespace.route), sandboxes.entered(namespace.fd):
            sandboxes.write_sysctl("net/ipv6/conf/eth0/disable_ipv6", "0")
            far = namespace.route.link("eth0")
            assert far is not None
            namespace.route.do(
                netlink.new_address(far.index, ip_address("fd00:d0c:1::2"), 64),
                netlink.default_route(far.index, ip_address("fd00:d0c:1::1")),
            )
        namespace.close()

    with netlink.RouteSocket() as route:
        index = next(index for index, where, _ in route.addresses() if str(where) == neighbour.ours)
        route.do(
            netlink.set_link(index, up=True),
            netlink.new_address(index, ip_address("fd00:d0c:1::1"), 64),
        )
    in_thread(furnish)
    return neighbour


async def refused(*place: Any) -> None:
    with pytest.raises(OSError, match=r"timed out|refused|unreachable"):
        await off_loop(ask_in_vain, *place)


async def test_published_ipv6_ports_answer_from_everywhere(host: Host, neighbour6: Neighbour) -> None:
    await host.create("six", ipv6=True)
    port = 22700 + host.number
    one = await host.join("one", mode="six", port_bindings={"80/tcp": [("", str(port))]})
    with serving(one.netns_path, address="::"):
        # the real client's address is kept
        assert await off_loop(ask, "fd00:d0c:1::1", port, neighbour6.path) == "fd00:d0c:1::2"
        await refused(one.endpoints["six"].ipv6, 80, neighbour6.path)


async def test_a_routed_network_is_reached_at_its_published_ports_and_translates_nothing(
    host: Host, neighbour6: Neighbour
) -> None:
    await host.create("wan", ipv6=True, options={MODE4: "routed", MODE6: "routed"})
    one = await host.join("one", mode="wan", port_bindings={"80/tcp": [("", "8080")]})
    assert one.ports == {"80/tcp": [("0.0.0.0", ""), ("::", "")]}
    with (
        serving(one.netns_path, address="::"),
        serving(one.netns_path),
        serving(one.netns_path, 81),
        serving(neighbour6.path),
    ):
        for where in (one.endpoints["wan"].ip, one.endpoints["wan"].ipv6):
            assert await off_loop(ask, where, 80, neighbour6.path)
        await refused(one.endpoints["wan"].ip, 81, neighbour6.path)
        assert await off_loop(ask, neighbour6.address, 80, one.netns_path) == one.endpoints["wan"].ip
    await host.service.leave(host.id_of("one"))
    with pytest.raises(NftablesError):
        Nftables().run(f"get element ip {host.service._instance} targets {{ {one.endpoints['wan'].ip} . tcp . 80 }}")


async def test_modes_are_chosen_for_each_ip_version(host: Host, neighbour6: Neighbour) -> None:
    await host.create("wan", ipv6=True, options={MODE6: "routed"})
    port = 22800 + host.number
    one = await host.join("one", mode="wan", port_bindings={"80/tcp": [("", str(port))]})
    assert one.ports == {"80/tcp": [("0.0.0.0", str(port)), ("::", "")]}
    with serving(one.netns_path, address="::"), serving(one.netns_path):
        assert await off_loop(ask, neighbour6.ours, port, neighbour6.path)
        assert await off_loop(ask, one.endpoints["wan"].ipv6, 80, neighbour6.path)
        await refused(one.endpoints["wan"].ip, 80, neighbour6.path)


async def test_unprotected_and_trusted_and_direct_open_as_much_as_they_say(
    make_host: Callable[..., Any], neighbour6: Neighbour
) -> None:
    host = await make_host()
    with netlink.RouteSocket() as route:
        index = next(index for index, where, _ in route.addresses() if str(where) == neighbour6.ours)
        cable = next(link.name for link in route.links() if link.index == index)
    await host.create("open", options={MODE4: "nat-unprotected"})
    await host.create("trusting", options={"com.docker.network.bridge.trusted_host_interfaces": f"lo:{cable}"})
    one = await host.join("one", mode="open")
    two = await host.join("two", mode="trusting", port_bindings={"80/tcp": [("127.0.0.1", "")]})
    with serving(one.netns_path, 81), serving(two.netns_path, 80), serving(two.netns_path, 81):
        assert await off_loop(ask, one.endpoints["open"].ip, 81, neighbour6.path)
        assert await off_loop(ask, two.endpoints["trusting"].ip, 80, neighbour6.path)
        await refused(two.endpoints["trusting"].ip, 81, neighbour6.path)
    direct = await make_host(allow_direct_routing=True)
    three = await direct.join("three", port_bindings={"80/tcp": [("", "")]})
    with serving(three.netns_path, 80):
        assert await off_loop(ask, three.endpoints["bridge"].ip, 80, neighbour6.path)


async def test_an_isolated_network_does_not_even_reach_the_host(host: Host) -> None:
    with pytest.raises(InvalidParameter, match="gateway mode 'isolated' can only be used for an internal network"):
        await host.create("dark", options={MODE4: "isolated"})
    with pytest.raises(InvalidParameter, match="unknown gateway mode odd"):
        await host.create("dark", options={MODE4: "odd"})
    network = await host.create("dark", ipv6=True, internal=True, options={MODE4: "isolated", MODE6: "isolated"})
    assert [pool.gateway for pool in network.pools] == ["", ""]
    with netlink.RouteSocket() as route:
        link = route.link(network.bridge)
        assert link is not None
        assert [where for _, where, _ in route.addresses(link.index) if not where.is_link_local] == []


async def test_the_default_bridge_has_ipv6_where_the_daemon_says_so(make_host: Callable[..., Any]) -> None:
    host = await make_host(
        ipv6=True, fixed_cidr_v6="fd00:77:1::/64", default_gateway="", host_gateway_ips=["192.0.2.1", "fd00::9"]
    )
    one = await host.join("one", extra_hosts=["host:host-gateway"])
    endpoint = one.endpoints["bridge"]
    assert (endpoint.ipv6, endpoint.ipv6_gateway) == ("fd00:77:1::2", "fd00:77:1::1")
    assert "192.0.2.1\thost\nfd00::9\thost\n" in host.file("one", "hosts")
    other = await make_host(ipv6=True, bip6="fd00:78::5/64", default_gateway_v6="fd00:78::99")
    two = await other.join("two")
    assert two.endpoints["bridge"].ipv6_gateway == "fd00:78::99"
    assert ip(two.netns_path, "-6", "route", "show", "default")[0]["gateway"] == "fd00:78::99"
    for wrong in (
        {"bip6": "nonsense"},
        {"fixed_cidr_v6": "10.0.0.0/8"},
        {"bip6": "fd00::1/64", "fixed_cidr_v6": "fd01::/64"},
    ):
        with pytest.raises(InvalidParameter):
            await make_host(ipv6=True, **wrong)


async def test_a_drivers_default_options_are_had_by_networks_that_name_no_others(make_host: Callable[..., Any]) -> None:
    mtu = "com.docker.network.driver.mtu"
    host = await make_host(default_network_opts={"bridge": {mtu: "1300"}})
    assert (await host.create("small")).options == {mtu: "1300"}
    assert (await host.create("large", options={mtu: "1400"})).options == {mtu: "1400"}


async def test_an_endpoint_has_settings_of_its_own(host: Host) -> None:
    await host.create("lan", ipv6=True)
    option = "com.docker.network.endpoint.sysctls"
    wish = EndpointConfig(driver_opts={option: "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.forwarding=1"})
    one = await host.join("one", mode="lan", endpoints={"lan": wish})
    assert one.netns_path is not None
    for name in ("ipv4/conf/eth0/log_martians", "ipv6/conf/eth0/forwarding"):
        assert inside(one.netns_path, Path("/proc/sys/net", name).read_text) == "1\n"
    dark = EndpointConfig(driver_opts={option: "net.ipv6.conf.IFNAME.disable_ipv6=1"})
    two = await host.join("two", mode="lan", endpoints={"lan": dark})
    three = await host.join("three", mode="lan", sysctls={"net.ipv6.conf.all.disable_ipv6": "1"})
    assert (two.endpoints["lan"].ipv6, three.endpoints["lan"].ipv6) == ("", "")
    for wrong in ("net.ipv4.conf.eth0.forwarding=1", "net.ipv4.conf.IFNAME.forwarding"):
        with pytest.raises(InvalidParameter, match=r"IFNAME\.Z=V|to have format name=value"):
            await host.join("no", mode="lan", endpoints={"lan": EndpointConfig(driver_opts={option: wrong})})


async def test_neighbours_are_told_of_new_addresses_as_often_as_the_network_says(host: Host) -> None:
    options = {"com.docker.network.advertise_addr_nmsgs": "3", "com.docker.network.advertise_addr_ms": "100"}
    network = await host.create("loud", ipv6=True, options=options)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as tap:
        tap.bind((network.bridge, 3))
        one = await host.join("one", mode="loud")
        await off_loop(time.sleep, 0.5)
        tap.setblocking(False)
        seen = []
        while True:
            try:
                seen.append(tap.recv(2048))
            except BlockingIOError:
                break
    endpoint = one.endpoints["loud"]
    mac, ours = bytes.fromhex(endpoint.mac.replace(":", "")), ip_address(endpoint.ip).packed
    arps = [frame for frame in seen if frame[12:14] == b"\x08\x06" and frame[28:32] == ours == frame[38:42]]
    advertisements = [frame for frame in seen if frame[12:14] == b"\x86\xdd" and frame[54] == 136]
    assert len(arps) >= 3
    assert len([frame for frame in advertisements if frame[62:78] == ip_address(endpoint.ipv6).packed]) >= 3
    assert all(frame[6:12] == mac for frame in arps)
    for name, value, said in (
        ("advertise_addr_nmsgs", "4", "must be in the range 0 to 3"),
        ("advertise_addr_ms", "99", "must be in the range 100 to 2000"),
        ("advertise_addr_ms", "x", "must be integer milliseconds"),
    ):
        with pytest.raises(InvalidParameter, match=said):
            await host.create("no", options={f"com.docker.network.{name}": value})


async def test_the_way_out_is_by_both_ip_versions_where_priorities_do_not_say_otherwise(host: Host) -> None:
    await host.create("zone", ipv6=True)
    wish = EndpointConfig(gw_priority=1)
    one = await host.join("one", endpoints={"bridge": EndpointConfig(), "zone": EndpointConfig()}, mode="bridge")
    two = await host.join("two", endpoints={"bridge": wish, "zone": EndpointConfig()}, mode="bridge")
    for sandbox, network in ((one, "zone"), (two, "bridge")):
        assert sandbox.netns_path is not None
        gateway = sandbox.endpoints[network].gateway
        assert ip(sandbox.netns_path, "route", "show", "default")[0]["gateway"] == gateway
