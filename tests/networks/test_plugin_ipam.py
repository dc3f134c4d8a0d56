"""Networks whose addresses a plugin gives out, by Docker's plugin protocol."""

import re
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from dockyard.engine.networks.service import EndpointConfig, Network, Pool
from dockyard.errors import DockyardError, Forbidden, InvalidParameter, NotFound, NotImplementedHere, SystemFailure
from dockyard.networks import plugin as plugins
from tests.networks.conftest import Host
from tests.networks.plugin_server import PluginServer


class AddressBook(PluginServer):
    """A plugin that gives addresses from the highest down, and remembers who has which."""

    def __init__(self, path: Path, number: int) -> None:
        self.number = number
        self.pools: dict[str, set[str]] = {}
        self.wishes = {"RequiresMACAddress": True, "RequiresRequestReplay": True}
        self.implements = ["IpamDriver"]
        self.next = 0
        super().__init__(path)

    def answer(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        if method == "Plugin.Activate":
            return {"Implements": self.implements}
        name = re.sub("(?<=[a-z])(?=[A-Z])", "_", method.removeprefix("IpamDriver.")).lower()
        return getattr(self, name)(body)  # type: ignore[no-any-return]  # JSON

    def get_capabilities(self, body: dict[str, Any]) -> dict[str, Any]:
        return self.wishes

    def get_default_address_spaces(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"LocalDefaultAddressSpace": "here", "GlobalDefaultAddressSpace": "there"}

    def request_pool(self, body: dict[str, Any]) -> dict[str, Any]:
        self.next += 1
        pool = body["Pool"] or (f"fd0{self.next}::/64" if body["V6"] else f"10.252.{self.number}.{16 * self.next}/28")
        self.pools[f"pool/{pool}"] = set()
        return {"PoolID": f"pool/{pool}", "Pool": pool}

    def release_pool(self, body: dict[str, Any]) -> dict[str, Any]:
        del self.pools[body["PoolID"]]
        return {}

    def request_address(self, body: dict[str, Any]) -> dict[str, Any]:
        taken = self.pools[body["PoolID"]]
        subnet = ip_network(body["PoolID"].removeprefix("pool/"))
        free = (str(subnet[-number]) for number in range(2, 20) if str(subnet[-number]) not in taken)
        found = body["Address"] or next(free)
        if found in taken:
            return {"Error": "somebody has it"}
        taken.add(found)
        return {"Address": f"{found}/{subnet.prefixlen}"}

    def release_address(self, body: dict[str, Any]) -> dict[str, Any]:
        self.pools[body["PoolID"]].remove(body["Address"])
        return {}

    def given(self) -> set[str]:
        return {address for addresses in self.pools.values() for address in addresses}


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[AddressBook]:
    monkeypatch.setattr(plugins, "SOCKETS", (str(tmp_path),))
    with AddressBook(tmp_path / "book.sock", number).served() as server:
        yield server


def booked(**fields: Any) -> Network:
    return Network(
        id="",
        name="lan",
        **{"driver": "bridge", "created": "", "ipam_driver": "book", "ipam_options": {"a": "b"}} | fields,
    )


async def test_a_plugin_gives_subnets_gateways_and_addresses(host: Host, book: AddressBook) -> None:
    network = await host.service.create(booked(ipv6=True))
    subnets = [f"10.252.{book.number}.16/28", "fd02::/64"]
    assert [pool.subnet for pool in network.pools] == subnets
    assert network.pools[0].gateway == f"10.252.{book.number}.30"
    assert (book.asked[2][1]["AddressSpace"], book.asked[2][1]["Options"]) == ("here", {"a": "b"})
    one = await host.join("one", mode="lan")
    state = one.endpoints["lan"]
    assert state.ip == f"10.252.{book.number}.29"
    assert state.gateway == network.pools[0].gateway
    asked = [body["Options"] for method, body in book.asked if method.endswith("RequestAddress")]
    assert asked[0] == {"RequestAddressType": "com.docker.network.gateway"}
    assert asked[-1] == {"com.docker.network.endpoint.macaddress": state.mac}
    assert {state.ip, state.ipv6} <= book.given()
    await host.service.leave(host.id_of("one"))
    assert book.given() == {pool.gateway for pool in network.pools}
    await host.service.remove("lan")
    assert book.pools == {}


async def test_addresses_follow_live_changes_and_outlive_the_plugin(host: Host, book: AddressBook) -> None:
    network = await host.service.create(booked(pools=[Pool(subnet=f"10.252.{book.number}.64/28")]))
    one = await host.join("one", mode="bridge")
    await host.service.connect("lan", host.id_of("one"), EndpointConfig())
    address = one.endpoints["lan"].ip
    with pytest.raises(SystemFailure, match="somebody has it"):
        await host.join("two", mode="lan", endpoints={"lan": EndpointConfig(ipv4_address=address)})
    assert book.given() == {network.pools[0].gateway, address}
    await host.kill()
    book.pools.clear()  # it has been started anew, too
    await host.open()
    await host.service.restore(host.id_of("one"), one, host.request("one"))
    assert book.given() == {network.pools[0].gateway, address}
    await host.service.disconnect("lan", host.id_of("one"))
    assert address not in book.given()


async def test_what_a_plugin_does_not_give_leaves_nothing(host: Host, book: AddressBook) -> None:
    lan = f"10.252.{book.number}.64/28"
    wrong = [
        ({"auxiliary": {"x": f"10.252.{book.number}.78"}}, "failed to allocate secondary ip address"),
        ({"gateway": f"10.252.{book.number}.70", "auxiliary": {"x": f"10.252.{book.number}.70"}}, "somebody has it"),
    ]
    for more, said in wrong:
        with pytest.raises(SystemFailure, match=said):
            await host.service.create(booked(pools=[Pool(subnet=lan, **more)]))
        assert book.pools == {}
    with pytest.raises(Forbidden, match="Pool overlaps"):
        await host.service.create(booked(pools=[Pool(subnet=f"{host.subnet}.0/28")]))
    assert book.pools == {}
    book.implements = ["VolumeDriver"]
    with pytest.raises(SystemFailure, match='plugin "book" is no IpamDriver'):
        await host.service.create(booked())
    with pytest.raises(NotImplementedHere, match="a plugin cannot give out the addresses of cni networks"):
        await host.service.create(booked(driver="cni"))
    with pytest.raises(NotFound, match='plugin "nobody" not found'):
        await host.service.create(booked(ipam_driver="nobody"))


@pytest.mark.parametrize("answer", ["10.252.0.300/28", "fd00::/64", None, "192.0.2.1/28"])
async def test_nonsense_of_a_plugin_is_told(
    host: Host, book: AddressBook, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    good = book.request_address
    monkeypatch.setattr(book, "request_address", lambda body: {"Address": answer})
    monkeypatch.setattr(book, "release_address", lambda body: {})
    with pytest.raises(DockyardError, match=r'failed to allocate gateway .*plugin "book" gives'):
        await host.service.create(booked())
    monkeypatch.setattr(book, "request_address", good)
    monkeypatch.setattr(book, "request_pool", lambda body: {"Pool": answer})
    monkeypatch.setattr(book, "release_pool", lambda body: {})
    with pytest.raises(DockyardError, match='plugin "book" gives'):
        await host.service.create(booked())
    assert host.service.list(lambda network: network.name == "lan") == []


async def test_null_gives_no_addresses_at_all(host: Host) -> None:
    with pytest.raises(InvalidParameter, match="ipv4 pool is empty"):
        await host.service.create(booked(ipam_driver="null"))
    with pytest.raises(InvalidParameter, match="null ipam driver does not handle specific address pool requests"):
        await host.service.create(booked(ipam_driver="null", pools=[Pool(subnet="10.252.0.0/28")]))
    await host.service.create(booked(ipam_driver="null", driver="macvlan"))
    one = await host.join("one", mode="lan")
    assert (one.endpoints["lan"].ip, one.endpoints["lan"].interface) == ("", "eth0")
