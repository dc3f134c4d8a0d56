"""Published ports behind the host's own firewall, and the way of a packet explained."""

import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from tests.engine_process import EngineProcess
from tests.networks.conftest import Host, Neighbour
from tests.networks.test_backends import refused
from tests.networks.test_bridge import ask, in_thread, run, serving


@pytest.fixture
def closed(neighbour: Neighbour) -> Iterator[Callable[[int], None]]:
    """The host lets nothing in from the neighbour but the ports that are opened by what this gives."""
    opened: list[list[str]] = [["-s", neighbour.address, "-j", "DROP"]]
    run("iptables", "-I", "INPUT", *opened[0])

    def let_in(port: int) -> None:
        opened.append(["-s", neighbour.address, "-p", "tcp", "--dport", str(port), "-j", "ACCEPT"])
        run("iptables", "-I", "INPUT", *opened[-1])

    yield let_in
    for rule in opened:
        run("iptables", "-D", "INPUT", *rule)


async def test_published_ports_pass_by_the_hosts_input_rules_unless_they_are_to_be_respected(
    make_host: Callable[..., Any], neighbour: Neighbour, closed: Callable[[int], None]
) -> None:
    usual, strict = await make_host(), await make_host(respect_host_firewall=True)
    port, other = 26600 + usual.number, 26600 + strict.number
    one = await usual.join("one", port_bindings={"80/tcp": [("", str(port))]})
    two = await strict.join("two", port_bindings={"80/tcp": [("", str(other))]})
    three = await strict.join("three")
    with serving(one.netns_path), serving(two.netns_path):
        assert await in_thread(ask, neighbour.ours, port, neighbour.path) == neighbour.address
        await refused(neighbour.ours, other, neighbour.path)
        assert await in_thread(ask, "127.0.0.1", other)
        assert await in_thread(ask, neighbour.ours, other, three.netns_path)
        closed(other)
        assert await in_thread(ask, neighbour.ours, other, neighbour.path) == f"{strict.subnet}.1"
    told = [step.what for way in strict.service.explain(strict.id_of("two")) for step in way.steps]
    assert "The host's own INPUT rules decide, as about any local port." in told


async def test_the_commands_of_an_explanation_show_what_they_say(host: Host) -> None:
    port = 26800 + host.number
    await host.create("lan", ipv6=True)
    await host.join("one", mode="lan", port_bindings={"80/tcp": [("", str(port))]})
    await host.join("two", mode="none")
    ways = host.service.explain(host.id_of("one"))
    assert [way.title for way in ways] == [
        f"From outside to 0.0.0.0:{port}/tcp",
        f"From outside to [::]:{port}/tcp",
        "How one is attached to network lan",
        "From one to the outside",
    ]
    programs = {"nft", "ip", "nsenter", "iptables", "ip6tables"}
    shown = [command for way in ways for step in way.steps for command in step.show if command.split()[0] in programs]
    listed = 0
    for command in shown:
        if command.startswith("nft"):
            continue  # not on every machine; the library is asked below
        done = await in_thread(partial(subprocess.run, command, shell=True, capture_output=True, text=True))
        if "DOCKER-USER" not in command:
            assert done.returncode == 0, f"{command}: {done.stderr}"
            listed += 1
    assert listed > 8
    nft = host.service._controller.firewall._nft
    for command in shown:
        if command.startswith("nft list"):
            assert nft.run(command.removeprefix("nft "))
    assert [way.title for way in host.service.explain_port(port, "tcp")] == [way.title for way in ways[:2]]
    assert host.service.explain(host.id_of("two")) == []


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("explained"), number=11) as process:
        yield process


def test_the_command_line_explains_containers_and_ports(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "--name", "one", "-p", "127.0.0.1:28480:80", "busybox", "sleep", "100")
    said = engine.dockyard("network", "explain", "28480").stdout.decode()
    address = engine.inspect("one")["NetworkSettings"]["IPAddress"]
    assert said.startswith(
        "From outside to 127.0.0.1:28480/tcp\n  1. A tcp packet for 127.0.0.1:28480 comes to this host."
    )
    assert f"published_at {{ 127.0.0.1 . tcp . 28480 : {address} . 80 }}" in said
    whole = engine.dockyard("network", "explain", "one").stdout.decode()
    assert said.rstrip() in whole
    assert f"ip addr add {address}/24 dev eth0" in whole
    assert b"no container publishes anything on port 9/udp" in engine.dockyard("network", "explain", "9/udp").stderr
    assert b"No such container: nosuch" in engine.dockyard("network", "explain", "nosuch").stderr
