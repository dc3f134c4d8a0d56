"""Network drivers of others, by Docker's plugin protocol."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.engine.networks.service import Network
from dockyard.errors import Conflict, NotFound, SystemFailure
from dockyard.networks import plugin as plugins
from tests.networks.conftest import Host, ip, run_in
from tests.networks.plugin_server import PluginServer
from tests.networks.test_bridge import run


class Plugin(PluginServer):
    """Its links are veth pairs on a bridge that it makes."""

    def __init__(self, path: Path, bridge: str) -> None:
        self.bridge = bridge
        self.gateway = ""
        super().__init__(path)

    def answer(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        if method == "Plugin.Activate":
            return {"Implements": ["NetworkDriver"]}
        if method == "NetworkDriver.CreateNetwork":
            self.gateway = body["IPv4Data"][0]["Gateway"].partition("/")[0]
            run("ip", "link", "add", self.bridge, "type", "bridge")
            run("ip", "link", "set", self.bridge, "up")
        if method == "NetworkDriver.DeleteNetwork":
            run("ip", "link", "delete", self.bridge)
        if method == "NetworkDriver.Join":
            name = body["EndpointID"][:7]
            run("ip", "link", "add", f"p{name}", "type", "veth", "peer", "name", f"q{name}")
            run("ip", "link", "set", f"p{name}", "master", self.bridge, "up")
            return {"InterfaceName": {"SrcName": f"q{name}", "DstPrefix": "eth"}, "Gateway": self.gateway}
        return {}


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[Plugin]:
    monkeypatch.setattr(plugins, "SOCKETS", (str(tmp_path),))
    with Plugin(tmp_path / "wire.sock", f"dyp{number}").served() as server:
        yield server
    subprocess.run(["ip", "link", "delete", server.bridge], check=False, capture_output=True)


def wire() -> Network:
    return Network(id="", name="wired", driver="wire", created="", options={"a": "b"})


async def test_a_plugin_makes_networks_and_links_and_we_the_addresses(host: Host, plugin: Plugin) -> None:
    network = await host.service.create(wire())
    one, two = [await host.join(name, mode="wired") for name in ("one", "two")]
    assert one.netns_path is not None
    run_in(one.netns_path, "busybox", "ping", "-c1", "-W2", two.endpoints["wired"].ip)
    assert ip(one.netns_path, "link", "show", "eth0")[0]["ifname"] == "eth0"
    for name in ("one", "two"):
        await host.service.leave(host.id_of(name))
    await host.service.remove("wired")
    methods = [method.removeprefix("NetworkDriver.") for method, _ in plugin.asked]
    assert methods[:4] == ["Plugin.Activate", "CreateNetwork", "CreateEndpoint", "Join"]
    assert methods[-5:] == ["Leave", "DeleteEndpoint", "Leave", "DeleteEndpoint", "DeleteNetwork"]
    made = plugin.asked[1][1]
    assert (made["NetworkID"], made["Options"]["com.docker.network.generic"]) == (network.id, {"a": "b"})
    assert made["IPv4Data"][0]["Pool"] == network.pools[0].subnet
    endpoint = plugin.asked[2][1]["Interface"]
    assert endpoint["Address"].startswith(one.endpoints["wired"].ip)


async def test_what_a_plugin_refuses_is_told_and_nothing_is_left(host: Host, plugin: Plugin) -> None:
    plugin.refuses = "NetworkDriver.CreateNetwork"
    with pytest.raises(SystemFailure, match=r"NetworkDriver\.CreateNetwork: not today"):
        await host.service.create(wire())
    assert host.service.list(lambda network: network.name == "wired") == []
    plugin.refuses = "NetworkDriver.Join"
    await host.service.create(wire())
    with pytest.raises(SystemFailure, match=r"NetworkDriver\.Join: not today"):
        await host.join("one", mode="wired")
    assert plugin.asked[-1][0] == "NetworkDriver.DeleteEndpoint"
    assert host.service.sandbox(host.id_of("one")) is None


async def test_a_network_whose_plugin_is_gone_is_removed_all_the_same(
    host: Host, plugin: Plugin, tmp_path: Path
) -> None:
    await host.service.create(wire())
    (tmp_path / "wire.sock").unlink()
    await host.kill()
    await host.open()
    with pytest.raises(Conflict, match='network wired could not be made: plugin "wire" not found'):
        await host.join("one", mode="wired")
    await host.service.remove("wired")
    with pytest.raises(NotFound, match=r'plugin "\.\./wire" not found'):
        await host.service.create(Network(id="", name="odd", driver="../wire", created=""))
