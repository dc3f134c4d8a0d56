"""Lesson 11 and 12 as a user types them."""

import socket
import time
import urllib.request
from typing import Any

import pytest

from tests.engine_process import EngineProcess

SERVE = "mkdir -p /w; echo served > /w/index.html; httpd -f -p 80 -h /w"


def fetch(url: str) -> str:
    """GET, retried while the server comes up."""
    deadline = time.monotonic() + 5
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return str(answer.read().decode())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_a_published_port_answers_on_loopback(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "--name", "web", "-p", "18080:80", "busybox", "sh", "-c", SERVE)
    try:
        assert fetch("http://127.0.0.1:18080/") == "served\n"
        assert "0.0.0.0:18080" in engine.docker("port", "web", "80")
        address = engine.docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web").strip()
        assert address.startswith(engine.subnet + ".")
        taken = engine.run_docker("run", "--rm", "-p", "18080:80", "busybox", "true")
        assert taken.returncode == 125
        assert b"port is already allocated" in taken.stderr
    finally:
        engine.docker("rm", "-f", "web")


def test_names_resolve_on_a_user_network(engine: EngineProcess) -> None:
    engine.docker("network", "create", "lan")
    alias = ("--net", "lan", "--network-alias", "www")
    engine.docker("run", "-d", "--name", "server", *alias, "busybox", "sh", "-c", SERVE)
    try:
        fetching = "sleep 0.3; wget -qO- http://server/; wget -qO- http://www/"
        got = engine.docker("run", "--rm", "--net", "lan", "busybox", "sh", "-c", fetching)
        assert got == "served\nserved\n"
    finally:
        engine.docker("rm", "-f", "server")
        engine.docker("network", "rm", "lan")


def test_network_modes(engine: EngineProcess) -> None:
    assert engine.docker("run", "--rm", "--net=none", "busybox", "sh", "-c", "ls /sys/class/net; ip route") == "lo\n"
    host = engine.docker("run", "--rm", "--net=host", "busybox", "ls", "/sys/class/net").split()
    assert engine.bridge in host
    engine.docker("run", "-d", "--name", "first", "busybox", "sleep", "100")
    try:
        shown = "ip -o addr show eth0; cat /sys/class/net/eth0/address"
        joined = engine.docker("run", "--rm", "--net=container:first", "busybox", "sh", "-c", shown)
        assert joined == engine.docker("exec", "first", "sh", "-c", shown)
    finally:
        engine.docker("rm", "-f", "first")


@pytest.mark.parametrize("mode", [None, "", "default", "bridge"])
def test_a_container_joins_the_networks_that_it_names_and_no_other(engine: EngineProcess, mode: str | None) -> None:
    for network in ("lan", "wan"):
        engine.docker("network", "create", network)
    try:
        for version, named, joined in (
            ("v1.51", ["lan", "wan"], ["lan", "wan"]),
            ("v1.51", ["lan"], ["lan"]),
            ("v1.51", ["bridge", "lan"], ["bridge", "lan"]),
            ("v1.51", [], ["bridge"]),
            ("v1.43", ["lan"], ["lan"]),
            ("v1.24", [], ["bridge"]),
        ):
            body: dict[str, Any] = {"Image": "busybox", "Cmd": ["sleep", "100"], "StopSignal": "KILL"}
            body["HostConfig"] = {} if mode is None else {"NetworkMode": mode}
            body["NetworkingConfig"] = {"EndpointsConfig": {network: {} for network in named}}
            status, made = engine.api("POST", f"/{version}/containers/create", body)
            assert status == 201, made
            engine.docker("start", made["Id"])
            shown = engine.inspect(made["Id"])
            assert shown["HostConfig"]["NetworkMode"] == "bridge"
            networks = shown["NetworkSettings"]["Networks"]
            assert sorted(networks) == joined
            assert all(networks[network]["IPAddress"] for network in joined)
            engine.docker("rm", "-f", made["Id"])
        if mode in (None, "", "default"):
            body["NetworkingConfig"] = {"EndpointsConfig": {"default": {}}}
            _, made = engine.api("POST", "/v1.51/containers/create", body)
            assert list(engine.inspect(made["Id"])["NetworkSettings"]["Networks"]) == ["bridge"]
            engine.docker("rm", made["Id"])
    finally:
        engine.docker("network", "rm", "lan", "wan")


def test_other_networks_beside_the_hosts_are_refused(engine: EngineProcess) -> None:
    body = {
        "Image": "busybox",
        "HostConfig": {"NetworkMode": "host"},
        "NetworkingConfig": {"EndpointsConfig": {"bridge": {}}},
    }
    _, made = engine.api("POST", "/v1.51/containers/create", body)
    status, answer = engine.api("POST", f"/containers/{made['Id']}/start")
    engine.docker("rm", made["Id"])
    assert status == 409
    assert "cannot be connected to any other network" in answer["message"]


def test_a_start_that_fails_for_its_network_says_so_in_dockers_words(engine: EngineProcess) -> None:
    engine.docker("network", "create", "--subnet", "10.246.9.0/24", "sub")
    engine.docker("run", "-d", "--name", "first", "-p", "18085:80", "busybox", "sleep", "1000")
    engine.docker("run", "-d", "--name", "fixed", "--network", "sub", "--ip", "10.246.9.9", "busybox", "sleep", "1000")
    engine.docker("create", "--name", "idle", "busybox", "true")
    networking = "failed to set up container networking: "
    connectivity = "driver failed programming external connectivity on endpoint second ("
    with socket.create_server(("0.0.0.0", 18086)):
        for options, said in (
            (("-p", "18085:80"), (networking + connectivity, "): Bind for 0.0.0.0:18085 failed: port is already allo")),
            (
                ("-p", "18086:80"),
                (networking + connectivity, "failed to bind host port for 0.0.0.0:18086:10.", ":80/tcp: address alrea"),
            ),
            (("--network", "nowhere"), (networking + "network nowhere not found",)),
            (("--network", "sub", "--ip", "10.246.9.9"), (networking + "Address already in use",)),
            (
                ("--network", "container:idle"),
                ("daemon: cannot join network namespace of a non running container: container idle is created",),
            ),
            (
                ("--network", "container:gone"),
                ("daemon: joining network namespace of container: No such container: gone",),
            ),
        ):
            done = engine.run_docker("run", "--name", "second", *options, "busybox", "true")
            assert done.returncode == 125
            assert all(part in done.stderr.decode() for part in said), done.stderr
            if said[0].startswith(networking):
                state = engine.inspect("second")["State"]
                assert (state["Status"], state["ExitCode"]) == ("created", 128)
                assert state["Error"].startswith(networking)
            engine.docker("rm", "second")
    engine.docker("rm", "-f", "first", "fixed", "idle")
    engine.docker("network", "rm", "sub")
