"""What a container on a bridge network sees, and what it may reach."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dockyard.engine.networks import default_bridge
from dockyard.engine.networks.service import EndpointConfig, Network, Pool
from dockyard.errors import Conflict, Forbidden, InvalidParameter, NotFound, SystemFailure
from dockyard.linux.nftables import Nftables
from dockyard.networks import iptables, sandboxes
from tests.networks.conftest import Host, Neighbour, inside, ip, run_in


@contextmanager
def serving(path: str | None, port: int = 80, address: str = "0.0.0.0") -> Iterator[None]:
    """A server, in the namespace at `path`, that tells each client the address it came from."""

    def listen() -> socket.socket:
        return socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)

    server = listen() if path is None else inside(path, listen)

    def serve() -> None:
        while True:
            try:
                client, where = server.accept()
            except OSError:
                return
            client.sendall(where[0].encode())
            client.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def ask(address: str, port: int, path: str | None = None, patience: float = 10) -> str:
    """What the server at address:port says our address is, asked from the namespace at `path`."""

    def connect() -> str:
        with socket.create_connection((address, port), timeout=patience) as client:
            return client.recv(100).decode()

    return connect() if path is None else inside(path, connect)


def ask_in_vain(address: str, port: int, path: str | None = None) -> str:
    """The same, of one who is not expected to answer, or not yet."""
    return ask(address, port, path, patience=0.3)


def run(*command: str) -> str:
    """The output of a command that must succeed."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


async def in_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(work, *arguments)


async def test_a_container_gets_address_mac_and_default_route(host: Host) -> None:
    sandbox = await host.join("one")
    endpoint = sandbox.endpoints["bridge"]
    assert (endpoint.ip, endpoint.prefix_len, endpoint.gateway) == (f"{host.subnet}.2", 24, f"{host.subnet}.1")
    assert endpoint.mac == f"02:42:0a:fa:{host.number:02x}:02"
    assert sandbox.netns_path is not None
    link = ip(sandbox.netns_path, "addr", "show", "eth0")[0]
    assert link["address"] == endpoint.mac
    assert "UP" in link["flags"]
    assert link["addr_info"][0]["local"] == endpoint.ip
    assert "UP" in ip(sandbox.netns_path, "link", "show", "lo")[0]["flags"]
    routes = {route["dst"]: route for route in ip(sandbox.netns_path, "route")}
    assert routes["default"]["gateway"] == endpoint.gateway


async def test_containers_of_a_bridge_reach_each_other_and_the_gateway(host: Host) -> None:
    one, two = await host.join("one"), await host.join("two")
    with serving(one.netns_path):
        assert await in_thread(ask, one.endpoints["bridge"].ip, 80, two.netns_path) == two.endpoints["bridge"].ip
        assert await in_thread(ask, one.endpoints["bridge"].ip, 80) == f"{host.subnet}.1"


async def test_addresses_are_given_lowest_first_and_again_after_leaving(host: Host) -> None:
    await host.join("one")
    await host.join("two")
    await host.service.leave(host.id_of("one"))
    again = await host.join("three")
    assert again.endpoints["bridge"].ip == f"{host.subnet}.2"
    with serving(again.netns_path):
        # at once, although the kernel has not yet taken apart the first owner's namespace
        assert await in_thread(ask, again.endpoints["bridge"].ip, 80)


async def test_icc_off_keeps_containers_apart(make_host: Any) -> None:
    host = await make_host(icc=False)
    one, two = await host.join("one"), await host.join("two")
    with serving(one.netns_path), pytest.raises(OSError):
        await in_thread(ask_in_vain, one.endpoints["bridge"].ip, 80, two.netns_path)


