"""What a container sends by its link changes nothing of the host's own, with the packet filter's rules or without."""

import asyncio
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dockyard.linux import loopback_guard
from dockyard.linux.nftables import Nftables
from dockyard.networks import sandboxes
from tests.networks.conftest import Host, Neighbour, inside, run_in
from tests.networks.test_bridge import ask, ask_in_vain, in_thread, run, serving

IPV6 = Path("/proc/sys/net/ipv6/conf")


def router_advertisement(mac: bytes) -> bytes:
    """A frame by which fe80::bad says to everyone that it is a router to everywhere and to 2001:db8:bad::/64."""
    source, everyone = socket.inet_pton(socket.AF_INET6, "fe80::bad"), socket.inet_pton(socket.AF_INET6, "ff02::1")
    prefix = socket.inet_pton(socket.AF_INET6, "2001:db8:bad::")
    said = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    said += struct.pack("!BB6s", 1, 1, mac)
    said += struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 7200, 3600, 0, prefix)
    pseudo = source + everyone + struct.pack("!II", len(said), 58) + said
    said = said[:2] + struct.pack("!H", internet_sum(pseudo)) + said[4:]
    head = struct.pack("!IHBB", 6 << 28, len(said), 58, 255) + source + everyone
    return bytes.fromhex("333300000001") + mac + struct.pack("!H", 0x86DD) + head + said


def advertise(path: str) -> None:
    """Send router advertisements by eth0 of the namespace at `path`."""

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0x86DD))
            for _ in range(5):
                raw.send(router_advertisement(raw.getsockname()[4]))

    inside(path, send)


def believed(link: str) -> bool:
    """Whether the host has taken a route or an address from an advertisement that came by `link`."""
    shown = run("ip", "-6", "route", "show", "dev", link) + run("ip", "-6", "address", "show", "dev", link)
    return "fe80::bad" in shown or "2001:db8:bad:" in shown


@contextmanager
def host_without_ipv6_routing() -> Iterator[None]:
    """A host that would take its routes from advertisements."""
    before = (IPV6 / "all/forwarding").read_text()
    (IPV6 / "all/forwarding").write_text("0")
    try:
        yield
    finally:
        (IPV6 / "all/forwarding").write_text(before)


async def test_containers_are_no_routers_of_the_hosts(host: Host, neighbour: Neighbour) -> None:
    with host_without_ipv6_routing():
        cable = run("ip", "-o", "address", "show", "to", neighbour.ours).split()[1]
        one = await host.join("one")
        assert one.netns_path is not None
        veth = one.endpoints["bridge"].host_interface
        await host.create("lan")
        two = await host.join("two", mode="lan")
        lan = host.service.get("lan").bridge
        assert two.netns_path is not None
        await asyncio.sleep(2)  # until the links' own addresses are there
        for path in (neighbour.path, one.netns_path, two.netns_path):
            advertise(path)
        await asyncio.sleep(0.5)
        # the advertisements are good ones: what is not ours and takes them has believed them
        assert believed(cable)
        assert not believed(host.bridge)
        assert not believed(lan)
        # and a port that somebody takes from its bridge takes none either
        run("ip", "link", "set", veth, "nomaster")
        run("ip", "address", "add", "fe80::77/64", "dev", veth)
        await asyncio.sleep(2)
        advertise(one.netns_path)
        await asyncio.sleep(0.5)
        assert not believed(veth)
    for link in (host.bridge, lan, veth, two.endpoints["lan"].host_interface):
        for setting in ("ipv6/conf/{}/accept_ra", "ipv6/conf/{}/accept_redirects", "ipv4/conf/{}/accept_redirects"):
            assert Path(f"/proc/sys/net/{setting.format(link)}").read_text() == "0\n"


async def test_a_new_daemon_mends_the_links_of_an_old_one(host: Host) -> None:
    one = await host.join("one")
    await host.kill()
    (IPV6 / host.bridge / "accept_ra").write_text("1")
    Path(f"/proc/sys/net/ipv4/conf/{host.bridge}/route_localnet").write_text("1")
    veth = one.endpoints["bridge"].host_interface
    assert "no-loopback" not in run("tc", "filter", "show", "dev", veth, "ingress")
    await host.open()
    assert (IPV6 / host.bridge / "accept_ra").read_text() == "0\n"
    assert "no-loopback" in run("tc", "filter", "show", "dev", veth, "ingress")


def route_localnet(bridge: str) -> str:
    return Path(f"/proc/sys/net/ipv4/conf/{bridge}/route_localnet").read_text().strip()


