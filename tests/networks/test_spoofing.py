"""What a container can make others believe by frames of its own making: its own bridge's containers, nobody else.

On one bridge everybody hears everybody, as with Docker and Podman: who must not is put on another network, loses the
capability NET_RAW, or is kept apart by `--icc=false`.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.networks.conftest import Host, Neighbour, inside, ip, run_in
from tests.networks.test_bridge import ask, in_thread, serving
from tests.networks.test_host_links import advertise, host_without_ipv6_routing, internet_sum

ETH_P_ALL, ETH_P_IP, ETH_P_ARP = 3, 0x0800, 0x0806
EVERYBODY = bytes([255] * 6)


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def announcement(who: bytes, address: str) -> bytes:
    """A frame by which `who` tells everybody that `address` is theirs (gratuitous ARP)."""
    own = socket.inet_aton(address)
    said = struct.pack("!HHBBH", 1, ETH_P_IP, 6, 4, 2) + who + own + EVERYBODY + own
    return EVERYBODY + who + struct.pack("!H", ETH_P_ARP) + said


def datagram(to_mac: bytes, from_mac: bytes, source: tuple[str, int], target: tuple[str, int], said: bytes) -> bytes:
    """A frame with a UDP datagram that claims to be from `source`."""
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(target[0])
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(said), 1, 0, 64, 17, 0) + addresses
    head = head[:10] + struct.pack("!H", internet_sum(head)) + head[12:]
    udp = struct.pack("!HHHH", source[1], target[1], 8 + len(said), 0)  # no checksum
    return to_mac + from_mac + struct.pack("!H", ETH_P_IP) + head + udp + said


def send(path: str, *frames: bytes) -> None:
    """Send frames by eth0 of the namespace at `path`."""

    def work() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", ETH_P_ALL))
            for frame in frames:
                raw.send(frame)

    inside(path, work)


def listening(path: str, port: int = 0) -> socket.socket:
    """A UDP socket in the namespace at `path`."""

    def work() -> socket.socket:
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        bound.bind(("0.0.0.0", port))
        bound.settimeout(0.5)
        return bound

    return inside(path, work)


def hears(bound: socket.socket) -> bytes:
    """The next datagram, or nothing."""
    try:
        return bound.recv(2000)
    except TimeoutError:
        return b""


def gateway_mac(bridge: str) -> bytes:
    return mac(Path(f"/sys/class/net/{bridge}/address").read_text().strip())


async def test_no_answer_is_forged_from_another_network(host: Host, neighbour: Neighbour) -> None:
    await host.create("lan")
    attacker, victim = await host.join("attacker"), await host.join("victim", mode="lan")
    assert attacker.netns_path
    assert victim.netns_path
    with listening(victim.netns_path) as asking, listening(neighbour.path, 5353) as answering:
        asking.sendto(b"where is the bank", (neighbour.address, 5353))
        answering.settimeout(10)
        where = answering.recvfrom(2000)[1]
        own = mac(attacker.endpoints["bridge"].mac)
        forged = [
            datagram(gateway_mac(host.bridge), own, (neighbour.address, 5353), target, b"here")
            for target in (where, (victim.endpoints["lan"].ip, asking.getsockname()[1]))
        ]
        send(attacker.netns_path, *forged)
        assert hears(asking) == b""
        answering.sendto(b"there", where)
        assert hears(asking) == b"there"


async def test_a_published_port_answers_other_networks_all_the_same(host: Host, neighbour: Neighbour) -> None:
    await host.create("lan")
    one = await host.join("one", port_bindings={"80/tcp": [("", str(25000 + host.number))]})
    two = await host.join("two", mode="lan")
    with serving(one.netns_path):
        assert await in_thread(ask, neighbour.ours, 25000 + host.number, two.netns_path)


async def test_an_address_of_another_network_is_not_taken_over(host: Host) -> None:
    await host.create("lan")
    attacker, victim = await host.join("attacker"), await host.join("victim", mode="lan")
    assert attacker.netns_path
    own, address = mac(attacker.endpoints["bridge"].mac), victim.endpoints["lan"].ip
    # by announcing it, under its own and under the victim's MAC address
    send(attacker.netns_path, announcement(own, address), announcement(mac(victim.endpoints["lan"].mac), address))
    await asyncio.sleep(0.2)
    with serving(victim.netns_path):
        assert await in_thread(ask, address, 80) == victim.endpoints["lan"].gateway


async def test_the_gateway_does_not_lose_its_addresses(host: Host, neighbour: Neighbour) -> None:
    attacker, victim = await host.join("attacker"), await host.join("victim")
    assert attacker.netns_path
    gateway = victim.endpoints["bridge"].gateway
    theirs = gateway_mac(host.bridge)
    for _ in range(3):  # the gateway's own MAC address, from a container's port
        send(attacker.netns_path, announcement(theirs, "192.0.2.9"))
    with serving(neighbour.path), serving(None, 18997, gateway):
        assert await in_thread(ask, neighbour.address, 80, victim.netns_path) == neighbour.ours
        assert await in_thread(ask, gateway, 18997, victim.netns_path)


async def test_without_icc_neighbours_hear_nothing_of_each_other(make_host: Callable[..., Any]) -> None:
    host: Host = await make_host(icc=False)
    attacker, victim = await host.join("attacker"), await host.join("victim")
    assert attacker.netns_path
    assert victim.netns_path
    state, own = victim.endpoints["bridge"], mac(attacker.endpoints["bridge"].mac)
    run_in(victim.netns_path, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/eth0/arp_accept")
    with listening(victim.netns_path, 5353) as bound:
        send(
            attacker.netns_path,
            announcement(own, state.gateway),
            *(
                datagram(to, own, (attacker.endpoints["bridge"].ip, 9), (state.ip, 5353), b"psst")
                for to in (mac(state.mac), EVERYBODY, gateway_mac(host.bridge))
            ),
        )
        assert hears(bound) == b""
    known = {entry["dst"]: entry.get("lladdr") for entry in ip(victim.netns_path, "neigh")}
    assert known.get(state.gateway) in (None, gateway_mac(host.bridge).hex(":"))


@pytest.mark.usefixtures("ipv6_forwarding")
async def test_a_neighbour_is_no_router(host: Host) -> None:
    with host_without_ipv6_routing():
        await host.create("six", ipv6=True)
        attacker, victim = await host.join("attacker", mode="six"), await host.join("victim", mode="six")
        assert attacker.netns_path
        assert victim.netns_path
        await asyncio.sleep(2)
        advertise(attacker.netns_path)
        await asyncio.sleep(0.5)
        shown = run_in(victim.netns_path, "ip", "-6", "route").decode()
    assert "bad" not in shown
    assert f"default via {victim.endpoints['six'].ipv6_gateway} " in shown