async def test_a_link_opens_the_exposed_ports_where_icc_is_off_and_nothing_else(make_host: Any) -> None:
    host = await make_host(icc=False)
    exposed = {"80/tcp", "53/udp"}
    child = await host.join("child", exposed_ports=exposed)
    link = [f"{host.id_of('child')}:db"]
    parent = await host.join("parent", links=link)
    third = await host.join("third")

    async def reached(address: str, port: int, path: str | None) -> bool:
        try:
            return bool(await in_thread(ask_in_vain, address, port, path))
        except OSError:
            return False

    async def check() -> None:
        address = child.endpoints["bridge"].ip
        with serving(child.netns_path), serving(child.netns_path, 81), serving(parent.netns_path):
            assert await in_thread(ask, address, 80, parent.netns_path)
            assert not await reached(address, 81, parent.netns_path)
            assert not await reached(address, 80, third.netns_path)
            assert not await reached(parent.endpoints["bridge"].ip, 80, child.netns_path)
            assert not await reached(parent.endpoints["bridge"].ip, 80, third.netns_path)

    await check()
    # it comes back under another address
    await host.service.leave(host.id_of("child"))
    thief = await host.join("thief", exposed_ports=exposed)
    with serving(thief.netns_path):
        assert not await reached(thief.endpoints["bridge"].ip, 80, parent.netns_path)
    child = await host.join("child", exposed_ports=exposed)
    assert child.endpoints["bridge"].ip != thief.endpoints["bridge"].ip
    await check()
    # with a new daemon
    await host.kill()
    await host.open()
    for name, sandbox, request in (("child", child, {"exposed_ports": exposed}), ("parent", parent, {"links": link})):
        await host.service.restore(host.id_of(name), sandbox, host.request(name, **request))
    for name, sandbox in (("third", third), ("thief", thief)):
        await host.service.restore(host.id_of(name), sandbox, host.request(name))
    await host.service.sweep()
    await check()
    await host.service.leave(host.id_of("parent"))
    assert Path(f"/proc/sys/net/ipv4/conf/{host.bridge}/proxy_arp_pvlan").read_text() == "0\n"
    heir = await host.join("heir")
    assert heir.endpoints["bridge"].ip == parent.endpoints["bridge"].ip
    with serving(child.netns_path):
        assert not await reached(child.endpoints["bridge"].ip, 80, heir.netns_path)


async def test_networks_are_isolated_from_each_other(host: Host) -> None:
    await host.create("lan")
    one, two = await host.join("one"), await host.join("two", mode="lan")
    with serving(one.netns_path), pytest.raises(OSError):
        await in_thread(ask_in_vain, one.endpoints["bridge"].ip, 80, two.netns_path)


async def test_what_leaves_the_host_is_masqueraded(host: Host, neighbour: Neighbour) -> None:
    one = await host.join("one")
    with serving(neighbour.path):
        assert await in_thread(ask, neighbour.address, 80, one.netns_path) == neighbour.ours


async def test_an_internal_network_does_not_reach_the_world(host: Host, neighbour: Neighbour) -> None:
    await host.create("inner", internal=True)
    one, two = await host.join("one", mode="inner"), await host.join("two", mode="inner")
    with serving(neighbour.path), pytest.raises(OSError):
        await in_thread(ask_in_vain, neighbour.address, 80, one.netns_path)
    with serving(one.netns_path):
        assert await in_thread(ask, one.endpoints["inner"].ip, 80, two.netns_path)


async def test_a_container_cannot_reach_the_hosts_loopback(host: Host) -> None:
    one = await host.join("one")
    assert one.netns_path is not None
    # it may send what it likes; this makes its kernel let 127.0.0.2 out by eth0
    inside(one.netns_path, lambda: sandboxes.write_sysctl("net/ipv4/conf/eth0/route_localnet", "1"))
    run_in(one.netns_path, "ip", "route", "del", "local", "127.0.0.0/8", "table", "local")
    run_in(one.netns_path, "ip", "route", "add", "127.0.0.2", "via", f"{host.subnet}.1", "dev", "eth0")
    with serving(None, 18999, "127.0.0.2"), pytest.raises(OSError):
        await in_thread(ask_in_vain, "127.0.0.2", 18999, one.netns_path)


