"""The operations of the API as the stock client uses them, against a server with networks only."""

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from dockyard import web
from dockyard.api import networks as resource
from dockyard.api.router import Route, Router, json_response
from tests.networks.conftest import Host


class Client:
    """The docker client, talking to our server."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    async def __call__(self, *arguments: str) -> str:
        """The output of `docker ARGUMENTS`; AssertionError with its words when it fails."""
        process = await asyncio.create_subprocess_exec(
            "docker",
            "-H",
            f"unix://{self._socket}",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return output.decode()


@pytest.fixture
async def docker(host: Host) -> AsyncIterator[Client]:
    services: Any = SimpleNamespace(networks=host.service, events=host.events, containers=Containers(host))

    async def ping(call: Any) -> web.StreamResponse:
        return json_response("OK", headers={"Api-Version": "1.51"})

    operations = [Route("GET", "/_ping", ping), Route("HEAD", "/_ping", ping), *resource.routes(services)]
    router = Router(operations, on_disk=host.database.on_disk)
    server = web.Server(router, router.refusal)
    path = str(host.root / "api.sock")
    running = await asyncio.get_running_loop().create_unix_server(server, path)
    yield Client(path)
    running.close()
    await server.shutdown(0)


class Containers:
    """Only what connecting needs: containers by name, which run."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.record = SimpleNamespace(networks={})

    def get(self, name: str) -> Any:
        return SimpleNamespace(
            id=self._host.id_of(name),
            lock=asyncio.Lock(),
            record=self.record,
            host_config=SimpleNamespace(network_mode="bridge"),
            state=SimpleNamespace(running=True, status="running"),
            removing=False,
        )

    def save(self, container: Any) -> None:
        pass

    def note_networks(self, container: Any) -> None:
        pass


async def test_networks_are_listed_in_dockers_columns(docker: Client) -> None:
    lines = (await docker("network", "ls")).splitlines()
    assert lines[0].split() == ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"]
    assert sorted(line.split()[1:] for line in lines[1:]) == [
        ["bridge", "bridge", "local"],
        ["host", "host", "local"],
        ["none", "null", "local"],
    ]
    assert await docker("network", "ls", "-q", "-f", "type=custom") == ""
    assert (await docker("network", "ls", "-f", "name=^bri", "--format", "{{.Name}}")) == "bridge\n"


async def test_a_network_is_created_inspected_and_removed(docker: Client) -> None:
    made = await docker(
        "network",
        "create",
        "--subnet",
        "10.252.7.0/24",
        "--ip-range",
        "10.252.7.128/25",
        "--gateway",
        "10.252.7.5",
        "--aux-address",
        "printer=10.252.7.129",
        "--label",
        "a=b",
        "-o",
        "com.docker.network.driver.mtu=1400",
        "lan",
    )
    (described,) = json.loads(await docker("network", "inspect", "lan"))
    assert described["Id"] == made.strip()
    assert described["IPAM"]["Config"] == [
        {
            "Subnet": "10.252.7.0/24",
            "IPRange": "10.252.7.128/25",
            "Gateway": "10.252.7.5",
            "AuxiliaryAddresses": {"printer": "10.252.7.129"},
        }
    ]
    assert described["Labels"] == {"a": "b"}
    assert described["Options"] == {"com.docker.network.driver.mtu": "1400"}
    assert (await docker("network", "rm", "lan")) == "lan\n"
    with pytest.raises(AssertionError, match="network lan not found"):
        await docker("network", "inspect", "lan")


async def test_aux_addresses_and_range_are_kept_to(docker: Client, host: Host) -> None:
    await docker(
        "network",
        "create",
        "--subnet",
        "10.252.8.0/24",
        "--ip-range",
        "10.252.8.128/29",
        "--aux-address",
        "printer=10.252.8.130",
        "lan",
    )
    given = [(await host.join(f"c{number}", mode="lan")).endpoints["lan"].ip for number in range(5)]
    # .128 is the gateway: the first address of the range
    assert given == [f"10.252.8.{number}" for number in (129, 131, 132, 133, 134)]


async def test_members_are_shown_and_live_changes_work(docker: Client, host: Host) -> None:
    await docker("network", "create", "lan")
    await host.join("one")
    await docker("network", "connect", "--alias", "db", "lan", "one")
    (described,) = json.loads(await docker("network", "inspect", "lan"))
    (member,) = described["Containers"].values()
    assert member["Name"] == "one"
    assert member["IPv4Address"].endswith(".2/16")
    with pytest.raises(AssertionError, match="has active endpoints"):
        await docker("network", "rm", "lan")
    await docker("network", "disconnect", "lan", "one")
    assert await docker("network", "prune", "-f") == "Deleted Networks:\nlan\n\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "bridge"], "operation is not permitted on predefined bridge network"),
        (["rm", "host"], "host is a pre-defined network and cannot be removed"),
        (["create", "-d", "nosuch", "x"], 'plugin "nosuch" not found'),
        (["create", "--subnet", "10.9.9.9/24", "x"], "it should be 10.9.9.0/24"),
        (["create", "--subnet", "10.252.9.0/24", "--gateway", "10.1.1.1", "x"], "10.1.1.1"),
        (["ls", "-f", "nosuch=1"], "invalid filter 'nosuch'"),
    ],
)
async def test_refusals_use_dockers_words(docker: Client, arguments: list[str], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        await docker("network", *arguments)
