"""The packet filter's other back ends, and a process for each published port."""

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.errors import Conflict
from dockyard.linux.nftables import Nftables
from dockyard.networks.docker_proxy import ProxyProcess
from dockyard.networks.iptables_firewall import CHAINS
from tests.networks.conftest import Host, Neighbour
from tests.networks.test_bridge import ask, ask_in_vain, in_thread, run, serving
from tests.processes import eventually


@pytest.fixture
def chains() -> Iterator[None]:
    """Docker's chains are nobody's before and nobody's after."""
    if subprocess.run(["iptables", "-S", "DOCKER-FORWARD"], capture_output=True, check=False).returncode == 0:
        pytest.skip("another engine on this host has Docker's chains")
    yield
    for program in ("iptables", "ip6tables"):
        for table, names in CHAINS.items():
            for chain in names:
                listed = subprocess.run([program, "-t", table, "-S", chain], capture_output=True, check=False)
                assert listed.returncode != 0, f"{program} has {chain} of {table} left"


async def refused(*place: Any) -> None:
    with pytest.raises(OSError, match=r"timed out|refused|unreachable"):
        await in_thread(ask_in_vain, *place)


@pytest.mark.usefixtures("chains")
async def test_with_iptables_the_chains_are_dockers(make_host: Callable[..., Any], neighbour: Neighbour) -> None:
    host: Host = await make_host(firewall_backend="iptables", userland_proxy=True)
    port = 26000 + host.number
    one = await host.join("one", port_bindings={"80/tcp": [("", str(port))]})
    two = await host.join("two")
    address = one.endpoints["bridge"].ip
    nat = run("iptables", "-t", "nat", "-S").splitlines()
    for rule in (
        "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
        "-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER",
        f"-A POSTROUTING -s {host.subnet}.0/24 ! -o {host.bridge} -j MASQUERADE",
        f"-A DOCKER ! -i {host.bridge} -p tcp -m tcp --dport {port} -j DNAT --to-destination {address}:80",
    ):
        assert rule in nat
    forward = run("iptables", "-S", "FORWARD").splitlines()
    assert forward[1:3] == ["-A FORWARD -j DOCKER-USER", "-A FORWARD -j DOCKER-FORWARD"]
    tables = Nftables()
    assert f"table ip {host.service._instance}\n" not in tables.run("list tables") + "\n"
    tables.close()
    with serving(one.netns_path), serving(neighbour.path):
        assert await in_thread(ask, neighbour.ours, port, neighbour.path) == neighbour.address
        assert await in_thread(ask, "127.0.0.1", port)
        assert await in_thread(ask, f"{host.subnet}.1", port, two.netns_path)
        assert await in_thread(ask, address, 80, two.netns_path) == two.endpoints["bridge"].ip
        assert await in_thread(ask, neighbour.address, 80, one.netns_path) == neighbour.ours
        await refused(address, 80, neighbour.path)
        await host.service.leave(host.id_of("one"))
        await refused(neighbour.ours, port, neighbour.path)
    assert str(port) not in run("iptables", "-t", "nat", "-S")


@pytest.mark.usefixtures("chains")
@pytest.mark.parametrize(
    "flush", [("-t", "nat", "-F"), ("-F", "DOCKER"), ("-F", "FORWARD"), ("-t", "nat", "-F", "DOCKER")]
)
async def test_rules_that_somebody_flushes_are_put_back(
    make_host: Callable[..., Any], caplog: pytest.LogCaptureFixture, flush: tuple[str, ...]
) -> None:
    host: Host = await make_host(firewall_backend="iptables")
    await host.join("one", port_bindings={"80/tcp": [("", str(26000 + host.number))]})

    def rules() -> list[str]:
        found = run("iptables", "-S").splitlines() + run("iptables", "-t", "nat", "-S").splitlines()
        return sorted(
            rule for rule in found if "DOCKYARD-" not in rule
        )  # another engine's, of whatever bridges there are

    before = rules()
    run("iptables", *flush)
    await asyncio.to_thread(eventually, lambda: "rules were removed from iptables by somebody" in caplog.text)
    await asyncio.to_thread(eventually, lambda: rules() == before)


@pytest.mark.usefixtures("chains")
async def test_with_iptables_networks_are_isolated_and_a_new_daemon_finds_its_rules(
    make_host: Callable[..., Any], neighbour: Neighbour
) -> None:
    host: Host = await make_host(firewall_backend="iptables", userland_proxy=False)
    port = 26200 + host.number
    await host.create("lan")
    await host.create("dark", internal=True)
    bindings = {"80/tcp": [("", str(port))]}
    one = await host.join("one", mode="lan", port_bindings=bindings)
    two, three = await host.join("two"), await host.join("three", mode="dark")
    with serving(one.netns_path), serving(three.netns_path), serving(neighbour.path):
        await refused(one.endpoints["lan"].ip, 80, two.netns_path)
        await refused(three.endpoints["dark"].ip, 80, two.netns_path)
        await refused(neighbour.address, 80, three.netns_path)
        assert await in_thread(ask, neighbour.ours, port, two.netns_path)
        assert await in_thread(ask, neighbour.ours, port, one.netns_path)  # its own port
        assert await in_thread(ask, "127.0.0.1", port)
        before = run("iptables", "-t", "nat", "-S"), run("iptables", "-S")
        await host.kill()
        assert (run("iptables", "-t", "nat", "-S"), run("iptables", "-S")) == before
        await host.open()
        await host.service.restore(host.id_of("one"), one, host.request("one", mode="lan", port_bindings=bindings))
        await host.service.restore(host.id_of("two"), two, host.request("two"))
        await host.service.restore(host.id_of("three"), three, host.request("three", mode="dark"))
        await host.service.sweep()
        assert sorted(run("iptables", "-t", "nat", "-S").splitlines()) == sorted(before[0].splitlines())
        run("iptables", "-t", "nat", "-F")
        run("iptables", "-D", "FORWARD", "-j", "DOCKER-FORWARD")
        await host.service._controller.repair()
        assert await in_thread(ask, neighbour.ours, port, neighbour.path) == neighbour.address