async def test_a_published_port_answers_from_everywhere(host: Host, neighbour: Neighbour) -> None:
    port = 20000 + host.number
    one = await host.join("one", port_bindings={"80/tcp": [("", str(port))]})
    two = await host.join("two")
    await host.create("lan")
    three = await host.join("three", mode="lan")
    assert ("0.0.0.0", str(port)) in one.ports["80/tcp"]
    with serving(one.netns_path):
        assert await in_thread(ask, "127.0.0.1", port) == f"{host.subnet}.1"
        assert await in_thread(ask, neighbour.ours, port)
        assert await in_thread(ask, neighbour.ours, port, neighbour.path) == neighbour.address
        for path in (one.netns_path, two.netns_path, three.netns_path):
            assert await in_thread(ask, neighbour.ours, port, path)
        assert await in_thread(ask, "::1", port)


async def test_an_unpublished_port_cannot_be_reached_from_outside(host: Host, neighbour: Neighbour) -> None:
    one = await host.join("one")
    with serving(one.netns_path), pytest.raises(OSError):
        await in_thread(ask_in_vain, one.endpoints["bridge"].ip, 80, neighbour.path)


async def test_a_port_published_on_loopback_stays_there(host: Host, neighbour: Neighbour) -> None:
    port = 20200 + host.number
    one = await host.join("one", port_bindings={"80/tcp": [("127.0.0.1", str(port))]})
    with serving(one.netns_path):
        assert await in_thread(ask, "127.0.0.1", port)
        with pytest.raises(OSError):
            await in_thread(ask_in_vain, neighbour.ours, port, neighbour.path)


async def test_ports_are_gone_after_leaving(host: Host) -> None:
    port = 20400 + host.number
    await host.join("one", port_bindings={"80/tcp": [("", str(port))]})
    await host.service.leave(host.id_of("one"))
    with pytest.raises(ConnectionRefusedError):
        await in_thread(ask, "127.0.0.1", port)


async def test_a_taken_port_is_refused_in_dockers_words(host: Host) -> None:
    port = 20600 + host.number
    await host.join("one", port_bindings={"80/tcp": [("", str(port))]})
    with pytest.raises(SystemFailure) as caught:
        await host.join("two", port_bindings={"80/tcp": [("", str(port))]})
    assert "driver failed programming external connectivity on endpoint two (" in str(caught.value)
    assert f"Bind for 0.0.0.0:{port} failed: port is already allocated" in str(caught.value)
    # and nothing is left of the attempt
    assert len(host.service.members(host.service.get("bridge"))) == 1
    assert (await host.join("three")).endpoints["bridge"].ip == f"{host.subnet}.3"


async def test_a_port_of_a_host_program_is_refused(host: Host) -> None:
    port = 20800 + host.number
    with socket.create_server(("0.0.0.0", port)), pytest.raises(SystemFailure, match="address already in use"):
        await host.join("one", port_bindings={"80/tcp": [("", str(port))]})


async def test_a_held_port_is_refused_to_host_programs(host: Host) -> None:
    port = 21000 + host.number
    await host.join("one", port_bindings={"80/tcp": [("", str(port))]})
    with pytest.raises(OSError), socket.create_server(("0.0.0.0", port)):
        pass


async def test_host_ports_are_chosen_when_left_open(host: Host) -> None:
    one = await host.join("one", publish_all=True, exposed_ports={"80/tcp", "53/udp"})
    two = await host.join("two", port_bindings={"80/tcp": [("127.0.0.1", "")]})
    chosen = {one.ports["80/tcp"][0][1], two.ports["80/tcp"][0][1]}
    assert len(chosen) == 2
    assert all(int(port) >= 32768 for port in chosen)
    assert one.ports["53/udp"]


async def test_the_first_free_port_of_a_range_is_taken(host: Host) -> None:
    port = 21200 + host.number
    with socket.create_server(("0.0.0.0", port)):
        one = await host.join("one", port_bindings={"80/tcp": [("", f"{port}-{port + 2}")]})
    assert one.ports["80/tcp"][0] == ("0.0.0.0", str(port + 1))


