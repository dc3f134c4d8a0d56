"""A daemon killed at any moment leaves only what the next one finds and removes."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from dockyard.linux.netlink import RouteSocket
from tests.networks.conftest import Host

CHURN = """
import asyncio, secrets, sys
from pathlib import Path
from dockyard.engine.state.database import Database
from dockyard.engine.events.service import Events
from dockyard.engine.networks.service import JoinRequest, NetworkOptions, NetworkService

async def main(root, bridge, bip):
    options = NetworkOptions(bridge=bridge, bip=bip)
    service = NetworkService(root / "exec", Database(root / "state.db"), Events(), options)
    await service.open()
    await service.sweep()
    async def churn():
        while True:
            name = secrets.token_hex(32)
            await service.join(JoinRequest(container_id=name, name=name, port_bindings={"80/tcp": [("127.0.0.1", "")]}))
            print("joined", flush=True)
            await service.leave(name)
    await asyncio.gather(*(churn() for _ in range(4)))

asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
"""


async def test_nothing_of_a_killed_daemon_stays(make_host: Any) -> None:
    host: Host = await make_host()
    for moment in (0.01, 0.05, 0.12):
        await host.kill()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHURN, str(host.root), host.bridge, host.options.bip, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        await process.stdout.readline()
        await asyncio.sleep(moment)
        process.kill()
        await process.communicate()
        await host.open()
        await host.service.sweep()
        await host.join("one")
        await host.service.leave(host.id_of("one"))
    await asyncio.sleep(0.3)
    namespaces = {path.name for path in (host.root / "exec/netns").iterdir()}
    assert len(namespaces) <= 8  # those in the pool
    assert all(f"{host.root}/exec/netns/{name}" in Path("/proc/self/mountinfo").read_text() for name in namespaces)
    with RouteSocket() as route:
        bridge = route.link(host.bridge)
        assert bridge is not None
        assert [link.name for link in route.links() if link.master == bridge.index] == []
    assert os.path.exists(f"/sys/class/net/{host.bridge}")
