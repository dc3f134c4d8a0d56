"""Which networks can be made, and what the stock client is told of those that cannot."""

from collections.abc import Iterator

import pytest

from tests.engine_process import EngineProcess


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("definitions"), number=10) as process:
        yield process


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--subnet", "10.230.0.1/24"], "invalid subnet 10.230.0.1/24: it should be 10.230.0.0/24"),
        (["--subnet", "10.230.0.0"], "invalid subnet 10.230.0.0: invalid CIDR block notation"),
        (
            ["--subnet", "10.230.0.0/24", "--gateway", "10.230.0.255"],
            "failed to allocate gateway (10.230.0.255): Address",
        ),
        (
            ["--subnet", "10.230.0.0/24", "--gateway", "10.230.0.1", "--aux-address", "x=10.230.0.1"],
            "failed to allocate secondary ip address (x:10.230.0.1): Address already in use",
        ),
        (
            ["--subnet", "10.230.0.0/24", "--aux-address", "x=10.230.0.1"],
            "failed to allocate secondary ip address (x:10.230.0.1): Address already in use",
        ),
        (["--subnet", "10.230.0.0/24", "--subnet", "10.231.0.0/24"], "bridge driver doesn't support multiple subnets"),
        (["--ipv6", "--subnet", "ff00::/64"], "multicast subnet 'ff00::/64' is not allowed"),
        (["-o", "com.docker.network.bridge.enable_icc=maybe"], 'parsing "maybe": invalid syntax)'),
        (["-o", "com.docker.network.driver.mtu=-5"], "invalid MTU number: -5"),
        (["-o", "com.docker.network.bridge.host_binding_ipv4=nope"], "value: nope (nil ip)"),
        (["--scope", "swarm"], "cannot create a swarm scoped network when swarm is not active"),
        (["--ingress"], "Ingress network can only be global scope network"),
        (["-d", "overlay"], "This node is not a swarm manager."),
        (["-d", "nosuch"], 'plugin "nosuch" not found'),
        (["--ipam-driver", "nosuch"], 'plugin "nosuch" not found'),
        (["--config-only", "--internal"], "configuration network can only contain network specific fields."),
        (["--config-only", "--config-from", "x"], "cannot depend on another configuration network"),
        (["--config-from", "nosuch"], 'configuration network "nosuch" does not exist'),
        (["--config-from", "x", "-o", "a=b"], "network driver options are not supported if the network depends on"),
        (["--config-from", "x", "--label", "a=b"], "user specified configurations are not supported if the network"),
    ],
)
def test_networks_that_cannot_be_are_refused_in_dockers_words(
    engine: EngineProcess, asked: list[str], said: str
) -> None:
    done = engine.run_docker("network", "create", *asked, "wrong")
    assert said in done.stderr.decode()
    assert "wrong" not in engine.docker("network", "ls", "--format", "{{.Name}}").split()


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (["--subnet", "10.230.0.0/24"], [{"Subnet": "10.230.0.0/24"}]),
        (
            ["--subnet", "fd23::/64", "--subnet", "10.230.0.0/24", "--gateway", "10.230.0.9"],
            [{"Subnet": "10.230.0.0/24", "Gateway": "10.230.0.9"}, {"Subnet": "fd23::/64"}],
        ),
        (["--ipv6", "--subnet", "fd23::/64", "--ipv4=false"], [{"Subnet": "fd23::/64"}]),
    ],
)
def test_subnets_are_shown_as_they_were_asked_for(
    engine: EngineProcess, asked: list[str], shown: list[dict[str, str]]
) -> None:
    engine.docker("network", "create", *asked, "shown")
    try:
        assert engine.inspect("shown")["IPAM"]["Config"] == shown
    finally:
        engine.docker("network", "rm", "shown")


def test_a_routed_port_is_listed_without_one_of_the_hosts(engine: EngineProcess) -> None:
    mode = "com.docker.network.bridge.gateway_mode_ipv4=routed"
    engine.docker("network", "create", "-o", mode, "wan")
    engine.docker(
        "run", "-d", "--name", "routed", "--net", "wan", "-p", "80", "--restart", "always", "busybox", "sleep", "9"
    )
    assert engine.docker("ps", "--format", "{{.Ports}}").startswith("0.0.0.0:0->80/tcp")
    assert engine.inspect("routed")["NetworkSettings"]["Ports"]["80/tcp"][0] == {"HostIp": "0.0.0.0", "HostPort": ""}
    assert engine.dockyard("ps").returncode == 0
    engine.kill()
    engine.start()
    assert engine.docker("ps", "--format", "{{.Ports}}").startswith("0.0.0.0:0->80/tcp")
    engine.docker("network", "create", "--ipv4=false", "--ipv6", "six")
    engine.docker("run", "-d", "--name", "only6", "--net", "six", "-p", "28380:80", "busybox", "sleep", "9")
    assert engine.docker("port", "only6") == "80/tcp -> [::]:28380\n"
    engine.docker("rm", "-f", "routed", "only6")
    engine.docker("network", "rm", "wan", "six")


def test_a_configuration_network_is_a_pattern_and_survives_a_new_daemon(engine: EngineProcess) -> None:
    engine.docker("network", "create", "--config-only", "--subnet", "10.230.9.0/24", "--label", "a=b", "pattern")
    engine.docker("network", "create", "--config-from", "pattern", "made")
    assert engine.docker("network", "inspect", "-f", "{{.Driver}} {{.ConfigOnly}}", "pattern") == "null true\n"
    described = engine.inspect("made")
    assert (described["ConfigFrom"], described["Labels"]) == ({"Network": "pattern"}, {"a": "b"})
    refused = engine.run_docker("network", "rm", "pattern")
    assert b'configuration network "pattern" is in use' in refused.stderr
    engine.kill()
    engine.start()
    assert engine.docker("run", "--rm", "--net", "made", "busybox", "hostname", "-i").startswith("10.230.9.")
    assert engine.run_docker("run", "--rm", "--net", "pattern", "busybox").returncode == 125
    engine.docker("network", "rm", "made", "pattern")