async def test_udp_is_published_too(host: Host) -> None:
    port = 21400 + host.number
    one = await host.join("one", port_bindings={"5353/udp": [("127.0.0.1", str(port))]})
    assert one.netns_path is not None

    def bind() -> socket.socket:
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        bound.bind(("0.0.0.0", 5353))
        bound.settimeout(2)
        return bound

    with inside(one.netns_path, bind) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.sendto(b"ping", ("127.0.0.1", port))
        data, where = server.recvfrom(100)
        server.sendto(data + b"-pong", where)
        assert client.recvfrom(100) == (b"ping-pong", ("127.0.0.1", port))


async def test_datagrams_follow_their_port_to_the_next_container(host: Host) -> None:
    port = 22400 + host.number
    bindings = {"5353/udp": [("127.0.0.1", str(port))]}

    def bind() -> socket.socket:
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        bound.bind(("0.0.0.0", 5353))
        bound.settimeout(2)
        return bound

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", port))
        first = await host.join("first", port_bindings=bindings)
        assert first.netns_path is not None
        with inside(first.netns_path, bind) as server:
            client.send(b"one")
            assert server.recvfrom(100)[0] == b"one"
        await host.join("other")
        await host.service.leave(host.id_of("first"))
        await host.join("third")  # has the first one's address
        second = await host.join("second", port_bindings=bindings)
        assert second.netns_path is not None
        with inside(second.netns_path, bind) as server:
            client.send(b"two")
            assert server.recvfrom(100)[0] == b"two"


async def test_datagrams_to_the_same_port_of_others_are_not_disturbed(host: Host, neighbour: Neighbour) -> None:
    port = 23000 + host.number
    asker = await host.join("asker")
    assert asker.netns_path is not None

    def ask_others() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"question", (neighbour.address, port))

    inside(asker.netns_path, ask_others)

    def tracked() -> list[str]:
        lines = Path("/proc/self/net/nf_conntrack").read_text().splitlines()
        return [line for line in lines if f"dst={neighbour.address}" in line and f"dport={port}" in line]

    deadline = time.monotonic() + 5
    while not tracked():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    await host.join("one", port_bindings={"53/udp": [("", str(port))]})
    await host.service.leave(host.id_of("one"))
    assert tracked()


@pytest.mark.usefixtures("ipv6_forwarding")
async def test_a_network_may_have_ipv6(host: Host) -> None:
    network = await host.create("six", ipv6=True)
    assert [pool.subnet[:2] for pool in network.pools][1] == "fd"
    port = 22600 + host.number
    one = await host.join("one", mode="six", port_bindings={"80/tcp": [("", str(port))]})
    two = await host.join("two", mode="six")
    endpoint = one.endpoints["six"]
    assert endpoint.ipv6.startswith("fd")
    with serving(one.netns_path, address="::"):
        assert await in_thread(ask, endpoint.ipv6, 80, two.netns_path) == two.endpoints["six"].ipv6
        assert await in_thread(ask, endpoint.ipv6, 80) == endpoint.ipv6_gateway
        assert await in_thread(ask, endpoint.ipv6_gateway, port)
        assert await in_thread(ask, "::1", port)


async def test_without_the_packet_filter_the_proxy_serves_published_ports(make_host: Any) -> None:
    host = await make_host(iptables=False)
    port = 21600 + host.number
    one = await host.join("one", port_bindings={"80/tcp": [("", str(port))]})
    with serving(one.netns_path):
        assert await in_thread(ask, "127.0.0.1", port) == f"{host.subnet}.1"


async def test_a_flushed_packet_filter_is_written_again(host: Host) -> None:
    port = 22800 + host.number
    one = await host.join("one", port_bindings={"80/tcp": [("", str(port))]})
    Nftables().run(f"delete table ip dockyard-{host.bridge}")
    with serving(one.netns_path):
        deadline = time.monotonic() + 10
        while True:
            try:
                # not by 127.0.0.1, where our own socket would take the connection
                assert await in_thread(ask_in_vain, f"{host.subnet}.1", port) == f"{host.subnet}.1"
                break
            except (OSError, AssertionError):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)