async def test_another_engines_chains_are_not_taken(make_host: Callable[..., Any]) -> None:
    # (it may be there already: of another engine on this machine)
    making = ["iptables", "-N", "DOCKER-FORWARD"]
    made = (await asyncio.to_thread(subprocess.run, making, capture_output=True, check=False)).returncode == 0
    run("iptables", "-I", "DOCKER-FORWARD", "-j", "RETURN")
    try:
        host: Host = await make_host()
        host.options = type(host.options)(**{**vars(host.options), "firewall_backend": "iptables"})
        await host.kill()
        await host.open()
        with pytest.raises(Conflict, match="belong to another engine on this host"):
            await host.join("one")
        assert "-A DOCKER-FORWARD -j RETURN" in run("iptables", "-S")
    finally:
        run("iptables", "-D", "DOCKER-FORWARD", "-j", "RETURN")
        if made:
            run("iptables", "-X", "DOCKER-FORWARD")


@pytest.mark.usefixtures("chains")
async def test_a_daemon_with_the_other_back_end_leaves_no_rule_of_the_one_before(make_host: Callable[..., Any]) -> None:
    host: Host = await make_host(firewall_backend="iptables")
    one = await host.join("one")
    host.options = type(host.options)(**{**vars(host.options), "firewall_backend": "nftables"})
    await host.kill()
    await host.open()
    await host.service.restore(host.id_of("one"), one, host.request("one"))
    await host.service.sweep()
    assert "DOCKER-FORWARD" not in run("iptables", "-S")
    assert host.bridge not in run("iptables", "-t", "nat", "-S")


def processes() -> list[str]:
    """The command lines of our proxies."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()
            if (path / "comm").read_text() == "docker-proxy\n" and (path / "ns/net").stat().st_ino == _NET:
                found.append(line)
        except OSError:
            continue
    return sorted(found)


_NET = os.stat("/proc/self/ns/net").st_ino


async def test_each_published_port_has_a_docker_proxy_if_that_is_asked_for(make_host: Callable[..., Any]) -> None:
    host: Host = await make_host(userland_proxy=True)
    port = 26400 + host.number
    bindings = {"80/tcp": [("127.0.0.1", str(port))], "53/udp": [("127.0.0.1", str(port))]}
    one = await host.join("one", port_bindings=bindings)
    where = one.endpoints["bridge"].ip
    wanted = [
        f"docker-proxy -proto {protocol} -host-ip 127.0.0.1 -host-port {port} "
        f"-container-ip {where} -container-port {number} -use-listen-fd"
        for protocol, number in (("tcp", 80), ("udp", 53))
    ]
    deadline = time.monotonic() + 20
    while processes() != wanted:
        assert time.monotonic() < deadline, processes()
        await in_thread(time.sleep, 0.05)
    with serving(one.netns_path):
        assert await in_thread(ask, "127.0.0.1", port)
    await host.service.leave(host.id_of("one"))
    assert processes() == []


def test_a_proxy_relays_and_ends_with_its_daemon(tmp_path: Path) -> None:
    daemon = """
import socket, sys, time
from dockyard.networks.docker_proxy import ProxyProcess
bound = socket.create_server(("127.0.0.1", 0))
proxy = ProxyProcess("", bound, "tcp", ("127.0.0.1", int(sys.argv[1])))
print(bound.getsockname()[1], proxy._pid, flush=True)
time.sleep(100)
"""
    with socket.create_server(("127.0.0.1", 0)) as inner:
        port = str(inner.getsockname()[1])
        process = subprocess.Popen([sys.executable, "-c", daemon, port], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        outer, pid = map(int, process.stdout.readline().split())
        with socket.create_connection(("127.0.0.1", outer)) as client:
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            accepted, _ = inner.accept()
            with accepted:
                assert accepted.recv(100) == b"hello"
                assert accepted.recv(100) == b""
                accepted.sendall(b"bye")
            assert client.recv(100) == b"bye"
        process.kill()
        process.wait()
        process.stdout.close()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_another_proxy_may_take_its_place(tmp_path: Path) -> None:
    program = tmp_path / "proxy"
    program.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/said\nreadlink /proc/$$/fd/4 >> {tmp_path}/said\n'
        "printf '0\\n' >&3\nexec sleep 100\n"
    )
    program.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        proxy = ProxyProcess(str(program), bound, "tcp", ("192.0.2.1", 80))
        deadline = time.monotonic() + 10
        while not (tmp_path / "said").exists() or "socket" not in (tmp_path / "said").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        said = (tmp_path / "said").read_text()
        proxy.close()
    assert re.match(
        r"-proto tcp -host-ip 127.0.0.1 -host-port \d+ -container-ip 192.0.2.1 -container-port 80 -use-", said
    )
    assert not Path(f"/proc/{proxy._pid}").exists()
