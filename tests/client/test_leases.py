"""Claims about leases as programs hold them."""

import asyncio
import subprocess
import sys

import pytest

import dockyard
from tests.engine_process import EngineProcess
from tests.processes import eventually


@pytest.fixture(autouse=True)
def _engine_with_leases(client: dockyard.Client) -> None:
    try:
        client.lease().close()
    except dockyard.NotFound:
        pytest.skip("this engine knows no leases")


def nothing_leased(client: dockyard.Client) -> bool:
    return not client.containers.list(all=True, filters={"label": "dockyard.lease"})


def test_what_is_made_with_a_lease_goes_with_its_block(client: dockyard.Client) -> None:
    with client.lease() as lease:
        client.networks.create("leased", lease=lease)
        client.volumes.create("leased", lease=lease)
        container = client.run("busybox", "sleep 100", lease=lease, network="leased", volumes={"leased": "/x"})
        kept = client.run("busybox", "sleep 100")
        assert container.labels == lease.labels
    eventually(lambda: nothing_leased(client))
    eventually(lambda: not client.networks.list({"name": "leased"}) and not client.volumes.list({"name": "leased"}))
    kept.remove(force=True)
    with pytest.raises(dockyard.BadRequest, match="has ended"):
        client.run("busybox", "true", lease=lease)


async def test_leases_with_asyncio(engine: EngineProcess, client: dockyard.Client) -> None:
    async with dockyard.AsyncClient(engine.host) as other, other.lease() as lease:
        container = await other.run("busybox", "sleep 100", lease=lease)
        await container.reload()
        assert container.status == "running"
    await asyncio.to_thread(eventually, lambda: nothing_leased(client))


def test_a_killed_program_leaves_nothing(engine: EngineProcess, client: dockyard.Client) -> None:
    program = """
import dockyard, os, signal, sys
client = dockyard.Client(sys.argv[1])
lease = client.lease()
client.run("busybox", "sleep 100", lease=lease, name="orphan")
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program, engine.host], check=False)
    eventually(lambda: not client.containers.list(all=True, filters={"name": "orphan"}))