async def test_a_host_that_begins_to_drop_forwarded_packets_is_asked_to_spare_our_bridges(host: Host) -> None:
    if shutil.which("iptables") is None:
        pytest.skip("no iptables")
    chain = f"DOCKYARD-{host.bridge}"
    accepted = f"-A {chain} -i {host.bridge} -j ACCEPT"

    async def right() -> bool:
        forward = (await iptables._run("iptables", "-S", "FORWARD") or "").splitlines()
        jumps = [line for line in forward if line in ("-A FORWARD -j DOCKER-USER", f"-A FORWARD -j {chain}")]
        own = await iptables._run("iptables", "-S", chain) or ""
        return len(jumps) == 2 and jumps[0].endswith("USER") and accepted in own.splitlines()

    assert await right()
    for harm in (("-D", "FORWARD", "-j", chain), ("-F", chain), ("-D", "FORWARD", "-j", "DOCKER-USER")):
        await iptables._run("iptables", "-w", "5", *harm)
        assert not await right()
        deadline = time.monotonic() + 10
        while not await right():
            assert time.monotonic() < deadline, harm
            await asyncio.sleep(0.1)


async def test_two_daemons_share_a_host(make_host: Any) -> None:
    first, second = await make_host(), await make_host()
    port = 21800 + first.number
    one = await first.join("one", port_bindings={"80/tcp": [("", str(port))]})
    await second.join("one")
    with pytest.raises(SystemFailure, match="address already in use"):
        await second.join("two", port_bindings={"80/tcp": [("", str(port))]})
    await second.service.leave(second.id_of("one"))
    with serving(one.netns_path):
        assert await in_thread(ask, "127.0.0.1", port)


async def test_fixed_addresses_and_interfaces_by_order(host: Host) -> None:
    base = f"10.252.{host.number}"
    await host.create("lan", pools=[Pool(subnet=f"{base}.0/24")])
    wish = EndpointConfig(
        ipv4_address=f"{base}.77", mac_address="02:42:ac:11:22:33", aliases=["db"], link_local_ips=["169.254.8.8"]
    )
    one = await host.join("one", mode="lan", endpoints={"lan": wish, "bridge": EndpointConfig()})
    assert one.endpoints["lan"].ip == f"{base}.77"
    assert one.endpoints["lan"].mac == "02:42:ac:11:22:33"
    assert one.netns_path is not None
    shown = [entry["local"] for entry in ip(one.netns_path, "addr", "show", "eth0")[0]["addr_info"]]
    assert shown == [f"{base}.77", "169.254.8.8"]
    assert (one.endpoints["lan"].interface, one.endpoints["bridge"].interface) == ("eth0", "eth1")
    with pytest.raises(Conflict, match="Address already in use"):
        await host.join("two", mode="lan", endpoints={"lan": wish})
    await host.service.leave(host.id_of("one"))
    assert (await host.join("two", mode="lan", endpoints={"lan": wish})).endpoints["lan"].ip == f"{base}.77"
    with pytest.raises(InvalidParameter):
        await host.join("three", endpoints={"bridge": EndpointConfig(ipv4_address=f"{host.subnet}.9")})


async def test_other_modes(host: Host) -> None:
    none = await host.join("none", mode="none")
    assert none.netns_path is not None
    assert [link["ifname"] for link in ip(none.netns_path, "link", "show", "up")] == ["lo"]
    assert ip(none.netns_path, "route") == []
    assert (await host.join("host", mode="host")).netns_path is None
    shared = await host.join("shared", mode="container:none", joined_netns=none.netns_path)
    assert shared.netns_path == none.netns_path
    with pytest.raises(NotFound, match="network nowhere not found"):
        await host.join("lost", mode="nowhere")


