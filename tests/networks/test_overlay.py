"""Overlay networks: two engines, each in a network namespace of its own, joined by a cable and a shared folder."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from dockyard.errors import Conflict, Forbidden, Unavailable
from dockyard.networks.cluster.folder import FolderStore
from dockyard.networks.cluster.reservations import reserve_addresses
from dockyard.networks.cluster.store import Peer
from dockyard.networks.model import EndpointConfig, Network, Pool
from tests.engine_process import EngineProcess
from tests.networks.conftest import Host
from tests.processes import eventually


def fetched(engine: EngineProcess, address: str, port: int) -> bytes:
    """What a web server answers to the host of an engine."""
    ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc {address} {port}"
    return subprocess.run([*engine.prefix, "sh", "-c", ask], capture_output=True, check=True, timeout=20).stdout


def test_containers_of_two_hosts_reach_each_other_by_name(engines: tuple[EngineProcess, EngineProcess]) -> None:
    one, two = engines
    made = one.docker("network", "create", "-d", "overlay", "--attachable", "mesh").strip()
    eventually(lambda: "mesh" in two.docker("network", "ls", "--format", "{{.Name}}").split())
    assert (
        two.docker("network", "ls", "--filter", "driver=overlay", "--format", "{{.Name}} {{.Scope}}") == "mesh global\n"
    )
    assert two.inspect("mesh")["Id"] == made
    one.docker("run", "-d", "--name", "left", "--net", "mesh", "--network-alias", "shared", "busybox", "sleep", "300")
    two.docker("run", "-d", "--name", "right", "--net", "mesh", "-p", "8088:80", "busybox", "httpd", "-f")
    addresses = [
        json.loads(engine.docker("inspect", name))[0]["NetworkSettings"]["Networks"]["mesh"]["IPAddress"]
        for engine, name in ((one, "left"), (two, "right"))
    ]
    assert len(set(addresses)) == 2
    eventually(lambda: two.run_docker("exec", "right", "ping", "-c1", "-W1", "left").returncode == 0)
    one.docker("exec", "left", "ping", "-c1", "-W2", "right")
    for engine in engines:  # each knows of itself and of the other
        eventually(lambda engine=engine: len(engine.inspect("mesh").get("Peers", ())) == 2)  # type: ignore[misc]
    peers = [engine.inspect("mesh")["Peers"] for engine in engines]
    assert peers[0] == peers[1]
    assert [peer["IP"] for peer in peers[0]] == ["192.168.77.1", "192.168.77.2"]
    two.docker("exec", "right", "ping", "-c1", "-W2", "shared")
    # more than a frame of the tunnel holds
    two.docker("exec", "right", "ping", "-c1", "-W2", "-s", "4000", "left")
    refused = one.run_docker("network", "rm", "mesh")
    assert b"has active endpoints" in refused.stderr

    # the way out is docker_gwbridge, which nobody has asked for
    assert list(two.inspect("right")["NetworkSettings"]["Networks"]) == ["mesh"]
    gateway = two.inspect("docker_gwbridge")["IPAM"]["Config"][0]["Gateway"]
    assert gateway in two.docker("exec", "right", "route", "-n")
    two.docker("exec", "right", "ping", "-c1", "-W2", "192.168.77.1")
    assert two.docker("port", "right").startswith("80/tcp -> 0.0.0.0:8088\n")
    assert fetched(one, "192.168.77.2", 8088).startswith(b"HTTP/1.")

    # a new daemon finds its containers and its neighbours again
    two.kill()
    two.start()
    two.docker("exec", "right", "ping", "-c1", "-W2", "left")

    one.docker("rm", "-f", "left")
    eventually(lambda: two.run_docker("exec", "right", "ping", "-c1", "-W1", "left").returncode != 0)
    refused = one.run_docker("network", "rm", "mesh")
    assert b'has active endpoints (name:"right"' in refused.stderr
    two.docker("rm", "-f", "right")
    one.docker("network", "rm", "mesh")
    eventually(lambda: "mesh" not in two.docker("network", "ls", "--format", "{{.Name}}").split())


def test_a_container_that_comes_to_an_overlay_network_live_has_a_way_out(
    engines: tuple[EngineProcess, EngineProcess],
) -> None:
    one, _ = engines
    one.docker("network", "create", "-d", "overlay", "--attachable", "late")
    one.docker("network", "create", "--internal", "inner")
    one.docker("run", "-d", "--name", "comer", "--net", "inner", "busybox", "sleep", "300")
    ways = ("exec", "comer", "route", "-n")
    try:
        assert "UG" not in one.docker(*ways)
        one.docker("network", "connect", "late", "comer")
        gateway = one.inspect("docker_gwbridge")["IPAM"]["Config"][0]["Gateway"]
        assert gateway in one.docker(*ways)
        one.docker("exec", "comer", "ping", "-c1", "-W5", "192.168.77.1")
        # another way out, and that one is needed no more
        one.docker("network", "connect", "bridge", "comer")
        assert one.docker("exec", "comer", "sh", "-c", "ls -d /sys/class/net/eth*").count("eth") == 3
        one.docker("network", "disconnect", "bridge", "comer")
        assert gateway in one.docker(*ways)
        one.docker("network", "disconnect", "late", "comer")
        assert "UG" not in one.docker(*ways)
    finally:
        one.docker("rm", "-f", "comer")
        one.docker("network", "rm", "late", "inner")


def test_what_a_killed_daemon_claimed_is_given_back(engines: tuple[EngineProcess, EngineProcess]) -> None:
    one, two = engines
    one.docker("network", "create", "-d", "overlay", "--subnet", "10.99.7.0/29", "small")
    eventually(lambda: "small" in two.docker("network", "ls", "--format", "{{.Name}}").split())
    two.docker("run", "-d", "--name", "gone", "--net", "small", "--ip", "10.99.7.2", "busybox", "sleep", "300")
    taken = one.run_docker("run", "--rm", "--net", "small", "--ip", "10.99.7.2", "busybox", "true")
    assert b"Address already in use" in taken.stderr
    process = two.inspect("gone")["State"]["Pid"]
    two.kill()
    os.kill(process, signal.SIGKILL)
    two.start()
    eventually(
        lambda: one.run_docker("run", "--rm", "--net", "small", "--ip", "10.99.7.2", "busybox", "true").returncode == 0
    )
    two.docker("rm", "-f", "gone")
    one.docker("network", "rm", "small")


async def test_without_a_cluster_there_is_no_overlay(host: Host) -> None:
    with pytest.raises(Forbidden, match="This node is not a swarm manager"):
        await host.service.create(Network(id="", name="mesh", driver="overlay", created=""))


def test_two_hosts_never_claim_the_same_address(tmp_path: Path) -> None:
    stores = [FolderStore(tmp_path / "cluster", f"192.0.2.{number}") for number in (1, 2)]
    network = Network(id="a" * 64, name="n", driver="overlay", created="", pools=[Pool("10.9.0.0/29", "10.9.0.1")])
    stores[0].add_network(lambda present: network)
    assert [one.name for one in stores[1].networks()] == ["n"]
    claimed = [reserve_addresses(stores[number % 2], network, EndpointConfig()).ipv4_address for number in range(5)]
    assert claimed == [f"10.9.0.{number}" for number in range(2, 7)]
    with pytest.raises(Unavailable):
        reserve_addresses(stores[0], network, EndpointConfig())
    with pytest.raises(Conflict, match="Address already in use"):
        reserve_addresses(stores[0], network, EndpointConfig(ipv4_address="10.9.0.3"))
    assert stores[0].own_claims(network.id) == {"10.9.0.2", "10.9.0.4", "10.9.0.6"}
    peer = Peer(network_id=network.id, endpoint_id="e", host="192.0.2.1", mac="02:42:0a:09:00:02", ip="10.9.0.2")
    stores[0].announce(peer)
    assert stores[1].peers(network.id) == [peer]
    (tmp_path / "cluster/networks" / network.id / "endpoints/10.9.0.3.json").write_text("nonsense")
    assert stores[1].peers(network.id) == [peer]
    stores[0].release(network.id, ["10.9.0.2"])
    assert stores[1].peers(network.id) == []
