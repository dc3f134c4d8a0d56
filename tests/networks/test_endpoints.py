"""Addresses that users give to containers: refused at once where they can't be, and kept for them where they can."""

from collections.abc import Iterator
from typing import Any

import pytest

from dockyard.engine.networks.endpoints import check_endpoint
from dockyard.errors import InvalidParameter, NotFound, Unavailable
from dockyard.networks.claims import AddressClaims
from dockyard.networks.ipam import AddressPool, ip_address, ip_network
from dockyard.networks.model import EndpointConfig, Network, Pool
from tests.engine_process import EngineProcess
from tests.networks.conftest import Host

NOT_CONFIGURED = "user specified IP address is supported only when connecting to networks with user configured subnets"
GIVEN = Network(id="0" * 64, name="given", driver="bridge", created="", pools=[Pool(subnet="10.77.0.0/24")])
AUTO = Pool(subnet="10.78.0.0/16", chosen=True)
CHOSEN = Network(id="1" * 64, name="auto", driver="bridge", created="", pools=[AUTO])
HOST = Network(id="2" * 64, name="host", driver="host", created="")


def out_of_range(address: str) -> str:
    return f"no configured subnet or ip-range contain the IP address {address}"


@pytest.mark.parametrize(
    ("network", "wish", "wrong"),
    [
        (GIVEN, EndpointConfig(ipv4_address="9.9.9.9"), [out_of_range("9.9.9.9")]),
        (GIVEN, EndpointConfig(ipv4_address="x"), ["invalid IPv4 address: x", out_of_range("x")]),
        (GIVEN, EndpointConfig(ipv4_address="0.0.0.0"), ["invalid IPv4 address: 0.0.0.0", out_of_range("0.0.0.0")]),
        (GIVEN, EndpointConfig(ipv4_address="::1"), ["invalid IPv4 address: ::1", out_of_range("::1")]),
        (GIVEN, EndpointConfig(ipv6_address="fd00::5"), [NOT_CONFIGURED]),
        (GIVEN, EndpointConfig(link_local_ips=["x"]), ["invalid link-local IP address: x"]),
        (CHOSEN, EndpointConfig(ipv4_address="10.78.0.9"), [NOT_CONFIGURED]),
        (
            HOST,
            EndpointConfig(ipv4_address="10.78.0.9"),
            ["user specified IP address is supported on user defined networks only", NOT_CONFIGURED],
        ),
    ],
)
def test_a_wrong_address_is_refused_in_dockers_words(network: Network, wish: EndpointConfig, wrong: list[str]) -> None:
    with pytest.raises(InvalidParameter) as refused:
        check_endpoint(network.name, network, wish)
    told = wrong[0] if len(wrong) == 1 else "\n".join(f"* {one}" for one in wrong)
    assert str(refused.value) == f"invalid endpoint settings:\n{told}"


@pytest.mark.parametrize("address", ["10.77.0.5", "10.77.0.1", "10.77.0.255"])
def test_what_only_the_start_can_refuse_is_left_to_it(address: str) -> None:
    check_endpoint("given", GIVEN, EndpointConfig(ipv4_address=address))
    check_endpoint("later", None, EndpointConfig(ipv4_address="9.9.9.9"))


def test_a_pool_keeps_what_is_claimed_and_forgets_it_when_it_is_not() -> None:
    pool = AddressPool(ip_network("10.0.0.0/29"))
    claimed = {ip_address("10.0.0.1"), ip_address("10.0.0.3"), ip_address("fd00::1")}
    assert [str(pool.take(avoid=claimed)) for _ in range(4)] == ["10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
    with pytest.raises(Unavailable):
        pool.take(avoid=claimed)
    assert str(pool.take(ip_address("10.0.0.3"))) == "10.0.0.3"
    assert str(pool.take()) == "10.0.0.1"


def test_claims_last_as_long_as_somebody_has_them() -> None:
    claims = AddressClaims()
    claims.put("a", [("given", "10.77.0.5"), ("given", "nonsense"), ("1" * 64, "10.78.0.2")])
    claims.put("b", [("given", "10.77.0.5")])
    assert claims.on(GIVEN) == {ip_address("10.77.0.5")}
    assert claims.on(CHOSEN) == {ip_address("10.78.0.2")}
    claims.drop("a")
    assert claims.on(GIVEN) == {ip_address("10.77.0.5")}
    claims.put("b", [])
    assert not claims.on(GIVEN) | claims.on(CHOSEN)
    claims.drop("b")


async def test_a_network_removed_while_a_start_is_on_its_way_is_told_of(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host.create("lan")
    take = host.service._controller.pool.take

    async def meanwhile() -> Any:
        await host.service.remove("lan")
        return await take()

    monkeypatch.setattr(host.service._controller.pool, "take", meanwhile)
    with pytest.raises(NotFound, match="network lan not found"):
        await host.join("one", mode="lan")
    assert host.service.sandbox(host.id_of("one")) is None


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess.with_busybox(tmp_path_factory.mktemp("endpoints"), number=4) as process:
        yield process


def test_an_address_given_to_one_container_is_nobody_elses_over_stops_and_a_new_daemon(engine: EngineProcess) -> None:
    engine.docker("network", "create", "--subnet", "10.253.77.0/24", "given")
    wrong = engine.run_docker("create", "--name", "wrong", "--net", "given", "--ip", "9.9.9.9", "busybox", "true")
    assert b"invalid config for network given: invalid endpoint settings:" in wrong.stderr
    assert engine.docker("ps", "-aq") == ""

    def address(name: str) -> str:
        return str(engine.inspect(name)["NetworkSettings"]["Networks"]["given"]["IPAddress"])

    engine.docker("create", "--name", "fixed", "--net", "given", "--ip", "10.253.77.2", "busybox", "sleep", "100")
    always = ("--net", "given", "--restart", "always", "busybox", "sleep", "100")
    engine.docker("run", "-d", "--name", "first", *always)
    assert address("first") == "10.253.77.3"
    engine.kill()
    engine.start()
    engine.docker("restart", "-t", "0", "first")
    engine.docker("run", "-d", "--name", "second", *always)
    assert {address("first"), address("second")} == {"10.253.77.3", "10.253.77.4"}
    engine.docker("start", "fixed")
    assert address("fixed") == "10.253.77.2"
    engine.docker("rm", "-f", "fixed")
    engine.docker("run", "-d", "--name", "third", *always)
    assert address("third") == "10.253.77.2"
    connect = engine.run_docker("network", "connect", "--ip", "1.2.3.4", "given", "third")
    assert connect.returncode == 1