async def test_networks_are_connected_and_disconnected_live(host: Host) -> None:
    await host.create("lan")
    port = 22000 + host.number
    one = await host.join("one", port_bindings={"80/tcp": [("", str(port))]})
    two = await host.join("two", mode="lan")
    state = await host.service.connect("lan", host.id_of("one"), EndpointConfig(aliases=["first"]))
    assert state.interface == "eth1"
    with serving(one.netns_path):
        assert await in_thread(ask, state.ip, 80, two.netns_path)
        with pytest.raises(Forbidden, match="already exists in network lan"):
            await host.service.connect("lan", host.id_of("one"), EndpointConfig())
        await host.service.disconnect("bridge", host.id_of("one"))
        assert one.netns_path is not None
        assert "eth0" not in [link["ifname"] for link in ip(one.netns_path, "link")]
        # the way out, and the published port, have moved to the network that is left
        assert await in_thread(ask, "127.0.0.1", port)
    assert [route["gateway"] for route in ip(one.netns_path, "route") if route["dst"] == "default"] == [state.gateway]
    with pytest.raises(Forbidden, match="is not connected to"):
        await host.service.disconnect("bridge", host.id_of("one"))


async def test_networks_made_at_the_same_time_get_different_subnets(host: Host) -> None:
    made = await asyncio.gather(*(host.create(f"net{number}") for number in range(4)))
    assert len({network.pools[0].subnet for network in made}) == 4


async def test_containers_may_join_and_leave_at_the_same_time(host: Host) -> None:
    await host.create("lan")

    async def live(number: int) -> str:
        sandbox = await host.join(f"c{number}", mode="lan", port_bindings={"80/tcp": [("127.0.0.1", "")]})
        await host.service.leave(host.id_of(f"c{number}"))
        return sandbox.endpoints["lan"].ip

    assert all(await asyncio.gather(*(live(number) for number in range(20))))
    await host.service.remove("lan")


async def test_a_network_in_use_is_not_removed(host: Host) -> None:
    await host.create("lan")
    await host.join("one", mode="lan")
    with pytest.raises(Forbidden, match="has active endpoints"):
        await host.service.remove("lan")
    assert await host.service.prune() == []
    await host.service.leave(host.id_of("one"))
    assert await host.service.prune() == ["lan"]
    with pytest.raises(Forbidden, match="bridge is a pre-defined network and cannot be removed"):
        await host.service.remove("bridge")


async def test_what_another_engines_bridge_has_is_kept_clear_of(host: Host) -> None:
    theirs, number = f"dyo{host.number}", host.number
    await host.create("early", pools=[Pool(subnet=f"10.249.{number}.0/24")])
    bridge = host.service.get("early").bridge
    await host.kill()
    run("ip", "link", "delete", bridge)  # as a reboot does
    run("ip", "link", "add", theirs, "type", "bridge")
    try:
        run("ip", "address", "add", f"10.249.{number}.1/24", "dev", theirs)
        run("ip", "address", "add", f"10.248.{number}.1/24", "dev", theirs)
        await host.open()
        await host.service.sweep()
        with pytest.raises(
            Conflict, match=f"network early could not be made: .*10.249.{number}.0/24 of bridge {theirs}"
        ):
            await host.join("one", mode="early")
        with pytest.raises(Forbidden, match=f"Pool overlaps with .* of bridge {theirs}"):
            await host.create("late", pools=[Pool(subnet=f"10.248.{number}.128/25")])
        run("ip", "address", "flush", "dev", theirs)
        assert (await host.join("one", mode="early")).endpoints["early"].ip == f"10.249.{number}.2"
        # a bridge that somebody names is used as it is, and not taken away
        run("ip", "address", "add", "192.0.2.77/32", "dev", theirs)
        await host.create("shared", options={"com.docker.network.bridge.name": theirs})
        await host.service.remove("shared")
        assert "192.0.2.77" in run("ip", "address", "show", "dev", theirs)
    finally:
        run("ip", "link", "delete", theirs)


