"""CNI plugins as a network driver."""

import json
from pathlib import Path

import pytest

from dockyard.engine.networks.service import Network, Pool
from dockyard.errors import InvalidParameter, SystemFailure
from tests.networks.conftest import Host, ip, run_in
from tests.networks.test_bridge import run

# a plugin in shell: a veth pair on a bridge, addresses counted in a file
WIRE = """#!/bin/sh
set -e
conf=$(cat)
echo "$CNI_COMMAND $CNI_IFNAME" >>"{folder}/asked"
case "$conf" in *'"broken": true'*) echo '{{"code": 11, "msg": "no more addresses"}}'; exit 1;; esac
pair=w$(echo "$CNI_CONTAINERID" | cut -c1-8)
if [ "$CNI_COMMAND" = DEL ]; then ip link delete "$pair" 2>/dev/null || true; exit 0; fi
number=$(($(cat "{folder}/number" 2>/dev/null || echo 1) + 1)); echo $number >"{folder}/number"
ip link add {bridge} type bridge 2>/dev/null && ip link set {bridge} up || true
ip link add "$pair" master {bridge} up type veth peer name "$CNI_IFNAME" netns "$CNI_NETNS"
nsenter --net="$CNI_NETNS" ip addr add 10.245.7.$number/24 dev "$CNI_IFNAME"
nsenter --net="$CNI_NETNS" ip link set "$CNI_IFNAME" up
echo '{{"cniVersion": "1.0.0", "interfaces": [{{"name": "'$CNI_IFNAME'", "sandbox": "'$CNI_NETNS'"}}],
 "ips": [{{"address": "10.245.7.'$number'/24", "interface": 0}}]}}'
"""


def cni(tmp_path: Path, bridge: str, *plugins: dict[str, object]) -> Network:
    folder = tmp_path / "plugins"
    folder.mkdir(exist_ok=True)
    (folder / "wire").write_text(WIRE.format(folder=tmp_path, bridge=bridge))
    (folder / "wire").chmod(0o755)
    conf = tmp_path / "net.conflist"
    conf.write_text(json.dumps({"cniVersion": "1.0.0", "name": "wired", "plugins": plugins}))
    options = {"conf": str(conf), "path": str(folder)}
    return Network(id="", name="wired", driver="cni", created="", options=options)


async def test_plugins_attach_containers_and_give_the_addresses(host: Host, tmp_path: Path, number: int) -> None:
    bridge = f"dyc{number}"
    await host.service.create(cni(tmp_path, bridge, {"type": "wire"}))
    try:
        one, two = [await host.join(name, mode="wired") for name in ("one", "two")]
        assert [one.endpoints["wired"].ip, two.endpoints["wired"].ip] == ["10.245.7.2", "10.245.7.3"]
        assert one.netns_path is not None
        assert ip(one.netns_path, "-4", "addr", "show", "eth0")[0]["addr_info"][0]["local"] == "10.245.7.2"
        run_in(one.netns_path, "busybox", "ping", "-c1", "-W2", "10.245.7.3")
        assert "10.245.7.2\t" in host.file("one", "hosts")
        for name in ("one", "two"):
            await host.service.leave(host.id_of(name))
        await host.service.remove("wired")
        assert (tmp_path / "asked").read_text().split() == [*("ADD", "eth0") * 2, *("DEL", "eth0") * 2]
    finally:
        run("ip", "link", "delete", bridge)


async def test_a_plugin_that_fails_is_told_of_and_undone(host: Host, tmp_path: Path, number: int) -> None:
    await host.service.create(cni(tmp_path, f"dyc{number}", {"type": "wire", "broken": True}))
    with pytest.raises(SystemFailure, match="CNI plugin wire: no more addresses"):
        await host.join("one", mode="wired")
    assert (tmp_path / "asked").read_text().split() == ["ADD", "eth0", "DEL", "eth0"]
    assert host.service.sandbox(host.id_of("one")) is None


async def test_networks_without_plugins_are_refused(host: Host, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="needs -o conf=FILE"):
        await host.service.create(Network(id="", name="n", driver="cni", created=""))
    wrong: list[tuple[list[dict[str, object]], str]] = [
        ([], "names no plugins"),
        ([{"type": "../wire"}], "is not in"),
        ([{"type": "nosuch"}], "CNI plugin 'nosuch' is not in"),
    ]
    for plugins, said in wrong:
        with pytest.raises(InvalidParameter, match=said):
            await host.service.create(cni(tmp_path, "x", *plugins))
    subnet = cni(tmp_path, "x", {"type": "wire"})
    subnet.pools = [Pool("10.1.0.0/24")]
    with pytest.raises(InvalidParameter, match="no subnet can be named"):
        await host.service.create(subnet)
