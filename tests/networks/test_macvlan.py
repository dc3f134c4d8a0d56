"""Networks on a link of the host's: containers are neighbours of what is at the link's other end."""

import subprocess

import pytest

from dockyard.engine.networks.service import EndpointConfig, Network, Pool
from dockyard.errors import InvalidParameter, SystemFailure
from dockyard.linux.netlink import RouteSocket, set_link
from dockyard.linux.virtual_links import new_vlan
from tests.networks.conftest import Host, Neighbour, ip, run_in


def cable_of(neighbour: Neighbour) -> str:
    """The host's end of the cable to the neighbour."""
    with RouteSocket() as route:
        index = next(index for index, where, _ in route.addresses() if str(where) == neighbour.ours)
        return next(link.name for link in route.links() if link.index == index)


async def create(host: Host, neighbour: Neighbour, **options: str) -> Network:
    prefix = neighbour.address.rpartition(".")[0]
    cable = cable_of(neighbour)
    with RouteSocket() as route:
        link = route.link(cable)
        assert link is not None
        route.do(set_link(link.index, up=True))
    return await host.service.create(
        Network(
            id="",
            name="lan",
            driver="macvlan",
            created="",
            options={"parent": cable, **options},
            pools=[Pool(f"{prefix}.0/24", gateway=neighbour.address, ip_range=f"{prefix}.64/28")],
        )
    )


async def test_containers_are_neighbours_of_the_hosts_neighbours(host: Host, neighbour: Neighbour) -> None:
    await create(host, neighbour)
    one = await host.join("one", mode="lan")
    two = await host.join("two", mode="lan", port_bindings={"80/tcp": [("", "")]})
    assert one.netns_path is not None
    assert two.netns_path is not None
    assert one.endpoints["lan"].ip.endswith(".64")
    run_in(one.netns_path, "busybox", "ping", "-c1", "-W2", neighbour.address)
    run_in(one.netns_path, "busybox", "ping", "-c1", "-W2", two.endpoints["lan"].ip)
    assert ip(one.netns_path, "-d", "link", "show", "eth0")[0]["linkinfo"]["info_data"]["mode"] == "bridge"
    assert ip(one.netns_path, "route", "show", "default")[0]["gateway"] == neighbour.address
    assert two.ports == {}  # a host port would lead past the network, which is reached directly
    again = one.endpoints["lan"].ip
    await host.service.leave(host.id_of("one"))
    three = await host.join("three", mode="lan", endpoints={"lan": EndpointConfig(ipv4_address=again)})
    assert three.netns_path is not None
    run_in(three.netns_path, "busybox", "ping", "-c1", "-W2", neighbour.address)


async def test_private_mode_keeps_containers_apart(host: Host, neighbour: Neighbour) -> None:
    await create(host, neighbour, macvlan_mode="private")
    one, two = [await host.join(name, mode="lan") for name in ("one", "two")]
    assert one.netns_path is not None
    run_in(one.netns_path, "busybox", "ping", "-c1", "-W2", neighbour.address)
    with pytest.raises(subprocess.CalledProcessError):
        run_in(one.netns_path, "busybox", "ping", "-c1", "-W1", two.endpoints["lan"].ip)


async def test_a_network_without_a_parent_leads_nowhere_and_is_connected_live(host: Host) -> None:
    network = await host.service.create(Network(id="", name="alone", driver="macvlan", created=""))
    assert network.internal
    one = await host.join("one", mode="alone")
    two = await host.join("two")
    await host.service.connect("alone", host.id_of("two"), EndpointConfig())
    assert one.netns_path is not None
    assert two.netns_path is not None
    run_in(one.netns_path, "busybox", "ping", "-c1", "-W2", two.endpoints["alone"].ip)
    assert ip(one.netns_path, "route", "show", "default") == []
    await host.service.disconnect("alone", host.id_of("two"))
    assert "alone" not in two.endpoints
    await host.kill()
    await host.open()
    for name, sandbox in (("one", one), ("two", two)):
        await host.service.restore(host.id_of(name), sandbox, host.request(name, mode="alone"))
    await host.service.sweep()
    for name in ("one", "two"):
        await host.service.leave(host.id_of(name))
    await host.service.remove("alone")
    with RouteSocket() as route:
        assert route.link(f"dm-{network.id[:12]}") is None


@pytest.mark.parametrize(
    ("driver", "options", "said"),
    [
        ("macvlan", {"macvlan_mode": "odd"}, "requested macvlan mode 'odd' is not valid"),
        ("macvlan", {"parent": "lo"}, "loopback interface is not a valid macvlan parent link"),
        ("macvlan", {"parent": "nolink"}, "invalid subinterface vlan name nolink, example formatting is eth0.10"),
        ("macvlan", {"parent": "nolink.10"}, "failed to find master interface nolink on the Docker host"),
        ("macvlan", {"parent": "lo.4095"}, "vlan id must be between 1-4094, received: 4095"),
        ("ipvlan", {"ipvlan_mode": "odd"}, "requested ipvlan mode 'odd' is not valid"),
        ("ipvlan", {"ipvlan_flag": "odd"}, "requested ipvlan flag 'odd' is not valid"),
    ],
)
async def test_what_cannot_be_is_refused_in_dockers_words(
    host: Host, driver: str, options: dict[str, str], said: str
) -> None:
    with pytest.raises(InvalidParameter, match=said):
        await host.service.create(Network(id="", name="odd", driver=driver, created="", options=options))
    assert host.service.list(lambda network: network.name == "odd") == []


async def test_a_link_that_the_kernel_has_not_is_told_of(host: Host, neighbour: Neighbour) -> None:
    cable = cable_of(neighbour)
    with RouteSocket() as route:
        parent = route.link(cable)
        assert parent is not None
        has_vlans = True
        try:
            route.do(new_vlan(f"{cable}.7", parent.index, 7))
        except OSError:
            has_vlans = False
    wanted = Network(id="", name="v", driver="macvlan", created="", options={"parent": f"{cable}.8"})
    if not has_vlans:
        with pytest.raises(SystemFailure, match=f"failed to create {cable}.8 vlan link: Operation not supported"):
            await host.service.create(wanted)
        return
    await host.service.create(wanted)
    with RouteSocket() as route:
        assert route.link(f"{cable}.8") is not None
        await host.service.remove("v")
        assert route.link(f"{cable}.8") is None
        assert route.link(f"{cable}.7") is not None  # not ours