@pytest.mark.parametrize("ours", [True, False])
async def test_an_unmarked_default_bridge_is_ours_if_our_rules_are_there(
    make_host: Any, monkeypatch: pytest.MonkeyPatch, number: int, ours: bool
) -> None:
    best, other = f"dyd{number}best", f"dyd{number}other"
    monkeypatch.setattr(default_bridge, "NAMES", (best, other))
    run("ip", "link", "add", best, "type", "bridge")
    run("ip", "address", "add", f"10.245.{number}.1/24", "dev", best)
    if ours:  # as a daemon leaves it that did not mark its links yet
        Nftables().run(f"add table ip dockyard-{best}")
    try:
        host: Host = await make_host(bridge="", bip="")
        one = await host.join("one")
        assert host.service.get("bridge").bridge == (best if ours else other)
        assert (one.endpoints["bridge"].gateway == f"10.245.{number}.1") is ours
        alias = Path(f"/sys/class/net/{best}/ifalias").read_text()
        assert alias.startswith("dockyard ") is ours
    finally:
        if not ours:
            run("ip", "link", "delete", best)


SWEEP = """
import sys
from pathlib import Path
from dockyard.networks.sweep import sweep
from dockyard.networks.drivers.marks import mark_of
sweep(set(), mark_of(Path(sys.argv[1])), set())
"""


async def test_a_daemon_in_a_container_with_the_hosts_network_is_another_one(host: Host) -> None:
    one = await host.join("one")
    exec_root = f"{host.root}/exec"
    alias = Path(f"/sys/class/net/{host.bridge}/ifalias").read_text().strip()
    assert alias.startswith("dockyard ")
    assert alias.endswith(f" {exec_root}")
    sweep = (sys.executable, "-c", SWEEP, exec_root)
    # to it another directory has the same path
    run("unshare", "-m", "sh", "-c", f'mount -t tmpfs none {host.root} && exec "$@"', "sh", *sweep)
    assert run("ip", "link", "show", one.endpoints["bridge"].host_interface)
    run(*sweep)
    assert one.endpoints["bridge"].host_interface not in run("ip", "link")


async def test_bridges_of_networks_that_are_forgotten_go_once_nothing_is_attached(host: Host) -> None:
    used, unused = await host.create("used"), await host.create("unused")
    machine = f"dyv{host.number}"
    run("ip", "link", "add", machine, "type", "veth", "peer", "name", f"{machine}peer")
    try:
        run("ip", "link", "set", machine, "master", used.bridge)
        for network in (used, unused):
            host.service._store.delete(network.id)
        await host.kill()
        await host.open()
        await host.service.sweep()
        shown = run("ip", "link")
        assert used.bridge in shown
        assert unused.bridge not in shown
    finally:
        run("ip", "link", "delete", machine)
    await host.service.sweep()
    assert used.bridge not in run("ip", "link")


async def test_another_daemons_bridge_is_not_taken(make_host: Any) -> None:
    first, second = await make_host(), await make_host()
    with pytest.raises(Conflict, match=f"bridge {first.bridge} belongs to another engine"):
        await second.create("lan", options={"com.docker.network.bridge.name": first.bridge})
    assert run("ip", "link", "show", first.bridge)


async def test_networks_that_cannot_be_are_refused(host: Host) -> None:
    await host.create("lan")
    with pytest.raises(Conflict, match="network with name lan already exists"):
        await host.create("lan")
    with pytest.raises(Forbidden, match="Pool overlaps"):
        await host.create("again", pools=[host.service.get("lan").pools[0]])
    with pytest.raises(InvalidParameter, match="bridge name"):
        await host.create("odd", options={"com.docker.network.bridge.name": 'x"; flush ruleset'})
    with pytest.raises(NotFound):
        await host.service.create(Network(id="", name="mac", driver="nosuch", created=""))


async def test_a_new_daemon_takes_up_what_a_killed_one_left(host: Host) -> None:
    port = 22200 + host.number
    await host.create("lan")
    bindings = {"80/tcp": [("", str(port))]}
    one = await host.join("one", mode="lan", port_bindings=bindings)
    stale = await host.join("stale")
    await host.kill()
    with serving(one.netns_path):
        assert await in_thread(ask, "127.0.0.1", port)  # while no daemon runs
        await host.open()
        await host.service.restore(host.id_of("one"), one, host.request("one", mode="lan", port_bindings=bindings))
        await host.service.sweep()
        assert await in_thread(ask, "127.0.0.1", port)
        two = await host.join("two", mode="lan")
        assert two.endpoints["lan"].ip != one.endpoints["lan"].ip
        assert await in_thread(ask, one.endpoints["lan"].ip, 80, two.netns_path)
    assert stale.netns_path is not None
    assert not os.path.exists(stale.netns_path)
    assert not os.path.exists(f"/sys/class/net/{stale.endpoints['bridge'].host_interface}")
    with pytest.raises(SystemFailure, match="already allocated"):
        await host.join("three", port_bindings=bindings)