async def test_the_hosts_loopback_is_out_of_reach_when_all_rules_are_gone(host: Host, neighbour: Neighbour) -> None:
    port = 24000 + host.number
    other = await host.join("other")
    assert route_localnet(host.bridge) == "0"  # nothing needs it yet
    one = await host.join("one", port_bindings={"80/tcp": [("127.0.0.1", str(port))]})
    later = await host.join("later")
    with serving(one.netns_path):
        assert await in_thread(ask, "127.0.0.1", port) == f"{host.subnet}.1"
    attackers = [sandbox.netns_path for sandbox in (other, one, later) if sandbox.netns_path]
    for path in attackers:
        # they may send what they like; this makes their kernel let 127.0.0.2 out by eth0
        inside(path, lambda: sandboxes.write_sysctl("net/ipv4/conf/eth0/route_localnet", "1"))
        run_in(path, "ip", "route", "del", "local", "127.0.0.0/8", "table", "local")
        run_in(path, "ip", "route", "add", "127.0.0.2", "via", f"{host.subnet}.1", "dev", "eth0")
    await host.kill()
    nft = Nftables()
    nft.run(f"delete table ip dockyard-{host.bridge}")
    nft.close()
    with serving(None, 18998, "127.0.0.2"):
        for path in attackers:
            with pytest.raises(OSError):
                await in_thread(ask_in_vain, "127.0.0.2", 18998, path)
            # a frame with a priority tag is IPv4 to the kernel too
            assert not await in_thread(_syn_with_priority_tag_is_answered, path, host.bridge)
    await host.open()


def _syn_with_priority_tag_is_answered(path: str, bridge: str) -> bool:
    """Whether a TCP SYN to 127.0.0.2:18998, in a frame of virtual LAN 0, is answered."""
    gateway = bytes.fromhex(Path(f"/sys/class/net/{bridge}/address").read_text().strip().replace(":", ""))

    def send() -> bool:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 3))
            raw.settimeout(0.3)
            own = raw.getsockname()[4]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_of_ours:
                any_of_ours.connect((".".join(map(str, _gateway_of(path))), 9))
                source = socket.inet_aton(any_of_ours.getsockname()[0])
            target = socket.inet_aton("127.0.0.2")
            tcp = struct.pack("!HHIIBBHHH", 40000, 18998, 1, 0, 0x50, 2, 65535, 0, 0)
            tcp = (
                tcp[:16] + struct.pack("!H", internet_sum(source + target + struct.pack("!HH", 6, 20) + tcp)) + tcp[18:]
            )
            head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0, 64, 6, 0) + source + target
            head = head[:10] + struct.pack("!H", internet_sum(head)) + head[12:]
            raw.send(gateway + own + struct.pack("!HHH", 0x8100, 0, 0x0800) + head + tcp)
            while True:
                try:
                    answer = raw.recv(2000)
                except TimeoutError:
                    return False
                if target in answer and answer[:6] == own:
                    return True

    return inside(path, send)


def _gateway_of(path: str) -> bytes:
    return socket.inet_aton(run_in(path, "ip", "route", "show", "default").decode().split()[2])


def internet_sum(data: bytes) -> int:
    """The checksum of IPv4, TCP and ICMPv6 (RFC 1071)."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


async def test_where_the_kernel_cannot_guard_a_bridge_loopback_is_served_by_the_proxy(
    make_host: Any, monkeypatch: pytest.MonkeyPatch, neighbour: Neighbour
) -> None:
    def refused() -> int:
        raise OSError(22, os.strerror(22))

    monkeypatch.setattr(loopback_guard, "_load", refused)
    host: Host = await make_host()
    port = 24200 + host.number
    one = await host.join(
        "one", port_bindings={"80/tcp": [("", str(port))], "81/tcp": [("127.0.0.1", str(port + 200))]}
    )
    assert route_localnet(host.bridge) == "0"
    with serving(one.netns_path):
        assert await in_thread(ask, "127.0.0.1", port)
        assert await in_thread(ask, neighbour.ours, port, neighbour.path) == neighbour.address
    with serving(one.netns_path, 81):
        assert await in_thread(ask, "127.0.0.1", port + 200)


async def test_a_bridge_of_somebody_elses_is_not_set_up(make_host: Any, number: int) -> None:
    theirs, gateway, port = f"dyf{number}", f"10.247.{number}.1", 24800 + number
    run("ip", "link", "add", theirs, "type", "bridge")
    run("ip", "address", "add", f"{gateway}/24", "dev", theirs)
    run("ip", "link", "set", theirs, "up")
    before = run("sysctl", "-ar", f"\\.{theirs}\\.")
    host: Host = await make_host(bridge=theirs, bip="")
    one = await host.join("one", port_bindings={"80/tcp": [("", str(port))]})
    assert one.endpoints["bridge"].gateway == gateway
    with serving(one.netns_path):
        assert await in_thread(ask, "127.0.0.1", port)
        assert await in_thread(ask, gateway, port) == gateway
    assert route_localnet(theirs) == "0"
    assert run("sysctl", "-ar", f"\\.{theirs}\\.") == before