async def test_containers_files_say_who_and_where_they_are(host: Host) -> None:
    one = await host.join("one", extra_hosts=["db:10.0.0.5", "gate:host-gateway"])
    hosts = host.file("one", "hosts").splitlines()
    assert hosts[0] == "127.0.0.1\tlocalhost"
    assert f"{one.endpoints['bridge'].ip}\t{host.id_of('one')[:12]}" in hosts
    assert "10.0.0.5\tdb" in hosts
    assert f"{host.subnet}.1\tgate" in hosts
    assert host.file("one", "hostname") == host.id_of("one")[:12] + "\n"
    assert "127.0.0.11" not in host.file("one", "resolv.conf")
    await host.create("lan")
    await host.join("two", mode="lan", dns=["192.0.2.53"], dns_search=["example.org"])
    resolv = host.file("two", "resolv.conf")
    assert "nameserver 127.0.0.11\n" in resolv
    assert "search example.org\n" in resolv
    assert "options ndots:0\n" in resolv


async def test_what_was_made_ahead_follows_the_hosts_settings(host: Host) -> None:
    """A hardening run after the daemon's start is seen by the very next container."""
    setting = Path("/proc/sys/net/ipv4/conf/default/log_martians")
    before = setting.read_text()

    async def filled() -> None:
        async with asyncio.timeout(60):
            while len(os.listdir(host.root / "exec/netns")) < 8:  # noqa: ASYNC110  # made by threads that tell nobody
                await asyncio.sleep(0.01)

    await filled()
    ahead = set(os.listdir(host.root / "exec/netns"))
    fresh = sandboxes.create
    try:
        setting.write_text("1\n" if before.strip() == "0" else "0\n")
        one = await host.join("one")
        assert one.netns_path is not None
        assert os.path.basename(one.netns_path) not in ahead
        other = await asyncio.to_thread(fresh, host.root)
        values = [run_in(path, "cat", str(setting)) for path in (one.netns_path, other.path)]
        sandboxes.destroy(other)
        assert values[0] == values[1]
        async with asyncio.timeout(60):
            while ahead & set(os.listdir(host.root / "exec/netns")):  # noqa: ASYNC110  # removed by such threads, too
                await asyncio.sleep(0.01)
        await filled()
    finally:
        setting.write_text(before)
    # and when nothing changes they are used
    await host.join("two")
    await filled()
    ahead = set(os.listdir(host.root / "exec/netns"))
    three = await host.join("three")
    assert three.netns_path is not None
    assert os.path.basename(three.netns_path) in ahead


async def test_a_host_that_gives_up_ipv6_after_the_start_publishes_without(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bound(sandbox: Any) -> list[str]:
        return [address for address, _ in sandbox.ports["80/tcp"]]

    assert bound(await host.join("one", port_bindings={"80/tcp": [("", "")]})) == ["0.0.0.0", "::"]
    monkeypatch.setattr("dockyard.networks.publishing._host_has_ipv6", lambda: False)
    assert bound(await host.join("two", port_bindings={"80/tcp": [("", "")]})) == ["0.0.0.0"]


async def test_who_meets_a_networks_removal_is_told_that_it_is_gone(host: Host) -> None:
    await host.create("lan")
    await host.join("one")
    removing = asyncio.create_task(host.service.remove("lan"))
    await asyncio.sleep(0)  # it has seen that nobody is on it
    with pytest.raises(NotFound, match="network lan not found"):
        await host.service.connect("lan", host.id_of("one"), EndpointConfig())
    with pytest.raises(NotFound, match="network lan not found"):
        await host.join("two", mode="lan")
    await removing
